"""Learning rate, batch and tokens of a sparse autoencoder: what a first run gains by each, at three sites of the bundled model.

Every setting is trained on the demo's text at each site, judged on held-out text like any run, and written to one table. What
is there already is not done again.

    python tests/benchmarks/sweep_steps.py WORKSPACE --out examples/training_steps.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from compare_methods import is_judged

from interp.capturing.to_store import capture
from interp.corpora.sources import load_corpus
from interp.decomposers.sae.autoencoder import SAEConfig
from interp.decomposers.sae.dead_features import DeadFeatures
from interp.demo.recipe import SITES, DemoConfig
from interp.evaluation.results import EvaluationConfig
from interp.evaluation.suite import evaluate_run
from interp.evaluation.table import metrics_rows
from interp.files import write_whole
from interp.model.language_model import load_model
from interp.runs.training import train_run

LENGTHS = ((300_000, 1024), (1_000_000, 1024), (1_000_000, 512))
"""(tokens, batch)."""
FIGURES = {
    "fvu": "FVU",
    "ce_recovered": "CE recovered",
    "n_dead": "dead",
    "concepts": "concepts F1",
    "null_concepts": "its null",
    "readable": "readable",
}
"""Columns of the table by their keys; dead as a share of the features."""


@dataclass(frozen=True)
class Sweep:
    """What is swept, and on how much."""

    workspace: tyro.conf.Positional[Path]
    """Folder of the stores and runs."""
    out: Path
    """Markdown file for the table."""
    sites: tuple[str, ...] = SITES
    """Hook points, of the demo's."""
    lrs: tuple[float, ...] = (1e-3, 2e-3, 3e-3)
    """Learning rates, each with every number of tokens and batch."""
    n_features: int = 2048
    """Features."""
    threads: int = 1
    """Threads of torch."""


def settings(given: Sweep) -> dict[str, SAEConfig]:
    """By their name in the table; the auxiliary loss is tried at the highest rate alone."""
    base, found = SAEConfig(n_features=given.n_features, dead_features=DeadFeatures(aux_k=0)), {}
    for tokens, batch in LENGTHS:
        for lr in given.lrs:
            name = f"{tokens // 1000}k tokens, batch {batch}, lr {lr:g}"
            found[name] = replace(base, tokens=tokens, batch=batch, lr=lr)
    tokens, batch = LENGTHS[1]
    name = f"{tokens // 1000}k tokens, batch {batch}, lr {max(given.lrs):g}, auxiliary loss"
    found[name] = replace(found[name.rsplit(",", 1)[0]], dead_features=DeadFeatures())
    return found


def main(given: Sweep) -> None:
    torch.set_num_threads(given.threads)
    model, text = load_model("demo"), DemoConfig()
    store, held_out = (
        capture(model, load_corpus([name]), replace(config, sites=SITES), given.workspace / folder)
        for name, config, folder in (
            ("stdlib", text.training_text, "steps"),
            ("stdlib:held-out", text.held_out_text, "steps-held-out"),
        )
    )
    config = EvaluationConfig(n_steered=0, n_ablated=0)
    lines: list[str] = []
    for site in given.sites:
        lines += [
            f"\n### `{site}`\n",
            "| setting | FVU | CE recovered | dead | concepts F1 | its null | readable | seconds |",
        ]
        lines.append("|---|---|---|---|---|---|---|---|")
        for name, sae in settings(given).items():
            run = train_run(store, site, sae, f"{site.split('.', 2)[2]}-{name.replace(', ', '-').replace(' ', '')}")
            if not is_judged(run):
                evaluate_run(run, model=model, store=held_out, config=config)
            (row,) = metrics_rows([run])
            cells = [row[key] / (given.n_features if key == "n_dead" else 1) for key in FIGURES]
            figures = " | ".join(f"{cell:.3f}" for cell in cells)
            lines.append(f"| {name} | {figures} | {run.record.seconds or 0:.0f} |")
            print(site, lines[-1], flush=True)
            write_whole(given.out.with_suffix(".partial.md"), "\n".join(lines).encode())
    write_whole(given.out, ("\n".join(lines).strip() + "\n").encode())
    given.out.with_suffix(".partial.md").unlink(missing_ok=True)


if __name__ == "__main__":
    main(tyro.cli(Sweep, config=(tyro.conf.OmitArgPrefixes,)))
