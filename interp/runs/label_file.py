"""What a person said of a run's features as one JSON file, to hand on, and back into the run."""

from __future__ import annotations

from collections import Counter

from interp.errors import InputError
from interp.records import FileRecord, Record, from_json, to_json
from interp.runs.feature_labels import FeatureLabel, FeatureLabels
from interp.runs.record import Run

LONGEST_LABEL, LONGEST_NOTE = 200, 10_000
"""Characters, as the card's own fields take them."""


class SaidOfFeature(Record, frozen=True):
    """What was said of one feature."""

    feature: int
    label: str = ""
    note: str = ""
    bookmarked: bool = False


class LabelFile(FileRecord, frozen=True):
    """Labels, notes and bookmarks of a run."""

    SCHEMA = "interp-labels"
    VERSION = 1

    run: str
    run_identity: str
    """Labels are about features by their number, so they hold for these weights alone."""
    features: tuple[SaidOfFeature, ...]


def labels_json(run: Run) -> str:
    """All labels, notes and bookmarks of a run as JSON."""
    said = FeatureLabels(run.labels_path).all()
    features = tuple(
        SaidOfFeature(feature=feature, label=one.label, note=one.note, bookmarked=one.bookmarked)
        for feature, one in said.items()
    )
    return to_json(LabelFile(run=run.name, run_identity=run.identity, features=features))


def take_labels(run: Run, content: bytes, name: str, *, replace: bool = False) -> int:
    """Add what the file ``name`` says to the run's labels, all of it or, after an error, nothing.

    A label or note that the run has already and that differs stays, unless ``replace``. Bookmarks are added, never taken
    away. Returns of how many features such a label or note differed. Raises InputError for a file that is damaged, is of other
    weights, or names a feature that the run does not have.
    """
    where = f"the file '{name}'"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{where} is not text; give a JSON file of labels") from None
    found = from_json(text, LabelFile, where)
    if found.run_identity != run.identity:
        raise InputError(
            f"{where} has labels of the run '{found.run}' with other weights than '{run.name}' has here; its numbers would "
            "name other features, so nothing was taken"
        )
    for one in found.features:
        if not 0 <= one.feature < run.n_features:
            raise InputError(f"{where} names feature {one.feature}; '{run.name}' has 0-{run.n_features - 1}")
        for what, said, most in (("label", one.label, LONGEST_LABEL), ("note", one.note, LONGEST_NOTE)):
            if len(said) > most:
                what = f"a {what} of {len(said)} characters for feature {one.feature}"
                raise InputError(f"{where} has {what}; {most} fit")
    feature, n = Counter(one.feature for one in found.features).most_common(1)[0] if found.features else (0, 1)
    if n > 1:
        raise InputError(f"{where} names feature {feature} {n} times; once is expected")
    given = {one.feature: FeatureLabel(one.label, one.note, one.bookmarked) for one in found.features}
    return FeatureLabels(run.labels_path).merge(given, replace=replace)
