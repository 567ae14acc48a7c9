"""Documents, corpora of documents, and label sets, which label every token of a document.

A document may carry one label of its own, such as the concept a sentence is an example of. Such labels become a label
set named ``label``: one 0-or-1 column for each label, the same for every token of the document. Label sets computed
from the text itself, such as that of Python source, are in ``interp.corpora.labels``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ParamSpec, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from interp.errors import InputError

MAX_LABELS = 255
"""Distinct labels a corpus may have; each takes a byte per token. More would be identifiers rather than classes."""

Options = ParamSpec("Options")


@dataclass(frozen=True)
class Document:
    """A named text."""

    name: str
    """Shown in the dashboard and in error messages: a path, a module name, a file and line."""
    text: str
    label: str | None = None
    """What the whole text is an example of, if known."""


@runtime_checkable
class TextJudge(Protocol):
    """Says how much of a text, such as one that a model wrote, each label covers; from the text alone."""

    def __call__(self, text: str, *, start: int) -> dict[str, float]:
        """Share, 0 to 1, of the non-blank characters of ``text`` from ``start`` on that have each label.

        The text before ``start`` is the prompt. The result has every label the judge knows, for every text.
        """
        ...


@dataclass(frozen=True)
class LabelSet:
    """A way of labelling text, token by token."""

    name: str
    """Key the labels are stored under, and their name in ``interp capture --labels NAME``."""
    meanings: Mapping[str, str]
    """Each label and what it means, in a few words; the order is that of the columns. Labels whose name ends in ``_depth``
    are whole numbers from 0 to 255, all others are 0 or 1."""
    label_tokens: Callable[[Document, np.ndarray], np.ndarray]
    """(document, character spans [n_tokens, 2]) to labels [n_tokens, n_labels], uint8. A span is a token's first
    character and the one after its last. A long document comes in several calls, each with the spans of a quarter of a
    million characters."""
    judge: TextJudge | None = None
    """Judges what a steered model writes; None where the labels cannot be computed from a text."""
    prompts: tuple[str, ...] = ()
    """Prompts that a model continues when its text is judged."""
    suffixes: tuple[str, ...] = ()
    """If all text files end in one of these, they are captured with this set unless other sets are given."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.meanings)


@dataclass(frozen=True)
class Corpus:
    """Documents to capture, where they came from, and how they are labelled."""

    name: str
    """As the user gave it: ``stdlib``, ``stdlib:held-out``, the paths, ``hf:`` and a dataset."""
    documents: Iterable[Document]
    """Read from the beginning by every capture, also by one that resumes after an interruption. Raises InputError for an
    iterator, which can be read only once."""
    label_sets: tuple[LabelSet, ...] = ()
    """None, one or several. A run is evaluated by the first unless another is named."""

    def __post_init__(self) -> None:
        refuse_iterator(self.documents, self.name)
        names = [label_set.name for label_set in self.label_sets]
        if len(set(names)) < len(names):
            raise InputError(
                f"the text '{self.name}' has two label sets of one name ({', '.join(names)}); give each name once"
            )


def refuse_iterator(texts: object, name: str) -> None:
    """Raise InputError if ``texts`` would be used up by reading them once."""
    if isinstance(texts, Iterator):
        raise InputError(
            f"the text '{name}' is an iterator, which can be read only once, but a capture that was interrupted reads it "
            "again; give a list, or to make_corpus the function that makes the iterator"
        )


class _Rereadable(Iterable[Document]):
    def __init__(self, start: Callable[[], Iterator[Document]]):
        self._start = start

    def __iter__(self) -> Iterator[Document]:
        return self._start()


def rereadable(generator: Callable[Options, Iterator[Document]]) -> Callable[Options, Iterable[Document]]:
    """Let the documents of a generator function be read repeatedly: every ``iter`` starts the generator again."""

    @functools.wraps(generator)
    def documents(*args: Options.args, **options: Options.kwargs) -> Iterable[Document]:
        return _Rereadable(functools.partial(generator, *args, **options))

    return documents


def document_of(record: object, name: str) -> Document:
    """The document in a record ``{"text": ..., "label": ...}``; the label may be missing or null.

    Raises InputError, with ``name``, for a record of another form.
    """
    if not isinstance(record, Mapping):
        raise InputError(f'\'{name}\' is no record; give objects such as {{"text": ..., "label": ...}}')
    text, label = record.get("text"), record.get("label")
    if text is None:
        fields = ", ".join(f"'{field}'" for field in record) or "none"
        raise InputError(f"'{name}' has no 'text' (its fields: {fields}); rename the one that holds the text")
    for field, value in (("text", text), ("label", label)):
        if not isinstance(value, str | None):
            raise InputError(f"the {field} of '{name}' is {str(value)[:40]}, which is no string; write it as one")
    return Document(name, text, label)


def labelled_corpus(name: str, documents: Iterable[Document], labels: Iterable[str] | None = None) -> Corpus:
    """A corpus whose one label set is the labels of its documents; without labels if the first document has none.

    Without ``labels``, the labels are collected by reading ``documents`` once. Raises InputError where labelled and
    unlabelled documents are mixed: at once in a labelled corpus, otherwise when the first labelled one is read.
    """
    alike = _all_labelled_or_none(name, documents)
    first = next(iter(alike), None)
    if first is None or first.label is None:
        return Corpus(name, alike)
    return Corpus(name, alike, (_document_labels(name, labels or (document.label or "" for document in alike)),))


@rereadable
def _all_labelled_or_none(name: str, documents: Iterable[Document]) -> Iterator[Document]:
    """The documents; InputError at the first that has a label where the others have none, or the reverse."""
    first: Document | None = None
    for document in documents:
        first = first or document
        if (document.label is None) != (first.label is None):
            odd, has, others = (document.name, "no", "a") if document.label is None else (document.name, "a", "no")
            raise InputError(
                f"'{odd}' has {has} label, but what comes before it in '{name}' has {others} label; label all or none"
            )
        yield document


def _document_labels(name: str, labels: Iterable[str]) -> LabelSet:
    """One column for every distinct label, in alphabetical order."""
    distinct: set[str] = set()
    for label in labels:
        distinct.add(label)
        if len(distinct) > MAX_LABELS:
            raise InputError(f"the text '{name}' has more than {MAX_LABELS} different labels; rename or group them")
        if label.endswith("_depth"):
            raise InputError(f"the label '{label}' of '{name}' ends in _depth, which is kept for numbers; rename it")
    names = tuple(sorted(distinct))

    def label_tokens(document: Document, spans: Int[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "n n_labels"]:
        if document.label not in distinct:  # the file has changed, or a class number has no name
            raise InputError(f"the label '{document.label}' of '{document.name}' is not among those of '{name}'")
        rows = np.zeros((len(spans), len(names)), dtype=np.uint8)
        rows[:, names.index(document.label)] = 1
        return rows

    return LabelSet("label", {name: f"a text labelled '{name}' as a whole" for name in names}, label_tokens)
