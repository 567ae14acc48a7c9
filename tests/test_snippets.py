"""Snippets: a few stretches of every document, at most so many tokens, otherwise as in a capture of the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from transformers import PreTrainedTokenizerFast

from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora import packing
from interp.corpora.documents import Corpus, Document
from interp.corpora.labels.python import PYTHON
from interp.corpora.packing import Sequences, pack
from interp.corpora.snippets import Snippets
from interp.corpora.sources import HELD_OUT_MODULES, load_corpus, make_corpus
from interp.demo import recipe
from interp.errors import InputError
from interp.model.language_model import LanguageModel
from interp.store import writer as writer_module
from interp.store.manifest import Manifest
from interp.store.reader import ActivationStore

BOS = 0
SNIPPETS = Snippets(per_document=3, tokens=12, seed=0)
CODE = '''\
"""A module
whose text has many lines,
all of them in its docstring.
"""


def area(width, height):
    """Width times height.

    Both in metres.
    """
    # nothing to see
    return width * height


class Square:
    side = 3

    def area(self):
        return area(self.side, self.side)
'''


def packed(corpus: Corpus, tokenizer: Any, snippets: Snippets | None, *, n_tokens: int | None = None) -> Sequences:
    """All of it in one block."""
    [block] = pack(corpus, tokenizer, bos_id=BOS, n_ctx=16, n_tokens=n_tokens, block=10_000, snippets=snippets)
    return block


def rows(block: Sequences) -> list[tuple[Any, ...]]:
    """(document, offset, token, labels) of each row, in order."""
    parts = (part[block.is_row].tolist() for part in (block.document, block.offset, block.tokens, block.labels))
    return [(number, offset, token, tuple(labels)) for number, offset, token, labels in zip(*parts, strict=True)]


def stretches(block: Sequences) -> list[np.ndarray]:
    """Places in the stream, which the first column is no part of, of the rows between two separators."""
    is_row = block.is_row[:, 1:].ravel()
    at = np.flatnonzero(is_row)
    return np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)


@pytest.fixture(scope="module")
def long_corpus(tiny_corpus: Corpus) -> Corpus:
    """Code labelled twice, and a document shorter than its snippets together."""
    documents = [*list(tiny_corpus.documents)[:9], Document("short.py", "x = 1\n"), Document("code.py", CODE * 3)]
    return replace(tiny_corpus, documents=documents, label_sets=(PYTHON, *tiny_corpus.label_sets))


@pytest.mark.parametrize("characters", [packing.BATCH_CHARACTERS, 150])
@pytest.mark.parametrize("seed", range(2))
def test_a_snippet_is_what_stands_there_in_the_whole_document(
    long_corpus: Corpus, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, seed: int, characters: int
) -> None:
    """Tokens, offsets and labels, of every document, also where documents are tokenised in pieces."""
    monkeypatch.setattr(packing, "BATCH_CHARACTERS", characters)
    whole = rows(packed(long_corpus, tiny_tokenizer, None))
    place = {row[:3]: n for n, row in enumerate(whole)}
    block = packed(long_corpus, tiny_tokenizer, structs.replace(SNIPPETS, seed=seed))
    found = rows(block)
    assert len(found) < len(whole) / 2
    assert set(found) <= set(whole)
    assert {row[0] for row in found} == {row[0] for row in whole}, "of every document"
    at = [place[row[:3]] for row in found]
    assert at == sorted(set(at)), "no token twice, all in the order of the text"
    n_before = 0
    for stretch in stretches(block):
        run = at[n_before : n_before + len(stretch)]
        assert run == list(range(run[0], run[0] + len(run))), "without a gap"
        assert len({number for number, *_ in found[n_before : n_before + len(run)]}) == 1, "of one document"
        n_before += len(run)


def test_a_document_gives_at_most_so_many_snippets_of_so_many_tokens(long_corpus: Corpus, tiny_tokenizer: Any) -> None:
    n_whole = np.bincount([number for number, *_ in rows(packed(long_corpus, tiny_tokenizer, None))])
    block = packed(long_corpus, tiny_tokenizer, SNIPPETS)
    np.testing.assert_array_equal(np.bincount(block.document[block.is_row]), np.minimum(n_whole, 36))
    lengths: dict[str, list[int]] = {}
    for stretch in stretches(block):
        number = int(block.document[:, 1:].ravel()[stretch[0]])
        lengths.setdefault(block.document_names[number], []).append(len(stretch))
    assert lengths.pop("short.py") == [n_whole[-2]]
    assert set(map(tuple, lengths.values())) == {(12, 12, 12)}


def test_a_snippet_from_inside_a_docstring_is_labelled_docstring(tiny_tokenizer: Any) -> None:
    """Read by itself it would be names and keywords."""
    corpus = Corpus("code", [Document("code.py", CODE)], (PYTHON,))
    docstring, column = CODE.index('"""', 3), PYTHON.labels.index("docstring")
    n_inside = 0
    for seed in range(20):
        block = packed(corpus, tiny_tokenizer, Snippets(per_document=1, tokens=4, seed=seed))
        offset, labels = block.offset[block.is_row], block.labels[block.is_row]
        if offset[0] > 3 and offset[-1] < docstring:
            n_inside += 1
            assert labels[:, column].all()
    assert n_inside > 0


