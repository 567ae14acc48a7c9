"""Semi-NMF on the MLP neurons of the bundled model: what holds of arXiv 2506.10920, measured on held-out text.

Trains it for several mean L0s with several seeds, judges each run, and writes tables to examples/semi_nmf.md: sparsity against
error, concepts and readability; codes with and without debiasing beside principal components; the hierarchy beside two nulls;
an offset. Begins with the demo's stores. What is there already is not done again.

    python tests/benchmarks/semi_nmf_paper.py WORKSPACE
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from interp.capturing.to_store import capture
from interp.corpora.sources import load_corpus
from interp.decomposers.base import LinearDecomposer
from interp.decomposers.baselines.pca import PCAConfig
from interp.decomposers.semi_nmf.decomposer import SemiNMF, SemiNMFConfig
from interp.decomposers.semi_nmf.start import Shifted
from interp.demo.recipe import MLP, DemoConfig
from interp.evaluation.reconstruction import evaluate_reconstruction, spliced_loss
from interp.evaluation.results import METRICS_FILE, ConceptConfig, EvaluationConfig
from interp.evaluation.suite import evaluate_run
from interp.evaluation.table import metrics_rows
from interp.files import write_whole
from interp.metrics import ReconstructionStats
from interp.model.language_model import LanguageModel, load_model
from interp.runs.record import RECORD, Run
from interp.runs.training import keep_run, train_run
from interp.store.reader import ActivationStore

OUT = Path(__file__).parent.parent.parent / "examples" / "semi_nmf.md"
HEAD = """# Semi-NMF on MLP neurons, against its paper

    {command}

