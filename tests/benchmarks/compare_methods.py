"""All methods and all baselines on one MLP and one residual site of the bundled model: what is found, beside nulls and seeds.

Captures the demo's text, trains every method with every seed and number of features, judges each run on held-out text, and
writes a table of means and standard deviations over the seeds. What is there already is not done again, so it can be
interrupted, and two processes can share the sites.

    python tests/benchmarks/compare_methods.py WORKSPACE --out examples/methods.md
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
import tyro

from interp.capturing.to_store import capture
from interp.corpora.sources import load_corpus
from interp.decomposers.baselines.diff_means import DiffMeansConfig
from interp.decomposers.baselines.ica import ICAConfig
from interp.decomposers.baselines.kmeans import KMeansConfig
from interp.decomposers.baselines.neurons import NeuronsConfig
from interp.decomposers.baselines.nmf import NMFConfig
from interp.decomposers.baselines.pca import PCAConfig
from interp.decomposers.baselines.random_directions import RandomConfig
from interp.decomposers.bilinear.autoencoder import BilinearConfig
from interp.decomposers.sae.autoencoder import FrozenSAEConfig, SAEConfig, SubspaceSAEConfig
from interp.decomposers.semi_nmf.decomposer import SemiNMFConfig
from interp.demo.recipe import MLP, RESIDUAL, DemoConfig
from interp.errors import InputError
from interp.evaluation.results import EvaluationConfig, Metrics, read_metrics
from interp.evaluation.seeds import report_seeds
from interp.evaluation.suite import evaluate_run
from interp.files import write_whole
from interp.model.language_model import load_model
from interp.runs.record import Run
from interp.runs.training import train_run
from interp.training.config import DecomposerConfig

SITES = (MLP, RESIDUAL)


@dataclass(frozen=True)
class Comparison:
    """What is compared, and on how much."""

    workspace: tyro.conf.Positional[Path]
    """Folder of the stores and runs."""
    out: Path
    """Markdown file for the table."""
    sites: tuple[str, ...] = SITES
    """Hook points of the table."""
    sizes: tuple[int, ...] = (256, 2048)
    """Numbers of features; a method that cannot have more than the site is wide has as many."""
    seeds: int = 3
    """Seeds of each method."""
    tokens: int = 600_000
    """Tokens that a method trained by gradients is trained on."""
    threads: int = 1
    """Threads of torch."""


SEEDLESS = ("pca", "neurons", "diff-means")
"""Methods that have no seed."""
SLOW = ("nmf", "semi-nmf")
"""Methods that have one seed where they have a thousand features or more: a run takes a quarter of an hour."""


def methods(given: Comparison, n_features: int, d_in: int) -> Iterator[tuple[str, DecomposerConfig]]:
    """Every method by its name, with ``n_features``, or as many as it can have; with as many active as the SAE has, where
    that can be asked for in reasonable time."""
    trained: dict[str, Any] = {"n_features": n_features, "tokens": given.tokens}
    at_most = min(n_features, d_in)
    yield "sae", SAEConfig(**trained)
    yield "subspace-sae", SubspaceSAEConfig(**trained)
    yield "bilinear", BilinearConfig(**trained)
    yield "frozen-sae", FrozenSAEConfig(**trained)
    yield "nmf", NMFConfig(n_features=at_most, rows=5000, passes=20)
    yield "kmeans", KMeansConfig(n_features=n_features)
    yield "pca", PCAConfig(n_features=at_most)
    yield "ica", ICAConfig(n_features=at_most)
    yield "neurons", NeuronsConfig(n_features=at_most)
    yield "random", RandomConfig(n_features=n_features)
    yield "diff-means", DiffMeansConfig()
    # last, since it takes longest
    yield "semi-nmf", SemiNMFConfig(n_features=n_features, target_l0=32, passes=15)


FIGURES = {
    "FVU": lambda m: m.reconstruction.fvu,
    "CE recovered": lambda m: m.spliced.ce_recovered_mean if m.spliced else None,
    "fires on": lambda m: m.reconstruction.median_rate if m.reconstruction.fires else None,
    "concepts F1": lambda m: m.concepts.f1.value,
    "null": lambda m: m.concepts.null_f1,
    "excess": lambda m: m.concepts.excess.value,
    "AP": lambda m: m.concepts.average_precision,
    "readable": lambda m: m.concepts.readable.value,
    "its null": lambda m: m.concepts.null_readable,
    "16 features F1": lambda m: m.probes.features[-1].value,
    "16 coordinates": lambda m: max(m.probes.coordinates[-1], m.probes.principal[-1]),
    "all": lambda m: m.probes.whole,
    "simulability": lambda m: m.simulability.auroc.value if m.simulability else None,
    "of random": lambda m: m.simulability.null_auroc if m.simulability else None,
    "stability": lambda m: m.seeds.stability.value if m.seeds else None,
    "of chance": lambda m: m.seeds.null_stability if m.seeds else None,
}
"""Columns of the table."""


def row(name: str, found: Sequence[Metrics]) -> str:
    """Mean and standard deviation over the seeds; a star where every seed is above its null."""
    cells = [name]
    for heading, figure in FIGURES.items():
        values = [value for each in found if (value := figure(each)) is not None]
        if not values:
            cells.append("-")
            continue
        cell = f"{fmean(values):.3f}".replace("0.", ".", 1) if fmean(values) < 1 else f"{fmean(values):.2f}"
        if len(values) > 1:
            cell += f" ± {stdev(values):.3f}".replace("0.", ".")
        is_above = {
            "concepts F1": lambda m: m.concepts.is_above_null,
            "readable": lambda m: m.concepts.readable_excess is not None and m.concepts.readable_excess.is_above_zero,
        }.get(heading)
        cells.append(cell + ("*" if is_above and all(map(is_above, found)) else ""))
    return "| " + " | ".join(cells) + " |"


def main(given: Comparison) -> None:
    torch.set_num_threads(given.threads)
    model, text = load_model("demo"), DemoConfig()
    training = replace(text.training_text, sites=SITES)
    store = capture(model, load_corpus(["stdlib"]), training, given.workspace / "methods")
    held_out = capture(
        model,
        load_corpus(["stdlib:held-out"]),
        replace(text.held_out_text, sites=SITES),
        given.workspace / "methods-held-out",
    )
    config = EvaluationConfig(n_steered=0, n_ablated=0)
    lines: list[str] = []
    for size in given.sizes:
        for site in given.sites:
            lines += [f"\n### `{site}`, {size:,} features\n", "| method | " + " | ".join(FIGURES) + " |"]
            lines.append("|---" * (len(FIGURES) + 1) + "|")
            for name, method in methods(given, size, store.sites[site]):
                runs = []
                once = name in SEEDLESS or (name in SLOW and method.n_features >= 1000)
                for seed in range(1 if once else given.seeds):
                    started = time.time()
                    short = f"{site.split('.', 2)[2]}-{name}-{method.n_features}-s{seed}"
                    run = train_run(store, site, replace(method, seed=seed), short)
                    if not is_judged(run):
                        evaluate_run(run, model=model, store=held_out, config=config)
                    runs.append(run)
                    print(f"{run.name}: {time.time() - started:.0f} s", flush=True)
                if len(runs) > 1 and read_metrics(runs[0]).seeds is None:
                    report_seeds(runs)
                n_features = runs[0].decomposer().n_features
                few = f" ({n_features:,})" if n_features != size else ""
                lines.append(row(name + few, [read_metrics(run) for run in runs]))
                write_whole(given.out.with_suffix(".partial.md"), "\n".join(lines).encode())
    write_whole(given.out, ("\n".join(lines).strip() + "\n").encode())
    given.out.with_suffix(".partial.md").unlink(missing_ok=True)


def is_judged(run: Run) -> bool:
    """Whether the run as it is has been evaluated to the end."""
    try:
        metrics = read_metrics(run)
    except InputError:
        return False
    return metrics.complete and metrics.run_identity == run.identity


if __name__ == "__main__":
    main(tyro.cli(Comparison, config=(tyro.conf.OmitArgPrefixes,)))
