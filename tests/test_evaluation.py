"""Evaluation: what is planted is found, what keeps everything scores 1, what keeps nothing scores 0."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from torch import Tensor

from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.documents import Corpus, Document, LabelSet
from interp.decomposers import Decomposer, LinearDecomposer
from interp.decomposers.baselines.pca import PCA, PCAConfig
from interp.errors import InputError
from interp.evaluation import reconstruction, suite
from interp.evaluation.evidence import read_evidence
from interp.evaluation.held_out import held_out
from interp.evaluation.reconstruction import evaluate_reconstruction, spliced_loss
from interp.evaluation.results import EvaluationConfig, HeldOut, read_metrics
from interp.evaluation.stability import RowSample
from interp.evaluation.steering_effect import SteeringTask
from interp.evaluation.steering_results import SteeringConfig
from interp.evaluation.suite import evaluate_run
from interp.evaluation.table import metrics_rows, metrics_table
from interp.index.build import build_index
from interp.model.language_model import LanguageModel
from interp.model.sites import Site
from interp.runs.record import Run
from interp.runs.training import train_run
from interp.steering.steerer import Steerer
from interp.store.reader import ActivationStore
from interp.store.source import ArraySource

SITE = "blocks.1.hook_resid_post"


class Affine(LinearDecomposer):
    """codes = (x - shift) A, decoded by W_dec; ReLU'd when asked."""

    kind = "affine"
    signed_codes = True

    def __init__(self, A: Tensor, W_dec: Tensor, shift: Tensor, *, rectified: bool = False):
        self._A, self._W_dec, self._shift, self.rectified = A, W_dec, shift, rectified
        self.signed_codes = not rectified  # type: ignore[misc]

    @classmethod
    def _fit(cls, source: Any, config: Any, recorder: Any) -> Affine:
        raise NotImplementedError

    @property
    def W_dec(self) -> Tensor:
        return self._W_dec

    @property
    def b_dec(self) -> Tensor:
        return self._shift

    def _encode(self, x: Tensor) -> Tensor:
        z = (x - self._shift) @ self._A
        return z.relu() if self.rectified else z


def identity(d: int) -> Affine:
    return Affine(torch.eye(d), torch.eye(d), torch.zeros(d))


class Quadratic(Decomposer):
    """Squared projections, which decode to no activation."""

    kind = "quadratic"

    def __init__(self, directions: Tensor):
        self._directions = directions

    @classmethod
    def _fit(cls, source: Any, config: Any, recorder: Any) -> Quadratic:
        raise NotImplementedError

    def write_directions(self) -> Tensor:
        return self._directions

    def _encode(self, x: Tensor) -> Tensor:
        return (x @ self._directions.T).square()

    def fvu(self, x: Tensor) -> float:
        return 0.25


@pytest.fixture(scope="module")
def model(byte_model: LanguageModel) -> LanguageModel:
    return byte_model


@pytest.fixture
def tokens(model: LanguageModel) -> Tensor:
    drawn = torch.randint(1, model.d_vocab, (5, 12), generator=torch.Generator().manual_seed(2))
    drawn[:, 0] = model.bos_id
    drawn[2, 6] = model.bos_id  # a separator
    return drawn


# ------------------------------------------------------------------------------------------------------ reconstruction


def test_reconstruction_metrics_are_the_slow_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(700, 6, generator=generator) + 3
    A, W = torch.randn(6, 9, generator=generator), torch.randn(9, 6, generator=generator) / 4
    A[:, 4] = 0  # never fires
    decomposer = Affine(A, W, torch.full((6,), 3.0), rectified=True)
    found = evaluate_reconstruction(decomposer, ArraySource(x))
    z = ((x - 3) @ A).relu()
    x_hat = (z @ W + 3).double()
    assert found.fvu == pytest.approx(float((x - x_hat).square().sum() / (x - x.double().mean(0)).square().sum()))
    assert found.l0 == pytest.approx(float((z != 0).double().sum(1).mean()))
    assert found.n_dead == 1
    assert found.dense_share == pytest.approx(8 / 9)
    assert found.n_tokens == 700
    assert found.reason is None


def test_codes_that_do_not_decode_have_no_linear_fvu_and_say_why() -> None:
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    found = evaluate_reconstruction(Quadratic(torch.eye(5)[:3]), ArraySource(x))
    assert found.fvu is None
    assert found.fvu_own_target == 0.25
    assert found.reason == "codes of 'quadratic' do not decode to an activation; its FVU is measured in another space"
    assert found.l0 == 3
    with pytest.raises(InputError, match="for width 5, but the source is 4 wide"):
        evaluate_reconstruction(Quadratic(torch.eye(5)), ArraySource(x[:, :4]))


