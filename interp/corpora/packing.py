"""Packing: documents to full token sequences.

Every sequence is one beginning-of-sequence token followed by ``n_ctx - 1`` tokens of text. Documents are laid end to
end with one separator token between them and cut into sequences, so that no position is padding and each token
can be traced back to its document and character offset.

Of each document all is taken, or a few snippets, each followed by a separator as a document is.

Text is tokenised in batches, by as many threads as the tokenizers package uses, and long documents in pieces, so that memory
stays bounded. On one thread the tokenizer itself takes more than 4/5 of the time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from interp.corpora.documents import Corpus, Document, LabelSet
from interp.corpora.snippets import Snippets
from interp.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

BATCH_CHARACTERS = 1 << 18
"""Characters tokenised at once, at about 40 bytes of memory each; larger batches are no faster. A longer document is
tokenised in pieces that end before a line break, where a word ends anyway."""


@dataclass(frozen=True)
class Sequences:
    """A run of packed sequences; arrays are [n_seq, n_ctx] unless said otherwise."""

    tokens: Int[np.ndarray, "n_seq n_ctx"]
    """Token ids, int32; column 0 is the beginning-of-sequence token."""
    document: Int[np.ndarray, "n_seq n_ctx"]
    """Number of the document a token comes from, counted over the whole corpus, int32."""
    offset: Int[np.ndarray, "n_seq n_ctx"]
    """First character of the token in its document; -1 for separators, int32."""
    is_row: Bool[np.ndarray, "n_seq n_ctx"]
    """True for tokens of text, up to the number of tokens requested; False for separators and what follows."""
    labels: UInt8[np.ndarray, "n_seq n_ctx n_labels"]
    """Labels of each token, the columns of all label sets side by side; the last axis is empty without a label set."""
    document_names: dict[int, str]
    """Names of the documents that occur here."""


def pack(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    *,
    bos_id: int,
    n_ctx: int,
    n_tokens: int | None,
    block: int,
    snippets: Snippets | None = None,
) -> Iterator[Sequences]:
    """Exactly ``n_tokens`` tokens of text, in blocks of ``block`` sequences of ``n_ctx`` (the last may be smaller).

    ``n_tokens`` of None is all of the text. Documents, or their ``snippets``, are laid end to end with one separator
    (``bos_id``) after each; every sequence begins with ``bos_id``. A separator that occurs in the text, such as
    ``<|endoftext|>``, counts as a separator. The same corpus gives the same blocks. Raises InputError when the corpus holds
    less text than asked for, or none.
    """
    most = sys.maxsize if n_tokens is None else n_tokens
    size = block * (n_ctx - 1)
    rest = _Stream.empty(sum(len(label_set.labels) for label_set in corpus.label_sets))
    n_left = most
    for stream in _tokenised(corpus, tokenizer, bos_id, snippets):
        rest = rest.followed_by(stream)
        while len(rest.tokens) >= size:
            packed = _cut(rest[:size], n_ctx, bos_id, n_left)
            rest = rest[size:]
            n_left -= int(packed.is_row.sum())
            yield packed
            if n_left == 0:
                return
    n_rest = int((rest.offset >= 0).sum())
    n_held = most - n_left + n_rest
    if not n_held:
        raise InputError(f"the text '{corpus.name}' is empty; give other text")
    if n_tokens is not None and n_held < n_tokens:
        short = f" (less than one sequence of {n_ctx})" if n_held < n_ctx - 1 else ""
        taken, more = ("", "text") if snippets is None else (f" in snippets, {snippets}", "text or longer snippets")
        raise InputError(
            f"the text '{corpus.name}' holds {n_held:,} tokens{short}{taken}, but {n_tokens:,} were asked for; "
            f"ask for all of it with --tokens all, for {n_held} or fewer, or give more {more} and another --out"
        )
    if n_rest:
        yield _cut(rest, n_ctx, bos_id, min(n_left, n_rest))


@dataclass
class _Stream:
    """Tokens of one or more documents end to end, before they are cut into sequences; arrays have one row per token."""

    tokens: np.ndarray
    document: np.ndarray
    offset: np.ndarray
    labels: np.ndarray
    names: dict[int, str] = field(default_factory=dict)
    """Document number to name; may hold documents of which no token is left."""

    @staticmethod
    def empty(n_labels: int) -> _Stream:
        none = np.zeros(0, dtype=np.int32)
        return _Stream(none, none, none, np.zeros((0, n_labels), dtype=np.uint8))

    def __getitem__(self, part: slice | np.ndarray) -> _Stream:
        return _Stream(self.tokens[part], self.document[part], self.offset[part], self.labels[part], self.names)

    def followed_by(self, other: _Stream) -> _Stream:
        first = int(self.document[0]) if len(self.document) else 0
        return _Stream(
            tokens=np.concatenate([self.tokens, other.tokens]),
            document=np.concatenate([self.document, other.document]),
            offset=np.concatenate([self.offset, other.offset]),
            labels=np.concatenate([self.labels, other.labels]),
            names={number: name for number, name in self.names.items() if number >= first} | other.names,
        )


@dataclass(frozen=True)
class _Piece:
    """A part of a document that is tokenised at once."""

    number: int
    """Number of the document, counted over the whole corpus."""
    document: Document
    text: str
    start: int
    """Where the text begins in the document."""
    has_separator: bool
    """Whether a separator follows: after the last piece of a document, and after every one that gives snippets."""
    n_snippets: int = 0
    """How many it gives, where snippets are taken."""


def _tokenised(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, bos_id: int, snippets: Snippets | None
) -> Iterator[_Stream]:
    """The tokens of the non-empty documents in order, with a separator after each document, or each snippet."""
    exact = _with_exact_spans(tokenizer)
    for batch in _batches(corpus.documents, snippets):
        texts = [piece.text for piece in batch]
        try:
            encoded = exact.encode_batch(texts, add_special_tokens=False)
        except TypeError:  # half of a surrogate pair, which broken JSON can hold, is no character
            texts = [text.encode(errors="replace").decode() for text in texts]
            encoded = exact.encode_batch(texts, add_special_tokens=False)
        stream, spans = _stream(batch, encoded, corpus.label_sets, bos_id)
        yield stream if snippets is None else stream[_kept(batch, spans, snippets)]


def _batches(documents: Iterable[Document], snippets: Snippets | None) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    n_characters = 0
    for number, document in enumerate(document for document in documents if document.text):
        for piece in _pieces(number, document, snippets):
            batch.append(piece)
            n_characters += len(piece.text)
            if n_characters >= BATCH_CHARACTERS:
                yield batch
                batch, n_characters = [], 0
    if batch:
        yield batch


def _pieces(number: int, document: Document, snippets: Snippets | None) -> Iterator[_Piece]:
    """A document in pieces; those that give no snippet, where snippets are taken, are left out."""
    text, bounds = document.text, [0]
    while bounds[-1] < len(text):
        start, end = bounds[-1], bounds[-1] + BATCH_CHARACTERS
        if end < len(text):
            before_line_break = text[start : max(text.rfind("\n", start, end), start)].rstrip()
            end = start + len(before_line_break) if before_line_break else end
        bounds.append(min(end, len(text)))
    n_snippets = snippets.per_piece(document, len(bounds) - 1) if snippets else [0] * (len(bounds) - 1)
    for n, (start, end) in zip(n_snippets, pairwise(bounds), strict=True):
        if n or snippets is None:
            has_separator = snippets is not None or end == len(text)
            yield _Piece(number, document, text[start:end], start, has_separator, n)


def _kept(batch: list[_Piece], spans: list[np.ndarray], snippets: Snippets) -> Int[np.ndarray, " n_kept"]:
    """Which tokens of the batch's stream the snippets hold, the piece's separator after each."""
    kept: list[np.ndarray] = []
    first = 0
    for piece, part in zip(batch, spans, strict=True):
        separator = first + len(part)
        for start, stop in snippets.ranges(piece.document, part, piece.n_snippets):
            kept += [np.arange(first + start, first + stop), np.asarray([separator])]
        first = separator + 1
    return np.concatenate(kept)


def _stream(
    batch: list[_Piece], encoded: list[Any], label_sets: tuple[LabelSet, ...], bos_id: int
) -> tuple[_Stream, list[np.ndarray]]:
    """The encodings of a batch as arrays, and the spans of each piece's tokens in the document.

    On nested lists ``fromiter`` is twice as fast as ``asarray``.
    """
    n_text = np.asarray([len(encoding) for encoding in encoded])
    length = n_text + np.asarray([piece.has_separator for piece in batch])
    is_text = np.ones(length.sum(), dtype=bool)
    is_text[np.cumsum(length)[length > n_text] - 1] = False
    tokens = np.full(len(is_text), bos_id, dtype=np.int32)
    tokens[is_text] = np.fromiter(
        chain.from_iterable(encoding.ids for encoding in encoded), dtype=np.int32, count=n_text.sum()
    )
    flat = chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encoded))
    spans = np.fromiter(flat, dtype=np.int32, count=2 * n_text.sum()).reshape(-1, 2)
    spans += np.repeat(np.asarray([piece.start for piece in batch], dtype=np.int32), n_text)[:, None]
    offset = np.full(len(is_text), -1, dtype=np.int32)
    offset[is_text] = spans[:, 0]
    offset[tokens == bos_id] = -1
    labels = np.zeros((len(is_text), sum(len(label_set.labels) for label_set in label_sets)), dtype=np.uint8)
    parts, at = np.split(spans, np.cumsum(n_text)[:-1]), 0
    for label_set in label_sets:
        labels[is_text, at : at + len(label_set.labels)] = np.concatenate(
            [label_set.label_tokens(piece.document, part) for piece, part in zip(batch, parts, strict=True)]
        )
        at += len(label_set.labels)
    numbers = np.asarray([piece.number for piece in batch], dtype=np.int32)
    names = {piece.number: piece.document.name for piece in batch}
    return _Stream(tokens, np.repeat(numbers, length), offset, labels, names), parts


def _with_exact_spans(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the tokenizer whose spans cover whole tokens and which never truncates text.

    The spans of some tokenizers (Pythia's) leave out a token's blanks. The byte-level post-processor without trimming
    changes no span, whatever the kind of tokenizer.
    """
    from tokenizers import Tokenizer, processors  # deferred: slow

    exact = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    exact.post_processor = processors.ByteLevel(trim_offsets=False)
    exact.no_truncation()
    exact.no_padding()
    return exact


