"""Differences of class means: the supervised baseline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from interp.decomposers.base import check_enough_rows, checked_moments, register
from interp.decomposers.baselines.directions import Directions
from interp.errors import InputError
from interp.records import Notes
from interp.store.source import ActivationSource, LabelledSource
from interp.training.config import DecomposerConfig
from interp.training.protocol import Recorder

LEAST_ROWS = 10
"""Rows with a label, and rows without it, below which a label is left out: the mean of a few rows is mostly their noise."""


@dataclass(frozen=True)
class DiffMeansConfig(DecomposerConfig):
    """Options of differences of class means."""

    n_features: int = 1024
    """Most labels to learn, the most frequent ones; there is a feature a label, so often there are fewer."""
    label_set: str | None = None
    """Label set of the store, by default its first. Labels ending in _depth, which are numbers, are left out."""


@register
class DiffMeans(Directions):
    """One feature a label: the mean of the rows that have it less the mean of the rows that do not.

    It knows the labels of the rows it is fitted to, which no other method does. The unit of a code is the difference itself:
    on average over those rows it is larger by 1 where the label is. Features stand in the order of the label set; the notes
    name them, and the labels that were left out. They do not decode (``directions`` says why).
    """

    kind = "diff-means"
    config_type = DiffMeansConfig

    @property
    def concepts(self) -> dict[str, int]:
        """The labels that were learned."""
        return {str(self.notes[f"feature_{i}"]): i for i in range(self.n_features)}

    @classmethod
    def _fit(cls, source: ActivationSource, config: DiffMeansConfig, recorder: Recorder | None) -> DiffMeans:
        """Exact, from all rows.

        Raises InputError for rows without labels, for a label set that there is not, when no label has ``LEAST_ROWS`` rows
        with and without it, and for fewer rows than features.
        """
        moments = checked_moments(source)
        if not isinstance(source, LabelledSource):
            raise InputError(
                "diff-means learns from labels, and these rows have none; fit it to a hook point of a labelled store"
            )
        names, labels = source.labels(config.label_set)
        n_rows = (labels != 0).sum(0)
        chosen = _chosen(names, n_rows, len(source), config.n_features)
        if not chosen:
            raise InputError(
                f"no label is on {LEAST_ROWS} rows or more and off as many; capture more text, or name another --label-set"
            )
        check_enough_rows(source, len(chosen))
        n_with = n_rows[chosen].astype(np.float64)[:, None]
        means = _sums(source, labels[:, chosen]) / n_with
        directions = (means - moments.mean) * (len(source) / (len(source) - n_with))
        tensors = {
            "directions": torch.from_numpy(directions).float(),
            "mean": torch.from_numpy(moments.mean).float(),
        }
        notes: Notes = {f"feature_{i}": names[column] for i, column in enumerate(chosen)}
        if left_out := [name for column, name in enumerate(names) if column not in chosen]:
            notes["left_out"] = ", ".join(left_out)
        found = cls(config, tensors, notes)
        found._log(recorder, moments)
        return found


def _chosen(names: tuple[str, ...], n_rows: np.ndarray, n: int, at_most: int) -> list[int]:
    """Columns of the labels that are learned, ascending; of equally frequent ones the first."""
    usable = [
        column
        for column, name in enumerate(names)
        if not name.endswith("_depth") and LEAST_ROWS <= n_rows[column] <= n - LEAST_ROWS
    ]
    return sorted(sorted(usable, key=lambda column: -n_rows[column])[:at_most])


def _sums(source: ActivationSource, labels: UInt8[np.ndarray, "n_rows n_labels"]) -> Float[np.ndarray, "n_labels d_in"]:
    """For each label the sum of the rows that have it, float64."""
    total, first = torch.zeros(labels.shape[1], source.d_in, dtype=torch.float64), 0
    for rows in source.chunks():
        has = torch.from_numpy(labels[first : first + len(rows)] != 0)
        total += has.T.double() @ rows.double()
        first += len(rows)
    return total.numpy()
