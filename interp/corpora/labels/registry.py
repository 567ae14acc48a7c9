"""The label sets that have a name to ask for. A new one is a file beside this one and its name in ``LABEL_SETS``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from interp.corpora.documents import LabelSet, TextJudge
from interp.corpora.labels.python import PYTHON
from interp.corpora.labels.text import TEXT
from interp.errors import unknown_name

LABEL_SETS: dict[str, LabelSet] = {label_set.name: label_set for label_set in (PYTHON, TEXT)}
"""By name. Add a set of your own here, and it can be captured, evaluated and steered by like any other."""


def label_set_named(name: str) -> LabelSet:
    """The label set ``name``. Raises InputError, with the near names, when there is none."""
    if name not in LABEL_SETS:
        raise unknown_name("label set", name, LABEL_SETS, "this program")
    return LABEL_SETS[name]


def label_sets_for(names: Sequence[str]) -> tuple[LabelSet, ...]:
    """The label sets made for these files, every name ending in one of the set's suffixes; ``text`` where there are none."""
    sets = (label_set for label_set in LABEL_SETS.values() if label_set.suffixes)
    made = tuple(label_set for label_set in sets if names and all(name.endswith(label_set.suffixes) for name in names))
    return made or (TEXT,)


def judge_of(label: str, label_sets: Iterable[str]) -> TextJudge | None:
    """The judge of the first of these label sets that knows ``label``; None if no judge does.

    Names that are not in ``LABEL_SETS`` are skipped, such as ``label``, the labels that documents carry.
    """
    judges = (LABEL_SETS[name].judge for name in label_sets if name in LABEL_SETS)
    return next((judge for judge in judges if judge and label in judge("", start=0)), None)
