"""Whether some latent lays a label out along a curve, on tokens of one's choice, and whether other planes do so too.

Half of the documents choose and fit, the rest judge: of all latents, of a few random planes, the one whose curve reads the
label best on the first half is judged on the second. Two figures a plane:

    r2          of the label, read off along the curve (``label_curve``): whether it is laid out in its order
    nearest_r2  of the label, read off as the mean of the 20 nearest tokens of the first half: all that the plane knows of it
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
from interp.manifolds.ordinals import in_every_other_document, ordinals
from interp.manifolds.reader import ManifoldView
from interp.manifolds.shape import points_of
from interp.runs.record import Run
from interp.store.reader import ActivationStore

N_NEAREST = 20


@dataclass(frozen=True)
class PlaneFit:
    """One plane's figures, on the documents that did not choose it."""

    plane: str
    r2: float
    """Along the curve; below 0 is worse than the mean."""
    nearest_r2: float
    """From the nearest tokens."""


@dataclass(frozen=True)
class LabelLayout:
    """What was found for one label."""

    fits: list[PlaneFit]
    """The latent's plane, then PCA's of the site, PCA's of these tokens alone, and the random plane."""
    view: ManifoldView
    """The latent that was chosen, with all tokens as its strongest, for ``interp.figures``."""


def lay_out_ordinal(
    run: Run,
    store: ActivationStore,
    ordinal: str,
    *,
    among: str,
    vocabulary: list[str] | None = None,
    most: int = 12_000,
) -> LabelLayout:
    """``lay_out`` of an ordinal (``ordinals``) of a store, on its tokens that have the label ``among``.

    At most ``most`` tokens, drawn at random. Give a store that the run was not trained on. Raises InputError for names that
    the store does not have.
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
        is_fit=in_every_other_document(store, rows),
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
    n_random: int = 20,
    seed: int = 0,
) -> LabelLayout:
    """The latent whose plane reads ``label`` best, beside other planes.

    ``x`` are the rows of the chosen tokens, ``is_fit`` says whose documents choose and fit, ``components`` are the site's
    principal directions (``source.moments().spectrum[1]``). Raises InputError when the label has one value only on either side,
    or no latent has a plane.
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
    axes = random_planes(x.shape[1], n_random, seed=seed)
    others = {
        PLANES[1]: u @ torch.from_numpy(components[:2]).float().T,
        "PCA of these tokens alone": u @ local.T,
        f"the best of {n_random} random planes": _best(dict(enumerate(u @ pair.T for pair in axes)), label, is_fit)[1],
    }
    fits = [_fit(f"latent {best}", chosen, label, is_fit)]
    fits += [_fit(plane, points, label, is_fit) for plane, points in others.items()]
    curve = LabelCurve.fit(chosen[is_fit].numpy(), label[is_fit])
    return LabelLayout(fits, _view(decomposer, best, u, name, label, curve, fits[0].r2))


def random_planes(d_in: int, n: int, *, seed: int) -> list[Float[Tensor, "2 d_in"]]:
    """Two orthonormal axes each, to see what any plane shows."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.linalg.qr(torch.randn(d_in, 2, generator=generator))[0].T for _ in range(n)]


def _best(planes: dict[int, Tensor], label: np.ndarray, is_fit: np.ndarray) -> tuple[int, Tensor]:
    """The plane whose curve reads the label best on the very tokens it was fitted on."""
    r2 = {f: _own_r2(points[is_fit].numpy(), label[is_fit]) for f, points in planes.items()}
    best = max(r2, key=lambda f: r2[f])
    return best, planes[best]


def _own_r2(points: np.ndarray, label: np.ndarray) -> float:
    return LabelCurve.fit(points, label).r2(points, label)


def _fit(plane: str, points: Tensor, label: np.ndarray, is_fit: np.ndarray) -> PlaneFit:
    places = points.numpy()
    near = torch.cdist(points[~is_fit], points[is_fit]).topk(N_NEAREST, largest=False).indices.numpy()
    judged = label[~is_fit].astype(np.float64)
    residual = judged - label[is_fit][near].mean(1)
    nearest_r2 = 1 - float((residual**2).sum() / ((judged - judged.mean()) ** 2).sum())
    return PlaneFit(plane, LabelCurve.judged(places, label, is_fit)[1], nearest_r2)


def _view(
    decomposer: QuadraticDecomposer, feature: int, u: Tensor, name: str, label: np.ndarray, curve: LabelCurve, r2: float
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
