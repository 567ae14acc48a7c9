"""Snippets: a few short stretches of every document in place of the whole, so that equal tokens come from more documents.

Places are drawn from the seed and the document's name alone: the same document gives the same snippets wherever it stands.
The tokens are those of the whole document, so a snippet never begins or ends in a token that its text would not have.
"""

from __future__ import annotations

import re
import zlib
from itertools import pairwise

import numpy as np
from jaxtyping import Int

from interp.corpora.documents import Document
from interp.records import Record

_LINE = re.compile(r"^[^\S\n]*\S", re.MULTILINE)
_WORD = re.compile(r"(?<!\S)\S")


class Snippets(Record, frozen=True):
    """How much of a document is kept."""

    per_document: int
    """Most snippets of one document."""
    tokens: int
    """Most tokens of one snippet."""
    seed: int
    """Of the places."""

    def __str__(self) -> str:
        return f"at most {self.per_document} of {self.tokens} tokens a document, seed {self.seed}"

    def per_piece(self, document: Document, n_pieces: int) -> list[int]:
        """How many snippets each of a document's pieces gives: as evenly as whole numbers allow, from a random one on."""
        first = int(self._random(document).integers(n_pieces))
        bounds = [(i * self.per_document + first) // n_pieces for i in range(n_pieces + 1)]
        return [stop - start for start, stop in pairwise(bounds)]

    def ranges(
        self, document: Document, spans: Int[np.ndarray, "n_tokens 2"], n_snippets: int
    ) -> list[tuple[int, int]]:
        """(first token, the one after the last) of ``n_snippets`` snippets of a piece of a document, in order.

        ``spans`` holds the first character, in the document, of each of the piece's tokens, and the one after its last. A
        piece of no more tokens than the snippets may have is one range, the whole. Otherwise it is cut into ``n_snippets``
        equal parts. In each a place is drawn, uniformly from those that leave room for ``tokens`` tokens, and the snippet
        begins with the nearest line that does, blank ones left out. Where no such line is nearer than the snippet is long, it
        begins with the nearest word, and where there is no word either, at the place itself.
        """
        n, size = len(spans), self.tokens
        if n <= n_snippets * size:
            return [(0, n)]
        random = self._random(document, int(spans[0, 0]))
        beginnings = [_tokens_at(_LINE, document, spans), _tokens_at(_WORD, document, spans), np.arange(n)]
        found = []
        for first, stop in pairwise(i * n // n_snippets for i in range(n_snippets + 1)):
            place = int(random.integers(first, stop - size + 1))
            lowest, highest = max(first, place - size), min(stop - size, place + size)
            fits = (at[(lowest <= at) & (at <= highest)] for at in beginnings)
            near = next(at for at in fits if len(at))
            start = int(near[np.abs(near - place).argmin()])
            found.append((start, start + size))
        return found

    def _random(self, document: Document, *more: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(document.name.encode(errors="replace")), *more])


def _tokens_at(
    pattern: re.Pattern[str], document: Document, spans: Int[np.ndarray, "n_tokens 2"]
) -> Int[np.ndarray, " n_beginnings"]:
    """The tokens that hold the first character of each match, or the next ones where no token does, ascending.

    A byte-level tokenizer joins a newline to the blanks of the next line: that token holds the line's first character.
    """
    starts, ends = spans.T
    matches = pattern.finditer(document.text, int(starts[0]), int(ends[-1]))
    at = np.fromiter((match.start() for match in matches), dtype=np.int64)
    token = np.searchsorted(starts, at)
    before = np.maximum(token - 1, 0)
    token = np.where((starts[before] < at) & (at < ends[before]), before, token)
    return np.unique(token[token < len(spans)])
