"""``import interp``: what one types in a notebook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import transformers

import interp
import interp.api
from interp.errors import InputError

TEXTS = [f"def add_{i}(a, b):\n    return a + {i} * b\n" for i in range(60)]
SITE = "blocks.1.hook_resid_post"


def test_importing_it_loads_nothing_and_every_name_is_there() -> None:
    code = "import sys, interp; assert not {'torch', 'numpy', 'tyro'} & set(sys.modules); from interp import *; print(train)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train_run" in done.stdout
    assert all(getattr(interp, name).__doc__ for name in interp.api.__all__)
    assert set(interp.api.__all__) <= set(dir(interp))
    with pytest.raises(AttributeError, match=r"no name 'load_modle' in interp; did you mean 'load_model' or"):
        interp.load_modle  # noqa: B018


@pytest.fixture
def network(tiny_model_folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_model_folder)


def test_a_model_in_memory_goes_through_the_flow(
    network: transformers.PreTrainedModel,
    tiny_tokenizer: transformers.PreTrainedTokenizerFast,
    tiny_model_folder: Path,
    tmp_path: Path,
) -> None:
    model = interp.load_model(network, tokenizer=tiny_tokenizer)
    assert model.bridge.original_model is network
    loaded = interp.load_model(str(tiny_model_folder), device="cpu")
    assert (model.id, model.fingerprint) == (loaded.id, loaded.fingerprint)
    store = interp.capture(model, TEXTS, interp.CaptureConfig(sites=(SITE,), tokens=900), tmp_path / "mine")
    run = interp.train(store, SITE, interp.SAEConfig(n_features=24, k=4, tokens=3000, batch=100), name="first")
    index = interp.FeatureIndex(interp.build_index(run, model=model))
    feature = int(index.summary["n_fire"].idxmax())
    steerer = interp.Steerer.from_run(model, run)
    tokens = store.tokens()[:2, :8]
    assert steerer.kl(model.encode(TEXTS[0])[None, :8], {feature: 3.0}) > 0
    assert run.decomposer().encode(store.site(SITE)[:16].reshape(2, 8, -1)).shape == (*tokens.shape, 24)
    assert interp.find_runs(tmp_path)[0].identity == run.identity


def test_other_texts_are_not_taken_for_those_that_were_captured(
    network: transformers.PreTrainedModel, tiny_tokenizer: transformers.PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = interp.load_model(network, tokenizer=tiny_tokenizer, name="mine")
    config = interp.CaptureConfig(sites=(SITE,), tokens=300)
    store = interp.capture(model, TEXTS, config, tmp_path / "mine")
    assert store.manifest.model_id == "mine"
    assert interp.capture(model, list(TEXTS), config, tmp_path / "mine").identity == store.identity
    with pytest.raises(InputError, match=r"holds another capture \(corpus: 60 texts"):
        interp.capture(model, TEXTS[::-1], config, tmp_path / "mine")


def test_what_is_no_model_or_lacks_a_part_is_refused(
    network: transformers.PreTrainedModel, tiny_tokenizer: transformers.PreTrainedTokenizerFast
) -> None:
    network.config._name_or_path = ""
    with pytest.raises(InputError, match=r"the model has no tokenizer; give it, load_model\(model, tokenizer=...\)"):
        interp.load_model(network, name="mine")
    with pytest.raises(InputError, match=r"the model has no name; give one, load_model\(model, name=...\)"):
        interp.load_model(network, tokenizer=tiny_tokenizer)
    taken = interp.load_model(network, tokenizer=tiny_tokenizer, name="mine")
    assert interp.load_model(taken.bridge, name="mine").fingerprint == taken.fingerprint
