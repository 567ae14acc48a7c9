"""Capture: the stored activations are the model's own, however often the capture was interrupted."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import save_model
from msgspec import structs
from transformers import PreTrainedTokenizerFast

from interp.browse.contents import store_contents
from interp.capturing import to_store as capture_module
from interp.capturing.forward import FastestForward, forward
from interp.capturing.self_check import self_check
from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.documents import Corpus, Document
from interp.errors import InputError
from interp.model.language_model import LanguageModel, load_model
from interp.store import writer as writer_module
from interp.store.manifest import NATIVE_CHECK
from interp.store.reader import ActivationStore

RESIDUAL, MLP, HEADS = "blocks.0.hook_resid_post", "blocks.1.mlp.hook_post", "blocks.0.attn.hook_z"
CONFIG = CaptureConfig(sites=(RESIDUAL, MLP, HEADS), tokens=700, batch=3, sequences_per_shard=7, dtype="float32")


def direct(model: LanguageModel, store: ActivationStore, site: str) -> torch.Tensor:
    """The rows of a store computed by the model in one plain pass, heads flattened."""
    _, cache = model.bridge.run_with_cache(torch.from_numpy(store.tokens()).long())
    sequence, position = store.positions().T
    return cache[site][sequence, position].flatten(1)


def all_rows(store: ActivationStore, site: str) -> torch.Tensor:
    return torch.cat(list(store.site(site).chunks()))


@pytest.fixture(scope="module")
def store(tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """Float32 at three sites, in four shards."""
    return capture(tiny_model, tiny_corpus, CONFIG, tmp_path_factory.mktemp("activations") / "whole")


@pytest.mark.parametrize("site", CONFIG.sites)
def test_activations_are_those_of_a_plain_pass_of_the_model(
    tiny_model: LanguageModel, store: ActivationStore, site: str
) -> None:
    rows = all_rows(store, site)
    assert rows.shape == (700, tiny_model.site(site).d_in)
    torch.testing.assert_close(rows, direct(tiny_model, store, site), atol=1e-5, rtol=1e-5)


def test_globs_and_half_precision(tiny_model: LanguageModel, tiny_store: ActivationStore) -> None:
    assert tiny_store.sites == {"blocks.0.hook_resid_post": 32, "blocks.1.hook_resid_post": 32, MLP: 64}
    for site in tiny_store.sites:
        expected = direct(tiny_model, tiny_store, site)
        torch.testing.assert_close(all_rows(tiny_store, site), expected, atol=1e-3, rtol=1e-3)


def test_labels_and_positions_stand_beside_the_tokens_they_are_of(
    tiny_model: LanguageModel, tiny_store: ActivationStore
) -> None:
    assert tiny_store.label_sets == {"letters": ("has_vowel", "is_blank", "line_depth")}
    sequence, position = tiny_store.positions().T
    shown = [tiny_model.decode([int(token)]) for token in tiny_store.tokens()[sequence, position]]
    whole = np.asarray(["�" not in text for text in shown])
    has_vowel = np.asarray([any(vowel in text for vowel in "aeiou") for text in shown])
    np.testing.assert_array_equal(tiny_store.labels("letters")[whole, 0], has_vowel[whole])
    names, document = tiny_store.documents()
    assert names[document[0, 1]] == "users.py"
    assert tiny_store.n_rows == 1500


def test_every_family_is_captured_at_residual_mlp_and_attention_sites(
    any_model: LanguageModel, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    sites = ("blocks.*.hook_resid_post", "blocks.0.hook_attn_out", "blocks.0.hook_mlp_out", MLP, HEADS)
    config = CaptureConfig(sites=sites, tokens=100, dtype="float32")
    store = capture(any_model, tiny_corpus, config, tmp_path / "store")
    assert len(store.sites) == 6
    for site in store.sites:
        torch.testing.assert_close(all_rows(store, site), direct(any_model, store, site), atol=1e-5, rtol=1e-5)
    checks = store.manifest.checks
    for layer in (0, 1):
        assert checks[f"blocks.{layer}: resid_post = resid_pre + attn_out + mlp_out"] < 1e-5
        assert checks[f"blocks.{layer}: mlp.hook_out = mlp.hook_post @ W_out + b_out"] < 1e-5


@torch.no_grad()
def test_the_models_own_kernels_are_used_where_they_give_the_same(any_model: LanguageModel) -> None:
    sites = any_model.sites(["blocks.0.hook_attn_out", "blocks.1.mlp.hook_post", "blocks.1.hook_resid_post"])
    tokens = torch.randint(1, 290, (3, 32), generator=torch.Generator().manual_seed(0))
    run = FastestForward(any_model, sites, tokens[:1])
    is_soft_capped = "Gemma2" in type(any_model.bridge.original_model).__name__
    assert run.is_native != is_soft_capped  # PyTorch's fused attention has no soft cap
    expected = forward(any_model, sites, tokens)
    for name, found in run(tokens).items():
        torch.testing.assert_close(found, expected[name], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hooks_inside_attention_and_wrong_kernels_are_left_to_the_step_by_step_pass(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = torch.arange(1, 33)[None]
    heads = FastestForward(tiny_model, tiny_model.sites([HEADS]), tokens)
    assert (heads.is_native, heads.native_error) == (False, None)
    expected = forward(tiny_model, tiny_model.sites([RESIDUAL]), tokens)[RESIDUAL]
    norm = tiny_model.bridge.blocks[0].ln1.original_component
    monkeypatch.setattr(norm, "eps", 1.0)  # the fused kernel of another epsilon than the bridge's
    run = FastestForward(tiny_model, tiny_model.sites([RESIDUAL]), tokens)
    assert not run.is_native
    assert run.native_error > 1e-3
    assert torch.equal(run(tokens)[RESIDUAL], expected)


@torch.no_grad()
def test_a_hook_point_that_is_not_what_its_name_says_shows_in_the_self_check(
    tiny_model_folder: Path, tiny_corpus: Corpus
) -> None:
    model = load_model(str(tiny_model_folder), device="cpu")
    sites, tokens = model.sites([MLP]), torch.arange(1, 33)[None]
    name = "blocks.1: mlp.hook_out = mlp.hook_post @ W_out + b_out"
    assert self_check(model, sites, tokens)[name] < 1e-6
    model.bridge.blocks[1].mlp.out.hook_out.add_hook(lambda x, hook: 2 * x)
    assert self_check(model, sites, tokens)[name] > 0.4


def test_a_check_that_fails_is_said_in_words(tiny_store: ActivationStore, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_store.path, tmp_path / "store"))
    failing = {"blocks.0: resid_post = resid_pre + attn_out + mlp_out": 1.1, NATIVE_CHECK: 1.0}
    structs.replace(tiny_store.manifest, checks=failing).write(folder)
    said = store_contents(folder, spectra=False).checks
    assert "does not hold (error 1.1e+00): hook points of this layer are not what" in said[next(iter(failing))]
    assert "every activation was taken step by step" in said[NATIVE_CHECK]


def test_a_mixture_of_experts_is_captured_at_its_residual_stream(
    tiny_tokenizer: PreTrainedTokenizerFast, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    model = load_model(str(save_model(tmp_path / "model", "mixtral", tiny_tokenizer)), device="cpu")
    captured = capture(model, tiny_corpus, replace(CONFIG, sites=(RESIDUAL,), tokens=200), tmp_path / "store")
    assert captured.manifest.checks["blocks.0: resid_post = resid_pre + attn_out + mlp_out"] < 1e-5
    torch.testing.assert_close(all_rows(captured, RESIDUAL), direct(model, captured, RESIDUAL), atol=1e-5, rtol=1e-5)
    assert model.residual_directions("blocks.1.mlp.hook_post", torch.ones(1, 64)) is None


def test_a_capture_that_failed_before_its_first_shard_does_not_block_its_name(
    tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("interp.capturing.to_store.self_check", lambda *given: {}["missing"])
        with pytest.raises(KeyError):
            capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store")
    other = replace(CONFIG, sites=(RESIDUAL,), tokens=200)
    assert list(capture(tiny_model, tiny_corpus, other, tmp_path / "store").sites) == [RESIDUAL]


@pytest.mark.parametrize("site", ["hook_embed", RESIDUAL, HEADS])
def test_stopping_after_the_last_site_needed_changes_no_value(tiny_model: LanguageModel, site: str) -> None:
    tokens = torch.randint(1, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    early_site, late_site = tiny_model.site(site), tiny_model.site("blocks.1.hook_resid_post")
    fired: list[torch.Size] = []
    with tiny_model.bridge.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda x, hook: fired.append(x.shape))]):
        early = forward(tiny_model, [early_site], tokens)[site]
        assert not fired
        both = forward(tiny_model, [early_site, late_site], tokens)
    assert fired
    assert torch.equal(early, both[site])


def test_no_hook_is_left_in_the_model(tiny_model: LanguageModel, store: ActivationStore) -> None:
    assert all(not point.fwd_hooks for point in tiny_model.bridge.hook_dict.values())


def test_values_too_large_for_half_precision_are_refused_and_fit_float32(
    tiny_model_folder: Path, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    model = load_model(str(tiny_model_folder), device="cpu")
    model.bridge.blocks[0].mlp.W_out.mul_(1e6)
    config = CaptureConfig(sites=("blocks.0.hook_resid_post",), tokens=100)
    message = (
        r"blocks.0.hook_resid_post: the value .* at sequence 0, position 1, does not fit float16, .*; use --dtype fl"
    )
    with pytest.raises(InputError, match=message):
        capture(model, tiny_corpus, config, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    rows = all_rows(capture(model, tiny_corpus, replace(config, dtype="float32"), tmp_path / "store"), RESIDUAL)
    assert rows.isfinite().all()
    assert rows.abs().max() > 65504


# --------------------------------------------------------------------------------------------------------- interruption


def break_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process die while the file called ``name`` is being written."""
    write_whole = writer_module.write_whole

    def breaking(path: Path, content: bytes) -> None:
        if path.name == name:
            path.with_name(path.name + ".partial").write_bytes(content[:100])
            time.sleep(0.1)  # long enough for the caller to hand over the next shards
            raise KeyboardInterrupt
        write_whole(path, content)

    monkeypatch.setattr(writer_module, "write_whole", breaking)


