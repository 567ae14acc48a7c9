"""Whether some latent shows a label along a curve, on tokens you choose, and whether other planes show it too.

Half of the documents choose and fit; the others score. The latent whose curve reads the label best on the first half is scored
on the second, and so is the best of as many random planes as there are latents. Each plane has two scores:

    r2          of the label read off along the curve (``label_curve``): whether the plane shows the label in order
    nearest_r2  of the label read off as the mean of the 20 nearest tokens of the first half: whether it shows it at all
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from interp.decomposers.base import QuadraticDecomposer
from interp.decomposers.forms import unit_rows
from interp.errors import InputError, unknown_name
from interp.manifolds.label_curve import LabelCurve
from interp.manifolds.layout import PLANES, SHAPES
from interp.manifolds.ordinals import fitting_half, ordinals
from interp.manifolds.reader import ManifoldView
from interp.manifolds.shape import points_of
from interp.runs.record import Run
from interp.store.reader import ActivationStore

N_NEAREST = 20


@dataclass(frozen=True)
class PlaneFit:
    """One plane's scores, on the documents that it was not chosen on."""

    plane: str
    r2: float
    """Along the curve; below 0 is worse than the mean."""
    nearest_r2: float
    """From the nearest tokens."""


@dataclass(frozen=True)
class LabelLayout:
    """The planes and the best latent for one label."""

    fits: list[PlaneFit]
    """The latent's plane, then PCA's of the site, PCA's of these tokens alone, and the random plane."""
    view: ManifoldView
    """The chosen latent, with all tokens as its strongest, for ``interp.figures``."""


def lay_out_ordinal(
    run: Run,
    store: ActivationStore,
    ordinal: str,
    *,
    among: str,
    vocabulary: list[str] | None = None,
    most: int = 12_000,
) -> LabelLayout:
    """``lay_out`` of an ordinal (``ordinals``) of a store, on at most ``most`` random tokens with the label ``among``.

    Give a store that the run was not trained on. Raises InputError for names that the store does not have.
    """
    numbers = ordinals(store, vocabulary)
    if ordinal not in numbers:
        raise unknown_name("ordinal", ordinal, numbers, f"the store '{store.path}'")
    columns = store.label_places()
    if among not in columns:
        raise unknown_name("label", among, columns, f"the store '{store.path}'")
    decomposer, (label_set, column) = run.decomposer(), columns[among]
    if not isinstance(decomposer, QuadraticDecomposer):
        raise InputError(f"'{run.name}' is a run of {run.kind}, whose features are directions; train a bilinear one")
    rows = np.flatnonzero((store.labels(label_set)[:, column] > 0) & np.isfinite(numbers[ordinal]))
    rows = np.sort(np.random.default_rng(0).choice(rows, min(most, len(rows)), replace=False))
    return lay_out(
        decomposer,
        store.site(run.site.read).rows(rows),
        numbers[ordinal][rows],
        name=ordinal,
        is_fit=fitting_half(store, rows),
        components=run.store().site(run.site.read).moments().spectrum[1],
    )


@torch.no_grad()
def lay_out(
    decomposer: QuadraticDecomposer,
    x: Float[Tensor, "n d_in"],
    label: Num[np.ndarray, " n"],
    *,
    name: str,
    is_fit: Bool[np.ndarray, " n"],
    components: Float[np.ndarray, "k d_in"],
    seed: int = 0,
) -> LabelLayout:
    """The latent whose plane reads ``label`` best, compared with other planes.

    ``x`` are the rows of the tokens, ``is_fit`` marks those whose documents choose and fit, ``components`` are the site's
    principal directions (``source.moments().spectrum[1]``). Raises InputError when either half has one value of the label only,
    or no latent has two axes.
    """
    if min(int(is_fit.sum()), int((~is_fit).sum())) <= N_NEAREST:
        raise InputError(
            f"{is_fit.sum()} tokens to fit and {(~is_fit).sum()} to judge are too few; give over {N_NEAREST} each"
        )
    u = unit_rows(x)
    own = {f: points_of(decomposer.form(f), u)[:, :2] for f in range(decomposer.n_features)}
    own = {f: points for f, points in own.items() if points.shape[1] == 2}
    if not own:
        raise InputError("no latent of this run has two axes; train it longer or with more features")
    best, chosen = _best(own, label, is_fit)
    local = torch.linalg.svd(u - u.mean(0), full_matrices=False)[2][:2]
    null = dict(enumerate(u @ axes.T for axes in random_planes(x.shape[1], len(own), seed=seed)))
    others = {
        PLANES[1]: u @ torch.from_numpy(components[:2]).float().T,
        "PCA of these tokens alone": u @ local.T,
        f"the best of {len(null)} random planes": _best(null, label, is_fit)[1],
    }
    fits = [_fit(f"latent {best}", chosen, label, is_fit)]
    fits += [_fit(plane, points, label, is_fit) for plane, points in others.items()]
    curve = LabelCurve.fit(chosen[is_fit].numpy(), label[is_fit])
    return LabelLayout(fits, _view(decomposer, best, u, name, label, curve, fits[0].r2))


