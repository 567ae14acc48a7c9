"""What is said of features: firing, nulls, intervals and readings, on planted rows and against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score, normalized_mutual_info_score, roc_auc_score

from interp.decomposers.base import LinearDecomposer
from interp.decomposers.sae.initialisation import random_directions
from interp.errors import InputError
from interp.evaluation import trial
from interp.evaluation.concepts import N_BEST, FeatureFindings, evaluate_concepts
from interp.evaluation.detection import association, normalised_mutual_information
from interp.evaluation.feature_evidence import simulability_report
from interp.evaluation.firing_codes import FiringCodes, cut, firing_codes, random_codes
from interp.evaluation.judged_rows import JudgedRows, split_documents, token_windows
from interp.evaluation.probe_report import probe_report
from interp.evaluation.readable import LABEL, NOTHING, TOKEN, TOKEN_BEFORE, most_common, read, strongest_rows
from interp.evaluation.resampling import Resamples, interval_rows, mean_over_concepts
from interp.evaluation.results import ConceptConfig, ConceptReport
from interp.evaluation.simulability import simulability
from interp.evaluation.site_baselines import difference_in_means
from interp.evaluation.trial import Judged, shifted_labels
from interp.store.source import ArraySource
from interp.training.config import DecomposerConfig

NAMES = ("on", "off", "rare", "bracket_depth")


class Fixed(LinearDecomposer):
    """Rectified projections on fixed directions, or signed ones."""

    kind = "fixed"

    def __init__(self, directions: np.ndarray, bias: float | torch.Tensor | None):
        rows = torch.from_numpy(directions).float()
        super().__init__(DecomposerConfig(), {"W_dec": rows, "b_dec": torch.zeros(rows.shape[1])})
        self.bias: Any = bias

    @property
    def signed_codes(self) -> bool:  # type: ignore[override]
        return self.bias is None

    @classmethod
    def _fit(cls, source: Any, config: Any, recorder: Any) -> Fixed:
        raise NotImplementedError

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        z = x @ self.W_dec.T
        return z if self.bias is None else torch.relu(z - self.bias)


def planted(
    n: int = 4000, d: int = 24, *, seed: int = 0, n_documents: int = 40, strength: float = 5.0
) -> tuple[JudgedRows, np.ndarray]:
    """Rows with a concept, another and a depth along three unit directions, and those directions."""
    random = np.random.default_rng(seed)
    directions = np.linalg.qr(random.standard_normal((d, 3)))[0].T
    on, off = random.random(n) < 0.1, random.random(n) < 0.2
    depth = random.integers(0, 5, n)
    x = random.standard_normal((n, d))
    x += strength * on[:, None] * directions[0] + strength * off[:, None] * directions[1]
    x += 1.5 * depth[:, None] * directions[2]
    labels = np.stack([on, off, np.arange(n) < 20, depth], axis=1).astype(np.uint8)
    document = np.repeat(np.arange(n_documents), n // n_documents)
    rows = JudgedRows.draw(
        ArraySource(x.astype(np.float32)), labels=labels, names=NAMES, documents=document, max_rows=n, seed=seed
    )
    return rows, directions.astype(np.float32)


def dictionary(directions: np.ndarray, *, n: int = 30, seed: int = 5, bias: float | None = 2.5) -> Fixed:
    """Random directions, of which features 10, 11 and 12 are the planted ones."""
    random = np.random.default_rng(seed).standard_normal((n, directions.shape[1]))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    random[10:13] = directions
    return Fixed(random, bias)


def judge(decomposer: Fixed, rows: JudgedRows, **options: Any) -> tuple[ConceptReport, FeatureFindings]:
    return evaluate_concepts(decomposer, rows, ConceptConfig(**options))


# ------------------------------------------------------------------------------------------------------------ the rows


def test_halves_are_whole_documents_and_share_every_label() -> None:
    random = np.random.default_rng(0)
    documents = np.repeat(np.arange(40), random.integers(20, 400, 40))
    labels = np.zeros((len(documents), 3), dtype=bool)
    for label, n in enumerate((6, 10, 25)):  # labels that occur in few documents, as one in every tenth token
        labels[:, label] = np.isin(documents, random.choice(40, n, replace=False)) & (
            random.random(len(documents)) < 0.1
        )
    is_test = split_documents(documents, labels, seed=0)
    assert all(len(np.unique(is_test[documents == d])) == 1 for d in range(40))
    assert is_test.mean() == pytest.approx(0.5, abs=0.06)
    for label, n in enumerate((6, 10, 25)):
        halves = [len(np.unique(documents[labels[:, label] & half])) for half in (is_test, ~is_test)]
        assert min(halves) >= n // 2 - 1, (label, halves)
    assert np.array_equal(is_test, split_documents(documents, labels, seed=0))
    even = np.repeat(np.arange(40), 5), np.ones((200, 1), bool)  # nothing but the seed tells these documents apart
    halves = [split_documents(*even, seed=seed) for seed in (0, 1)]
    assert halves[0].sum() == halves[1].sum() == 100
    assert not np.array_equal(*halves)


def test_one_document_cannot_be_split() -> None:
    with pytest.raises(InputError, match="one document cannot be split into select and test"):
        split_documents(np.zeros(9, int), np.zeros((9, 1), bool), seed=0)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="give one label row and one document number per activation row"):
        JudgedRows.draw(
            ArraySource(np.zeros((5, 2), np.float32)),
            labels=np.zeros((4, 1), np.uint8), names=["on"], documents=np.zeros(4, int), max_rows=9, seed=0,
        )  # fmt: skip


def test_windows_end_at_separators_documents_and_the_beginning() -> None:
    tokens = np.array([[0, 5, 6, 0, 7, 8], [0, 8, 9, 9, 4, 3]])  # 0 is BOS
    document = np.array([[0, 0, 0, 0, 1, 1], [1, 1, 1, 2, 2, 2]])
    positions = np.array([[0, 1], [0, 2], [0, 4], [0, 5], [1, 1], [1, 4], [1, 5]])
    found = token_windows(tokens, positions, document, bos_id=0, width=3)
    wanted = [[5, -1, -1], [6, 5, -1], [7, -1, -1], [8, 7, -1], [8, -1, -1], [4, 9, -1], [3, 4, 9]]
    assert found.tolist() == wanted


def test_a_concept_needs_tokens_and_documents_in_both_halves() -> None:
    rows, _ = planted()
    labels = np.zeros((len(rows.x), 4), np.uint8)
    labels[rows.is_select, 0] = labels[:, 1] = (
        np.arange(len(rows.x))[rows.is_select][0] >= 0
    )  # select alone; everywhere
    first = rows.document == rows.document[rows.is_test][0]
    labels[first | rows.is_select, 2] = 1
    labels[first, 2] = np.arange(first.sum()) % 4 > 0
    labels[::2, 3] = 1
    rows = JudgedRows(**{**vars(rows), "labels": labels, "names": ("select", "all", "one", "half")})
    why = [rows.why_unusable(i, min_positives=50, min_documents=5) for i in range(4)]
    assert why[0] == "0 negative tokens in select, fewer than 50"
    assert why[1] == "0 negative tokens in select, fewer than 50"
    assert why[3] is None
    labels[rows.is_select, 0] = np.arange(rows.is_select.sum()) % 2
    assert rows.why_unusable(0, min_positives=50, min_documents=5) == "0 positive tokens in test, fewer than 50"
    labels[rows.is_select, 2] = np.arange(rows.is_select.sum()) % 2
    assert rows.why_unusable(2, min_positives=50, min_documents=5) == "occurs in 1 documents of test, fewer than 5"


# --------------------------------------------------------------------------------------------------------------- firing


def test_sparse_codes_fire_as_they_are() -> None:
    rows, directions = planted()
    decomposer = dictionary(directions)
    found = firing_codes(decomposer.encode, 30, rows, signed=False, dense_rate=0.05)
    assert np.array_equal(found.codes.toarray(), decomposer.encode(rows.x).numpy())
    assert found.cut is None
    assert (found.threshold == 0).all()


def test_dense_codes_are_cut_sign_by_sign_on_select() -> None:
    rows, directions = planted()
    decomposer = dictionary(directions, bias=None)
    found = firing_codes(decomposer.encode, 30, rows, signed=True, dense_rate=0.05)
    assert found.n_candidates == 60
    assert (found.cut, found.feature[31], found.sign[31]) == (0.05, 1, -1)
    wanted = round(0.05 * rows.is_select.sum())
    assert (found.n_fire_select(rows) == wanted).all()
    z = decomposer.encode(rows.x).numpy()
    for candidate in (3, 33):
        signed = found.sign[candidate] * z[:, 3]
        threshold = np.sort(signed[rows.is_select])[-wanted - 1]
        assert found.codes[:, [candidate]].toarray()[:, 0] == pytest.approx(np.maximum(signed - threshold, 0))
        assert found.threshold[candidate] == pytest.approx(threshold)


def test_blocks_of_candidates_are_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, directions = planted()
    decomposer = dictionary(directions, bias=None)
    codes = firing_codes(decomposer.encode, 30, rows, signed=True, dense_rate=0.05)
    null = random_codes(codes, rows, 0, shaped=True)
    monkeypatch.setattr("interp.evaluation.firing_codes._VALUES_HELD", 7 * 4 * len(rows.x))
    again = firing_codes(decomposer.encode, 30, rows, signed=True, dense_rate=0.05)
    assert (codes.codes != again.codes).nnz == 0
    null_again = random_codes(codes, rows, 0, shaped=True)
    assert null.codes.toarray() == pytest.approx(null_again.codes.toarray(), abs=1e-5)


def test_random_directions_fire_as_often_as_the_features_they_stand_beside() -> None:
    rows, directions = planted()
    own = firing_codes(dictionary(directions).encode, 30, rows, signed=False, dense_rate=0.05)
    null = random_codes(own, rows, 3, shaped=False)
    assert np.array_equal(null.n_fire_select(rows), own.n_fire_select(rows))
    columns = null.fires.toarray()[:, null.n_fire_select(rows) > 20].T
    assert np.abs(np.corrcoef(columns) - np.eye(len(columns))).max() < 0.8, "each is a direction of its own"
    dead = FiringCodes(sparse.csc_array((len(rows.x), 2)), np.arange(2), np.ones(2, int), np.zeros(2))
    assert random_codes(dead, rows, 0, shaped=True).codes.nnz == 0


def test_shaped_directions_have_the_covariance_of_the_rows() -> None:
    rows, directions = planted()
    found = random_directions(4000, rows.moments, 0, shaped=True).numpy()
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(4000), abs=1e-5)
    share = (found @ directions.T) ** 2
    isotropic = (random_directions(4000, rows.moments, 0, shaped=False).numpy() @ directions.T) ** 2
    assert (share.mean(0) > 2 * isotropic.mean(0)).all()


def test_scores_that_tie_at_the_cut_do_not_fire() -> None:
    rows, _ = planted()
    scores = torch.zeros(len(rows.x), 1)
    scores[torch.from_numpy(np.flatnonzero(rows.is_select)[:3])] = 1.0
    codes, threshold = cut(scores, np.array([5]), rows)
    assert threshold.tolist() == [0.0]
    assert codes.nnz == 3


# ------------------------------------------------------------------------------------------------------------- measures


def test_figures_are_those_of_scikit_learn_on_the_test_documents() -> None:
    rows, directions = planted()
    decomposer = dictionary(directions)
    report, findings = judge(decomposer, rows)
    z, test = decomposer.encode(rows.x).numpy(), rows.is_test
    for column, found in enumerate(report.concepts):
        has = rows.labels[:, column] != 0
        select = [f1_score(has[~test], z[~test, f] > 0) for f in range(30)]
        assert found.feature == int(np.argmax(select))
        fires = z[test, found.feature] > 0
        assert found.f1.value == pytest.approx(f1_score(has[test], fires))
        assert found.precision == pytest.approx((has[test] & fires).sum() / fires.sum())
        assert found.recall == pytest.approx((has[test] & fires).sum() / has[test].sum())
        assert found.average_precision == pytest.approx(average_precision_score(has[test], z[test, found.feature]))
        assert found.mutual_information == pytest.approx(normalized_mutual_info_score(has[test], fires))
        assert found.base_rate == has[test].mean()
        assert (found.n_positive_select, found.n_positive_test) == (has[~test].sum(), has[test].sum())
        hit = has & test & (z[:, found.feature] > 0)
        assert found.n_documents == len(np.unique(rows.document[hit]))
        assert [f for f, _ in found.best_features] == np.argsort(-np.array(select), kind="stable")[:N_BEST].tolist()
    for feature in range(30):
        label = findings.own.label[feature]
        select = [f1_score(rows.labels[~test, c] != 0, z[~test, feature] > 0) for c in (0, 1)]
        assert label == (int(np.argmax(select)) if max(select) else -1)
        if label < 0:
            continue
        assert findings.own.f1[feature] == pytest.approx(f1_score(rows.labels[test, label] != 0, z[test, feature] > 0))


def test_information_is_zero_for_what_never_or_always_fires() -> None:
    rows, _ = planted()
    constant = sparse.csc_array(np.stack([np.zeros(len(rows.x)), np.ones(len(rows.x))], 1).astype(np.float32))
    codes = FiringCodes(constant, np.arange(2), np.ones(2, int), np.zeros(2))
    found = association(codes, rows, np.array([0])).of_candidates(codes, rows)
    assert normalised_mutual_information(found, int(rows.is_test.sum())).tolist() == [0, 0]


def test_planted_features_are_found_above_every_null() -> None:
    rows, directions = planted()
    report, findings = judge(dictionary(directions), rows)
    assert [(c.concept, c.feature, c.sign) for c in report.concepts] == [("on", 10, 1), ("off", 11, 1)]
    assert report.is_above_null
    assert report.f1 is not None
    assert report.f1.low > 0.8
    for concept in report.concepts:
        assert concept.excess is not None
        assert concept.excess.low > 0.1
        assert set(concept.null_f1) == {"isotropic", "covariance", "shuffled"}
    assert findings.detects[[10, 11]].all()
    assert report.null_detecting is not None
    assert report.null_detecting < 0.2
    (depth,) = report.depths
    assert (depth.label, depth.feature, depth.sign) == ("bracket_depth", 12, 1)
    code = dictionary(directions).encode(rows.x).numpy()[rows.is_test, 12]
    assert depth.spearman == pytest.approx(spearmanr(code, rows.labels[rows.is_test, 3]).statistic)
    assert depth.spearman > depth.null_spearman + 0.2
    assert list(report.left_out) == ["rare"]
    assert "positive tokens in" in report.left_out["rare"]


def test_signed_codes_are_read_in_both_signs_and_have_an_auroc() -> None:
    rows, directions = planted()
    directions = directions * np.array([[1], [-1], [1]])
    decomposer = dictionary(directions, bias=None)
    report, _ = judge(decomposer, rows, dense_rate=0.1)
    on, off = report.concepts
    assert [(c.feature, c.sign) for c in report.concepts] == [(10, 1), (11, -1)]
    assert (report.cut, report.n_candidates) == (0.1, 60)
    z = decomposer.encode(rows.x).numpy()[rows.is_test]
    for concept, column in ((on, 0), (off, 1)):
        wanted = roc_auc_score(rows.labels[rows.is_test, column], concept.sign * z[:, concept.feature])
        assert concept.auroc == pytest.approx(wanted)
        assert concept.null_auroc is not None
        assert 0.5 < concept.null_auroc < concept.auroc
    assert judge(dictionary(directions), rows)[0].auroc is None


def test_a_dense_decoy_of_the_same_auroc_is_told_from_the_planted_feature() -> None:
    """The decoy ranks tokens as well as the feature does, but fires on most of them."""
    rows, directions = planted()
    sharp, dense = dictionary(directions), dictionary(directions)
    dense.bias = torch.full((30,), 2.5)
    dense.bias[10] = -1.5
    test, has = rows.is_test, rows.labels[rows.is_test, 0]
    aurocs = [roc_auc_score(has, each.encode(rows.x).numpy()[test, 10]) for each in (sharp, dense)]
    assert aurocs[0] == pytest.approx(aurocs[1], abs=0.02)
    found = [judge(each, rows)[1] for each in (sharp, dense)]
    assert found[0].own.f1[10] > found[1].own.f1[10] + 0.3
    assert found[0].detects[10]
    assert not found[1].detects[10]


def test_a_feature_that_fires_on_much_else_does_not_detect() -> None:
    """It fires on every token of the concept and on as many others: far above chance, but half of what it says is wrong."""
    rows, directions = planted(d=80)

    class Loose(Fixed):
        def _encode(self, x: torch.Tensor) -> torch.Tensor:
            z = super()._encode(x)
            other = torch.nn.functional.normalize(torch.randn(80, generator=torch.Generator().manual_seed(0)), dim=0)
            z[:, 10] = torch.maximum(z[:, 10], torch.relu(x @ other - 1.72))
            return z

    found = judge(Loose(dictionary(directions).W_dec.numpy(), 2.5), rows)[1]
    assert found.own.label[10] == 0
    assert found.excess_interval[10, 0] > 0
    assert 0.4 < found.own.precision[10] < 0.55
    assert not found.detects[10]
    assert judge(dictionary(directions), rows)[1].detects[10]


def test_a_null_has_as_many_candidates_as_the_run_and_is_drawn_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, directions = planted()
    drawn: list[tuple[int, bool, int]] = []

    def spy(own: FiringCodes, rows: JudgedRows, seed: int, *, shaped: bool) -> FiringCodes:
        found = random_codes(own, rows, seed, shaped=shaped)
        drawn.append((seed, shaped, found.n_candidates))
        return found

    monkeypatch.setattr(trial, "random_codes", spy)
    report, _ = judge(dictionary(directions), rows, n_draws=3)
    assert len(set(drawn)) == 6
    assert {n for _, _, n in drawn} == {30}
    assert [null.n_draws for null in report.nulls] == [3, 3, 3]
    assert all(null.f1_spread is not None and null.f1_spread > 0 for null in report.nulls)


def test_one_random_direction_is_a_weaker_null_than_the_best_of_many() -> None:
    """With a null of fewer candidates than the run has, chance would look like skill."""
    rows, directions = planted()
    random = np.random.default_rng(1).standard_normal((200, directions.shape[1]))
    many, one = (Fixed(random[:n] / np.linalg.norm(random[:n], axis=1, keepdims=True), 2.0) for n in (200, 1))
    null_f1 = [judge(each, rows)[0].null_f1 or 0 for each in (many, one)]
    assert null_f1[0] > null_f1[1] + 0.05


def test_an_untrained_method_is_a_null_where_there_is_one() -> None:
    rows, directions = planted()
    starts: list[int] = []

    def untrained(seed: int) -> Fixed:
        starts.append(seed)
        return dictionary(np.roll(directions, 1, axis=1), seed=seed)

    report, _ = evaluate_concepts(dictionary(directions), rows, ConceptConfig(), untrained=untrained)
    assert len(set(starts)) == 5
    assert [null.name for null in report.nulls] == ["isotropic", "covariance", "untrained", "shuffled"]
    report, _ = evaluate_concepts(dictionary(directions), rows, ConceptConfig(), untrained=lambda seed: None)
    assert [null.name for null in report.nulls] == ["isotropic", "covariance", "shuffled"]


def test_shifted_labels_are_as_frequent_and_as_clustered_in_each_document() -> None:
    rows, _ = planted()
    clustered = (np.arange(len(rows.x)) // 7 % 5 == 0).astype(np.uint8)[:, None]
    rows = JudgedRows(**{**vars(rows), "labels": clustered, "names": ("clustered",)})
    shifted = shifted_labels(rows, 0)
    changes = []
    for document in range(rows.n_documents):
        before, after = (each[rows.document == document, 0] for each in (clustered, shifted))
        assert before.sum() == after.sum()
        assert abs(int((np.diff(before) != 0).sum()) - int((np.diff(after) != 0).sum())) <= 2
        changes.append(float((before != after).mean()))
    assert np.mean(changes) > 0.2


@pytest.mark.slow
def test_with_nothing_to_find_the_report_says_so_in_95_of_100_seeds() -> None:
    """Rows and labels without any relation, features like any random directions."""
    above = {"concepts": 0, "readable": 0, "probes": 0, "simulability": 0}
    for seed in range(100):
        random = np.random.default_rng(seed)
        n = 1200
        labels = (random.random((n, 6)) < 0.1).astype(np.uint8)
        rows = JudgedRows.draw(
            ArraySource(random.standard_normal((n, 8)).astype(np.float32)),
            labels=labels, names=[f"label {i}" for i in range(6)],
            documents=np.arange(n) // 40, windows=random.integers(0, 50, (n, 2)), max_rows=n, seed=seed,
        )  # fmt: skip
        directions = random.standard_normal((20, 8))
        decomposer = Fixed(directions / np.linalg.norm(directions, axis=1, keepdims=True), 1.3)
        report, findings = judge(decomposer, rows, min_positives=20, seed=seed)
        above["concepts"] += report.is_above_null
        above["readable"] += report.readable_excess is not None and report.readable_excess.is_above_zero
        probes, _ = probe_report(decomposer, findings, rows, seed)
        above["probes"] += probes.ahead[2].is_above_zero  # of 5 features; each k has an interval of its own
        auroc = simulability(rows.windows, findings.codes.codes, rows.is_test)
        simulated = simulability_report(findings.codes, np.arange(20), auroc, rows, seed)
        above["simulability"] += simulated is not None and simulated.difference.is_above_zero
    assert max(above.values()) <= 5, above


# ------------------------------------------------------------------------------------------------------------ intervals


def test_intervals_are_over_documents_not_over_tokens() -> None:
    """Documents that differ: a concept is easy in half of them. Over tokens the interval would be a fifth as wide."""
    random = np.random.default_rng(0)
    n_documents, n = 20, 300
    easy = np.repeat(np.arange(n_documents) % 2 == 0, n)
    on = random.random(n_documents * n) < 0.2
    x = np.stack([np.where(easy & on, 2.0, 0.0) + random.normal(0, 0.1, len(on)), random.standard_normal(len(on))], 1)
    rows = JudgedRows.draw(
        ArraySource(x.astype(np.float32)), labels=on[:, None].astype(np.uint8), names=["on"],
        documents=np.repeat(np.arange(n_documents), n), max_rows=len(on), seed=0,
    )  # fmt: skip
    report, _ = judge(Fixed(np.eye(2), 1.0), rows)
    (found,) = report.concepts
    assert found.f1.low <= found.f1.value <= found.f1.high
    assert found.f1.high - found.f1.low > 0.25


def test_resamples_draw_the_marked_documents_alone() -> None:
    resamples = Resamples.draw(np.array([True, False, True, True]), seed=0, n=200)
    assert (resamples.weights.sum(1) == 3).all()
    assert (resamples.weights[:, 1] == 0).all()
    assert resamples.weights.mean(0)[[0, 2, 3]] == pytest.approx([1, 1, 1], abs=0.15)
    assert resamples.sums(np.array([[1.0, 5, 2, 3]]))[0] == pytest.approx(resamples.weights @ [1, 5, 2, 3])


def test_a_mean_over_concepts_has_the_spread_of_documents_and_concepts() -> None:
    random = np.random.default_rng(0)
    values = random.normal(0.5, 0.2, 40)
    only_concepts = mean_over_concepts(values, np.repeat(values[:, None], 400, 1), seed=0)
    assert only_concepts is not None
    half = 1.96 * values.std() / np.sqrt(40)
    assert only_concepts.high - only_concepts.low == pytest.approx(2 * half, rel=0.2)
    shared = values[:, None] + random.normal(0, 0.1, 400)
    both = mean_over_concepts(values, shared, seed=0)
    assert both is not None
    wanted = 2 * 1.96 * np.hypot(values.std() / np.sqrt(40), 0.1)
    assert both.high - both.low == pytest.approx(wanted, rel=0.2)
    assert mean_over_concepts(np.zeros(0), np.zeros((0, 400)), seed=0) is None
    assert interval_rows(np.array([[np.nan, 1.0, 1.0]])).tolist() == [[1, 1]]


def test_the_interval_of_an_excess_knows_that_null_draws_differ() -> None:
    """A run that is itself a random draw: its excess is as uncertain as one draw of the null is."""
    found = []
    for seed in range(12):
        rows, directions = planted(2000, seed=seed)
        random = np.random.default_rng(100 + seed).standard_normal((6, directions.shape[1]))
        report, _ = judge(Fixed(random / np.linalg.norm(random, axis=1, keepdims=True), 2.0), rows, seed=seed)
        assert report.excess is not None
        found.append(report.excess.low <= 0 <= report.excess.high)
    assert sum(found) >= 10


def test_simple_methods_are_judged_on_the_same_rows() -> None:
    rows, directions = planted()
    report, _ = judge(dictionary(directions), rows)
    by_name = {each.name: each for each in report.baselines}
    assert list(by_name) == ["neurons", "principal", "difference in means"]
    means = difference_in_means(rows, np.array([0])).numpy()[0]
    has = rows.labels[rows.is_select, 0] != 0
    x = rows.x_select.numpy()
    assert means == pytest.approx(x[has].mean(0) - x[~has].mean(0), abs=1e-4)
    assert by_name["difference in means"].f1.value > 0.85
    assert by_name["neurons"].f1.value < by_name["difference in means"].f1.value
    assert by_name["neurons"].difference.low > 0
    assert report.f1 is not None
    difference = report.f1.value - by_name["principal"].f1.value
    assert by_name["principal"].difference.value == pytest.approx(difference)


def test_no_concept_leaves_a_report_without_means() -> None:
    rows, directions = planted()
    report, findings = judge(dictionary(directions), rows, min_positives=5000)
    assert report.concepts == report.baselines == ()
    assert report.f1 is report.excess is report.null_f1 is report.best_null is None
    assert not report.is_above_null
    assert not findings.detects.any()
    assert set(report.left_out) == {"on", "off", "rare"}


def test_the_same_seed_gives_the_same_report() -> None:
    rows, directions = planted()
    assert judge(dictionary(directions), rows)[0] == judge(dictionary(directions), rows)[0]


# ------------------------------------------------------------------------------------------------------------- readings


def test_the_strongest_rows_are_the_strongest() -> None:
    rows, directions = planted()
    codes = firing_codes(dictionary(directions).encode, 30, rows, signed=False, dense_rate=0.05)
    found = strongest_rows(codes, rows.is_select)
    for candidate in (0, 10, 12):
        values = np.where(rows.is_select, codes.codes[:, [candidate]].toarray()[:, 0], 0)
        wanted = [row if values[row] > 0 else -1 for row in np.argsort(-values, kind="stable")[:50]]
        assert found[candidate].tolist() == wanted
    few = FiringCodes(
        sparse.csc_array(([1.0], ([7], [0])), shape=(len(rows.x), 1)), np.arange(1), np.ones(1, int), np.zeros(1)
    )
    assert strongest_rows(few, np.ones(len(rows.x), bool))[0].tolist() == [7] + [-1] * 49


def test_a_feature_is_read_by_its_label_its_token_or_the_token_before() -> None:
    rows, _ = planted()
    n = len(rows.x)
    random = np.random.default_rng(0)
    windows = random.integers(0, 40, (n, 2))
    labels = (random.random((n, 1)) < 0.1).astype(np.uint8)
    rows = JudgedRows(**{**vars(rows), "labels": labels, "names": ("label",), "windows": windows})
    fires = [labels[:, 0] != 0, windows[:, 0] == 3, windows[:, 1] == 4, random.random(n) < 0.1, np.arange(n) < 6]
    values = np.stack(fires, 1) * random.random((n, 5)) + np.stack(fires, 1) * 0.1
    codes = FiringCodes(sparse.csc_array(values.astype(np.float32)), np.arange(5), np.ones(5, int), np.zeros(5))
    found = read(codes, rows, np.array([0]))
    assert found.kind[[0, 1, 2, 4]].tolist() == [LABEL, TOKEN, TOKEN_BEFORE, NOTHING]
    assert found.value[:3].tolist() == [0, 3, 4]
    assert found.purity_select[:3] == pytest.approx([1, 1, 1])
    assert found.is_readable.tolist() == [True, True, True, False, False]
    assert read(codes, rows, np.zeros(0, int)).kind[[1, 2]].tolist() == [TOKEN, TOKEN_BEFORE]


def test_what_is_pure_on_select_alone_is_not_readable() -> None:
    rows, _ = planted()
    windows = np.random.default_rng(0).integers(0, 40, (len(rows.x), 1))
    windows[rows.is_select] = np.where(rows.x[rows.is_select, :1].numpy() > 1, 3, windows[rows.is_select])
    rows = JudgedRows(**{**vars(rows), "windows": windows})
    code = torch.relu(rows.x[:, :1] - 1.0).numpy()
    codes = FiringCodes(sparse.csc_array(code), np.arange(1), np.ones(1, int), np.zeros(1))
    found = read(codes, rows, np.zeros(0, int))
    assert found.purity_select[0] == 1
    assert found.purity_test[0] < 0.2
    assert not found.is_readable[0]


def test_the_most_common_token_and_its_share() -> None:
    tokens = np.array([[3, 5, 3, 3], [7, -2, -2, -2], [-1, -1, 9, 9]])
    found, share = most_common(tokens)
    assert found.tolist() == [3, 7, 9]
    assert share.tolist() == [0.75, 1.0, 0.5]


def test_judged_labels_are_split_in_concepts_and_depths() -> None:
    rows, _ = planted()
    judged = Judged.of(rows, ConceptConfig())
    assert judged.concepts.tolist() == [0, 1]
    assert judged.depths.tolist() == [3]
