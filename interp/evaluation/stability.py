"""How many features to learn: fit again on other rows from other seeds, and see which features come back.

Every feature of a run is matched one to one to the features of each refit (Hungarian method, on cosines). The run's feature
and its matches are a cluster, and its stability is the mean silhouette of the cluster's members v,

    (b - a) / max(a, b)     a: mean distance 1 - cos of v to the rest of its cluster
                            b: the smallest over other clusters of the mean distance of v to their members

1 where the same feature is found every time and nothing else is near, about 0 where the match is no better than the next
feature. cos is that of directions, or of the forms of quadratic latents; where a direction and its opposite are one feature
(``is_signless``), it is |cos|. The mean over features against
their number is the stability curve: it holds up to the number of features that the rows have, then falls.
Source: Nebgen et al. 2021 (NMFk); "Determination of Latent Dimensionality in International Trade Flow", Truong et al. 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from interp.decomposers import Decomposer, kind_of
from interp.distributed import world
from interp.errors import InputError
from interp.evaluation.matching import Features, cosines_between, features_of, is_live
from interp.figures import stability_curve
from interp.files import write_whole
from interp.progress import progress
from interp.records import FileRecord, Record, read_record, write_record
from interp.runs.record import Run
from interp.store.moments import Moments, moments_of
from interp.store.source import ActivationSource
from interp.training.config import DecomposerConfig

FILE = "stability.json"
ROW_SHARE = 0.8
"""Share of the rows, drawn without replacement, that a refit sees."""
MARGIN = 0.05
"""How much less stable than the best the recommended number of features may be."""


@dataclass(frozen=True)
class Stability:
    """Which features of a run come back when it is fitted again."""

    n_fits: int
    """Refits."""
    features: list[float]
    """Stability of each feature of the run, -1 to 1."""
    fvu: float
    """Fraction of variance unexplained by the run on the rows it was fitted to, by its training curve."""

    @property
    def n_features(self) -> int:
        return len(self.features)

    @property
    def mean(self) -> float:
        """Over features."""
        return float(np.mean(self.features))


class StabilityRecord(FileRecord, frozen=True):
    """stability.json in the folder of a run."""

    SCHEMA = "interp-stability"
    VERSION = 3

    run_identity: str
    n_fits: int
    mean: float
    fvu: float
    features: list[float]


class CurvePoint(Record, frozen=True):
    """One number of features in a stability curve."""

    n_features: int
    stability: float
    """Mean over features."""
    fvu: float


class CurveRecord(FileRecord, frozen=True):
    """NAME-stability.json beside the runs of a stability curve."""

    SCHEMA = "interp-stability-curve"
    VERSION = 1

    n_fits: int
    recommended: int
    """The recommended number of features."""
    curve: list[CurvePoint]


class RowSample:
    """Some rows of a source as an ActivationSource."""

    def __init__(self, source: ActivationSource, indices: Int[np.ndarray, " n"]):
        self._source, self._indices = source, np.sort(indices)

    @property
    def d_in(self) -> int:
        return self._source.d_in

    def __len__(self) -> int:
        return len(self._indices)

    def rows(self, indices: Int[np.ndarray, " n"]) -> Float[Tensor, "n d_in"]:
        return self._source.rows(self._indices[indices])

    def chunks(self, size: int = 8192) -> Iterator[Float[Tensor, "_ d_in"]]:
        for first in range(0, len(self), size):
            yield self._source.rows(self._indices[first : first + size])

    @cached_property
    def _moments(self) -> Moments:
        return moments_of(self.chunks())

    def moments(self) -> Moments:
        return self._moments


def measure_stability(runs: Sequence[Run], path: Path, *, n_fits: int) -> list[Stability]:
    """The stability of runs that differ in their number of features, and the curve as ``path``.json and ``path``.html.

    Raises InputError for fewer than one refit, and for two runs of as many features.
    """
    by_rank = sorted(runs, key=lambda run: run.n_features)
    ranks = [run.n_features for run in by_rank]
    if len(set(ranks)) < len(ranks):
        raise InputError("a stability curve has one run for each number of features; give --stability with one --k")
    curve = [stability_of(run, n_fits) for run in by_rank]
    if world().is_first:
        write_curve(path, curve)
    return curve


def stability_of(run: Run, n_fits: int) -> Stability:
    """Refit ``run`` ``n_fits`` times and keep the result in the run folder; a kept result of as many refits is read back.

    A result of another version is made again.

    Raises InputError for fewer than one refit.
    """
    if n_fits < 1:
        raise InputError(f"stability takes one refit or more, not {n_fits}")
    path = run.path / FILE
    with suppress(InputError):
        record = read_record(path, StabilityRecord, "")
        if (record.run_identity, record.n_fits) == (run.identity, n_fits):
            return Stability(n_fits, record.features, record.fvu)
    decomposer, source = run.decomposer(), run.store().site(run.site.read)
    refits = refitted_features(source, decomposer.config, n_fits=n_fits)
    features = feature_stability(_compared(decomposer), refits, has_sign=not is_signless(decomposer))
    found = Stability(n_fits, [round(float(value), 4) for value in features], run.training_curve()[-1]["fvu"])
    if world().is_first:
        record = StabilityRecord(
            run_identity=run.identity, n_fits=n_fits, mean=found.mean, fvu=found.fvu, features=found.features
        )
        write_record(path, record)
    return found


def refitted_features(source: ActivationSource, config: DecomposerConfig, *, n_fits: int) -> list[Features]:
    """The features of fits with other seeds, each on ``ROW_SHARE`` of the rows."""
    method, found = kind_of(config), []
    n = min(len(source), max(config.n_features, round(ROW_SHARE * len(source))))
    for i in progress(range(1, n_fits + 1), total=n_fits, what=f"refit {config.n_features} features", unit="fit"):
        rows = np.random.default_rng([config.seed, i]).choice(len(source), n, replace=False)
        refit = method.fit(RowSample(source, rows), replace(config, seed=config.seed + i))
        found.append(_compared(refit))
    return found


def _compared(decomposer: Decomposer) -> Features:
    return features_of(decomposer, as_forms="forms" in decomposer.capabilities)


def is_signless(decomposer: Decomposer) -> bool:
    """Whether a direction and its opposite are one feature: if codes take both signs, and if latents are quadratic forms."""
    return decomposer.signed_codes or "forms" in decomposer.capabilities


def feature_stability(
    features: Features, refits: Sequence[Features], *, has_sign: bool = True
) -> Float[np.ndarray, " K"]:
    """Mean silhouette of each feature with its matches; a dead feature has stability 0.

    Without ``has_sign``, opposite features are the same; forms have no sign.
    """
    members = [features]
    for refit in refits:
        cosines = cosines_between(features, refit, signless=not has_sign)
        members.append(refit[linear_sum_assignment(cosines, maximize=True)[1]])
    n, silhouettes = len(members), []
    for member in members:
        near = np.mean([cosines_between(member, other, signless=not has_sign) for other in members], axis=0)
        own = (1 - np.diagonal(near)) * n / (n - 1)  # without the distance to itself, which is 0
        np.fill_diagonal(near, -np.inf)
        other = 1 - near.max(1, initial=0.0) if len(features) == 1 else 1 - near.max(1)
        silhouettes.append((other - own) / np.maximum(np.maximum(own, other), 1e-12))
    return np.where(is_live(features), np.mean(silhouettes, axis=0), 0.0)


def recommended_rank(curve: Sequence[Stability]) -> int:
    """The largest number of features whose stability is within ``MARGIN`` of the best."""
    best = max(point.mean for point in curve)
    return max(point.n_features for point in curve if point.mean >= best - MARGIN)


def write_curve(path: Path, curve: Sequence[Stability]) -> None:
    """The curve as ``path``.json and, drawn, as ``path``.html."""
    curve = sorted(curve, key=lambda point: point.n_features)
    points = [CurvePoint(n_features=p.n_features, stability=p.mean, fvu=p.fvu) for p in curve]
    record = CurveRecord(n_fits=curve[0].n_fits, recommended=recommended_rank(curve), curve=points)
    write_record(path.with_name(path.name + ".json"), record)
    figure = stability_curve(
        [p.n_features for p in curve],
        [p.features for p in curve],
        [p.fvu for p in curve],
        recommended=record.recommended,
    )
    write_whole(path.with_name(path.name + ".html"), figure.to_html(include_plotlyjs=True).encode())


def curve_table(curve: Sequence[Stability]) -> str:
    """The curve as text, with the recommended rank marked."""
    chosen = recommended_rank(curve)
    lines = ["features  stability  features above .5    FVU"]
    for point in sorted(curve, key=lambda point: point.n_features):
        stable = float(np.mean(np.asarray(point.features) > 0.5))
        mark = "  <- recommended" if point.n_features == chosen else ""
        lines.append(f"{point.n_features:>8}{point.mean:>11.3f}{stable:>17.0%}{point.fvu:>10.3f}{mark}")
    return "\n".join(lines)
