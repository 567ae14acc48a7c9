"""The command line: ``interp VERB``. Every verb is a dataclass, its fields are the options, their docstrings the help.

Wrong input ends with one or two plain sentences on stderr and exit code 2.
"""

from __future__ import annotations

import functools
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro

from interp.capture import CaptureConfig, capture
from interp.corpora import Corpus, load_corpus
from interp.demo.flow import (
    PYTHON_LABELS,
    DemoConfig,
    DemoResult,
    python_corpus,
    python_task,
    run_demo,
    written_share,
)
from interp.demo.python_labels import CONCEPTS
from interp.distributed import joined, world
from interp.errors import InputError, unknown_feature
from interp.evaluation.suite import EvaluationConfig, evaluate_run
from interp.evaluation.table import metrics_rows, metrics_table, read_metrics
from interp.facts import facts_table, run_facts, store_facts
from interp.index import FeatureIndex, IndexConfig, build_index
from interp.interop import export_saelens, import_saelens
from interp.manifolds import KINDS as QUADRATIC_KINDS
from interp.manifolds.build import build_manifolds
from interp.methods import Methods, configs_of
from interp.models import load_model
from interp.progress import progress
from interp.prompting import (
    SteeringRequest,
    SteeringResult,
    compare_continuations,
    neutral_tokens,
    steering_record,
)
from interp.reading import directions_of_level, read_feature, reading_text
from interp.runs import Run, resolve_run, train_runs
from interp.stability import curve_table, judge_ranks
from interp.steering import Steerer, write_steering_record
from interp.steering.quadratic import steerer_type
from interp.store import ActivationStore
from interp.tree import ConceptTree, tree_rows, tree_text

DESCRIPTION = "Look inside a language model: capture activations, learn features, judge, browse and steer with them."


@dataclass(frozen=True)
class Demo:
    """The whole flow on the bundled model, then the dashboard."""

    config: DemoConfig
    workspace: Path = Path("activations")
    """Folder for the stores and runs; what is there already is not done again."""
    dashboard: bool = True
    """Open the dashboard at the end."""
    port: int = 8501
    """Port of the dashboard on 127.0.0.1."""

    def run(self) -> None:
        result = run_demo(self.workspace, self.config)
        print(metrics_table(result.runs))
        print(_steering_lines(result.runs))
        print(_step_lines(result))
        if self.dashboard:
            Dashboard(self.workspace, self.port).run()


@dataclass(frozen=True)
class Capture:
    """Run a model over text and keep its activations in a store."""

    config: CaptureConfig
    out: Path
    """Folder of the store; an interrupted capture goes on there."""
    model: str = "demo"
    """"demo", a Hugging Face model folder, or a hub name."""
    text: tuple[str, ...] = ("stdlib",)
    """Text files, .jsonl (.jsonl.gz) or .parquet files with the fields text and, if wanted, label, and folders of those;
    or one of: stdlib (the standard library), stdlib:held-out, stdlib:tests; hf:NAME or hf:NAME:SPLIT, a Hugging Face
    dataset with the column text, streamed (hf:OWNER/NAME/CONFIG where it has several); a folder saved by the datasets
    package."""

    def run(self) -> None:
        store = capture(load_model(self.model), corpus_of(self.text), self.config, self.out)
        if world().is_first:
            print(facts_table(store_facts(store.path, spectra=False)))


@dataclass(frozen=True)
class Train:
    """Learn features from one site of a store. Several values of --n-features or --k make as many runs, NAME-n64-k16 and so
    on; gradient-trained ones in one pass over the data."""

    method: Methods
    store: Path
    """Folder of the store."""
    site: str
    """Hook point, such as blocks.2.mlp.hook_post."""
    name: str
    """Name of the run."""
    stability: int = 0
    """Fit again so many times, with other seeds on other rows: how stable is each feature, and how many are there?"""

    def run(self) -> None:
        store, configs = ActivationStore(self.store), configs_of(self.method)
        if self.stability < 0:
            raise InputError(f"--stability is a number of refits, 0 or more, not {self.stability}")
        runs = train_runs(store, self.site, {self.name + ending: config for ending, config in configs.items()})
        for run in runs if world().is_first else []:
            last = run.training_curve()[-1]
            figures = "  ".join(f"{key} {value:.4g}" for key, value in last.items() if key not in ("step", "tokens"))
            print(f"{run.path}  {figures}  {run.facts['seconds']} s")
            _print_notes(run)
        if self.stability:
            path = store.path / "runs" / f"{self.name}-stability"
            curve = judge_ranks(runs, path, n_fits=self.stability)
            if world().is_first:
                print(f"{curve_table(curve)}\nthe curve is drawn in {path}.html")