def test_a_perfect_reconstruction_recovers_all_of_the_loss(model: LanguageModel, tokens: Tensor) -> None:
    found = spliced_loss(model, identity(32), SITE, tokens)
    assert found.ce_reconstructed == found.ce_clean
    assert found.ce_recovered_zero == found.ce_recovered_mean == 1.0
    assert found.kl_reconstructed == pytest.approx(0, abs=1e-6)
    assert found.kl_recovered_mean == pytest.approx(1, abs=1e-5)


def test_reconstructing_nothing_recovers_nothing(model: LanguageModel, tokens: Tensor) -> None:
    none, zero = torch.zeros(32, 1), torch.zeros(1, 32)
    as_zero = spliced_loss(model, Affine(none, zero, torch.zeros(32)), SITE, tokens)
    assert as_zero.ce_recovered_zero == 0.0
    assert as_zero.ce_reconstructed == as_zero.ce_zero != as_zero.ce_clean
    mean = captured(model, tokens)[tokens[:, 1:] != model.bos_id].mean(0)
    as_mean = spliced_loss(model, Affine(none, zero, mean), SITE, tokens)
    assert as_mean.ce_recovered_mean == pytest.approx(0, abs=1e-4)
    assert as_mean.kl_recovered_mean == pytest.approx(0, abs=1e-4)


