"""The whole flow on the bundled model: capture, train, index, evaluate, steer. Run again, it does only the missing steps.

Every step is one call of the same public function that the command line and the notebooks use; this is the recipe to copy
for another model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from interp.browse.index_parts import build_index_parts
from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.labels.python import PYTHON
from interp.corpora.sources import load_corpus
from interp.decomposers.baselines.pca import PCAConfig
from interp.decomposers.bilinear.autoencoder import BilinearConfig
from interp.decomposers.sae.autoencoder import SAEConfig, SubspaceSAEConfig
from interp.decomposers.semi_nmf.decomposer import SemiNMFConfig
from interp.errors import InputError
from interp.evaluation.results import EvaluationConfig, read_metrics
from interp.evaluation.steering_effect import steering_task
from interp.evaluation.steering_results import SteeringConfig
from interp.evaluation.suite import evaluate_run
from interp.model.language_model import load_model
from interp.progress import progress
from interp.records import check_options
from interp.runs.record import Run
from interp.runs.training import train_run
from interp.store.reader import ActivationStore
from interp.training.config import DecomposerConfig

SITES = MLP, RESIDUAL, ATTENTION = "blocks.2.mlp.hook_post", "blocks.2.hook_resid_post", "blocks.2.hook_attn_out"

SNIPPET_TOKENS = 300
"""Tokens of a snippet, some thirty lines: somewhat more than the model's context of 256."""

RECIPE: tuple[tuple[str, str, DecomposerConfig], ...] = (
    # With the default l1, at an L0 of 32, its features find concepts no better than chance (examples/semi_nmf.md).
    ("mlp-semi-nmf", MLP, SemiNMFConfig(passes=15, levels=(50, 12), target_l0=12)),
    ("mlp-sae", MLP, SAEConfig(tokens=600_000)),
    ("mlp-pca", MLP, PCAConfig()),
    ("resid-sae", RESIDUAL, SAEConfig(tokens=1_000_000)),
    ("resid-bilinear", RESIDUAL, BilinearConfig(n_features=256, tokens=400_000)),
    ("attn-sae", ATTENTION, SAEConfig(tokens=600_000)),
    ("attn-subspace-sae", ATTENTION, SubspaceSAEConfig(tokens=600_000)),
)
"""(name, site, decomposer) of every run of the demo; those of one site together, since they are judged on the same rows."""

RUN_TO_STEER = "resid-sae"
"""The run that the demo steers with, one alone, since steering takes most of its evaluation. At an equal effect, features of
the residual stream write more than those of one layer's neurons."""

CONCEPTS_TO_STEER = ("comment", "import_statement", "class_header", "number", "docstring")
"""Concepts that the demo tries to make the model write. Not all of them are written more than by chance, and it says which."""

STEERING = SteeringConfig(max_rounds=4)


@dataclass(frozen=True)
class DemoConfig:
    """How much text the demo captures."""

    tokens: int = 120_000
    """Tokens the decomposers learn from: two snippets a file of the standard library, held-out modules left out. The
    default takes some 230 files."""
    held_out_snippets: int = 7
    """Snippets of each file of the held-out modules that every run is evaluated on. The default takes 58 000 tokens of 29
    files, none of which gives more than 2 100; as whole files 60 000 tokens would be 10 files, two of them more than half."""

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def training_text(self) -> CaptureConfig:
        """What is taken of the text that the decomposers learn from."""
        return CaptureConfig(sites=SITES, tokens=self.tokens, snippet_tokens=SNIPPET_TOKENS, snippets=2)

    @property
    def held_out_text(self) -> CaptureConfig:
        """What is taken of every held-out file."""
        snippets = self.held_out_snippets
        return CaptureConfig(sites=SITES, tokens="all", snippet_tokens=SNIPPET_TOKENS, snippets=snippets)


@dataclass(frozen=True)
class Step:
    """What one step of the flow took."""

    name: str
    wall_seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class DemoResult:
    """What the flow left on disk and what it took."""

    runs: list[Run]
    steps: list[Step]


def run_demo(workspace: Path, config: DemoConfig) -> DemoResult:
    """Do every step that has not been done yet in ``workspace``."""
    steps: list[Step] = []
    with _timed("load model", steps):
        model = load_model("demo")
    with _timed("capture", steps):
        store = capture(model, load_corpus(["stdlib"]), config.training_text, workspace / "demo")
        held_out_corpus = load_corpus(["stdlib:held-out"])
        held_out = capture(model, held_out_corpus, config.held_out_text, workspace / "demo-held-out")
    runs = []
    for name, site, method in RECIPE:
        with _timed(f"train {name}", steps):
            runs.append(train_run(store, site, method, name))
    with _timed("index", steps):
        for run in progress(runs, total=len(runs), what="index", unit="run"):
            list(build_index_parts(run, model, only_stale=True))
    for run in progress(runs, total=len(runs), what="evaluate and steer", unit="run"):
        with _timed(f"evaluate and steer {run.name}", steps):
            if not _is_evaluated(run, held_out):
                task = steering_task(PYTHON, concepts=CONCEPTS_TO_STEER, config=STEERING)
                steered = task if run.name == RUN_TO_STEER else None
                judging = EvaluationConfig(n_steered=len(CONCEPTS_TO_STEER))
                evaluate_run(run, model=model, store=held_out, config=judging, steering=steered)
    return DemoResult(runs, steps)


def _is_evaluated(run: Run, store: ActivationStore) -> bool:
    try:
        metrics = read_metrics(run)
    except InputError:  # not evaluated, or by another version of the tool
        return False
    return metrics.complete and (metrics.store_identity, metrics.run_identity) == (store.identity, run.identity)


@contextmanager
def _timed(name: str, steps: list[Step]) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    steps.append(Step(name, time.perf_counter() - wall, time.process_time() - cpu))
