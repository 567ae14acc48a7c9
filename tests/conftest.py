"""Models, text and stores that many test files share: tiny, random, made on the spot, without network.

Nothing of ``interp`` is imported before a fixture runs: this file is read before jaxtyping's pytest plugin has put its
checks into the package.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from chromium import launched, require_chromium

if TYPE_CHECKING:
    from dashboard_workspace import DashboardWorkspace
    from transformers import PreTrainedTokenizerFast

    from interp.corpora.documents import Corpus, Document
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run
    from interp.store.reader import ActivationStore

torch.set_num_threads(1)  # the models are so small that threads only cost

END = "<|endoftext|>"
TEXT = """
def read_{name}(path, limit={number}):
    rows = [line.split(",") for line in open(path) if "{name}" in line]
    return rows[:limit]


class {name}Error(ValueError):  # déjà vu, naïve – 日本
    limit = {number}
"""
NAMES = ("users", "prices", "tokens", "layers", "cities", "orders")
FAMILIES = ("gpt2", "llama", "gpt-neox", "gemma2", "qwen2")


@pytest.fixture(scope="session")
def library_files() -> list[str]:
    """Paths of the standard library's Python files of 1000 to 3000 bytes, some seventy, in the order of their names."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*/*.py"))
    return [
        str(path)
        for path in files
        if path.parent.name not in ("site-packages", "test", "idlelib", "lib2to3", "turtledemo")
        and 1000 <= path.stat().st_size <= 3000
    ]


def documents() -> dict[str, str]:
    """Texts of about 120 tokens, by name; one of them is empty."""
    texts = {f"{name}.py": TEXT.format(name=name, number=i) for i, name in enumerate(NAMES * 4)}
    texts |= {f"{name}_{i}.py": TEXT.format(name=name, number=i) for i in range(4) for name in NAMES}
    return {"empty.py": "", **texts}


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens, which like Pythia's leaves blanks out of the spans it reports."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(documents().values(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def _network(family: str, d_vocab: int) -> Any:
    """A random transformer of ``family``: 2 layers, d_model 32, d_mlp 64, n_ctx 32, and weights large enough to matter."""
    import transformers

    ids = {"vocab_size": d_vocab, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.2}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"max_position_embeddings": 32}
    grouped = {"num_key_value_heads": 2, **shape, **ids}
    torch.manual_seed(0)
    match family:
        case "gpt2":
            size = {"n_positions": 32, "n_embd": 32, "n_inner": 64, "n_layer": 2, "n_head": 4}
            return transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, **ids))
        case "llama":
            return transformers.LlamaForCausalLM(transformers.LlamaConfig(**grouped))
        case "gpt-neox":
            return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**shape, **ids))
        case "gemma2":
            heads = {"head_dim": 8, "query_pre_attn_scalar": 8, "pad_token_id": 0}
            return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**grouped, **heads))
        case "mixtral":
            experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
            return transformers.MixtralForCausalLM(transformers.MixtralConfig(**grouped, **experts))
        case _:
            return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**grouped))


