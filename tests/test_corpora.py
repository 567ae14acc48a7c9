"""Packing text into sequences: nothing lost, nothing padded in the middle, every token traceable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.corpora import HELD_OUT_MODULES, Corpus, Document, LabelSet, Sequences, pack, standard_library, text_files
from interp.errors import InputError

BOS = 0


def packed(corpus: Corpus, tokenizer: Any, *, n_ctx: int = 16, n_tokens: int = 1000, block: int = 7) -> list[Sequences]:
    return list(pack(corpus, tokenizer, bos_id=BOS, n_ctx=n_ctx, n_tokens=n_tokens, block=block))


def joined(blocks: list[Sequences], field: str) -> np.ndarray:
    return np.concatenate([getattr(block, field) for block in blocks])


def n_tokens_of(corpus: Corpus, tokenizer: Any) -> int:
    return sum(len(tokenizer(document.text)["input_ids"]) for document in corpus.documents if document.text)


@pytest.mark.parametrize("n_tokens", [1, 15, 104, 105, 106, 1000])
@pytest.mark.parametrize(("n_ctx", "block"), [(16, 7), (2, 40), (64, 1)])
def test_exactly_the_asked_number_of_tokens_are_rows_and_every_sequence_begins_with_bos(
    tiny_corpus: Corpus, tiny_tokenizer: Any, n_tokens: int, n_ctx: int, block: int
) -> None:
    blocks = packed(tiny_corpus, tiny_tokenizer, n_ctx=n_ctx, n_tokens=n_tokens, block=block)
    tokens, is_row = joined(blocks, "tokens"), joined(blocks, "is_row")
    assert is_row.sum() == n_tokens
    assert tokens.shape[1] == n_ctx
    assert (tokens[:, 0] == BOS).all()
    assert not is_row[tokens == BOS].any()
    assert all(len(part.tokens) == block for part in blocks[:-1])
    assert is_row[-1].any()  # no sequence is made that holds nothing


def test_rows_are_the_text_in_order_with_one_separator_after_each_document(
    tiny_corpus: Corpus, tiny_tokenizer: Any
) -> None:
    everything: list[int] = []
    for document in tiny_corpus.documents:
        if document.text:
            everything += [*tiny_tokenizer(document.text)["input_ids"], BOS]
    n_tokens = n_tokens_of(tiny_corpus, tiny_tokenizer)
    stream = joined(packed(tiny_corpus, tiny_tokenizer, n_tokens=n_tokens), "tokens")[:, 1:].ravel()
    # What follows the last token of text is separators alone.
    assert stream[: len(everything)].tolist() == everything
    assert (stream[len(everything) :] == BOS).all()


def test_every_token_is_traced_to_its_document_and_offset(tiny_corpus: Corpus, tiny_tokenizer: Any) -> None:
    """The fixture's tokenizer reports spans without blanks; offsets must point at the blanks all the same."""
    blocks = packed(tiny_corpus, tiny_tokenizer, n_tokens=n_tokens_of(tiny_corpus, tiny_tokenizer))
    texts = {document.name: document.text for document in tiny_corpus.documents}
    names = {number: name for block in blocks for number, name in block.document_names.items()}
    assert sorted(names) == list(range(len(names)))  # numbers index the documents that are not empty
    n_whole = 0
    for block in blocks:
        rows = zip(block.tokens[block.is_row], block.document[block.is_row], block.offset[block.is_row], strict=True)
        for token, document, offset in rows:
            shown = tiny_tokenizer.decode([token])
            if "�" not in shown:  # a token of part of a character points at that character
                n_whole += 1
                assert texts[names[int(document)]][offset:].startswith(shown)
        assert (block.offset[~block.is_row] == -1).all()
    assert n_whole > 3000


def test_labels_are_those_of_the_token_they_stand_beside(tiny_corpus: Corpus, tiny_tokenizer: Any) -> None:
    n_tokens = n_tokens_of(tiny_corpus, tiny_tokenizer)
    blocks = packed(tiny_corpus, tiny_tokenizer, n_tokens=n_tokens)
    tokens, labels, is_row = (joined(blocks, field) for field in ("tokens", "labels", "is_row"))
    assert labels.dtype == np.uint8
    shown = [tiny_tokenizer.decode([token]) for token in tokens[is_row]]
    whole = np.asarray(["�" not in text for text in shown])
    has_vowel = np.asarray([any(vowel in text for vowel in "aeiou") for text in shown])
    is_blank = np.asarray([text.isspace() for text in shown])
    np.testing.assert_array_equal(labels[is_row][whole, 0], has_vowel[whole])
    np.testing.assert_array_equal(labels[is_row][whole, 1], is_blank[whole])
    assert not labels[~is_row].any()


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_packing_is_deterministic_and_blocks_only_cut_it(tiny_corpus: Corpus, tiny_tokenizer: Any, block: int) -> None:
    first = packed(tiny_corpus, tiny_tokenizer)
    again = packed(tiny_corpus, tiny_tokenizer, block=block)
    for field in ("tokens", "document", "offset", "is_row", "labels"):
        np.testing.assert_array_equal(joined(first, field), joined(again, field))


