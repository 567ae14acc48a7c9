"""Simple methods at a site, judged like a run on the same rows: what a feature dictionary has to beat.

Raw coordinates, the principal directions, and the difference of class means, which is fitted to the labels of select. They
depend on the rows alone, so runs at one site share them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.evaluation.detection import Detections, association, detections
from interp.evaluation.firing_codes import FiringCodes, cut, firing_codes
from interp.evaluation.judged_rows import JudgedRows


@lru_cache(maxsize=1)
def baseline_detections(
    rows: JudgedRows, columns: tuple[int, ...], dense_rate: float
) -> dict[str, tuple[str, Detections]]:
    """By name: what it is, and the best candidate of each label, on test. The last result is kept."""
    return {name: (what, found) for name, what, found in _baselines(rows, np.asarray(columns), dense_rate)}


def _baselines(
    rows: JudgedRows, columns: Int[np.ndarray, " c"], dense_rate: float
) -> Iterator[tuple[str, str, Detections]]:
    centre, principal = (torch.from_numpy(part).float() for part in (rows.moments.mean, rows.moments.spectrum[1]))
    rate = f"{dense_rate:.0%} of the tokens"
    for name, what, score in (
        ("neurons", f"coordinates of the activation, each sign cut to fire on {rate}", lambda x: x - centre),
        ("principal", f"principal directions, each sign cut to fire on {rate}", lambda x: (x - centre) @ principal.T),
    ):
        codes = firing_codes(score, rows.x.shape[1], rows, signed=True, dense_rate=dense_rate)
        yield name, what, association(codes, rows, columns).of_labels(codes, rows)
    n_with = ((rows.labels[:, columns] != 0) & rows.is_select[:, None]).sum(0)
    scores, each = rows.x @ difference_in_means(rows, columns).T, np.arange(len(columns))
    fires, threshold = cut(scores, n_with, rows)
    codes = FiringCodes(fires, each, np.ones_like(each), threshold)
    what = "supervised: mean activation with the label less that without, on select; cut to fire as often as the label"
    yield "difference in means", what, detections(codes, rows, candidate=each, label=columns)


def difference_in_means(rows: JudgedRows, columns: Int[np.ndarray, " c"]) -> Float[Tensor, "c d_in"]:
    """mean(with) - mean(without) of each label, on select."""
    has = torch.from_numpy((rows.labels[rows.is_select][:, columns] != 0).astype(np.float32))
    n_with = has.sum(0)[:, None]
    sums, total = has.T @ rows.x_select, rows.x_select.sum(0)
    return sums / n_with - (total - sums) / (len(has) - n_with)