def _print_notes(run: Run) -> None:
    for key, value in run.decomposer().notes.items():
        print(f"  {key.replace('_', ' ')}: {value}")


@dataclass(frozen=True)
class Index:
    """Precompute what the dashboard shows of runs."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, or names of runs in the workspace."""
    config: IndexConfig = field(default_factory=IndexConfig)
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""

    def run(self) -> None:
        load = functools.cache(load_model)
        for run in _runs(self.runs, self.workspace):
            print(build_index(run, config=self.config, model=load(run.model_id)))
            if run.kind in QUADRATIC_KINDS:
                print(build_manifolds(run, model=load(run.model_id)))


@dataclass(frozen=True)
class Evaluate:
    """Judge runs: reconstruction, the model's loss with it, concepts, steering; a table, and metrics.json in each run."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, or names of runs in the workspace."""
    config: EvaluationConfig = field(default_factory=EvaluationConfig)
    store: Path | None = None
    """Store to judge on: text the runs have not seen. By default the one named like theirs with -held-out added."""
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""
    json: bool = False
    """Print the table as JSON alone."""

    def run(self) -> None:
        runs, load = _runs(self.runs, self.workspace), functools.cache(load_model)
        for run in progress(runs, total=len(runs), what="evaluate", unit="run"):
            store = _judging_store(run, self.store)
            task = python_task(run) if PYTHON_LABELS.name in store.label_sets else None
            evaluate_run(run, model=load(run.model_id), store=store, config=self.config, steering=task)
        print(json.dumps(metrics_rows(runs), indent=1) if self.json else metrics_table(runs))


@dataclass(frozen=True)
class Steer:
    """Continue a prompt with and without a feature written into the model, side by side."""

    run_name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="run")]
    """Run folder, or the name of a run in the workspace."""
    prompt: str
    """Text to go on from; \\\\n stands for a new line."""
    feature: int | None = None
    """Number of the feature."""
    concept: str | None = None
    """In place of --feature: the best feature of this concept by the run's metrics.json: the one chosen for steering
    where interp evaluate steered it, else the one that detects it best."""
    mode: Literal["add", "clamp", "ablate", "flow", "rotate"] = "add"
    """add, clamp or ablate a direction; for latents of a bilinear run also flow (raise the latent's value) and rotate
    (turn in the plane of its first two axes)."""
    strength: float | None = None
    """In multiples of the feature's maximum on its store; negative suppresses. ablate: the share removed; flow: the time,
    in units of 1 / the largest eigenvalue; rotate: turns of 360 degrees."""
    kl: float | None = None
    """In place of --strength: the effect on neutral text to aim for, in nats per token; 0.2 is strong but fluent."""
    samples: int = 4
    """Continuations."""
    tokens: int = 48
    """Tokens per continuation."""
    temperature: float = 1.0
    """Sampling temperature; 0 takes the likeliest token."""
    seed: int = 0
    """Seed of the sampling noise, the same for both sides."""
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""

    def run(self) -> None:
        run = resolve_run(self.run_name, self.workspace)
        feature, sign = self._feature(run)
        steerer = steerer_type(run.kind).from_run(load_model(run.model_id), run)
        neutral = neutral_tokens(run)
        strength = self._strength(steerer, feature, sign, neutral)
        request = SteeringRequest(
            prompt=self.prompt.replace("\\n", "\n"),
            strengths={feature: strength},
            mode=self.mode,
            n_samples=self.samples,
            n_tokens=self.tokens,
            temperature=self.temperature,
            seed=self.seed,
        )
        result = compare_continuations(steerer, request, neutral)
        write_steering_record(run, steering_record(request, result))
        print(_side_by_side(request, result, steerer.units[self.mode]))
        if self.kl is not None and abs(result.kl - self.kl) > 0.1 * self.kl:
            print(f"The target of {self.kl:g} nats per token was not reached; what you see is the nearest.")
        if self.concept in CONCEPTS:
            before, after = (
                written_share(request.prompt, texts, self.concept) for texts in (result.baseline, result.steered)
            )
            print(f"{self.concept}: {before:.1%} of the characters written without, {after:.1%} with the feature")

    def _feature(self, run: Run) -> tuple[int, int]:
        if (self.feature is None) == (self.concept is None):
            raise InputError("name what to steer by either --feature NUMBER or --concept NAME")
        if self.feature is not None:
            n = run.decomposer().n_features
            if not 0 <= self.feature < n:
                raise unknown_feature(self.feature, n)
            return self.feature, 1
        metrics = read_metrics(run)
        for steered in (metrics["steering"] or {}).get("effects", []):
            if steered["concept"] == self.concept:
                return int(steered["feature"]), -1 if steered["strength"] < 0 else 1
        concepts = (metrics["concepts"] or {}).get("concepts", [])
        for found in concepts:
            if found["concept"] == self.concept:
                return int(found["feature"]), int(found["sign"])
        known = ", ".join(found["concept"] for found in concepts) or "none"
        raise InputError(f"the metrics of '{run.name}' say nothing of the concept '{self.concept}'; they know {known}")

    def _strength(self, steerer: Steerer, feature: int, sign: int, neutral: Any) -> float:
        if (self.strength is None) == (self.kl is None):
            raise InputError("say how strongly by either --strength X or --kl NATS")
        if self.strength is not None:
            return sign * self.strength
        assert self.kl is not None
        return steerer.strength_for_kl(feature, self.kl, tokens=neutral, sign=sign, mode=self.mode).strength