`blocks.2.mlp.hook_post` of the bundled model, 200 features of at most 52 of 1 024 neurons, learned from 120 000 tokens of the
standard library in 15 passes (the hierarchies' in 20), judged on held-out modules; seeds: {seeds}. A score stands beside that
of the best null, random directions with as much choice (mean of five draws), and the 95 % interval of the difference over
documents. In parentheses, the least and the greatest of several seeds."""
SAID = "## What holds"
"""What people write after the tables begins here, and stays."""
EVALUATION = EvaluationConfig(n_steered=0, n_ablated=0, concepts=ConceptConfig(max_rows=10_000))
N_FEATURES, PASSES = 200, 15


@dataclass(frozen=True)
class Paper:
    """What is measured, and on how much."""

    workspace: tyro.conf.Positional[Path]
    """Folder of the stores and runs."""
    targets: tuple[int, ...] = (8, 16, 32, 64)
    """Mean L0s."""
    pulls: tuple[float, ...] = (0.0, 0.5, 1.0)
    """Weights with which features are drawn to level 1."""
    seeds: int = 1
    """Seeds of each."""
    out: Path = OUT
    """Where the tables are written."""


class Study:
    """The stores, the model, and the figures found so far, which lie in the workspace."""

    def __init__(self, given: Paper):
        self.given = given
        self._path = given.workspace / "semi_nmf_paper.json"
        self._found: dict[str, dict[str, float]] = json.loads(self._path.read_text()) if self._path.exists() else {}
        paths, config, corpora = self.given.workspace, DemoConfig(), ("stdlib", "stdlib:held-out")
        asked = {"demo": config.training_text, "demo-held-out": config.held_out_text}
        self.store, self.held_out = (
            ActivationStore(paths / name) if (paths / name / "store.json").exists()
            else capture(self.model, load_corpus([corpus]), options, paths / name)
            for corpus, (name, options) in zip(corpora, asked.items(), strict=True)
        )  # fmt: skip

    @property
    def model(self) -> LanguageModel:
        return _model()

    def once(self, name: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Figures by a name: those of the workspace, or measured now and kept there."""
        if name not in self._found:
            self._found[name] = measure()
            write_whole(self._path, json.dumps(self._found, indent=1).encode())
            print(name, self._found[name], flush=True)
        return self._found[name]

    def judged(self, run: Run) -> dict[str, Any]:
        """The metrics of a run."""
        if not (run.path / METRICS_FILE).exists():
            evaluate_run(run, model=self.model, store=self.held_out, config=EVALUATION)
        return metrics_rows([run])[0]

    def fit(self, target: int, seed: int) -> Run:
        config = SemiNMFConfig(n_features=N_FEATURES, passes=PASSES, target_l0=float(target), seed=seed)
        return train_run(self.store, MLP, config, f"semi-l0-{target}-{seed}")

    def tree(self, pull: float, seed: int) -> Run:
        """With the demo's levels; five passes more than the others, ten of which draw the features."""
        config = SemiNMFConfig(n_features=N_FEATURES, passes=PASSES + 5, levels=(50, 12), pull=pull, seed=seed)
        return train_run(self.store, MLP, config, f"semi-pull-{pull:g}-{seed}")

    def centred(self, target: int, seed: int) -> Run:
        """The same on rows less their mean, which is the offset of its reconstruction."""
        name = f"semi-centred-{target}-{seed}"
        if (path := self.store.path / "runs" / name / RECORD).exists():
            return Run.load(path.parent)
        config = SemiNMFConfig(n_features=N_FEATURES, passes=PASSES, target_l0=float(target), seed=seed)
        source = self.store.site(MLP)
        mean = torch.from_numpy(source.moments().mean).float()
        fitted = SemiNMF.fit(Shifted(source, mean), config)
        return keep_run(self.store, MLP, SemiNMF(config, fitted.tensors | {"b_dec": mean}), name)

    def lifted(self, run: Run) -> dict[str, float]:
        """FVU of held-out rows through codes of levels 1 and 2."""
        semi_nmf = run.decomposer()
        assert semi_nmf.hierarchy is not None
        stats = {"level1": ReconstructionStats(), "level2": ReconstructionStats()}
        for x in self.held_out.site(MLP).chunks():
            codes = semi_nmf.encode(x)
            for level, each in enumerate(stats.values(), start=1):
                each.add(x, semi_nmf.hierarchy.decode(codes, level), codes)
        return {name: each.fvu for name, each in stats.items()}

    def pca(self, n: int) -> Run:
        return train_run(self.store, MLP, PCAConfig(n_features=n), f"pca-{n}")

    def reconstruction(self, decomposer: LinearDecomposer) -> dict[str, float]:
        """Of held-out text: FVU, |x^| / |x|, L0, and the cross-entropy that is recovered."""
        found = evaluate_reconstruction(decomposer, self.held_out.site(MLP))
        tokens = self.held_out.tokens()
        chosen = np.linspace(0, len(tokens) - 1, EVALUATION.n_sequences).round().astype(int)  # as interp evaluate does
        spliced = spliced_loss(self.model, decomposer, MLP, torch.from_numpy(tokens[chosen]).long())
        assert found.fvu is not None
        assert found.shrinkage is not None
        assert spliced.ce_recovered_mean is not None
        return {"fvu": found.fvu, "norm": found.shrinkage, "l0": found.l0, "ce": spliced.ce_recovered_mean}


@cache
def _model() -> LanguageModel:
    return load_model("demo")


def spread(found: Sequence[float | None], form: str = ".3f") -> str:
    """Mean, and the least and the greatest where there are several; nothing for a method that does not have the figure."""
    values = [value for value in found if value is not None]
    if not values:
        return ""
    mean = f"{statistics.fmean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{form}} to {max(values):{form}})"


def table(head: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [head, "|" + "---|" * head.count(" | ") + "---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def beside_null(rows: Sequence[dict[str, Any]], key: str) -> str:
    """A score, that of the best null, and the difference with its interval (of several seeds, from the least to the most)."""
    excess = [row[f"excess_{key}"] for row in rows]
    if None in excess:
        return ""
    low, high = min(each[1] for each in excess), max(each[2] for each in excess)
    null = statistics.fmean(row[f"null_{key}"] for row in rows)
    return f"{spread([row[key] for row in rows], '.2f')} : {null:.2f} [{low:+.2f}, {high:+.2f}]"


def sparsity_table(study: Study) -> str:
    """The trade of L0 against error, concepts and readability."""
    rows = []
    seeds = range(study.given.seeds)
    kinds: list[tuple[str, Callable[[int], Run]]] = [
        (f"semi-NMF, L0 {target} asked", lambda seed, target=target: study.fit(target, seed)) for target in study.given.targets
    ]  # fmt: skip
    kinds.append(("semi-NMF, L0 32 asked, mean taken off", lambda seed: study.centred(32, seed)))
    kinds += [(f"PCA, {n} components", lambda seed, n=n: study.pca(n)) for n in (100, N_FEATURES)]
    for name, run_of in kinds:
        found = [study.judged(run_of(seed)) for seed in (seeds if name.startswith("semi") else (0,))]
        figures = (("l0", ".1f"), ("fvu", ".3f"), ("ce_recovered", ".3f"))
        rows.append([
            name, *(spread([row[key] for row in found], form) for key, form in figures),
            *(beside_null(found, key) for key in ("concepts", "readable")),
        ])  # fmt: skip
    head = "| 200 features | L0 | FVU | CE recovered | concepts, F1 : best null [excess] | readable : null [excess] |"
    return table(head, rows)


def debias_table(study: Study) -> str:
    """Codes of the objective and debiased ones, and principal components."""
    rows = []
    for target in study.given.targets:
        found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for seed in range(study.given.seeds):
            fitted = study.fit(target, seed).decomposer()
            for debias, kept in found.items():
                options = SemiNMFConfig(n_features=N_FEATURES, debias=debias)
                decomposer = SemiNMF(options, fitted.tensors)
                name = f"{'debiased' if debias else 'biased'} {target} {seed}"
                kept.append(study.once(name, lambda d=decomposer: study.reconstruction(d)))
        for debias, kept in found.items():
            name = f"semi-NMF, L0 {target} asked" + ", debiased" * debias
            rows.append([name, *(spread([each[key] for each in kept]) for key in ("fvu", "norm", "ce"))])
    for n in (50, 100, N_FEATURES):
        decomposer = study.pca(n).decomposer()
        pca = study.once(f"pca {n}", lambda d=decomposer: study.reconstruction(d))
        rows.append([f"PCA, {n} components", *(f"{pca[k]:.3f}" for k in ("fvu", "norm", "ce"))])
    return table("| codes | FVU | norm of x^ over that of x | CE recovered |", rows)


def hierarchy_table(study: Study) -> str:
    """What level 1 leaves of the features, beside both nulls and the bound, and what the features are then worth."""
    rows = []
    for pull in study.given.pulls:
        runs = [study.tree(pull, seed) for seed in range(study.given.seeds)]
        notes = [run.decomposer().notes for run in runs]
        lifted = [
            study.once(f"lifted {pull:g} {seed}", lambda run=run: study.lifted(run)) for seed, run in enumerate(runs)
        ]
        judged = [study.judged(run) for run in runs]
        null, refitted = (_of_draws(notes, f"level1_{name}") for name in ("null", "refitted_null"))
        rows.append([
            f"{pull:g}", spread([float(each["level1_unexplained"]) for each in notes]), null, refitted or "as before",
            spread([float(each["level1_bound"]) for each in notes]),
            *(spread([float(each[f"level2_{name}"]) for each in notes]) for name in ("unexplained", "null")),
            spread([row["fvu"] for row in judged]), spread([row["l0"] for row in judged], ".1f"),
            " / ".join(spread([each[f"level{level}"] for each in lifted]) for level in (1, 2)),
            *(beside_null(judged, key) for key in ("concepts", "readable")),
        ])  # fmt: skip
    head = (
        "| pull | level 1 leaves | shuffled [least, most] | learned from shuffled | any 50 leave | level 2 leaves | shuffled "
        "| FVU of rows | L0 | through levels 1 / 2 | concepts, F1 : null [excess] | readable : null [excess] |"
    )
    return table(head, rows)


def _of_draws(notes: Sequence[Mapping[str, Any]], name: str) -> str:
    """Mean over draws and seeds, and the least and the greatest of all draws; nothing where there are none."""
    if name not in notes[0]:
        return ""
    least, most = min(each[f"{name}_least"] for each in notes), max(each[f"{name}_most"] for each in notes)
    return f"{statistics.fmean(each[name] for each in notes):.3f} [{least:.3f}, {most:.3f}]"


def main(given: Paper) -> None:
    torch.set_num_threads(1)
    study = Study(given)
    tables = {
        "Sparsity against error, concepts and readability": sparsity_table(study),
        "Codes debiased on their support": debias_table(study),
        "The hierarchy": hierarchy_table(study),
    }
    text = given.out.read_text() if given.out.exists() else ""
    said = text[text.index(SAID) :] if SAID in text else SAID + "\n"
    command = "python tests/benchmarks/semi_nmf_paper.py WORKSPACE" + f" --seeds {given.seeds}" * (
        given.seeds != Paper.seeds
    )
    parts = [f"## {name}\n\n{each}" for name, each in tables.items()]
    write_whole(given.out, "\n\n".join([HEAD.format(command=command, seeds=given.seeds), *parts, said]).encode())


if __name__ == "__main__":
    main(tyro.cli(Paper, config=(tyro.conf.OmitArgPrefixes,)))
