"""From the labels of characters to those of tokens, and to the share of a text that has a label.

A token has a label if more than half of its non-blank characters have it; a token of blanks only, if more than half of all
its characters do. Labels of blanks need another rule, because byte-level tokenizers join a newline to the blanks of the
next line (``"\\n       "``). A label that is a number (``_depth``) has the value of the token's first non-blank character,
or of its last character if the token is blank: the depth of the line that follows. A token without characters has no label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt32

from interp.corpora.documents import Document
from interp.errors import InputError

TokenRule = Literal["any", "any if blank", "first"]
"""For labels of blanks and of places. "any": a token has the label if any of its characters has it. "any if blank": only if the
whole token is also blank. "first": if its first non-blank character has it."""


@dataclass(frozen=True)
class CharacterLabels:
    """Labels of every character of a document, and from them those of tokens and of whole texts."""

    columns: Callable[[Document], Iterator[tuple[str, UInt8[np.ndarray, " n_chars"]]]]
    """Document to (label, its value for each character), the same labels in the same order for every document. Labels
    come one at a time, so that those of a long document are never all in memory."""
    rules: Mapping[str, TokenRule] = field(default_factory=dict)
    """The labels of blanks and of places, each with its rule."""
    context: Callable[[str, int, int], tuple[int, int]] | None = None
    """(text, start, end) to the part of a text, start and end, that decides the labels of its characters from ``start`` to
    ``end``: a long document, which comes in several calls, is then read once. None where only the whole document does."""

    def label_characters(self, document: Document) -> UInt8[np.ndarray, "n_chars n_labels"]:
        """The labels of every character: 0 or 1, or a number up to 255."""
        return np.stack([values for _, values in self.columns(document)], axis=1)

    def label_tokens(
        self, document: Document, spans: Int[np.ndarray, "n_tokens 2"]
    ) -> UInt8[np.ndarray, "n_tokens n_labels"]:
        """The labels of model tokens.

        ``spans`` holds each token's first character and the one after its last, as fast tokenizers give them in
        ``offset_mapping``. Raises InputError for a span that does not lie in the text.
        """
        start, end = np.asarray(spans, np.int64).T
        n_characters = len(document.text)
        wrong = np.flatnonzero((start < 0) | (end < start) | (end > n_characters))
        if len(wrong):
            raise InputError(
                f"span {spans[wrong[0]].tolist()} of token {wrong[0]} is not in a text of {n_characters} characters"
            )
        if self.context is not None and len(start):
            first, last = self.context(document.text, int(start.min()), int(end.max()))
            document, start, end = Document(document.name, document.text[first:last]), start - first, end - first
        is_solid = ~is_blank(document.text)
        n_solid = _sums(is_solid[None], start, end)[0]
        is_blank_token = n_solid == 0
        n_judged = np.where(is_blank_token, end - start, n_solid)
        solid = np.append(np.flatnonzero(is_solid), len(document.text))
        decisive = np.where(is_blank_token, end - 1, solid[np.searchsorted(solid, start)])
        labels = []
        for names, values in _blocks(self.columns(document)):
            n_labelled = _sums(values & is_solid, start, end)
            on_blanks = np.flatnonzero((values & ~is_solid).any(axis=1))
            n_on_blanks = _sums(values[on_blanks], start[is_blank_token], end[is_blank_token])
            n_labelled[np.ix_(on_blanks, is_blank_token)] = n_on_blanks
            block = (2 * n_labelled > n_judged).astype(np.uint8)
            for row, name in enumerate(names):
                rule = self.rules.get(name)
                if rule == "first" or name.endswith("_depth"):
                    block[row] = np.where(end > start, np.append(values[row], 0)[decisive], 0)
                elif rule is not None:
                    has_any = _sums(values[row : row + 1], start, end)[0] > 0
                    block[row] = has_any & (is_blank_token | (rule == "any"))
            labels.append(block)
        return np.ascontiguousarray(np.concatenate(labels).T)

    def share_of_text(self, text: str, *, start: int = 0) -> dict[str, float]:
        """The share (0 to 1) of the non-blank characters from ``start`` on that have each label.

        To judge a continuation, give prompt and continuation together and the prompt's length as ``start``: only the
        prompt shows whether the continuation begins inside a docstring or a call. If only blanks were written, every
        share is 0. Labels of blanks and numbers are left out.
        """
        is_judged = ~is_blank(text)
        is_judged[:start] = False
        n_judged = max(int(is_judged.sum()), 1)
        return {
            name: float(values[is_judged].sum() / n_judged)
            for name, values in self.columns(Document("text", text))
            if name not in self.rules and not name.endswith("_depth")
        }


_BLANK_CODES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)
_VALUES_HELD = 1 << 22


def codes_of(text: str) -> UInt32[np.ndarray, " n_chars"]:
    """The code point of each character, halves of surrogate pairs among them."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def is_blank(text: str) -> Bool[np.ndarray, " n_chars"]:
    """Whether each character is a blank, a newline among them."""
    return np.isin(codes_of(text), _BLANK_CODES)


def _blocks(
    columns: Iterable[tuple[str, UInt8[np.ndarray, " n_chars"]]],
) -> Iterator[tuple[list[str], UInt8[np.ndarray, "k n_chars"]]]:
    """Columns side by side: all of a short document, where a call costs more than the sums, and single ones of a long one."""
    names: list[str] = []
    held: list[np.ndarray] = []
    for name, values in columns:
        names.append(name)
        held.append(values)
        if len(held) * len(values) >= _VALUES_HELD:
            yield names, np.stack(held)
            names, held = [], []
    if held:
        yield names, np.stack(held)


def _sums(
    values: Bool[np.ndarray, "k n_chars"] | UInt8[np.ndarray, "k n_chars"],
    start: Int[np.ndarray, " n_tokens"],
    end: Int[np.ndarray, " n_tokens"],
) -> Int[np.ndarray, "k n_tokens"]:
    total = np.zeros((len(values), values.shape[1] + 1), np.int32)
    np.cumsum(values, axis=1, out=total[:, 1:])
    return np.take(total, end, axis=1) - np.take(total, start, axis=1)