def test_a_snippet_begins_with_a_line_and_where_there_is_none_with_a_word(tiny_tokenizer: Any) -> None:
    one_line = " ".join(f"word{i}" for i in range(300))
    starts = set()
    for text, begins in ((CODE, "\n"), (one_line, " ")):
        for seed in range(20):
            block = packed(make_corpus([text]), tiny_tokenizer, Snippets(per_document=1, tokens=50, seed=seed))
            start = int(block.offset[0, 1])
            # The token that holds a line's or a word's first character may begin with the blanks before it.
            assert start == 0 or text[start - 1] == begins or text[start] == begins
            starts.add((text, start))
    assert len(starts) > 20
    unbroken = "x" * 3000
    block = packed(make_corpus([unbroken]), tiny_tokenizer, Snippets(per_document=2, tokens=8, seed=0))
    assert block.is_row.sum() == 16


def test_places_depend_on_the_seed_and_the_name_alone(long_corpus: Corpus, tiny_tokenizer: Any) -> None:
    def offsets(corpus: Corpus, seed: int) -> dict[str, list[int]]:
        block = packed(corpus, tiny_tokenizer, structs.replace(SNIPPETS, seed=seed))
        found: dict[str, list[int]] = {}
        for number, offset, *_ in rows(block):
            found.setdefault(block.document_names[number], []).append(offset)
        return found

    first, other = offsets(long_corpus, 0), offsets(long_corpus, 1)
    some = list(long_corpus.documents)[3:]
    assert offsets(replace(long_corpus, documents=some), 0) == {
        document.name: first[document.name] for document in some
    }
    assert sum(first[name] != other[name] for name in first) > len(first) / 2