def save_model(folder: Path, family: str, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A model folder as ``save_pretrained`` leaves it; norm weights and biases are random, not ones and zeros."""
    network = _network(family, len(tokenizer))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A random GPT-2 of two layers, d_model 32, d_mlp 64, n_ctx 32, in Hugging Face format. Not to be changed."""
    return save_model(tmp_path_factory.mktemp("gpt2"), "gpt2", tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder: Path) -> LanguageModel:
    """The model in ``tiny_model_folder``. Not to be changed."""
    from interp.model.language_model import load_model

    return load_model(str(tiny_model_folder), device="cpu")


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A random GPT-2 of two layers, n_ctx 48, whose predictions differ, with one token a byte. Not to be changed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from interp.model.language_model import load_model

    folder = tmp_path_factory.mktemp("bytes")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={END: 0} | {c: i for i, c in enumerate(letters, start=1)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 48, "vocab_size": len(letters) + 1}
    network = GPT2LMHeadModel(GPT2Config(**shape, initializer_range=0.2, bos_token_id=0, eos_token_id=0))
    network.save_pretrained(folder)
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="session", params=FAMILIES)
def any_model(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> LanguageModel:
    """A tiny random model of each architecture family in turn. Not to be changed."""
    from interp.model.language_model import load_model

    folder = save_model(tmp_path_factory.mktemp(request.param), request.param, tiny_tokenizer)
    return load_model(str(folder), device="cpu")


def _label_tokens(document: Document, spans: np.ndarray) -> np.ndarray:
    """Of each token: does it hold a vowel, is it blank, on which line does it begin."""
    text = document.text
    pieces = [text[first:last] for first, last in spans]
    has_vowel = [any(vowel in piece for vowel in "aeiou") for piece in pieces]
    is_blank = [piece.isspace() for piece in pieces]
    line = [text[:first].count("\n") for first, _ in spans]
    return np.stack([np.asarray(column, dtype=np.uint8) for column in (has_vowel, is_blank, line)], axis=1)


@pytest.fixture(scope="session")
def tiny_corpus() -> Corpus:
    """Some 5000 tokens of made-up Python, labelled."""
    from interp.corpora.documents import Corpus, Document, LabelSet

    meanings = {"has_vowel": "holds a vowel", "is_blank": "blanks only", "line_depth": "lines before it"}
    labels = LabelSet("letters", meanings, _label_tokens)
    return Corpus("made up", [Document(name, text) for name, text in documents().items()], (labels,))


@pytest.fixture(scope="session")
def tiny_store(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: LanguageModel, tiny_corpus: Corpus
) -> Iterator[ActivationStore]:
    """1500 tokens of ``tiny_corpus`` at three sites of ``tiny_model``, in four shards. Not to be changed."""
    from interp.capturing.to_store import CaptureConfig, capture

    sites = ("blocks.*.hook_resid_post", "blocks.1.mlp.hook_post")
    config = CaptureConfig(sites=sites, tokens=1500, batch=8, sequences_per_shard=16)
    store = capture(tiny_model, tiny_corpus, config, tmp_path_factory.mktemp("activations") / "tiny")
    yield store
    assert not (store.path / "runs").exists(), (
        "a test has trained in the store that all tests share; let it take a copy"
    )


@pytest.fixture(scope="session")
def bilinear_run(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory, library_files: list[str]) -> Run:
    """Captured, trained and indexed by the commands, with 5000 tokens of the standard library. Not to be changed."""
    from interp.cli.main import main
    from interp.runs.record import Run

    store, site = tmp_path_factory.mktemp("bilinear") / "tiny", "blocks.1.hook_resid_post"
    sources = library_files[:10]
    capture = ["capture", "--model", str(tiny_model_folder), "--sites", site, "--text", *sources]
    main([*capture, "--tokens", "5000", "--out", str(store)])
    options = ["--structure", "combined", "--biased", "--gamma", "0.2", "--alpha", "0.05", "--optimizer", "muon"]
    amounts = ["--lr", "0.03", "--n-features", "12", "--tokens", "3000", "--batch", "100"]
    main(["train", "bilinear", "--store", str(store), "--site", site, "--name", "forms", *options, *amounts])
    main(["index", str(store / "runs/forms")])
    return Run.load(store / "runs/forms")


@pytest.fixture
def copied(made: DashboardWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DashboardWorkspace:
    """A copy of the file's own ``made`` for one test, served."""
    from app.workspace import WORKSPACE_VARIABLE

    copy = made.copied_to(tmp_path / "activations")
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(copy.folder))
    return copy


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium for the tests of a file; without one they are skipped, or fail where they are promised."""
    require_chromium()
    with launched() as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow tests first, then those in a browser, so that no worker is left alone with one at the end."""
    marks: dict[str, set[str]] = {}
    for item in items:
        marks.setdefault(item.nodeid.split("::")[0], set()).update(mark.name for mark in item.iter_markers())
    items.sort(key=lambda item: _turn(marks[item.nodeid.split("::")[0]]))


def _turn(marks: set[str]) -> int:
    return 0 if "slow" in marks else 1 if "browser" in marks else 2
