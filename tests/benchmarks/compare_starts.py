"""Where directions begin, judged on the bundled model: dead features, FVU, the model's loss, concepts found.

Captures the site, trains every start with every seed and number of features, judges each run on held-out text, and prints
a table of means and ranges over the seeds. What is there already is not done again.

    python tests/benchmarks/compare_starts.py WORKSPACE
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from interp.capture.to_store import CaptureConfig, capture
from interp.corpora.sources import load_corpus
from interp.decomposers.sae.autoencoder import SAEConfig, SubspaceSAEConfig
from interp.decomposers.sae.initialisation import Initialisation, SubspaceInitialisation
from interp.evaluation.results import METRICS_FILE, ConceptConfig, EvaluationConfig
from interp.evaluation.suite import evaluate_run
from interp.evaluation.table import metrics_rows
from interp.model.language_model import load_model
from interp.runs.record import Run
from interp.runs.training import train_run
from interp.training.config import DecomposerConfig, Schedule

STARTS = ("random", "datapoint", "covariance", "subspace")
FIGURES = {"dead": 1, "fvu": 4, "ce_recovered": 4, "concepts": 4, "null_concepts": 4}
"""Keys of a run's figures, and the decimals they are shown with."""


@dataclass(frozen=True)
class Comparison:
    """What is compared, and on how much."""

    workspace: tyro.conf.Positional[Path]
    """Folder of the stores and runs."""
    site: str = "blocks.2.hook_attn_out"
    """Hook point; 256 wide in the bundled model."""
    expansions: tuple[int, ...] = (16, 32)
    """Features in widths of the site."""
    starts: tuple[str, ...] = ("random", "datapoint", "subspace")
    """Of random, datapoint, covariance, subspace."""
    seeds: int = 3
    """Seeds of each."""
    rows: int = 240_000
    """Tokens captured."""
    tokens: int = 200_000
    """Tokens trained on."""
    lr: float = 3e-3
    """Learning rate; of 1e-3 and 3e-3 the better one for so few tokens."""
    clip: float = 1.0
    """Norm of the gradient that it is cut to; 0 for none."""
    full_space: float = 0.2
    """Share of a subspace's directions that begin anywhere."""
    k: int = 32
    """Features active on a token."""


def config_of(given: Comparison, start: str, n_features: int, seed: int) -> DecomposerConfig:
    schedule = Schedule(held_out=512, clip=given.clip)
    shared: dict[str, Any] = {"n_features": n_features, "k": given.k, "tokens": given.tokens, "lr": given.lr}
    shared |= {"seed": seed, "schedule": schedule}
    if start == "subspace":
        return SubspaceSAEConfig(**shared, initialisation=SubspaceInitialisation(full_space=given.full_space))
    return SAEConfig(**shared, initialisation=Initialisation(start=start))  # type: ignore[arg-type]


def judged(runs: list[Run]) -> str:
    """The figures of runs that differ in their seed: mean, and the least and the greatest."""
    rows = [
        row | {"dead": 100 * row["n_dead"] / run.config["n_features"]}
        for row, run in zip(metrics_rows(runs), runs, strict=True)
    ]
    cells = []
    for key, decimals in FIGURES.items():
        values = [row[key] for row in rows]
        mean, least, most = (f"{f(values):.{decimals}f}" for f in (statistics.fmean, min, max))
        cells.append(f"{mean} ({least} to {most})")
    return " | ".join(cells)


def main(given: Comparison) -> None:
    model = load_model("demo")
    options = CaptureConfig(sites=(given.site,), tokens=given.rows)
    store = capture(model, load_corpus(["stdlib"]), options, given.workspace / "starts")
    some_of_each = replace(options, tokens="all", snippet_tokens=300, snippets=4)
    held_out = capture(model, load_corpus(["stdlib:held-out"]), some_of_each, given.workspace / "starts-held-out")
    config = EvaluationConfig(n_sequences=16, n_steered=0, concepts=ConceptConfig(max_rows=20_000))
    d_in = store.sites[given.site]
    print("| features | start | dead % | FVU | CE recovered | concepts F1 | of the best null |")
    print("|---|---|---|---|---|---|---|")
    for expansion in given.expansions:
        for start in given.starts:
            runs = []
            for seed in range(given.seeds):
                options_of_run = config_of(given, start, expansion * d_in, seed)
                name = f"{start}-{expansion}x-{seed}"
                if given.clip != 1:
                    name += f"-clip{given.clip:g}"
                if start == "subspace" and given.full_space != Comparison.full_space:
                    name += f"-full{given.full_space:g}"
                run = train_run(store, given.site, options_of_run, name)
                if not (run.path / METRICS_FILE).exists():
                    evaluate_run(run, model=model, store=held_out, config=config)
                runs.append(run)
            print(f"| {expansion * d_in} | {start} | {judged(runs)} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Comparison, config=(tyro.conf.OmitArgPrefixes,)))
