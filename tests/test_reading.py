"""Reading a feature from its neurons: what is said is what the weights and the model's own matrices say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from interp.browse.reading import directions_of_level, read_feature, reading_text, shared_neurons
from interp.decomposers.semi_nmf.decomposer import SemiNMFConfig
from interp.errors import InputError
from interp.model.language_model import LanguageModel
from interp.runs.training import train_run
from interp.store.reader import ActivationStore

SITE = "blocks.1.mlp.hook_post"


def sparse_directions(d_mlp: int) -> torch.Tensor:
    """Five unit features: 0, 1 and 2 share neurons, 3 shares none, 4 has no direction."""
    rows = torch.zeros(5, d_mlp)
    rows[0, [2, 5, 9]] = torch.tensor([0.5, -2.0, 1.0])
    rows[1, [5, 9, 11]] = torch.tensor([-1.0, -1.0, 3.0])
    rows[2, [2, 12]] = torch.tensor([1.0, 1.0])
    rows[3, [13, 14]] = torch.tensor([1.0, -1.0])
    return torch.nn.functional.normalize(rows, dim=1)


def test_neurons_have_their_signs_and_weights_heaviest_first(tiny_model: LanguageModel) -> None:
    directions = sparse_directions(tiny_model.site(SITE).d_in)
    reading = read_feature(tiny_model, SITE, directions, 0)
    assert reading.n_neurons == 3
    assert [i for i, _ in reading.neurons] == [5, 9, 2]
    length = 5.25**0.5
    assert [weight for _, weight in reading.neurons] == pytest.approx([-2 / length, 1 / length, 0.5 / length])


def test_the_residual_direction_and_tokens_are_those_of_a_forward_pass(any_model: LanguageModel) -> None:
    """In every family, gated MLPs among them: what writing the feature into the neurons adds to the residual stream."""
    model = any_model
    d_mlp = model.site(SITE).d_in
    direction = torch.nn.functional.normalize(torch.randn(1, d_mlp, generator=torch.Generator().manual_seed(0)), dim=1)
    reading = read_feature(model, SITE, direction, 0, n=7)
    tokens = model.encode("def f(x):\n")
    seen: list[torch.Tensor] = []

    def write(value: torch.Tensor, hook: object) -> torch.Tensor:
        return value + direction[0]

    def look(value: torch.Tensor, hook: object) -> torch.Tensor:
        seen.append(value.detach().clone())
        return value

    with torch.no_grad():
        for hooks in ([], [(SITE, write)]):
            model.bridge.run_with_hooks(tokens, fwd_hooks=[*hooks, ("blocks.1.mlp.hook_out", look)])
    added = (seen[1] - seen[0])[0, -1]
    torch.testing.assert_close(reading.residual, added, rtol=1e-3, atol=1e-4)
    effects = model.logit_effects(reading.residual[None])[0]
    strings = model.token_strings()
    assert [token for token, _ in reading.promoted] == [strings[i] for i in effects.topk(7).indices]
    assert [value for _, value in reading.suppressed] == pytest.approx(sorted(effects.tolist())[:7], rel=1e-4)


def test_shared_neurons_are_counted_with_their_signs_and_against_chance() -> None:
    directions = sparse_directions(20)
    first, second = shared_neurons(directions, 0)
    assert (first.feature, first.neurons, first.n_same_sign) == (1, [5, 9], 1)
    assert first.expected == pytest.approx(3 * 3 / 20)
    assert first.cosine == pytest.approx(float(directions[0] @ directions[1]))
    assert (second.feature, second.neurons, second.n_same_sign) == (2, [2], 1)
    assert shared_neurons(directions, 0, n=1) == [first]
    assert shared_neurons(directions, 3) == shared_neurons(directions, 4) == []


def test_a_reading_is_printed(tiny_model: LanguageModel) -> None:
    reading = read_feature(tiny_model, SITE, sparse_directions(tiny_model.site(SITE).d_in), 0)
    text = reading_text(reading)
    assert "feature 0: 3 neurons\nneurons     5: -0.87  9: +0.44  2: +0.22" in text
    assert "     1  2 (1 with the same sign, " in text


def test_features_of_a_level_are_read_by_its_number(
    tiny_store: ActivationStore, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    store = ActivationStore(shutil.copytree(tiny_store.path, tmp_path / "tiny"))
    run = train_run(store, SITE, SemiNMFConfig(n_features=8, passes=12, levels=(3,)), "levels")
    directions = directions_of_level(run, 1)
    assert directions.shape == (3, tiny_model.site(SITE).d_in)
    assert torch.equal(directions_of_level(run, 0), run.decomposer().write_directions())
    with pytest.raises(InputError, match="there is no level 2; the hierarchy has levels 0 to 1"):
        directions_of_level(run, 2)


def test_what_cannot_be_read_is_refused(tiny_model: LanguageModel) -> None:
    directions = sparse_directions(tiny_model.site(SITE).d_in)
    with pytest.raises(InputError, match=r"'blocks.1.hook_resid_post' has no neurons"):
        read_feature(tiny_model, "blocks.1.hook_resid_post", directions, 0)
    with pytest.raises(InputError, match="the features are 20 wide but"):
        read_feature(tiny_model, SITE, sparse_directions(20), 0)
    with pytest.raises(InputError, match="no feature 5; this run has 0-4"):
        read_feature(tiny_model, SITE, directions, 5)
