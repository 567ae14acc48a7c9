"""Packing text into sequences: nothing lost, nothing padded in the middle, every token traceable."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from interp.corpora import packing
from interp.corpora.documents import Corpus, Document, LabelSet
from interp.corpora.packing import Sequences, pack
from interp.corpora.sources import make_corpus
from interp.errors import InputError

BOS = 0


def packed(
    corpus: Corpus, tokenizer: Any, *, n_ctx: int = 16, n_tokens: int | None = 1000, block: int = 7
) -> list[Sequences]:
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
    message = (
        rf"'made up' holds {held:,} tokens, but {asked:,} were asked for; .* --tokens all, for {held} or fewer, or"
    )
    with pytest.raises(InputError, match=message):
        packed(tiny_corpus, tiny_tokenizer, n_tokens=asked)


@pytest.mark.parametrize("n_tokens", [5, None])
@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_empty_text_is_refused(tiny_tokenizer: Any, texts: list[str], n_tokens: int | None) -> None:
    with pytest.raises(InputError, match="the text 'nothing' is empty; give other text"):
        packed(make_corpus(texts, "nothing"), tiny_tokenizer, n_tokens=n_tokens)


def test_text_shorter_than_one_sequence_is_refused_unless_less_is_asked_for(tiny_tokenizer: Any) -> None:
    corpus = make_corpus(["x = 1"], "short")
    n_held = len(tiny_tokenizer("x = 1")["input_ids"])
    message = rf"'short' holds {n_held} tokens \(less than one sequence of 16\), but 15 were asked for; ask for all"
    with pytest.raises(InputError, match=message):
        packed(corpus, tiny_tokenizer, n_tokens=15)
    [block] = packed(corpus, tiny_tokenizer, n_tokens=n_held)
    assert block.is_row.sum() == n_held


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_all_of_the_text_is_as_many_tokens_as_it_holds(tiny_corpus: Corpus, tiny_tokenizer: Any, block: int) -> None:
    counted = packed(tiny_corpus, tiny_tokenizer, n_tokens=n_tokens_of(tiny_corpus, tiny_tokenizer), block=block)
    for whole, part in zip(packed(tiny_corpus, tiny_tokenizer, n_tokens=None, block=block), counted, strict=True):
        np.testing.assert_array_equal(whole.tokens, part.tokens)
        np.testing.assert_array_equal(whole.is_row, part.is_row)


def test_a_tokenizer_that_truncates_does_not_cut_documents_short(tiny_tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    cutting = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, bos_token="<|endoftext|>")
    cutting.backend_tokenizer.enable_truncation(8)
    [block] = packed(Corpus("long", [Document("a", "word " * 100)]), cutting, n_ctx=512, n_tokens=200, block=1)
    assert block.is_row.sum() == 200


def test_labels_of_text_without_labels_have_no_columns(tiny_tokenizer: Any) -> None:
    [block] = packed(Corpus("bare", [Document("a", "some text")]), tiny_tokenizer, n_tokens=4)
    assert block.labels.shape == (*block.tokens.shape, 0)
    wide = LabelSet("wide", {"a": "all", "b": "all"}, lambda document, spans: np.ones((len(spans), 2), np.uint8))
    [block] = packed(Corpus("wide", [Document("a", "some text")], (wide,)), tiny_tokenizer, n_tokens=4)
    assert block.labels[block.is_row].all()


# ------------------------------------------------------------------------------------- batches, pieces, broken characters


@pytest.mark.parametrize("characters", [300, 1000, 10_000])
def test_how_much_is_tokenised_at_a_time_changes_nothing(
    tiny_corpus: Corpus, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, characters: int
) -> None:
    expected = packed(tiny_corpus, tiny_tokenizer)
    monkeypatch.setattr(packing, "BATCH_CHARACTERS", characters)
    found = packed(tiny_corpus, tiny_tokenizer)
    for field in ("tokens", "document", "offset", "is_row", "labels"):
        np.testing.assert_array_equal(joined(found, field), joined(expected, field))
    assert [block.document_names for block in found] == [block.document_names for block in expected]


@pytest.mark.parametrize("characters", [7, 40, 300])
def test_a_long_document_is_tokenised_in_pieces_and_stays_one_document(
    tiny_corpus: Corpus, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, characters: int
) -> None:
    """Pieces of 40 characters end before a line break, where this tokenizer begins a new word in any case."""
    text = "".join(document.text for document in tiny_corpus.documents)
    whole = Corpus("long", [Document("a", text)], tiny_corpus.label_sets)
    expected = packed(whole, tiny_tokenizer)
    monkeypatch.setattr(packing, "BATCH_CHARACTERS", characters)
    found = packed(whole, tiny_tokenizer)
    if characters > max(map(len, text.split("\n"))):
        for field in ("tokens", "offset", "labels"):
            np.testing.assert_array_equal(joined(found, field), joined(expected, field))
    rows = joined(found, "is_row")
    assert not (joined(found, "tokens")[:, 1:] == BOS).any(axis=1)[:-1].any()  # no separator within it
    pieces = [tiny_tokenizer.decode([token]) for token in joined(found, "tokens")[rows]]
    at = joined(found, "offset")[rows]
    assert all(text[start:].startswith(piece) for start, piece in zip(at, pieces, strict=True) if "�" not in piece)
    assert (np.diff(at) >= 0).all()


def test_memory_does_not_grow_with_the_documents_that_have_gone_by(tiny_tokenizer: Any) -> None:
    """Endless text can be packed, and a block names its own documents alone."""
    endless = make_corpus(lambda: ({"text": f"text number {i}"} for i in itertools.count()), "endless", labels=())
    n_read = 0
    for block in pack(endless, tiny_tokenizer, bos_id=BOS, n_ctx=32, n_tokens=30_000, block=64):
        assert sorted(block.document_names) == sorted(set(block.document.ravel().tolist()))
        assert all(block.document_names[number] == f"endless:{number}" for number in block.document_names)
        n_read += int(block.is_row.sum())
    assert n_read == 30_000


def test_half_of_a_surrogate_pair_is_read_as_one_unknown_character(tiny_tokenizer: Any) -> None:
    broken, clean = make_corpus(["fine", "a\ud83d = 1\n"], "t"), make_corpus(["fine", "a? = 1\n"], "t")
    [found] = packed(broken, tiny_tokenizer, n_tokens=8)
    [expected] = packed(clean, tiny_tokenizer, n_tokens=8)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.offset, expected.offset)


# --------------------------------------------------------------------------------------------- tokenizers of other kinds

PROSE = ["The dogs were running in the park on Monday.", "She said  that 3 cats sat, déjà vu; 日本 too.\nAnd the end."]


def other_tokenizer(kind: str) -> Any:
    """A tokenizer of the kind that T5 and Gemma ("unigram", "metaspace"), Llama 2 ("llama"), or BERT ("wordpiece") have."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    special = {"special_tokens": ["<s>", "<unk>"], "show_progress": False}
    trainer: Any
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=80, unk_token="<unk>", **special)
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = (
            normalizers.BertNormalizer(strip_accents=False),
            pre_tokenizers.BertPreTokenizer(),
        )
        trainer = trainers.WordPieceTrainer(vocab_size=120, **special)
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        if kind == "metaspace":
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        else:
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        trainer = trainers.BpeTrainer(
            vocab_size=310, special_tokens=["<s>", "<unk>", *bytes_], limit_alphabet=30, show_progress=False
        )
    tokenizer.train_from_iterator(PROSE * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


@pytest.mark.parametrize("kind", ["unigram", "metaspace", "llama", "wordpiece"])
def test_tokens_of_every_kind_of_tokenizer_are_traced_to_where_they_stand(kind: str) -> None:
    tokenizer = other_tokenizer(kind)
    n_tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in PROSE)
    blocks = packed(make_corpus(PROSE), tokenizer, n_tokens=n_tokens)
    found: dict[int, list[int]] = {0: [], 1: []}
    for block in blocks:
        rows = zip(block.tokens[block.is_row], block.document[block.is_row], block.offset[block.is_row], strict=True)
        for token, document, offset in rows:
            piece = tokenizer.convert_ids_to_tokens(int(token)).removeprefix("##")
            text = PROSE[document].lower() if kind == "wordpiece" else PROSE[document]
            found[document].append(int(offset))
            if piece.startswith("<0x"):  # a byte of the character it points at
                assert int(piece[3:5], 16) in text[offset].encode()
            elif piece not in ("<unk>", "▁"):
                shown = piece.replace("▁", " ")
                # A blank put before the text is no character of it.
                assert text[offset:].startswith(shown) or (offset == 0 and text.startswith(shown[1:]))
    for document, offsets in found.items():
        assert offsets == sorted(offsets)
        assert offsets[0] == 0
        assert offsets[-1] > len(PROSE[document]) - 10