@dataclass(frozen=True)
class Read:
    """Read a feature at a layer of neurons: its neurons, the tokens it promotes and suppresses, who shares its neurons."""

    run_name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="run")]
    """Run folder, or the name of a run in the workspace."""
    feature: int
    """Number of the feature."""
    level: int = 0
    """Level of the hierarchy that the number is of; 0 are the features themselves."""
    n: int = 10
    """Entries of each list."""
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""

    def run(self) -> None:
        run = resolve_run(self.run_name, self.workspace)
        directions = directions_of_level(run, self.level)
        print(reading_text(read_feature(load_model(run.model_id), run.site, directions, self.feature, n=self.n)))


@dataclass(frozen=True)
class Tree:
    """Print the hierarchy of a semi-NMF run as a tree, each feature named by the tokens it fires on; needs the index."""

    run_name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="run")]
    """Run folder, or the name of a run in the workspace."""
    json: bool = False
    """Print the rows of the tree as JSON alone."""
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""

    def run(self) -> None:
        run = resolve_run(self.run_name, self.workspace)
        with FeatureIndex(run.index_path) as index:
            nodes = ConceptTree(run, index).nodes()
        print(json.dumps(tree_rows(nodes), indent=1) if self.json else tree_text(nodes))


@dataclass(frozen=True)
class Info:
    """What is in a store or a run, and whether it is whole."""

    path: tyro.conf.Positional[Path]
    """Folder of a store or a run."""
    verify: bool = False
    """Read a store's every byte again and compare the checksums."""
    spectra: bool = False
    """Compute the spectra of a store's sites where they are not there yet: a pass over all activations."""
    json: bool = False
    """Print JSON alone."""

    def run(self) -> None:
        if (self.path / "run.json").exists():
            facts = run_facts(self.path)
        else:
            facts = store_facts(self.path, spectra=self.spectra)
            if self.verify:
                facts["verified"] = _verified(self.path)
        print(json.dumps(facts, indent=1) if self.json else facts_table(facts))


@dataclass(frozen=True)
class Export:
    """Write a run's sparse autoencoder in the format of another tool."""

    run_name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="run")]
    """Run folder, or the name of a run in the workspace."""
    folder: tyro.conf.Positional[Path]
    """Folder to make."""
    format: Literal["saelens"] = "saelens"
    """saelens: what SAELens 6 reads with SAE.load_from_disk."""
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""

    def run(self) -> None:
        export_saelens(resolve_run(self.run_name, self.workspace), self.folder)
        print(self.folder)


@dataclass(frozen=True)
class Import:
    """Keep a sparse autoencoder that another tool saved as a run of a store, to be indexed, judged and steered like any."""

    folder: tyro.conf.Positional[Path]
    """Folder that SAELens saved, with cfg.json and sae_weights.safetensors."""
    store: Path
    """Folder of a store of the same model."""
    name: str | None = None
    """Name of the run; by default that of the folder."""
    site: str | None = None
    """Hook point it was trained at; by default the one it names."""

    def run(self) -> None:
        name = self.name or self.folder.resolve().name
        run = import_saelens(self.folder, ActivationStore(self.store), name, site=self.site)
        print(run.path)
        _print_notes(run)