@pytest.mark.parametrize("n_shards", [0, 1, 3])
def test_an_interrupted_capture_goes_on_and_ends_with_the_same_bytes(
    tiny_model: LanguageModel,
    tiny_corpus: Corpus,
    store: ActivationStore,
    tmp_path: Path,
    n_shards: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        break_at(f"{n_shards:06d}.h5", patch)
        with pytest.raises(KeyboardInterrupt):
            capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store")
    done = sum(shard.n_rows for shard in store.manifest.shards[:n_shards])
    with pytest.raises(InputError, match=f"was interrupted after {done:,} of 700 tokens; run the same interp capture"):
        ActivationStore(tmp_path / "store")
    with mock.patch.object(capture_module, "_activations", wraps=capture_module._activations) as activations:
        again = capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store")
    assert len(store.manifest.shards) == 4
    assert activations.call_count == 4 - n_shards  # what was whole is not computed again
    assert again.identity == store.identity
    for name in ("000000.h5", "000001.h5", "000002.h5", "000003.h5"):
        assert (again.path / "shards" / name).read_bytes() == (store.path / "shards" / name).read_bytes()
    assert sorted(path.name for path in (again.path / "shards").iterdir()) == sorted(
        path.name for path in (store.path / "shards").iterdir()
    )


def test_a_finished_capture_is_opened_without_running_the_model(
    tiny_model: LanguageModel, tiny_corpus: Corpus, store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "_activations", lambda *args: pytest.fail("the model was run again"))
    assert capture(tiny_model, tiny_corpus, CONFIG, store.path).identity == store.identity


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": 800}, r"n_tokens: 700 there, 800 asked"),
        ({"sites": (MLP,)}, r"sites: .* there, .* asked"),
        ({"dtype": "float16"}, r"dtype: float32 there, float16 asked"),
        ({"n_ctx": 16}, r"n_ctx: 32 there, 16 asked"),
    ],
)
def test_another_request_into_the_same_folder_is_refused(
    tiny_model: LanguageModel, tiny_corpus: Corpus, store: ActivationStore, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=rf"holds another capture \({message}\); choose another --out or delete"):
        capture(tiny_model, tiny_corpus, replace(CONFIG, **changed), store.path)
    assert ActivationStore(store.path).identity == store.identity