def captured(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Activations at all positions but the first."""
    _, cache = model.bridge.run_with_cache(tokens, names_filter=SITE)
    return cache[SITE][:, 1:]


def test_spliced_loss_is_the_slow_formula(model: LanguageModel, tokens: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    decomposer = Affine(
        torch.randn(32, 8, generator=generator), torch.randn(8, 32, generator=generator) / 8, torch.ones(32)
    )
    found = spliced_loss(model, decomposer, SITE, tokens)

    def splice(x: Tensor, hook: Any) -> Tensor:
        out = x.clone()
        for position in range(1, x.shape[1]):
            if int(row[position]) != model.bos_id:
                out[0, position] = decomposer.decode(decomposer.encode(x[0, position][None]))[0]
        return out

    clean_losses, losses = [], []
    for row in tokens:
        clean = model.logits(row[None])[0].double().log_softmax(-1)
        logits = model.bridge.run_with_hooks(row[None], fwd_hooks=[(SITE, splice)])[0].double().log_softmax(-1)
        for position in range(1, 11):
            if int(row[position]) != model.bos_id:
                clean_losses.append(-clean[position, row[position + 1]])
                losses.append(-logits[position, row[position + 1]])
    assert found.n_tokens == len(losses) == 49
    assert found.ce_clean == pytest.approx(float(torch.stack(clean_losses).mean()), rel=1e-5)
    assert found.ce_reconstructed == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    wanted = (found.ce_mean - found.ce_reconstructed) / (found.ce_mean - found.ce_clean)
    assert found.ce_recovered_mean == pytest.approx(wanted)


def test_what_ablation_does_not_change_is_not_recovered(
    model: LanguageModel, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One token of text, which is its own mean; and divergences that are only rounding."""
    short = torch.tensor([[model.bos_id, 7, model.bos_id]] * 2)
    nothing = Affine(torch.zeros(32, 1), torch.zeros(1, 32), torch.zeros(32))
    found = spliced_loss(model, nothing, SITE, short)
    assert found.kl_mean == pytest.approx(0, abs=1e-6)
    assert found.ce_recovered_mean is found.kl_recovered_mean is None
    assert found.ce_recovered_zero == 0
    monkeypatch.setattr(reconstruction, "kl_of_log_probabilities", lambda p, q: torch.full(p.shape[:-1], 1e-8))
    found = spliced_loss(model, nothing, SITE, tokens)
    assert found.kl_mean == pytest.approx(1e-8)
    assert found.kl_recovered_mean is None
    assert found.ce_recovered_mean is not None


def test_losses_that_are_not_finite_are_refused_by_name(model: LanguageModel, tokens: Tensor) -> None:
    overflowing = Affine(torch.eye(32), torch.full((32, 32), torch.inf), torch.zeros(32))
    with pytest.raises(InputError, match=r"predicts nothing finite \(ce_reconstructed, kl_reconstructed\)"):
        spliced_loss(model, overflowing, SITE, tokens)


def test_a_source_without_rows_is_refused() -> None:
    for decomposer in (identity(5), Quadratic(torch.eye(5))):
        with pytest.raises(InputError, match="there are no rows to judge a reconstruction by"):
            evaluate_reconstruction(decomposer, RowSample(ArraySource(torch.zeros(1, 5)), np.arange(0)))


def test_splicing_refuses_what_it_cannot_splice(model: LanguageModel, tokens: Tensor) -> None:
    with pytest.raises(InputError, match="do not decode to an activation, so no reconstruction can be spliced in"):
        spliced_loss(model, Quadratic(torch.eye(32)), SITE, tokens)
    with pytest.raises(InputError, match=r"for width 16, but 'blocks\.1\.hook_resid_post' is 32 wide"):
        spliced_loss(model, identity(16), SITE, tokens)
    with pytest.raises(InputError, match="each beginning with BOS"):
        spliced_loss(model, identity(32), SITE, tokens[:, 1:])
    with pytest.raises(InputError, match="the sequences hold nothing but BOS and separators; give text"):
        spliced_loss(model, identity(32), SITE, torch.full((2, 5), model.bos_id))


# --------------------------------------------------------------------------------------------------------------- suite


LETTERS = {"a": lambda c: c == "a", "digit": str.isdigit, "blank": lambda c: c == " "}


def letters(document: Document, spans: np.ndarray) -> np.ndarray:
    first = [document.text[start : start + 1] for start, _ in spans]
    return np.asarray([[c == "a", c.isdigit(), c == " "] for c in first], dtype=np.uint8)


def texts(name: str, seed: int) -> list[Document]:
    """Twelve random documents of 400 characters."""
    random = np.random.default_rng(seed)
    return [Document(f"{name}-{i}", "".join(random.choice(list("abcdef 0123"), 400))) for i in range(12)]


@pytest.fixture(scope="module")
def stores(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[ActivationStore, ActivationStore]:
    """(fitting, held out) stores of random text."""
    workspace = tmp_path_factory.mktemp("activations")
    labels = LabelSet("letters", {"a": "the letter a", "digit": "0 to 9", "blank": "a space"}, letters)
    opened = []
    for name, seed in (("fit", 0), ("held-out", 1)):
        config = CaptureConfig(sites=(SITE,), tokens=4000, dtype="float32")
        opened.append(capture(model, Corpus(name, texts(name, seed), (labels,)), config, workspace / name))
    return opened[0], opened[1]


@pytest.fixture
def task() -> SteeringTask:
    config = SteeringConfig(target_kl=0.5, n_candidates=4, n_written=2, n_draws=2, max_rounds=1, n_tokens=12)
    return SteeringTask(("x = ", "def "), ("a b",), share_of_letters, config, concepts=("a", "digit"))


def share_of_letters(text: str, *, start: int) -> dict[str, float]:
    written = text[start:]
    return {name: sum(map(is_one, written)) / max(1, len(written)) for name, is_one in LETTERS.items()}


@pytest.fixture(scope="module")
def run(stores: tuple[ActivationStore, ActivationStore], model: LanguageModel) -> Run:
    trained = train_run(stores[0], SITE, PCAConfig(n_features=16), "pca")
    build_index(trained, model=model)
    return trained


CONFIG = EvaluationConfig(n_sequences=8, n_steered=2)


def test_the_suite_writes_what_it_found_and_where(
    run: Run, model: LanguageModel, stores: tuple[ActivationStore, ActivationStore], task: SteeringTask
) -> None:
    metrics = evaluate_run(run, model=model, store=stores[1], config=CONFIG, steering=task)
    assert read_metrics(run) == metrics
    assert not list(run.path.glob("*.partial"))
    assert (metrics.run, metrics.store_identity) == ("pca", stores[1].identity)
    assert metrics.held_out == HeldOut(is_held_out=True, n_documents=10, n_trained_on=0)
    settings = CONFIG.concepts
    assert metrics.config == structs.replace(CONFIG, concepts=structs.replace(settings, label_set="letters"))
    assert 0 < metrics.reconstruction.fvu < 1
    assert metrics.spliced.ce_recovered_mean < 1
    assert {c.concept for c in metrics.concepts.concepts} == {"a", "digit", "blank"}
    assert {e.concept for e in metrics.steering.effects} == {"a", "digit"}
    assert metrics.steering.mean_difference == np.mean([e.difference.value for e in metrics.steering.effects])
    controls = ["features", "random", "difference in means", "principal directions", "other concepts"]
    assert all([c.name for c in e.controls] == controls for e in metrics.steering.effects)
    assert {(len(e.texts), e.n_texts) for e in metrics.steering.effects} == {(2, 8)}

    assert metrics.complete
    assert metrics.done == ("reconstruction", "spliced", "concepts", "ablation", "steering")
    assert {e.by for f in read_evidence(run).features for e in f.tests} >= {"steering"}
    assert len(read_evidence(run).features) == run.n_features

    row = metrics_rows([run])[0]
    assert row["fvu"] == metrics.reconstruction.fvu
    assert row["null_concepts"] == metrics.concepts.null_f1
    assert row["is_held_out"] is True

    on_its_own = evaluate_run(run, model=model, store=stores[0], config=CONFIG)
    assert on_its_own.steering is None
    assert "pca: not held out, 10 of 10 documents were trained on." in metrics_table([run]).splitlines()


def test_an_interrupted_evaluation_goes_on_after_the_last_suite_it_finished(
    run: Run,
    model: LanguageModel,
    stores: tuple[ActivationStore, ActivationStore],
    task: SteeringTask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = evaluate_run(run, model=model, store=stores[1], config=CONFIG, steering=task)

    def interrupted(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(suite, "ablate_features", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate_run(run, model=model, store=stores[1], config=CONFIG, steering=task)
    kept = read_metrics(run)
    assert (kept.done, kept.complete) == (("reconstruction", "spliced", "concepts"), False)
    with monkeypatch.context() as patch:
        patch.setattr(suite, "evaluate_concepts", interrupted)  # it is not carried out again
        assert evaluate_run(run, model=model, store=stores[1], config=CONFIG, steering=task) == whole
    assert read_metrics(run) == whole


def captured_again(
    model: LanguageModel, folder: Path, documents: list[Document], *, site: str = SITE, **options: Any
) -> ActivationStore:
    config = CaptureConfig(sites=(site,), **options)
    return capture(model, Corpus("again", documents), config, folder)


def test_the_same_text_is_not_held_out_however_it_was_captured(
    run: Run, model: LanguageModel, tmp_path: Path, stores: tuple[ActivationStore, ActivationStore]
) -> None:
    """Another dtype, length of a sequence, site or name of the text gives other files of the same documents."""
    documents = texts("fit", 0)
    other_site = captured_again(model, tmp_path / "site", documents, site="blocks.0.hook_resid_post", tokens=4000)
    half = captured_again(model, tmp_path / "half", documents, tokens=4000, dtype="float16", n_ctx=17)
    for store in (other_site, half):
        assert store.identity != run.store_identity
        assert held_out(run, store) == HeldOut(is_held_out=False, n_documents=10, n_trained_on=10)
    renamed = [Document(f"new-{i}", document.text) for i, document in enumerate(documents)]
    moved = captured_again(model, tmp_path / "renamed", renamed[:8], tokens=3000)
    assert held_out(run, moved) == HeldOut(is_held_out=False, n_documents=8, n_trained_on=7), "the last is cut off"


def test_a_document_that_is_cut_off_is_still_the_same(run: Run, model: LanguageModel, tmp_path: Path) -> None:
    start = captured_again(model, tmp_path / "start", texts("fit", 0), tokens=150)
    assert held_out(run, start) == HeldOut(is_held_out=False, n_documents=1, n_trained_on=1)


def test_other_text_is_held_out_whatever_it_is_called(run: Run, model: LanguageModel, tmp_path: Path) -> None:
    other = captured_again(model, tmp_path / "other", texts("fit", seed=5), tokens=4000)
    assert held_out(run, other) == HeldOut(is_held_out=True, n_documents=10, n_trained_on=0)
    mixed = [*texts("fit", seed=5)[:4], *texts("fit", seed=0)[:2]]
    some = captured_again(model, tmp_path / "some", mixed, tokens=2300)
    assert held_out(run, some) == HeldOut(is_held_out=False, n_documents=6, n_trained_on=2)


def test_snippets_of_a_document_that_was_trained_on_whole_are_found(
    run: Run, model: LanguageModel, tmp_path: Path
) -> None:
    some = {"tokens": "all", "snippet_tokens": 20, "snippets": 2}
    same = captured_again(model, tmp_path / "same", texts("fit", 0)[:8], **some)
    assert held_out(run, same) == HeldOut(is_held_out=False, n_documents=8, n_trained_on=8)
    other = captured_again(model, tmp_path / "other", texts("fit", seed=5)[:8], **some)
    assert held_out(run, other) == HeldOut(is_held_out=True, n_documents=8, n_trained_on=0)


def test_snippets_are_compared_where_they_overlap_and_elsewhere_by_the_name_of_their_text(
    model: LanguageModel, tmp_path: Path
) -> None:
    documents = texts("fit", 0)

    def captured(folder: str, text: str, seed: int, documents: list[Document] = documents) -> ActivationStore:
        config = CaptureConfig(sites=(SITE,), tokens="all", snippet_tokens=90, snippet_seed=seed)
        return capture(model, Corpus(text, documents), config, tmp_path / folder)

    def n_overlaps(store: ActivationStore) -> int:
        pairs = zip(trained.document_tokens(), store.document_tokens(), strict=True)
        return sum(bool(set(one.offsets.tolist()) & set(other.offsets.tolist())) for one, other in pairs)

    trained = captured("trained", "mine", seed=0)
    run: Any = SimpleNamespace(store=lambda: trained)
    moved = captured("moved", "mine", seed=1)
    assert 2 < n_overlaps(moved) < 10
    assert held_out(run, moved).n_trained_on == 12
    elsewhere = captured("elsewhere", "theirs", seed=1)
    assert held_out(run, elsewhere).n_trained_on == n_overlaps(moved)
    changed = captured("changed", "mine", seed=1, documents=texts("fit", seed=5))
    assert held_out(run, changed).n_trained_on == 12 - n_overlaps(changed), "other text where they overlap"


def test_whether_text_is_held_out_may_be_unknown(run: Run, stores: tuple[ActivationStore, ActivationStore]) -> None:
    def changed() -> ActivationStore:
        raise InputError("the store has changed")

    gone: Any = SimpleNamespace(store=changed)
    assert held_out(gone, stores[1]) == HeldOut(is_held_out=None, n_documents=10, n_trained_on=None)


def test_a_run_without_metrics_has_an_empty_row(run: Run, tmp_path: Path) -> None:
    other: Any = SimpleNamespace(path=tmp_path, name="new", kind="sae", site=SITE)
    (row,) = metrics_rows([other])
    assert row["fvu"] is None
    assert f"not evaluated by this version; run: interp evaluate {tmp_path}." in metrics_table([other])
    with pytest.raises(InputError, match="run 'new' has no metrics yet; run: interp evaluate"):
        read_metrics(other)
    with pytest.raises(InputError, match="no run to compare"):
        metrics_table([])


def test_the_wrong_store_is_refused(
    run: Run, model: LanguageModel, stores: tuple[ActivationStore, ActivationStore], tmp_path: Path
) -> None:
    store = captured_again(model, tmp_path / "there", texts("fit", 0), site="blocks.0.hook_resid_post", tokens=100)
    with pytest.raises(InputError, match=r"no hook point 'blocks\.1\.hook_resid_post' in the store '.*there'"):
        evaluate_run(run, model=model, store=store, config=CONFIG)
    other: Any = SimpleNamespace(fingerprint="0", id="another")
    with pytest.raises(InputError, match="with other weights than 'another'"):
        evaluate_run(run, model=other, store=stores[0], config=CONFIG)


def test_what_steering_would_refuse_is_refused_before_anything_is_computed(
    run: Run,
    model: LanguageModel,
    stores: tuple[ActivationStore, ActivationStore],
    task: SteeringTask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suite, "evaluate_reconstruction", lambda *args: pytest.fail("it has begun"))
    evaluate = partial(evaluate_run, run, model=model, store=stores[1], config=CONFIG)
    for without in ({"prompts": ()}, {"trial_prompts": ()}):
        with pytest.raises(InputError, match="no prompt to write from; give at least one to judge by and one for the"):
            evaluate(steering=replace(task, **without))
    with pytest.raises(InputError, match=r"the prompt 'a a.* exceed the \d+ tokens"):
        evaluate(steering=replace(task, prompts=("a " * 400,)))
    with pytest.raises(InputError, match="no concept 'digits' in what the judge knows"):
        evaluate(steering=replace(task, concepts=("digits",)))


def test_a_run_of_another_width_is_refused(
    run: Run, model: LanguageModel, stores: tuple[ActivationStore, ActivationStore]
) -> None:
    narrow = PCA.fit(ArraySource(torch.randn(50, 16)), PCAConfig(n_features=8))
    other: Any = SimpleNamespace(name="narrow", site=Site.of(SITE), decomposer=lambda: narrow)
    with pytest.raises(InputError, match=r"'narrow' reads activations of width 16, but .* has 32 in the store"):
        evaluate_run(other, model=model, store=stores[0], config=CONFIG)


def test_strengths_of_a_run_are_in_maxima_of_its_store(run: Run, model: LanguageModel) -> None:
    steerer = Steerer.from_run(model, run)
    source = run.store().site(SITE)
    codes = run.decomposer().encode(source.rows(np.arange(len(source))))
    assert steerer.scales.numpy() == pytest.approx(codes.amax(0).numpy(), rel=2e-3)
