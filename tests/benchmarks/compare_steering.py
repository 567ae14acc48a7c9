"""Steering with every method at matched effects: how much of a concept is written, how fluently, and is it more than chance?

Every method is trained with every seed on one site of the bundled model, by ``compare_methods``. For each of 16 concepts a
feature is chosen at KL .2 by the trial of ``interp.evaluation.steering_choice``, once of the features that are estimated to
write the concept and once of those that detect it; then it writes at every KL, from prompts and noise used for nothing else.
All methods continue the same prompts with the same noise. Random features of the SAE, random directions (distributed like the
activations, as many as there are features, found and tried in the same way) and differences in means go through the same.
What is there already is not done again.

    python tests/benchmarks/compare_steering.py WORKSPACE --out examples/steering.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import tyro
from compare_methods import Comparison, methods
from jaxtyping import Float
from msgspec import structs

from interp.capturing.to_store import capture
from interp.corpora.labels.python import PYTHON
from interp.corpora.sources import load_corpus
from interp.decomposers import Decomposer
from interp.decomposers.sae.initialisation import random_directions
from interp.demo.recipe import MLP, RESIDUAL, DemoConfig
from interp.evaluation.detection import association
from interp.evaluation.fluency import harmonic_mean
from interp.evaluation.judged_rows import judged_rows
from interp.evaluation.outputs import concept_outputs
from interp.evaluation.resampling import over_prompts
from interp.evaluation.results import ConceptConfig
from interp.evaluation.steering_choice import Choice, Pool, Trial
from interp.evaluation.steering_effect import (
    SteeredSite,
    best_by_output,
    candidates,
    differences,
    neutral_text,
    steering_task,
)
from interp.evaluation.steering_results import SteeringConfig, Way
from interp.evaluation.trial import codes_of
from interp.evaluation.written import Writer
from interp.files import whole, write_whole
from interp.model.language_model import load_model
from interp.model.sites import Site
from interp.runs.record import Run
from interp.runs.training import train_run
from interp.steering.search import EffectOfVectors

CONCEPTS = (
    "comment", "docstring", "string", "number", "import_statement", "class_header", "function_signature",
    "definition_keyword", "self_or_cls", "decorator", "exception_handler", "call_arguments", "attribute_name", "operator",
    "control_flow_keyword", "constant_keyword",
)  # fmt: skip
SHOWN = ("semi-nmf", "sae", "subspace-sae", "bilinear", "pca", "ica")
"""Methods whose features are chosen by output and by detection."""
NULLS = ("random features", "random directions")
SUPERVISED = "difference in means"
SEEDLESS = ("pca",)


@dataclass(frozen=True)
class Study:
    """What is compared, and on how much."""

    workspace: tyro.conf.Positional[Path]
    """Folder of stores and runs; that of compare_methods, if its runs are to be used."""
    out: Path
    """Markdown file for the tables."""
    sites: tuple[str, ...] = (MLP, RESIDUAL)
    """Hook points."""
    n_features: int = 256
    """Features of each method."""
    seeds: int = 3
    """Trainings of each method, and draws of each null."""
    kls: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    """Effects on neutral text, nats per token."""
    n_texts: int = 4
    """Texts for each prompt."""
    threads: int = 1
    """Threads of torch."""


@dataclass(frozen=True)
class Written:
    """What one method wrote at one KL: of each concept, text by text."""

    gain: Float[np.ndarray, "n_concepts n_prompts n_texts"]
    """Share of the text that is the concept less that without steering."""
    score: Float[np.ndarray, "n_concepts n_prompts n_texts"]
    """Harmonic mean of share and fluency."""


class AtSite:
    """Everything that the methods at one site share."""

    def __init__(self, study: Study, site: str):
        self.study, self.name = study, site
        self.model, text = load_model("demo"), DemoConfig()
        both = (MLP, RESIDUAL)
        self.store = capture(
            self.model, load_corpus(["stdlib"]), replace(text.training_text, sites=both), study.workspace / "methods"
        )
        self.held_out = capture(
            self.model,
            load_corpus(["stdlib:held-out"]),
            replace(text.held_out_text, sites=both),
            study.workspace / "methods-held-out",
        )
        self.judging = ConceptConfig(label_set="python")
        self.rows = judged_rows(self.held_out, site, self.judging)
        outputs = concept_outputs(self.model, self.held_out, Site.of(site), self.judging)
        assert outputs is not None
        self.site = SteeredSite(site, outputs, self.rows, self.rows.x, self.rows.moments)
        self.task = steering_task(PYTHON)
        self.folder = study.workspace / "steering" / f"{site}-{study.n_features}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def trial(self, kl: float) -> Trial:
        """How candidates are tried at an effect."""
        config = SteeringConfig(target_kl=kl)
        writer = Writer(self.model, self.name, self.task.judge, CONCEPTS, config)
        effects = [
            EffectOfVectors(self.model, self.name, neutral_text(self.held_out, self.rows, is_test=is_test))
            for is_test in (False, True)
        ]
        return Trial(self.model, self.name, self.site.outputs, writer, self.task.trial_prompts, *effects, config)

    @cached_property
    def trials(self) -> dict[float, Trial]:
        return {kl: self.trial(kl) for kl in {0.2, *self.study.kls}}

    def written(self, name: str, kl: float, way: Way, choose: object) -> Written:
        """What a method writes; kept in a file."""
        path = self.folder / f"{name}-{way}-{kl:g}.npz"
        if not path.exists():
            assert callable(choose)
            chosen: dict[str, Choice] = choose()
            directions = torch.zeros(len(CONCEPTS), self.site.x.shape[1])  # type: ignore[union-attr]
            for i, concept in enumerate(CONCEPTS):
                if concept in chosen:
                    directions[i] = torch.nn.functional.normalize(chosen[concept].vector.cpu(), dim=0)
            vectors, _ = self.trials[kl].at_target(directions)
            vectors[~directions.any(1)] = 0.0
            prompts = self.task.prompts
            found = self.trials[kl].writer.write(
                vectors[:, None].expand(-1, len(prompts), -1), prompts, n_texts=self.study.n_texts, seed=1_000_003
            )
            own = [found.shares[1 + i, ..., i] for i in range(len(CONCEPTS))]
            gain = np.stack([share - found.shares[0, ..., i] for i, share in enumerate(own)])
            with whole(path) as partial, partial.open("wb") as file:
                np.savez(file, gain=gain, score=harmonic_mean(np.stack(own), found.fluencies[1:].astype(np.float64)))
            print(f"{self.name} {path.stem}: gain {gain.mean():+.3f}", flush=True)
        with np.load(path, allow_pickle=False) as kept:
            return Written(kept["gain"], kept["score"])

    def run(self, name: str, seed: int) -> Run:
        comparison = Comparison(self.study.workspace, self.study.out)
        config = dict(methods(comparison, self.study.n_features, self.store.sites[self.name]))[name]
        short = f"{self.name.split('.', 2)[2]}-{name}-{config.n_features}-s{seed}"
        return train_run(self.store, self.name, replace(config, seed=seed), short)

    def choice(self, run: Run, way: Way) -> dict[str, Choice]:
        """The feature of each concept, at KL .2."""
        decomposer, outputs = run.decomposer(), self.site.outputs
        pool = Pool.of(decomposer.write_directions(), is_signed=decomposer.signed_codes or run.can("forms"))
        trial = self.trials[0.2]
        config = structs.replace(trial.config, way=way)
        detecting = self.detecting(decomposer) if way == "detection" else {}
        found = {
            concept: candidates(pool, concept, outputs, detecting.get(concept, ()), config) for concept in self.concepts
        }
        return trial.choose(pool, found)

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(concept for concept in CONCEPTS if concept in self.site.outputs.concepts)

    def detecting(self, decomposer: Decomposer) -> dict[str, list[tuple[int, int]]]:
        """(feature, sign) of each concept by F1 on select, best first."""
        codes = codes_of(decomposer, self.rows, self.judging)
        columns = np.asarray([self.rows.names.index(concept) for concept in self.concepts])
        ranked = np.argsort(-association(codes, self.rows, columns).f1, axis=0, kind="stable")[:16]
        return {
            concept: [(int(codes.feature[j]), int(codes.sign[j])) for j in ranked[:, i]]
            for i, concept in enumerate(self.concepts)
        }

    def everything(self) -> Iterator[tuple[str, Way, list[dict[float, Written]]]]:
        """(method, way, what each seed wrote at each KL)."""
        study = self.study
        for name in SHOWN:
            for way in ("output", "detection"):
                seeds = []
                for seed in range(1 if name in SEEDLESS else study.seeds):
                    once = _Once(lambda name=name, seed=seed, way=way: self.choice(self.run(name, seed), way))  # type: ignore[misc]
                    seeds.append({kl: self.written(f"{name}-s{seed}", kl, way, once) for kl in study.kls})  # type: ignore[arg-type]
                yield name, way, seeds  # type: ignore[misc]
        draws: dict[str, list[dict[float, Written]]] = {name: [] for name in NULLS}
        for seed in range(study.seeds):
            for name in NULLS:
                once = _Once(lambda name=name, seed=seed: self.null(name, seed))  # type: ignore[misc]
                draws[name].append({kl: self.written(f"{name}-s{seed}", kl, "output", once) for kl in study.kls})
        for name in NULLS:
            yield name, "output", draws[name]
        once = _Once(lambda: differences(self.trials[0.2], self.site, self.concepts))
        yield SUPERVISED, "output", [{kl: self.written(SUPERVISED, kl, "output", once) for kl in study.kls}]

    def null(self, name: str, seed: int) -> dict[str, Choice]:
        trial, n = self.trials[0.2], self.study.n_features
        if name == "random directions":
            assert self.site.moments is not None
            return best_by_output(
                trial,
                Pool.of(random_directions(n, self.site.moments, 1000 + seed, shaped=True), is_signed=False),
                self.concepts,
            )
        pool = Pool.of(self.run("sae", seed).decomposer().write_directions(), is_signed=False)
        some = np.random.default_rng([7, seed]).choice(n, trial.config.n_candidates, replace=False).tolist()
        return trial.choose(pool, dict.fromkeys(self.concepts, some))


class _Once:
    """Calls a function when it is first needed."""

    def __init__(self, function: object):
        self.function = function

    def __call__(self) -> dict[str, Choice]:
        if not hasattr(self, "found"):
            self.found: dict[str, Choice] = self.function()  # type: ignore[operator]
        return self.found


def over_concepts(values: Float[np.ndarray, "n_concepts n_prompts n_texts"]) -> str:
    """The mean over concepts and texts, with its interval over prompts and the texts of a prompt."""
    found = over_prompts(values.mean(0), seed=0)
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def tables(site: AtSite) -> Iterator[str]:
    """Gains and scores by method and KL, then the concepts."""
    study, found = site.study, list(site.everything())
    yield f"\n## `{site.name}`, {study.n_features:,} features\n"
    for heading, key in (
        ("Points of share gained, mean of the concepts", "gain"),
        ("Harmonic mean of share and fluency", "score"),
    ):
        yield f"\n{heading} (interval over prompts and texts; ± standard deviation over seeds or draws)\n"
        yield "| method | chosen by | " + " | ".join(f"KL {kl:g}" for kl in study.kls) + " |"
        yield "|---" * (2 + len(study.kls)) + "|"
        for name, way, seeds in found:
            cells = []
            for kl in study.kls:
                values = [getattr(each[kl], key) for each in seeds]
                spread = 100 * float(np.std([each.mean() for each in values], ddof=1)) if len(values) > 1 else None
                shown = over_concepts(np.mean(values, axis=0))
                cells.append(shown + (f" ± {spread:.1f}" if spread is not None else ""))
            yield f"| {name} | {way if name in SHOWN else '-'} | " + " | ".join(cells) + " |"
    yield from by_concept(site, found)


def by_concept(site: AtSite, found: Sequence[tuple[str, Way, list[dict[float, Written]]]]) -> Iterator[str]:
    """Of each concept at KL .2 what every method chosen by output adds, and which are above every control."""
    at = {(name, way): np.mean([each[0.2].gain for each in seeds], axis=0) for name, way, seeds in found}
    names = [*SHOWN, *NULLS, SUPERVISED]
    yield "\nPoints of share gained at KL 0.2, chosen by output."
    yield "* above both nulls with whole intervals, ** above difference in means too.\n"
    yield "| concept | " + " | ".join(names) + " |"
    yield "|---" * (1 + len(names)) + "|"
    n_null = n_all = 0
    for i, concept in enumerate(CONCEPTS):
        cells, best = [], 0
        for name in names:
            gain = at[name, "output"][i]
            cells.append(f"{100 * gain.mean():+.1f}")
            if name in SHOWN and over_prompts(gain, seed=0).is_above_zero:
                above = [
                    over_prompts(gain - at[other, "output"][i], seed=0).is_above_zero for other in (*NULLS, SUPERVISED)
                ]
                stars = 2 if all(above) else 1 if all(above[:-1]) else 0
                cells[-1] += "*" * stars
                best = max(best, stars)
        n_null, n_all = n_null + (best >= 1), n_all + (best == 2)
        yield f"| {concept} | " + " | ".join(cells) + " |"
    yield f"\nAbove both nulls for at least one method: {n_null} of {len(CONCEPTS)} concepts."
    yield f"Above difference in means too: {n_all}."


def main(study: Study) -> None:
    torch.set_num_threads(study.threads)
    lines: list[str] = []
    for name in study.sites:
        lines += tables(AtSite(study, name))
        write_whole(study.out, ("\n".join(lines).strip() + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Study, config=(tyro.conf.OmitArgPrefixes,)))
