"""Loading models, and the linear algebra that reads them, against the models' own forward passes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from interp.errors import InputError
from interp.model.language_model import LanguageModel, load_model


@pytest.fixture
def copied_folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "copy"))


# ------------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (("config.json",), "is no model folder: it has no config.json; save the model with save_pretrained"),
        (("model.safetensors",), r"has no weights \(\*.safetensors\)"),
        (
            ("tokenizer.json", "tokenizer_config.json"),
            r"has no tokenizer \(tokenizer.json\); save the model's tokenizer",
        ),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused_by_its_name(
    copied_folder: Path, missing: tuple[str, ...], message: str
) -> None:
    for name in missing:
        (copied_folder / name).unlink()
    with pytest.raises(InputError, match=message):
        load_model(str(copied_folder))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "~/model", "a/b/c", "a b"])
def test_a_name_that_is_neither_folder_nor_hub_name_is_refused_without_looking_it_up(name: str) -> None:
    with pytest.raises(InputError, match=f"there is no model folder '{name}'; give a Hugging Face folder, a hub name"):
        load_model(name)


@pytest.mark.parametrize("name", ["gpt2", "EleutherAI/pythia-70m"])
def test_a_hub_name_with_or_without_an_owner_is_looked_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(source: str, device: str) -> None:
        raise OSError(f"no such model: {source}")

    monkeypatch.setattr("transformer_lens.model_bridge.TransformerBridge.boot_transformers", not_found)
    with pytest.raises(
        InputError, match=f"and from the model hub the model '{name}' cannot be loaded: no such model: {name}"
    ):
        load_model(name)


def test_damaged_weights_and_odd_configurations_are_refused_in_words(copied_folder: Path) -> None:
    config = json.loads((copied_folder / "config.json").read_text())
    (copied_folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-model"}))
    with pytest.raises(InputError, match=r"cannot be loaded: .*no-such-model"):
        load_model(str(copied_folder))
    (copied_folder / "config.json").write_text(json.dumps(config))
    weights = (copied_folder / "model.safetensors").read_bytes()
    (copied_folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="cannot be loaded: "):
        load_model(str(copied_folder))


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(copied_folder: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(copied_folder)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(copied_folder)
    with pytest.raises(InputError, match=r"has 301 tokens but the model's vocabulary has 300; put the model's own"):
        load_model(str(copied_folder))


def test_what_a_model_says_of_itself(tiny_model: LanguageModel, tiny_model_folder: Path) -> None:
    assert tiny_model.id == str(tiny_model_folder)
    assert (tiny_model.n_layers, tiny_model.d_model, tiny_model.n_ctx) == (2, 32, 32)
    assert (tiny_model.d_vocab, tiny_model.bos_id) == (300, 0)


def test_fingerprints_follow_the_content_and_not_the_folder(tiny_model: LanguageModel, copied_folder: Path) -> None:
    copy = load_model(str(copied_folder), device="cpu")
    assert copy.fingerprint == tiny_model.fingerprint
    assert copy.tokenizer_fingerprint == tiny_model.tokenizer_fingerprint
    network = GPT2LMHeadModel.from_pretrained(copied_folder)
    with torch.no_grad():
        network.transformer.h[1].mlp.c_fc.weight[3, 4] += 1
    network.save_pretrained(copied_folder)
    assert load_model(str(copied_folder), device="cpu").fingerprint != tiny_model.fingerprint


# ----------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    "text", ["", "def f(x):\n    return x , x .", "déjà vu – 日本 \t\n\n", "  don 't  ! ?", "a\r\nb\x00c"]
)
def test_decode_gives_back_what_was_encoded(tiny_model: LanguageModel, text: str) -> None:
    ids = tiny_model.encode(text)
    assert int(ids[0]) == tiny_model.bos_id
    assert tiny_model.bos_id not in ids[1:]
    assert tiny_model.decode(ids) == text
    assert tiny_model.decode(ids.tolist()) == text


def test_decode_leaves_blanks_before_full_stops_where_a_tokenizer_would_clean_them_up(copied_folder: Path) -> None:
    path = copied_folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "clean_up_tokenization_spaces": True}))
    model = load_model(str(copied_folder), device="cpu")
    assert model.decode(model.encode("do n't , stop .")) == "do n't , stop ."


def test_token_strings_are_the_text_of_each_token_and_show_bytes_of_characters(tiny_model: LanguageModel) -> None:
    shown = tiny_model.token_strings()
    assert len(shown) == 300
    assert not any("�" in text for text in shown)
    ids = tiny_model.encode(" read é")[1:].tolist()
    assert "".join(shown[i] for i in ids).startswith(" read ")
    assert [shown[i] for i in ids][-2:] == ["\\xc3", "\\xa9"] or shown[ids[-1]] == "é"
    assert shown[tiny_model.encode("\n")[1]] == "\n"


def test_token_strings_of_sentencepiece_tokens_keep_their_blank() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {"<s>": 0, "▁": 1, "d": 2, "▁d": 3, "▁▁": 4}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "d"), ("▁", "▁")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    model = object.__new__(LanguageModel)
    model.tokenizer, model.d_vocab = wrapped, 5
    assert model.token_strings() == ["<s>", " ", "d", " d", "  "]


# ---------------------------------------------------------------------------------------------------------- hook points


def test_every_hook_point_has_a_width_or_is_refused_in_words(any_model: LanguageModel) -> None:
    refused, widths = {}, {}
    for name in any_model.hook_names:
        if not name.startswith("blocks.0."):  # the blocks are alike
            try:
                widths[name] = any_model.site(name).d_in
            except InputError as error:
                refused[name] = str(error)
    assert widths["blocks.1.hook_resid_post"] == widths["blocks.1.hook_mlp_out"] == 32
    assert widths["blocks.1.mlp.hook_post"] == 64
    assert widths["blocks.1.attn.hook_z"] == 32
    assert "not one row a token" in refused["blocks.1.attn.hook_pattern"]
    assert "cannot be used" in refused["blocks.1.attn.hook_result"]
    assert all("; choose another one" in message for message in refused.values())


def test_an_unknown_hook_point_is_refused_with_the_near_ones(tiny_model: LanguageModel) -> None:
    with pytest.raises(
        InputError, match=r"no hook point 'blocks.1.mlp.hook_pots' in .*did you mean 'blocks.1.mlp.hook_po"
    ):
        tiny_model.site("blocks.1.mlp.hook_pots")


# ------------------------------------------------------------------------------------------------------- linear algebra


def change_at(model: LanguageModel, site: str, seen_at: str, added: torch.Tensor) -> torch.Tensor:
    """How the activation at ``seen_at`` changes when ``added`` [d_in] is added at ``site``, [pos, d]."""
    tokens = torch.tensor([[model.bos_id, 7, 30, 120, 250]])
    seen: list[torch.Tensor] = []

    def add(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return activation + added.reshape(activation.shape[2:])

    def look(activation: torch.Tensor, hook: Any) -> None:
        seen.append(activation[0].clone())

    model.bridge.run_with_hooks(tokens, fwd_hooks=[(seen_at, look)])
    model.bridge.run_with_hooks(tokens, fwd_hooks=[(site, add), (seen_at, look)])
    return seen[1] - seen[0]


@pytest.mark.parametrize(
    ("site", "seen_at"),
    [
        ("blocks.0.mlp.hook_post", "blocks.0.mlp.out.hook_out"),
        ("blocks.1.attn.hook_z", "blocks.1.attn.o.hook_out"),
        ("blocks.1.hook_resid_post", "ln_final.hook_in"),
        ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_pre"),
    ],
)
def test_residual_directions_are_what_the_model_adds(any_model: LanguageModel, site: str, seen_at: str) -> None:
    directions = torch.randn(3, any_model.site(site).d_in, generator=torch.Generator().manual_seed(0))
    residual = any_model.residual_directions(site, directions)
    assert residual is not None
    for direction, expected in zip(directions, residual, strict=True):
        change = change_at(any_model, site, seen_at, direction)
        torch.testing.assert_close(change, expected.expand_as(change), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("site", ["blocks.0.mlp.hook_pre", "blocks.1.attn.hook_q", "ln_final.hook_normalized"])
def test_no_residual_directions_where_nothing_linear_leads_there(tiny_model: LanguageModel, site: str) -> None:
    assert tiny_model.residual_directions(site, torch.eye(tiny_model.site(site).d_in)) is None


def test_logit_effects_are_norm_weight_centring_and_unembedding_written_out(
    tiny_model: LanguageModel, tiny_model_folder: Path
) -> None:
    network = GPT2LMHeadModel.from_pretrained(tiny_model_folder)
    weight = network.transformer.ln_f.weight.detach().double()
    unembedding = network.lm_head.weight.detach().double()
    residual = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)) + 2
    expected = torch.stack([unembedding @ (weight * (row - row.mean())) for row in residual.double()])
    expected -= expected.mean(1, keepdim=True)
    found = tiny_model.logit_effects(residual)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    assert weight.std() > 0.1  # the norm's weight is not all ones, so that leaving it out would show


def test_logit_effects_are_the_derivative_of_the_logits_with_the_norm_s_divisor_held(any_model: LanguageModel) -> None:
    """The true derivative is (effects - c * what the norm's output itself does) / divisor, with c from the divisor's change."""
    norm = any_model.bridge.ln_final._original_component
    unembedding = any_model.bridge.W_U.detach()
    state = torch.randn(1, 32, generator=torch.Generator().manual_seed(2)) * 2 + 0.5
    direction = torch.randn(1, 32, generator=torch.Generator().manual_seed(3)) + 1
    bias = norm.bias if isinstance(norm, torch.nn.LayerNorm) else 0
    output, slope = torch.autograd.functional.jvp(norm, state, direction)
    derivative, own = ((values @ unembedding).detach()[0] for values in (slope, output - bias))
    derivative, own = derivative - derivative.mean(), own - own.mean()
    effects = any_model.logit_effects(direction)[0]
    solution = torch.linalg.lstsq(torch.stack([effects, own], dim=1), derivative[:, None]).solution[:, 0]
    torch.testing.assert_close(solution[0] * effects + solution[1] * own, derivative, atol=1e-4, rtol=1e-3)
    assert float(solution[0]) > 0
