"""A list of features to hand on: what the filters of the table leave, in its order, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from interp.browse.evidence import shown_labels
from interp.browse.features import TableFilter, filters_in_words
from interp.index.reader import FeatureIndex
from interp.runs.record import Run


def list_json(run: Run, index: FeatureIndex, wanted: TableFilter, order: Sequence[int]) -> str:
    """The features of ``order`` with what was measured and said of each; null where it was not.

    In ASCII, whatever a text holds. The label is a person's, else the automatic one.
    """
    summary, evidence = index.summary, wanted.evidence.columns
    labels = shown_labels(wanted.labels, wanted.evidence)
    measured = ("grade", "concept", "f1", "null", "excess", "simulability", "stability")
    features = []
    for feature in order:
        row, label = summary.iloc[feature], labels.get(feature)
        one = {
            "feature": int(feature),
            "label": label.text if label else "",
            "label_is_automatic": bool(label and label.is_automatic),
            "note": wanted.notes.get(feature, ""),
            "bookmarked": feature in wanted.bookmarks,
            **{name: _number(float(row[name])) for name in ("density", "max", "importance")},
            "tokens": index.strongest_tokens[feature],
        }
        if feature < len(evidence):
            found = evidence.iloc[feature]
            one |= {
                name: found[name] if isinstance(found[name], str) else _number(float(found[name])) for name in measured
            }
        features.append(one)
    about = {
        "schema": "interp-feature-list",
        "version": 1,
        "run": run.name,
        "run_identity": run.identity,
        "order": wanted.order + (", reversed" if wanted.is_reversed else ""),
        "filters": filters_in_words(wanted),
    }
    return json.dumps(about | {"features": features}, indent=1, allow_nan=False)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.4g}")