def test_a_separator_written_in_the_text_is_a_separator_and_never_a_row(tiny_tokenizer: Any) -> None:
    corpus = Corpus("story", [Document("a", "one two<|endoftext|>three four")])
    [block] = packed(corpus, tiny_tokenizer, n_ctx=32, n_tokens=12)
    inner = block.tokens[0, 1:] == BOS
    assert inner.any()
    assert not block.is_row[0, 1:][inner].any()
    assert block.is_row.sum() == 12


@pytest.mark.parametrize("n_missing", [1, 5000])
def test_too_little_text_is_refused_with_what_there_is(
    tiny_corpus: Corpus, tiny_tokenizer: Any, n_missing: int
) -> None:
    held = n_tokens_of(tiny_corpus, tiny_tokenizer)
    asked = held + n_missing
    with pytest.raises(
        InputError, match=rf"'made up' holds {held:,} tokens, but {asked:,} were asked for; ask for few"
    ):
        packed(tiny_corpus, tiny_tokenizer, n_tokens=asked)
    with pytest.raises(InputError, match=r"'nothing' holds 0 tokens, but 5 were asked for"):
        packed(Corpus("nothing", [Document("a", "")]), tiny_tokenizer, n_tokens=5)


def test_a_tokenizer_that_truncates_does_not_cut_documents_short(tiny_tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    cutting = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, bos_token="<|endoftext|>")
    cutting.backend_tokenizer.enable_truncation(8)
    [block] = packed(Corpus("long", [Document("a", "word " * 100)]), cutting, n_ctx=512, n_tokens=200, block=1)
    assert block.is_row.sum() == 200


def test_labels_of_text_without_labels_have_no_columns(tiny_tokenizer: Any) -> None:
    [block] = packed(Corpus("bare", [Document("a", "some text")]), tiny_tokenizer, n_tokens=4)
    assert block.labels.shape == (*block.tokens.shape, 0)
    wide = LabelSet("wide", ("a", "b"), lambda text, spans: np.ones((len(spans), 2), np.uint8))
    [block] = packed(Corpus("wide", [Document("a", "some text")], wide), tiny_tokenizer, n_tokens=4)
    assert block.labels[block.is_row].all()


# ------------------------------------------------------------------------------------------------------ where text is


def test_a_folder_is_every_text_file_below_it_that_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".cache" / "texts"  # hidden above what was named: the person asked for it
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "b.txt").write_text("b")
    (folder / "deep" / "a.txt").write_text("line\r\nnext")
    (folder / ".git" / "config").write_text("hidden")
    (folder / "image.png").write_bytes(b"\x89PNG\xff")
    expected = [Document("b.txt", "b"), Document("deep/a.txt", "line\nnext")]
    assert list(text_files([folder])) == expected
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert list(text_files([Path("../.cache/texts")])) == expected


def test_a_named_file_that_is_missing_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no text file '.*missing.txt'; give files or folders"):
        list(text_files([tmp_path / "missing.txt"]))
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(InputError, match=r"image.png' is not UTF-8 text; convert it first"):
        list(text_files([tmp_path / "image.png"]))


def test_held_out_modules_and_tests_are_never_among_the_training_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.corpora._read_utf8", lambda path: "text")  # which files, not what they say
    paths = {split: {document.name for document in standard_library(split)} for split in ("train", "held-out", "tests")}
    assert "json/decoder.py" in paths["held-out"]
    assert "ast.py" in paths["train"]
    held_out = {name.split("/")[0].removesuffix(".py") for name in paths["held-out"]}
    assert held_out <= set(HELD_OUT_MODULES)
    assert not paths["train"] & (paths["held-out"] | paths["tests"])
    assert not any(name.startswith(tuple(f"{module}/" for module in HELD_OUT_MODULES)) for name in paths["train"])
    assert not any("test" in name.split("/")[:-1] for name in paths["train"])
    assert not any("json" in name.split("/") or "test_json" in name for name in paths["tests"])