@dataclass(frozen=True)
class Dashboard:
    """Serve the dashboard on 127.0.0.1."""

    workspace: tyro.conf.Positional[Path] = Path("activations")
    """Folder of stores."""
    port: int = 8501
    """Port to listen on."""
    open_browser: bool = True
    """Open it in the browser."""

    def run(self) -> None:
        from app.server import serve  # deferred: Streamlit takes a second to import, and no other verb needs it

        print(f"the dashboard is at http://127.0.0.1:{self.port} (Ctrl+C ends it)")
        serve(self.workspace, port=self.port, open_browser=self.open_browser)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the ``interp`` command."""
    verbs = (Demo, Capture, Train, Index, Evaluate, Steer, Read, Tree, Info, Export, Import, Dashboard)
    commands: Any = Union[tuple(Annotated[verb, tyro.conf.subcommand(verb.__name__.lower())] for verb in verbs)]
    options = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs)
    try:
        verb = tyro.cli(commands, prog="interp", description=DESCRIPTION, args=argv, config=options)
        with joined():
            verb.run()
    except InputError as error:
        print(f"interp: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def corpus_of(words: tuple[str, ...]) -> Corpus:
    """What ``--text`` means: the standard library by its keyword, else as ``load_corpus`` says. Python is labelled."""
    if words and words[0].split(":")[0] == "stdlib":
        split = words[0].partition(":")[2] or "train"
        if len(words) > 1 or split not in ("train", "held-out", "tests"):
            raise InputError(f"'{' '.join(words)}' names no text; use stdlib, stdlib:held-out or stdlib:tests, alone")
        return python_corpus(split)
    corpus = load_corpus(words)
    return replace(corpus, label_set=PYTHON_LABELS) if all(word.endswith(".py") for word in words) else corpus


def _runs(given: tuple[str, ...], workspace: Path) -> list[Run]:
    if not given:
        raise InputError("no run was named; give run folders or names")
    return [resolve_run(name, workspace) for name in given]


def _judging_store(run: Run, given: Path | None) -> ActivationStore:
    if given is not None:
        return ActivationStore(given)
    held_out = run.store_path.with_name(run.store_path.resolve().name + "-held-out")
    if not held_out.exists():
        raise InputError(
            f"there is no held-out store '{held_out}' to judge '{run.name}' on; capture one, or name another with --store "
            f"(the run's own, {run.store_path}, judges it on what it has seen)"
        )
    return ActivationStore(held_out)


def _verified(path: Path) -> str:
    store = ActivationStore(path, allow_unfinished=True)
    if damaged := store.verify():
        raise InputError(
            f"'{path}' is damaged: {', '.join(damaged)} of {len(store.manifest.shards)} shards are not what was written; "
            "delete those files and run the same interp capture command again, which makes them anew"
        )
    return "every byte is what was written"


def _side_by_side(request: SteeringRequest, result: SteeringResult, unit: str) -> str:
    ((feature, strength),) = request.strengths.items()
    head = f"feature {feature} at {strength:+.2f} {unit}: KL {result.kl:.3f} nats per token on neutral text, "
    lines = [head + f"perplexity x {result.perplexity_ratio:.2f}"]
    for i, (baseline, steered) in enumerate(zip(result.baseline, result.steered, strict=True), start=1):
        lines += [f"--- {i} baseline", baseline.rstrip(), f"--- {i} steered", steered.rstrip()]
    return "\n".join(lines)


def _steering_lines(runs: list[Run]) -> str:
    lines = ["", "Share of what was written that is the concept, without and with steering at KL 0.2, 64 samples:"]
    for run in runs:
        for effect in (read_metrics(run)["steering"] or {}).get("effects", []):
            low, high = effect["interval"]
            lines.append(
                f"{run.name:<14}{effect['concept']:<22}feature {effect['feature']:>5}  {effect['baseline_share']:>6.1%} -> "
                f"{effect['steered_share']:>6.1%}  [{low:+.1%}, {high:+.1%}]  fluency {effect['fluency']:.2f}"
            )
    return "\n".join(lines)


def _step_lines(result: DemoResult) -> str:
    return "\n".join(
        ["", *(f"{s.name:<34}{s.wall_seconds:>7.1f} s wall {s.cpu_seconds:>7.1f} s CPU" for s in result.steps)]
    )


if __name__ == "__main__":
    main()
