"""``interp train``: learn features from a store, one run for each combination of options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interp.cli.methods import Methods, configs_of
from interp.distributed import world
from interp.errors import InputError
from interp.evaluation.stability import curve_table, measure_stability
from interp.runs.record import Run
from interp.runs.training import train_runs
from interp.store.reader import ActivationStore
from interp.training.advice import advice
from interp.training.config import GradientConfig


@dataclass(frozen=True)
class Train:
    """Learn features from one site of a store. Several values of --n-features or --k make a run for each combination, named
    NAME-n64-k16 and so on; methods trained by gradients train them all in one pass over the data."""

    method: Methods
    store: Path
    """Folder of the store."""
    site: str
    """Hook point, such as blocks.2.mlp.hook_post."""
    name: str
    """Name of the run."""
    overwrite: bool = False
    """Replace a run of this name that was trained otherwise, with its index, metrics and labels."""
    stability: int = 0
    """Number of refits, with other seeds on other rows, to measure how stable each feature is and how many features the
    data has; 0 for none."""

    def run(self) -> None:
        store, configs = ActivationStore(self.store), configs_of(self.method)
        if self.stability < 0:
            raise InputError(f"--stability is a number of refits, 0 or more, not {self.stability}")
        named = {self.name + ending: config for ending, config in configs.items()}
        runs = train_runs(store, self.site, named, overwrite=self.overwrite)
        for run, config in zip(runs, configs.values(), strict=True) if world().is_first else ():
            records = run.training_curve()
            figures = "  ".join(
                f"{key} {value:.4g}" for key, value in records[-1].items() if key not in ("step", "tokens")
            )
            print(f"{run.path}  {figures}  {run.record.seconds} s")
            print_notes(run)
            if isinstance(config, GradientConfig) and (said := advice(records, config)):
                print(f"  {said}")
        if self.stability:
            path = store.path / "runs" / f"{self.name}-stability"
            curve = measure_stability(runs, path, n_fits=self.stability)
            if world().is_first:
                print(f"{curve_table(curve)}\nthe curve is drawn in {path}.html")


def print_notes(run: Run) -> None:
    for key, value in run.decomposer().notes.items():
        print(f"  {key.replace('_', ' ')}: {value}")
