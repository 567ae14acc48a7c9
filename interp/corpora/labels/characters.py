"""From the labels of characters to those of tokens, and to the share of a text that has a label.

A token has a label if more than half of its non-blank characters have it; a token of blanks only, if more than half of all
its characters do. Labels of blanks need another rule, because byte-level tokenizers join a newline to the blanks of the
next line (``"\\n       "``). A label that is a number (``_depth``) has the value of the token's first non-blank character,
or of its last character if the token is blank: the depth of the line that follows. A token without characters has no label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, UInt8

from interp.corpora.documents import Document
from interp.errors import InputError

TokenRule = Literal["any", "any if blank"]
"""For labels of blanks. "any": a token has the label if any of its characters has it. "any if blank": only if the whole
token is also blank."""


@dataclass(frozen=True)
class CharacterLabels:
    """Labels of every character of a document, and from them those of tokens and of whole texts."""

    columns: Callable[[Document], Iterator[tuple[str, UInt8[np.ndarray, " n_chars"]]]]
    """Document to (label, its value for each character), the same labels in the same order for every document. Labels
    come one at a time, so that those of a long document are never all in memory."""
    rules: Mapping[str, TokenRule] = field(default_factory=dict)
    """The labels of blanks, each with its rule."""

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
        text = document.text
        start, end = np.asarray(spans, np.int64).T
        wrong = np.flatnonzero((start < 0) | (end < start) | (end > len(text)))
        if len(wrong):
            raise InputError(
                f"span {spans[wrong[0]].tolist()} of token {wrong[0]} is not in a text of {len(text)} characters"
            )
        is_solid = ~_is_blank(text)
        n_solid = _sums(is_solid, start, end)
        is_blank_token = n_solid == 0
        n_judged = np.where(is_blank_token, end - start, n_solid)
        solid = np.append(np.flatnonzero(is_solid), len(text))
        decisive = np.where(is_blank_token, end - 1, solid[np.searchsorted(solid, start)])
        labels = []
        for name, values in self.columns(document):
            if name.endswith("_depth"):
                labels.append(np.where(end > start, np.append(values, 0)[decisive], 0))
                continue
            n_labelled, rule = _sums(values, start, end), self.rules.get(name)
            if rule is None:
                n_labelled = np.where(is_blank_token, n_labelled, _sums(values & is_solid, start, end))
                labels.append(2 * n_labelled > n_judged)
            else:
                labels.append((n_labelled > 0) & (is_blank_token | (rule == "any")))
        return np.stack(labels, axis=1).astype(np.uint8)

    def share_of_text(self, text: str, *, start: int = 0) -> dict[str, float]:
        """The share (0 to 1) of the non-blank characters from ``start`` on that have each label.

        To judge a continuation, give prompt and continuation together and the prompt's length as ``start``: only the
        prompt shows whether the continuation begins inside a docstring or a call. If only blanks were written, every
        share is 0. Labels of blanks and numbers are left out.
        """
        is_judged = ~_is_blank(text)
        is_judged[:start] = False
        n_judged = max(int(is_judged.sum()), 1)
        return {
            name: float(values[is_judged].sum() / n_judged)
            for name, values in self.columns(Document("text", text))
            if name not in self.rules and not name.endswith("_depth")
        }


_BLANK_CODES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


def _is_blank(text: str) -> Bool[np.ndarray, " n_chars"]:
    return np.isin(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32), _BLANK_CODES)


def _sums(
    values: Bool[np.ndarray, " n_chars"] | UInt8[np.ndarray, " n_chars"],
    start: Int[np.ndarray, " n_tokens"],
    end: Int[np.ndarray, " n_tokens"],
) -> Int[np.ndarray, " n_tokens"]:
    total = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=total[1:])
    return total[end] - total[start]
