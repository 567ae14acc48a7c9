"""End to end on the bundled model: the flow of ``interp demo``, small, and what a person takes from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

import interp.demo.recipe as flow
from interp.corpora.labels.python import PYTHON
from interp.decomposers.sae.autoencoder import SAEConfig
from interp.evaluation.evidence import read_evidence
from interp.evaluation.results import read_metrics
from interp.evaluation.steering_results import SteeringConfig
from interp.evaluation.table import metrics_rows, metrics_table
from interp.index.reader import FeatureIndex
from interp.model.language_model import load_model
from interp.runs.record import Run

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Small:
    """A small demo and what it was asked for."""

    runs: list[Run]
    method: SAEConfig
    config: flow.DemoConfig


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """One autoencoder on the residual stream, a tenth of the demo's text, steered towards comments only."""
    patch = pytest.MonkeyPatch()
    sae = SAEConfig(n_features=512, tokens=300_000, batch=1024)
    patch.setattr(flow, "RECIPE", (("resid-sae", flow.RESIDUAL, sae),))
    patch.setattr(flow, "CONCEPTS_TO_STEER", ("comment",))
    patch.setattr(flow, "STEERING", SteeringConfig(n_draws=2, max_rounds=1, n_candidates=6, n_written=2, n_samples=2))
    workspace = tmp_path_factory.mktemp("demo") / "activations"
    config = flow.DemoConfig(tokens=12_000, held_out_snippets=3)
    result = flow.run_demo(workspace, config)
    patch.undo()
    return Small(result.runs, sae, config)


def test_the_model_predicts_held_out_python(small: Small) -> None:
    """Splicing nothing in, the model's loss on the held-out modules is what its card says, within sampling."""
    spliced = read_metrics(small.runs[0]).spliced
    assert spliced.ce_clean < 3.4
    assert spliced.ce_zero > spliced.ce_clean + 1


def test_the_features_explain_the_activations(small: Small) -> None:
    (row,) = metrics_rows(small.runs)
    assert row["fvu"] < 0.5
    assert row["ce_recovered"] > 0.8
    assert row["is_held_out"]


def test_concepts_of_one_word_are_found_and_stand_beside_their_null(small: Small) -> None:
    """Broad concepts are spread over many features of a sparse code; a word such as ``self`` has one of its own."""
    found = {c.concept: c for c in read_metrics(small.runs[0]).concepts.concepts}
    assert set(found) <= set(PYTHON.labels)
    self_or_cls = found["self_or_cls"]
    assert self_or_cls.f1.value > 0.5
    assert self_or_cls.excess.is_above_zero
    assert set(self_or_cls.null_f1) == {"isotropic", "covariance", "untrained", "shuffled"}
    metrics = read_metrics(small.runs[0])
    assert metrics.concepts.is_above_null
    assert metrics.probes.features[0].value < metrics.probes.features[-1].value < metrics.probes.whole


def test_features_have_evidence_and_a_short_label(small: Small) -> None:
    evidence = read_evidence(small.runs[0])
    assert len(evidence.features) == 512
    by_label = Counter(each.label for each in evidence.features)
    assert by_label["self_or_cls"] >= 1
    assert {each.grade for each in evidence.features} >= {"none", "detects"}
    assert any(test.by == "ablation" for each in evidence.features for test in each.tests)


def test_steering_towards_comments_writes_comments(small: Small) -> None:
    (effect,) = read_metrics(small.runs[0]).steering.effects
    assert effect.concept == "comment"
    assert effect.steered_share > effect.baseline_share


def test_a_feature_page_shows_text(small: Small) -> None:
    with FeatureIndex(small.runs[0].index_path) as index:
        best = int(index.summary["importance"].idxmax())
        examples = index.examples(best, "top", 8)
        assert examples[0]["value"] == pytest.approx(index.feature(best)["max"], rel=1e-2)
        assert index.feature(best)["promoted"]


def test_run_again_it_only_opens_what_is_there(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small.runs[0]
    files = [path for path in run.store_path.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    monkeypatch.setattr(flow, "RECIPE", ((run.name, run.site, small.method),))
    flow.run_demo(run.store_path.parent, small.config)
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_the_table_names_every_column(small: Small) -> None:
    head, line = metrics_table(small.runs).splitlines()[:2]
    assert all(word in head for word in ("FVU", "CE recovered", "concepts", "readable"))
    assert "null" in line


def test_the_bundled_model_is_in_half_precision_and_has_a_card() -> None:
    folder = Path(flow.__file__).parent / "model"
    assert (folder / "model.safetensors").stat().st_size < 10_000_000
    assert "held-out loss" in (folder / "README.md").read_text()
    assert load_model("demo").d_vocab == 4096
