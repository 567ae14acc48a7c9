"""Documents, corpora of documents, and label sets, which label every token of a document.

A document may carry labels of its own: one for the whole text, such as the concept a sentence is an example of, and some for
spans of it. They become a label set named ``label`` (``interp.corpora.labels.own``). Label sets computed from the text itself,
such as that of Python source, lie beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ParamSpec, Protocol, runtime_checkable

import numpy as np

from interp.errors import InputError

Options = ParamSpec("Options")


@dataclass(frozen=True)
class Span:
    """A part of a text and what it is."""

    start: int
    """Its first character, counted in characters (Unicode code points, not bytes) from 0."""
    end: int
    """The character after its last."""
    label: str
    """What it is an example of."""


@dataclass(frozen=True)
class Document:
    """A named text."""

    name: str
    """Shown in the dashboard and in error messages: a path, a module name, a file and line."""
    text: str
    label: str | None = None
    """What the whole text is an example of, if known."""
    spans: tuple[Span, ...] | None = None
    """What parts of it are, in any order; they may overlap. Empty if there is nothing in it, None if nobody has looked. Raises
    InputError for a span that is empty or not in the text."""

    def __post_init__(self) -> None:
        for number, span in enumerate(self.spans or ()):
            if not 0 <= span.start < span.end <= len(self.text):
                raise InputError(
                    f"span {number} of '{self.name}' goes from {span.start} to {span.end}, but its text has {len(self.text)} "
                    "characters; give the first character, counted from 0 in characters and not in bytes, and the one after "
                    "the last"
                )


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
    """None, one or several, that of the documents' own labels first. A run is evaluated by the first unless another is
    named."""

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
    """The document in a record ``{"text": ..., "label": ..., "spans": [{"start": ..., "end": ..., "label": ...}]}``.

    Label and spans may be missing or null. Raises InputError, with ``name``, for a record of another form.
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
    return Document(name, text, label, _spans_of(record.get("spans"), name))


_SPAN_FORM = '{"start": 0, "end": 4, "label": "name"}'


def _spans_of(spans: object, name: str) -> tuple[Span, ...] | None:
    if spans is None:
        return None
    if not isinstance(spans, Sequence) or isinstance(spans, str):
        raise InputError(f"the spans of '{name}' are {str(spans)[:40]}, which is no list; give [{_SPAN_FORM}, ...]")
    return tuple(_span_of(span, f"span {number} of '{name}'") for number, span in enumerate(spans))


def _span_of(span: object, name: str) -> Span:
    fields: dict[str, Any] = {
        key: span.get(key) if isinstance(span, Mapping) else None for key in ("start", "end", "label")
    }
    if missing := [key for key, value in fields.items() if value is None]:
        raise InputError(f"{name} is {str(span)[:80]}, without {' and '.join(missing)}; give {_SPAN_FORM}")
    start, end, label = fields.values()
    for key, value in (("start", start), ("end", end)):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise InputError(f"the {key} of {name} is {str(value)[:40]!r}, no whole number; count characters from 0")
    if not isinstance(label, str) or not label:
        raise InputError(f"the label of {name} is {str(label)[:40]!r}, which names nothing; write what it is, in words")
    return Span(int(start), int(end), label)
