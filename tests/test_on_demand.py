"""What is computed for one card when a person asks: a typed text, and ablation, against the slow formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dashboard_workspace import SITE, DashboardWorkspace, make_workspace

from interp.browse.on_demand import ablation_changes, firing_on
from interp.browse.prompt import PromptCodes, encode_prompt
from interp.decomposers.bilinear.autoencoder import BilinearConfig
from interp.errors import InputError
from interp.index.reader import FeatureIndex
from interp.model.language_model import LanguageModel, load_model
from interp.runs.record import Run
from interp.runs.training import train_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DashboardWorkspace:
    return make_workspace(tmp_path_factory.mktemp("on_demand"))


@pytest.fixture(scope="module")
def model(made: DashboardWorkspace) -> LanguageModel:
    return load_model(made.run.model_id, device="cpu")


def slow_changes(model: LanguageModel, run: Run, ids: list[int], feature: int) -> list[float]:
    """One forward pass as it is and one with a hook, token by token."""
    decomposer = run.decomposer()

    def without(activation: torch.Tensor, hook: object) -> torch.Tensor:
        changed = activation.clone()
        for t, token in enumerate(ids):
            if token != model.bos_id:
                z = decomposer.encode(activation[0, t][None])[0, feature]
                changed[0, t] -= z * decomposer.W_dec[feature]
        return changed

    tokens = torch.tensor(ids)[None]
    clean = model.bridge(tokens)[0].log_softmax(-1)
    ablated = model.bridge.run_with_hooks(tokens, fwd_hooks=[(SITE, without)])[0].log_softmax(-1)
    return [float(ablated[t, ids[t + 1]] - clean[t, ids[t + 1]]) for t in range(len(ids) - 1)]


@pytest.mark.parametrize("name", ["sae", "pca"])
def test_ablation_is_the_change_of_every_next_tokens_log_probability(
    made: DashboardWorkspace, model: LanguageModel, name: str
) -> None:
    run = Run.load(made.run.path.with_name(name))
    with FeatureIndex(made.run.index_path) as index:
        ids = index.sequence(0).tolist()
        (best, *_) = index.summary.sort_values("n_fire")["id"][::-1]
    feature = int(best) if name == "sae" else 1
    assert ids[0] == model.bos_id
    changes = ablation_changes(model, run, ids, feature)
    assert changes[-1] is None, "the last token predicts none"
    assert changes[:-1] == pytest.approx(slow_changes(model, run, ids, feature), abs=2e-5)
    assert max(abs(change) for change in changes[:-1] if change is not None) > 1e-4, "else this shows nothing"


def test_what_does_not_fire_changes_nothing(made: DashboardWorkspace, model: LanguageModel) -> None:
    ids = model.encode("def load").tolist()
    codes = encode_prompt(model, made.run, "def load").codes
    silent = int(np.flatnonzero((codes == 0).all(0))[0])
    assert ablation_changes(model, made.run, ids, silent) == [*([0.0] * (len(ids) - 1)), None]


def test_what_cannot_be_taken_out_is_said(made: DashboardWorkspace, model: LanguageModel) -> None:
    forms = train_run(made.run.store(), SITE, BilinearConfig(n_features=4, tokens=2000, batch=256), "forms")
    with pytest.raises(InputError, match="codes of 'bilinear' do not decode to an activation"):
        ablation_changes(model, forms, [0, 5, 6], 0)
    with (
        FeatureIndex(made.run.index_path) as index,
        pytest.raises(InputError, match="no sequence 9999; this store has 0-"),
    ):
        index.sequence(9999)


def test_a_typed_text_is_an_example_without_bos() -> None:
    codes = np.array([[9.0, 9], [0, 1], [-2, 0], [1, 0]], np.float32)
    prompt = PromptCodes(np.arange(4), ("<s>", "a", " b", "\n"), codes)
    example = firing_on(prompt, 0)
    assert (example["tokens"], example["activations"]) == (["a", " b", "\n"], [0.0, -2.0, 1.0])
    assert (example["value"], example["centre"]) == (-2.0, 1), "the strongest, with its sign"