@pytest.mark.parametrize(("n_pieces", "per_document"), [(1, 3), (3, 3), (7, 3), (3, 7), (2, 1)])
def test_pieces_of_a_long_document_give_snippets_evenly(n_pieces: int, per_document: int) -> None:
    counts = [
        Snippets(per_document=per_document, tokens=9, seed=seed).per_piece(Document("a", ""), n_pieces)
        for seed in range(200)
    ]
    assert {sum(each) for each in counts} == {per_document}
    assert {n for each in counts for n in each} <= {per_document // n_pieces, -(-per_document // n_pieces)}
    np.testing.assert_allclose(np.mean(counts, axis=0), per_document / n_pieces, atol=0.15)


def test_too_little_text_in_snippets_is_refused_in_their_words(tiny_corpus: Corpus, tiny_tokenizer: Any) -> None:
    message = (
        r"'made up' holds 1,\d+ tokens in snippets, at most 3 of 12 tokens a document, seed 0, but 5,000 were asked for; ask "
        r"for all of it with --tokens all, for 1\d+ or fewer, or give more text or longer snippets and another --out"
    )
    with pytest.raises(InputError, match=message):
        packed(tiny_corpus, tiny_tokenizer, SNIPPETS, n_tokens=5000)


# -------------------------------------------------------------------------------------------------------------- capture

SITE = "blocks.1.hook_resid_post"
CONFIG = CaptureConfig(
    sites=(SITE,), tokens="all", snippet_tokens=12, snippets=3, batch=3, sequences_per_shard=7, dtype="float32"
)


@pytest.fixture(scope="module")
def store(tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return capture(tiny_model, tiny_corpus, CONFIG, tmp_path_factory.mktemp("snippets") / "whole")


def test_activations_are_those_of_the_model_on_the_snippets(tiny_model: LanguageModel, store: ActivationStore) -> None:
    _, cache = tiny_model.bridge.run_with_cache(torch.from_numpy(store.tokens()).long())
    sequence, position = store.positions().T
    found = torch.cat(list(store.site(SITE).chunks()))
    torch.testing.assert_close(found, cache[SITE][sequence, position], atol=1e-5, rtol=1e-5)
    documents = list(store.document_tokens())
    assert len(documents) == 30
    assert sum(len(document.tokens) for document in documents) == store.n_rows == 30 * 36


@pytest.mark.parametrize("tokens", ["all", 700])
@pytest.mark.parametrize("file", ["000000.h5", "000002.h5", "store.h5"])
def test_an_interrupted_capture_of_snippets_ends_with_the_same_bytes(
    tiny_model: LanguageModel, tiny_corpus: Corpus, tmp_path: Path, file: str, tokens: Any
) -> None:
    config = replace(CONFIG, tokens=tokens)
    whole = capture(tiny_model, tiny_corpus, config, tmp_path / "whole")
    write_whole = writer_module.write_whole

    def dying(path: Path, content: bytes) -> None:
        if path.name == file:
            raise KeyboardInterrupt
        write_whole(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer_module, "write_whole", dying)
        with pytest.raises(KeyboardInterrupt):
            capture(tiny_model, tiny_corpus, config, tmp_path / "cut")
    assert capture(tiny_model, tiny_corpus, config, tmp_path / "cut").identity == whole.identity


def test_the_manifest_says_what_was_taken_and_refuses_to_go_on_with_something_else(
    tiny_model: LanguageModel, tiny_corpus: Corpus, store: ActivationStore
) -> None:
    assert store.manifest.snippets == SNIPPETS
    message = "holds another capture \\(snippets: at most 3 of 12 tokens a document, seed 0 there, {} asked\\); choose another"
    changes: list[tuple[dict[str, Any], str]] = [
        ({"snippet_seed": 5}, "at most 3 of 12 tokens a document, seed 5"),
        ({"snippet_tokens": None, "snippets": 1}, "none"),
    ]
    for changed, asked in changes:
        with pytest.raises(InputError, match=message.format(asked)):
            capture(tiny_model, tiny_corpus, replace(CONFIG, **changed), store.path)


def test_a_store_from_before_snippets_is_read_as_one_of_whole_documents(
    tiny_store: ActivationStore, tmp_path: Path
) -> None:
    text = (tiny_store.path / "store.json").read_text()
    old = "\n".join(line for line in text.splitlines() if '"snippets"' not in line).replace("true,\n}", "true\n}")
    assert len(old) < len(text)
    (tmp_path / "store.json").write_text(old)
    assert Manifest.read(tmp_path) == tiny_store.manifest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snippet_tokens": 0}, "snippet tokens, snippets, batch and .* are counts; give numbers from 1 up"),
        ({"snippet_tokens": 9, "snippets": 0}, "snippets, batch and .* are counts; give numbers from 1 up"),
        ({"snippet_tokens": 9, "snippet_seed": -1}, "the snippet seed is -1; it must be 0 or more"),
        (
            {"snippets": 3},
            "3 snippets with seed 0 were asked for, but not how long they are; give --snippet-tokens too",
        ),
        ({"snippet_seed": 3}, "1 snippets with seed 3 were asked for, but not how long they are"),
    ],
)
def test_bad_numbers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CaptureConfig(sites=(SITE,), **options)


# ------------------------------------------------------------------------------------------------------------- the demo


def test_the_demo_is_evaluated_on_every_held_out_module_and_trained_on_some_hundred_files() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(Path(recipe.__file__).parent / "model")
    demo = recipe.DemoConfig()
    taken = {}
    for text, config in (("stdlib:held-out", demo.held_out_text), ("stdlib", demo.training_text)):
        snippets = Snippets(per_document=config.snippets, tokens=config.snippet_tokens, seed=config.snippet_seed)
        n_tokens = None if config.tokens == "all" else config.tokens // 10  # a tenth, since it is read faster
        block = packed(load_corpus([text], labels=[]), tokenizer, snippets, n_tokens=n_tokens)
        n_rows = np.bincount(block.document[block.is_row])
        assert n_rows.max() <= config.snippets * config.snippet_tokens
        taken[text] = {block.document_names[int(number)]: int(n_rows[number]) for number in np.flatnonzero(n_rows)}
    assert {name.split("/")[0].removesuffix(".py") for name in taken["stdlib:held-out"]} == set(HELD_OUT_MODULES)
    assert 50_000 < sum(taken["stdlib:held-out"].values()) < 70_000
    assert demo.tokens == 120_000
    assert len(taken["stdlib"]) >= 20