def test_a_capture_does_not_go_on_with_text_that_has_changed_meanwhile(
    tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        break_at("000002.h5", patch)
        with pytest.raises(KeyboardInterrupt):
            capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store")
    changed = replace(tiny_corpus, documents=[Document("new.py", "import this\n"), *tiny_corpus.documents])
    with pytest.raises(InputError, match=r"the text 'made up' has changed since .* interrupted; choose another --out"):
        capture(tiny_model, changed, CONFIG, tmp_path / "store")
    assert capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store").n_rows == 700


@pytest.mark.parametrize("interrupted_at", ["000001.h5", "000003.h5", "store.h5"])
@pytest.mark.parametrize("tokens", [150, 420, 650, 699, 900, "all"])
def test_an_interrupted_capture_goes_on_with_another_number_of_tokens(
    tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path: Path, tokens: Any, interrupted_at: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        break_at(interrupted_at, patch)
        with pytest.raises(KeyboardInterrupt):
            capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store")
    other = replace(CONFIG, tokens=tokens)
    store = capture(tiny_model, tiny_corpus, other, tmp_path / "store")
    assert store.identity == capture(tiny_model, tiny_corpus, other, tmp_path / "fresh").identity
    assert store.verify() == []
    assert len(list((store.path / "shards").glob("*.h5"))) == len(store.manifest.shards)


def test_all_of_the_text_is_captured_and_an_interruption_changes_nothing(
    tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, tokens="all")
    whole = capture(tiny_model, tiny_corpus, config, tmp_path / "whole")
    counted = capture(tiny_model, tiny_corpus, replace(CONFIG, tokens=whole.n_rows), tmp_path / "counted")
    assert whole.identity == counted.identity
    with pytest.raises(InputError, match=r"the text 'made up' holds .* tokens, but"):
        capture(tiny_model, tiny_corpus, replace(CONFIG, tokens=whole.n_rows + 1), tmp_path / "more")
    with monkeypatch.context() as patch:
        break_at("000002.h5", patch)
        with pytest.raises(KeyboardInterrupt):
            capture(tiny_model, tiny_corpus, config, tmp_path / "cut")
    with pytest.raises(InputError, match=r"was interrupted after \d+ of all tokens; run the same interp capture"):
        ActivationStore(tmp_path / "cut")
    with mock.patch.object(capture_module, "_activations", wraps=capture_module._activations) as activations:
        assert capture(tiny_model, tiny_corpus, config, tmp_path / "cut").identity == whole.identity
    # those before the break were whole, and perhaps one after it that was being written
    assert len(whole.manifest.shards) - 4 <= activations.call_count <= len(whole.manifest.shards) - 2
    monkeypatch.setattr(capture_module, "_activations", lambda *args: pytest.fail("the model was run again"))
    assert capture(tiny_model, tiny_corpus, config, tmp_path / "cut").identity == whole.identity
    with pytest.raises(InputError, match=r"holds another capture \(n_tokens: all there, 700 asked\)"):
        capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "cut")


@pytest.mark.parametrize("advice", ["all", "fewer"])
@pytest.mark.parametrize("sequences_per_shard", [2, 50])
def test_too_little_text_is_refused_and_the_advice_works_as_printed(
    tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path: Path, advice: str, sequences_per_shard: int
) -> None:
    short = replace(tiny_corpus, documents=list(tiny_corpus.documents)[:6])
    config = replace(CONFIG, sequences_per_shard=sequences_per_shard)
    with pytest.raises(InputError, match=r"'made up' holds \d+ tokens, but 700 were asked for") as refused:
        capture(tiny_model, short, config, tmp_path / "store")
    kept = list((tmp_path / "store").glob("shards/*.h5"))
    assert bool(kept) == (tmp_path / "store").exists() == (sequences_per_shard == 2)
    whole, fewer = re.search(r"--tokens (\w+), for (\d+) or fewer", str(refused.value)).groups()
    with mock.patch.object(capture_module, "_activations", wraps=capture_module._activations) as activations:
        tokens = whole if advice == "all" else int(fewer)
        store = capture(tiny_model, short, replace(config, tokens=tokens), tmp_path / "store")
    assert store.n_rows == int(fewer)
    assert activations.call_count == len(store.manifest.shards) - len(kept)  # the shards that were kept are used


def test_a_folder_is_free_again_after_too_little_text_for_one_shard(
    tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    short = replace(tiny_corpus, documents=list(tiny_corpus.documents)[:6])
    with pytest.raises(InputError, match=r"'made up' holds \d+ tokens, but 700 were asked for"):
        capture(tiny_model, short, replace(CONFIG, sequences_per_shard=50), tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert capture(tiny_model, tiny_corpus, CONFIG, tmp_path / "store").n_rows == 700


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sites": ("blocks.0.mlp.hook_pst",)}, "no hook point 'blocks.0.mlp.hook_pst' in this model; did you mean"),
        ({"sites": ("blocks.9.*",)}, "matches no hook point of this model"),
        ({"sites": ("blocks.0.attn.hook_pattern",)}, "not one row a token; choose another one"),
        ({"sites": ("blocks.0.attn.hook_result",)}, "'blocks.0.attn.hook_result' cannot be used"),
        ({"n_ctx": 33}, "the sequence length 33 is out of range; .* takes 2 to 32"),
        ({"n_ctx": 1}, "the sequence length 1 is out of range"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_anything_is_written(
    tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        capture(tiny_model, tiny_corpus, replace(CONFIG, **changed), tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokens": 0}, "are counts; give numbers from 1 up"),
        ({"batch": 0}, "are counts; give numbers from 1 up"),
    ],
)
def test_options_out_of_range_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changed)