def _cut(stream: _Stream, n_ctx: int, bos_id: int, n_rows: int) -> Sequences:
    """A stream as whole sequences with at most ``n_rows`` tokens marked as rows; sequences past the last row are dropped."""
    is_text = stream.offset >= 0
    held = np.cumsum(is_text)
    last = int(np.searchsorted(held, n_rows)) + 1 if held[-1] >= n_rows else len(is_text)
    n_seq = -(-last // (n_ctx - 1))

    def shaped(values: np.ndarray, first: int, fill: int) -> np.ndarray:
        padded = np.full((n_seq * (n_ctx - 1), *values.shape[1:]), fill, dtype=values.dtype)
        padded[: min(last, len(values))] = values[:last]
        rows = padded.reshape(n_seq, n_ctx - 1, *values.shape[1:])
        return np.concatenate([np.full((n_seq, 1, *values.shape[1:]), first, dtype=values.dtype), rows], axis=1)

    document = shaped(stream.document, 0, int(stream.document[last - 1]))
    document[:, 0] = document[:, 1]
    return Sequences(
        tokens=shaped(stream.tokens, bos_id, bos_id),
        document=document,
        offset=shaped(stream.offset, -1, -1),
        is_row=shaped(is_text, False, False),
        labels=shaped(stream.labels, 0, 0),
        document_names={int(number): stream.names[int(number)] for number in np.unique(document)},
    )