def random_planes(d_in: int, n: int, *, seed: int) -> list[Float[Tensor, "2 d_in"]]:
    """``n`` random planes, each by two orthonormal axes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.linalg.qr(torch.randn(d_in, 2, generator=generator))[0].T for _ in range(n)]


def of_the_same_rank(
    fit_r2: Float[np.ndarray, "n n_ordinals"],
    null_fit_r2: Float[np.ndarray, "n n_ordinals"],
    null_r2: Float[np.ndarray, "n n_ordinals"],
) -> Float[np.ndarray, "n n_ordinals"]:
    """For each latent and label the R^2 of the random plane that stands in the latent's place.

    Latents are ranked by ``fit_r2`` and random planes by ``null_fit_r2``, on the half that curves were fitted on. NaN for a
    latent or a random plane without one; such planes stand last.
    """
    found = np.empty_like(null_r2)
    best_first = np.take_along_axis(null_r2, np.argsort(-null_fit_r2, axis=0, kind="stable"), 0)
    np.put_along_axis(found, np.argsort(-fit_r2, axis=0, kind="stable"), best_first, 0)
    return np.where(np.isnan(fit_r2), np.nan, found)


def _best(
    planes: dict[int, Float[Tensor, "n 2"]], label: Num[np.ndarray, " n"], is_fit: Bool[np.ndarray, " n"]
) -> tuple[int, Float[Tensor, "n 2"]]:
    """(number, points) of the plane whose curve reads the label best on the tokens it was fitted on."""
    r2 = {}
    for f, plane in planes.items():
        points = plane[is_fit].numpy()
        r2[f] = LabelCurve.fit(points, label[is_fit]).r2(points, label[is_fit])
    best = max(r2, key=lambda f: r2[f])
    return best, planes[best]


def _fit(
    plane: str, points: Float[Tensor, "n 2"], label: Num[np.ndarray, " n"], is_fit: Bool[np.ndarray, " n"]
) -> PlaneFit:
    places = points.numpy()
    near = torch.cdist(points[~is_fit], points[is_fit]).topk(N_NEAREST, largest=False).indices.numpy()
    held_out = label[~is_fit].astype(np.float64)
    residual = held_out - label[is_fit][near].mean(1)
    nearest_r2 = 1 - float((residual**2).sum() / ((held_out - held_out.mean()) ** 2).sum())
    return PlaneFit(plane, LabelCurve.fit_and_score(places, label, is_fit)[1], nearest_r2)


def _view(
    decomposer: QuadraticDecomposer,
    feature: int,
    u: Float[Tensor, "n d_in"],
    name: str,
    label: Num[np.ndarray, " n"],
    curve: LabelCurve,
    r2: float,
) -> ManifoldView:
    form = decomposer.form(feature)
    points = points_of(form, u)
    coordinates = torch.cat([points, torch.zeros(len(u), 3 - points.shape[1])], 1)
    return ManifoldView(
        feature=feature,
        coordinates=coordinates.numpy(),
        n_axes=points.shape[1],
        n_far=len(u),
        value=form.value(u).numpy(),
        ordinals={name: label.astype(np.float32)},
        text={},
        eigenvalues=form.eigenvalues.numpy(),
        scores=dict.fromkeys(SHAPES, math.nan),
        label_r2={name: {PLANES[0]: r2}},
        curves={name: curve},
    )
