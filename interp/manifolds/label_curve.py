"""Whether an ordinal label lies along a curve: its R^2 when it is read off as the position along that curve.

The curve is a polyline through the mean points of groups of tokens, in the label's order. A group has one value of the label;
if there are more than ``n_knots`` values, groups are as many quantiles. A token's label is read off at the nearest point of
the curve. Fit the curve on some documents and score it on others: fitted to the labels, it suits them in any plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num

from interp.errors import InputError

N_KNOTS = 12
"""Most points of a curve: a dozen show the order, and each group still has many tokens."""


@dataclass(frozen=True)
class LabelCurve:
    """A polyline along which a label grows."""

    points: Float[np.ndarray, "k n_axes"]
    labels: Float[np.ndarray, " k"]
    """Ascending."""

    @classmethod
    def fit(
        cls, points: Float[np.ndarray, "n n_axes"], label: Num[np.ndarray, " n"], n_knots: int = N_KNOTS
    ) -> LabelCurve:
        """The curve through the mean points of groups of equal or neighbouring label.

        Raises InputError when the label has one value only.
        """
        values, group = np.unique(label, return_inverse=True)
        if len(values) < 2:
            raise InputError(f"the label is {values} on all {len(label)} tokens; an order needs two values or more")
        if len(values) > n_knots:
            edges = np.unique(np.quantile(label, np.linspace(0, 1, n_knots + 1)[1:-1]))
            group = np.searchsorted(edges, label, side="right")
            group = np.unique(group, return_inverse=True)[1]
        counts = np.bincount(group)
        means = np.stack([np.bincount(group, column) / counts for column in points.T], 1)
        return cls(means, np.bincount(group, label) / counts)

    def read(self, points: Float[np.ndarray, "n n_axes"]) -> Float[np.ndarray, " n"]:
        """The label at the point of the curve nearest to each point."""
        return np.interp(self._positions(points), np.arange(len(self.labels)), self.labels)

    def at(self, label: float) -> Float[np.ndarray, " n_axes"]:
        """The point of the curve where the label has this value, or its end for a value beyond it: the target for steering."""
        return np.array([np.interp(label, self.labels, column) for column in self.points.T])

    def r2(self, points: Float[np.ndarray, "n n_axes"], label: Num[np.ndarray, " n"]) -> float:
        """1 - sum (label - read)^2 / sum (label - mean)^2: 1 is perfect, 0 what the mean achieves, below it is worse.

        NaN where the label does not vary.
        """
        label = np.asarray(label, dtype=np.float64)
        total = float(((label - label.mean()) ** 2).sum())
        return 1 - float(((label - self.read(points)) ** 2).sum()) / total if total > 0 else float("nan")

    @classmethod
    def fit_and_score(
        cls, points: Float[np.ndarray, "n n_axes"], label: Num[np.ndarray, " n"], is_fit: Bool[np.ndarray, " n"]
    ) -> tuple[LabelCurve, float]:
        """(curve fitted on the tokens with ``is_fit``, its R^2 on the others)."""
        curve = cls.fit(points[is_fit], label[is_fit])
        return curve, curve.r2(points[~is_fit], label[~is_fit])

    def _positions(self, points: Float[np.ndarray, "n n_axes"]) -> Float[np.ndarray, " n"]:
        """Knot number, with its fraction, of the nearest point of the curve."""
        start, step = self.points[:-1], np.diff(self.points, axis=0)
        length = np.maximum((step**2).sum(1), 1e-30)
        position, nearest = np.zeros(len(points)), np.full(len(points), np.inf)
        for i in range(len(start)):
            along = np.clip((points - start[i]) @ step[i] / length[i], 0, 1)
            distance = ((points - start[i] - along[:, None] * step[i]) ** 2).sum(1)
            closer = distance < nearest
            position[closer], nearest[closer] = i + along[closer], distance[closer]
        return position
