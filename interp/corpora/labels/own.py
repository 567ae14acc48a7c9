"""Labels that documents carry: for the whole text, and for spans of it.

They become one label set, ``label``, with a 0-or-1 column for each label. The label of a whole text is on all of its tokens.
The label of a span is on each token that shares a non-blank character with it: tokenizers put the blank before a word into its
token and cut words where no person does, so that what a person marked is often a part of a token, or parts of several; and a
blank that was marked along with a word is no reason to label the token after it. Tokens of blanks alone have no span's label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Int, UInt8

from interp.corpora.documents import Corpus, Document, LabelSet, Span, rereadable
from interp.corpora.labels.characters import is_blank
from interp.errors import InputError

MAX_LABELS = 255
"""Distinct labels a corpus may have; each takes a byte per token. More would be identifiers rather than classes."""


def labelled_corpus(name: str, documents: Iterable[Document], labels: Iterable[str] | None = None) -> Corpus:
    """A corpus whose one label set is the labels of its documents; without labels if the first document has none.

    Without ``labels``, the labels are collected by reading ``documents`` once. Raises InputError where documents with and
    without a label, or with and without spans, are mixed: at once in a labelled corpus, otherwise when the first labelled one
    is read.
    """
    alike = _all_or_none(name, documents)
    first = next(iter(alike), None)
    if first is None or (first.label is None and first.spans is None):
        return Corpus(name, alike)
    own = _own_labels(name, labels or (label for each in alike for label in _labels_of(each)))
    return Corpus(name, alike, (own,) if own.labels else ())


def _labels_of(document: Document) -> list[str]:
    return [*([] if document.label is None else [document.label]), *(span.label for span in document.spans or ())]


@rereadable
def _all_or_none(name: str, documents: Iterable[Document]) -> Iterator[Document]:
    """The documents; InputError at the first that has a label (or spans) where the others have none, or the reverse."""
    first: Document | None = None
    for document in documents:
        first = first or document
        for own, others, what in (
            (document.label, first.label, "label"),
            (document.spans, first.spans, "list of spans"),
        ):
            if (own is None) != (others is None):
                has, have = ("no", "a") if own is None else ("a", "no")
                hint = "" if what == "label" else " (an empty list where there is nothing to mark)"
                raise InputError(
                    f"'{document.name}' has {has} {what}, but what comes before it in '{name}' has {have} {what}; "
                    f"label all or none{hint}"
                )
        yield document


def _own_labels(name: str, labels: Iterable[str]) -> LabelSet:
    """One column for every distinct label, in alphabetical order."""
    distinct: set[str] = set()
    for label in labels:
        distinct.add(label)
        if len(distinct) > MAX_LABELS:
            raise InputError(f"the text '{name}' has more than {MAX_LABELS} different labels; rename or group them")
        if label.endswith("_depth"):
            raise InputError(f"the label '{label}' of '{name}' ends in _depth, which is kept for numbers; rename it")
    column = {label: i for i, label in enumerate(sorted(distinct))}

    def label_tokens(document: Document, spans: Int[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "n n_labels"]:
        for label in _labels_of(document):
            if label not in column:  # the file has changed, or a class number has no name
                raise InputError(f"the label '{label}' of '{document.name}' is not among those of '{name}'")
        rows = np.zeros((len(spans), len(column)), dtype=np.uint8)
        if document.label is not None:
            rows[:, column[document.label]] = 1
        for label, marked in _marked_tokens(document, np.asarray(spans, np.int64)):
            rows[marked, column[label]] = 1
        return rows

    return LabelSet(
        "label", {label: f"what the documents themselves label '{label}'" for label in column}, label_tokens
    )


def _marked_tokens(document: Document, tokens: Int[np.ndarray, "n 2"]) -> Iterator[tuple[str, Bool[np.ndarray, " n"]]]:
    """Each label of the document's spans and the tokens that have it; reads the text from the first token to the last alone."""
    if not document.spans or not len(tokens):
        return
    first, last = int(tokens[:, 0].min()), int(tokens[:, 1].max())
    is_solid = ~is_blank(document.text[first:last])
    by_label: defaultdict[str, list[Span]] = defaultdict(list)
    for span in document.spans:
        if span.start < last and span.end > first:
            by_label[span.label].append(span)
    for label, spans in by_label.items():
        is_marked = np.zeros(last - first, bool)
        for span in spans:
            is_marked[max(span.start - first, 0) : span.end - first] = True
        n_marked = np.append(0, np.cumsum(is_marked & is_solid))
        start, end = (tokens - first).T
        yield label, n_marked[end] > n_marked[start]
