"""A run's latents as the Manifolds page and notebooks show them, read from ``manifolds.h5`` without torch."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.errors import unknown_feature, unknown_name
from interp.index.layout import open_precomputed
from interp.manifolds.label_curve import LabelCurve
from interp.manifolds.layout import FILE, PLANES, SHAPES, ManifoldRecord
from interp.runs.record import Run


@dataclass(frozen=True)
class ManifoldView:
    """One latent: its tokens on three axes, its strongest first, and the values they can be coloured by."""

    feature: int
    coordinates: Float[np.ndarray, "n_points 3"]
    """About the form's centre; the first ``n_axes`` axes are eigenvectors, the others those of most variance besides."""
    n_axes: int
    n_far: int
    """How many of the points are the latent's strongest; the others are drawn at random."""
    value: Float[np.ndarray, " n_points"]
    """The latent's value."""
    ordinals: dict[str, Float[np.ndarray, " n_points"]]
    """Ordinal labels; NaN where unknown."""
    text: dict[str, list[str]]
    """"text" (the token), "next", "before", "after" of each point; empty where the file was built without the model."""
    eigenvalues: Float[np.ndarray, " r"]
    scores: dict[str, float]
    """Shape to score; NaN where the latent has too few axes."""
    label_r2: dict[str, dict[str, float]]
    """Ordinal to R^2 by plane (``PLANES``), without labels that hardly vary on the strongest tokens."""
    curves: dict[str, LabelCurve]
    """The curve in the plane of the first two axes for each label of ``label_r2``."""

    def along(self, ordinal: str) -> list[int]:
        """Points to read one after the other: for each knot of the label's curve, the strongest token nearest to it."""
        squared = ((self.coordinates[: self.n_far, None, :2] - self.curves[ordinal].points) ** 2).sum(2)
        return self._distinct(squared.argmin(0))

    def around(self, n: int = 12) -> list[int]:
        """Points to read one after the other: the strongest tokens furthest out in ``n`` directions around the centre."""
        angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
        directions = np.stack([np.cos(angles), np.sin(angles)], 1)
        return self._distinct((self.coordinates[: self.n_far, :2] @ directions.T).argmax(0))

    @staticmethod
    def _distinct(found: Int[np.ndarray, " n"]) -> list[int]:
        return list(dict.fromkeys(found.tolist()))


class ManifoldIndex:
    """A run's ``manifolds.h5``, opened read-only; a context manager, or closed with ``close()``.

    Raises InputError when it is missing, damaged or of another schema version.
    """

    def __init__(self, run: Run):
        self._file, self.record = open_precomputed(run.path / FILE, ManifoldRecord)
        self.n_features = self.record.n_features
        self.ordinals = self.record.ordinals
        """Names of the ordinal labels."""
        self.is_stale = self.record.run_identity != run.identity
        """Whether the run was trained again since the file was built."""

    def close(self) -> None:
        """Close the file; the index cannot be read afterwards."""
        self._file.close()

    def __enter__(self) -> ManifoldIndex:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def rankings(self) -> list[str]:
        """What latents can be ranked by: the shapes, then the ordinals."""
        return [*SHAPES, *self.ordinals]

    def table(self, by: str) -> pd.DataFrame:
        """One row a latent, the best first, those without a score last: id, score, effective_rank, first and second eigenvalue,
        and for an ordinal the R^2 in the other planes.

        The score of an ordinal is its R^2 on the documents that judge; latents are ranked by that on the others.
        """
        if by not in self.rankings:
            raise unknown_name("ranking", by, self.rankings, "this run")
        columns: dict[str, np.ndarray] = {"id": np.arange(self.n_features)}
        if by in SHAPES:
            key = columns["score"] = self._ranked_by["score"][:, list(SHAPES).index(by)]
            columns["share"] = self._ranked_by["share"][:, list(SHAPES).index(by)]
        else:
            key, r2 = (self._ranked_by[name][:, self.ordinals.index(by)] for name in ("label_fit_r2", "label_r2"))
            columns |= {"score": r2[:, 0]} | dict(zip(PLANES[1:], r2[:, 1:].T, strict=True))
        eigenvalues = self._ranked_by["eigenvalues"]
        columns |= {"effective_rank": self._ranked_by["effective_rank"]}
        columns |= {f"eigenvalue {i + 1}": eigenvalues[:, i] for i in range(min(2, eigenvalues.shape[1]))}
        return pd.DataFrame(columns).iloc[np.argsort(-key, kind="stable")].reset_index(drop=True)

    def view(self, feature: int) -> ManifoldView:
        """Everything about one latent. Raises InputError for an unknown number."""
        if not 0 <= feature < self.n_features:
            raise unknown_feature(feature, self.n_features)
        page = {name: dataset[feature] for name, dataset in self._file["features"].items()}
        point = page["point"]
        r2, curves = {}, {}
        for name, each, knots in zip(self.ordinals, page["label_r2"], page["curve"], strict=True):
            if np.isfinite(each[0]):
                known = knots[np.isfinite(knots[:, 0])]
                r2[name] = dict(zip(PLANES, each.tolist(), strict=True))
                curves[name] = LabelCurve(known[:, :2], known[:, 2])
        return ManifoldView(
            feature=feature,
            coordinates=page["coordinates"],
            n_axes=int(page["n_axes"]),
            n_far=min(self.record.n_far, len(point)),
            value=page["value"],
            ordinals={name: values[point] for name, values in zip(self.ordinals, self._ordinal_values, strict=True)},
            text={name: [texts[i] for i in point] for name, texts in self._texts.items()},
            eigenvalues=page["eigenvalues"],
            scores=dict(zip(SHAPES, page["score"].tolist(), strict=True)),
            label_r2=r2,
            curves=curves,
        )

    @functools.cached_property
    def _ranked_by(self) -> dict[str, np.ndarray]:
        """The arrays that ``table`` shows, by name; freed with this index, because many are opened."""
        names = ("score", "share", "label_fit_r2", "label_r2", "eigenvalues", "effective_rank")
        return {name: self._file["features"][name][:] for name in names}

    @functools.cached_property
    def _ordinal_values(self) -> Float[np.ndarray, "n_ordinals n_sample"]:
        return np.asarray(self._file["ordinals"][:])

    @functools.cached_property
    def _texts(self) -> dict[str, list[str]]:
        if not self.record.has_text:
            return {}
        return {name: list(self._file[f"tokens/{name}"].asstr()[:]) for name in ("text", "next", "before", "after")}
