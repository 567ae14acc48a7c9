"""Building ``manifolds.h5``: for every latent of a bilinear run its tokens, its shape scores, and the labels along it.

A latent's strongest tokens are the tenth of a random sample that lies furthest out on its axes. On these tokens each ordinal
label is read off along a curve (``label_curve``) in the plane of the latent's first two axes. The curve is fitted on every
other document; latents are ranked by its R^2 there, and judged by its R^2 on the rest. Beside it stand the plane of the site's
first two principal components on the same tokens, and a null: as many random planes as there are latents, each with its own
strongest tokens, are ranked and judged in the same way, and a latent is compared with the random plane of the same rank. A
label that is the same on more than nine tenths of the tokens is left out. All latents are kept.

If a latent has fewer than three axes, the others are the directions outside them along which its strongest tokens vary most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import h5py
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from interp.decomposers.base import QuadraticDecomposer
from interp.decomposers.forms import QuadraticForm, unit_rows
from interp.errors import InputError
from interp.files import whole
from interp.index.layout import write_attributes, write_compressed
from interp.manifolds.label_curve import N_KNOTS, LabelCurve
from interp.manifolds.layout import FILE, ManifoldRecord
from interp.manifolds.ordinals import fitting_half, ordinals
from interp.manifolds.planes import of_the_same_rank, random_planes
from interp.manifolds.shape import LEAST_ROWS, N_AXES, best_scores, points_of, strongest
from interp.progress import progress
from interp.records import check_options
from interp.runs.record import Run
from interp.store.reader import ActivationStore

STRONGEST = 0.1
"""Share of the tokens that labels are read off on: enough for a curve of a dozen knots, few enough to be the latent's own."""
_COMMONEST = 0.9
_N_CONTEXT, _CONTEXT_CHARACTERS = 16, 60
_N_POWER = 30


@runtime_checkable
class TokenText(Protocol):
    """The methods of ``LanguageModel`` that give the text of tokens."""

    @property
    def fingerprint(self) -> str: ...
    def token_strings(self) -> list[str]: ...


@dataclass(frozen=True)
class ManifoldConfig:
    """How many tokens are read, and how many are kept."""

    n_sample: int = 20_000
    """Tokens drawn from the store; the smallest share scored is then 600 of them."""
    n_points: int = 1200
    """Tokens kept for each latent; two thirds are its strongest, the rest are drawn from the others."""
    seed: int = 0
    """Seed of the sample and of the random planes."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.n_points < 4 or self.n_sample < max(LEAST_ROWS, self.n_points):
            raise InputError(
                f"{self.n_points} points of a sample of {self.n_sample} tokens were asked for; give 4 points or more, and "
                f"{LEAST_ROWS} tokens or more, as many as points at least"
            )

    @property
    def n_far(self) -> int:
        return self.n_points * 2 // 3


def build_manifolds(run: Run, *, config: ManifoldConfig | None = None, model: TokenText | None = None) -> Path:
    """Write ``manifolds.h5`` into the run's folder and return its path; an older one stays until the new one is whole.

    Without ``model`` the file has no text and no position in the line. Raises InputError for a run without quadratic latents,
    for too small a store, and for a model other than the store's.
    """
    config = config or ManifoldConfig()
    decomposer, store = run.decomposer(), run.store()
    if not isinstance(decomposer, QuadraticDecomposer):
        raise InputError(f"'{run.name}' is a run of {run.kind}, whose features are directions; train a bilinear one")
    if len(store.site(run.site.read)) < LEAST_ROWS:
        raise InputError(
            f"'{store.path}' holds {store.n_rows} tokens, too few to see a shape; capture {LEAST_ROWS} or more"
        )
    if model is not None and model.fingerprint != store.manifest.model_fingerprint:
        raise InputError(f"the store {store.path} was captured from '{store.manifest.model_id}', not from this model")
    sample = _Sample.draw(store, run.site.read, config, model)
    config = replace(config, n_points=min(config.n_points, len(sample.rows)))
    features = _describe(decomposer, sample, config)
    record = ManifoldRecord(
        run=run.name,
        run_identity=run.identity,
        store_identity=run.store_identity,
        config=asdict(config),
        n_features=decomposer.n_features,
        n_far=config.n_far,
        ordinals=list(sample.ordinals),
        has_text=sample.text is not None,
    )
    with whole(run.path / FILE) as partial, h5py.File(partial, "w") as file:
        file["tokens/row"] = sample.rows.astype(np.int32)
        for name, texts in (sample.text or {}).items():
            file.create_dataset(f"tokens/{name}", data=texts, dtype=h5py.string_dtype())
        file["ordinals"] = np.stack(list(sample.ordinals.values()))
        for name, values in features.items():
            write_compressed(file.require_group("features"), name, values)
        write_attributes(file, record)
    return run.path / FILE


@dataclass(frozen=True)
class _Sample:
    """The sampled tokens, one row each."""

    rows: Int[np.ndarray, " n"]
    """Ascending rows of the store."""
    x: Float[Tensor, "n d_in"]
    ordinals: dict[str, Float[np.ndarray, " n"]]
    is_fit: Bool[np.ndarray, " n"]
    """Whether curves are fitted, and latents ranked, on the token's document."""
    pca: Float[Tensor, "n 2"]
    """Coordinates in PCA's plane."""
    text: dict[str, list[str]] | None

    @staticmethod
    def draw(store: ActivationStore, site: str, config: ManifoldConfig, model: TokenText | None) -> _Sample:
        source = store.site(site)
        random = np.random.default_rng(config.seed)
        rows = np.sort(random.choice(len(source), min(config.n_sample, len(source)), replace=False))
        x = source.rows(rows)
        vocabulary = None if model is None else model.token_strings()
        sequence, place = store.positions()[rows].T
        numbers = {name: values[rows] for name, values in ordinals(store, vocabulary).items()}
        components = torch.from_numpy(source.moments().spectrum[1][:2]).float()
        text = None if vocabulary is None else _texts(store.tokens(), sequence, place, vocabulary)
        return _Sample(rows, x, numbers, fitting_half(store, rows), unit_rows(x) @ components.T, text)


def _texts(
    tokens: Int[np.ndarray, "n_sequences n_ctx"],
    sequences: Int[np.ndarray, " n"],
    places: Int[np.ndarray, " n"],
    vocabulary: list[str],
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"text": [], "next": [], "before": [], "after": []}
    for row, place in zip(tokens[sequences], places, strict=True):
        pieces = [vocabulary[token] for token in row[max(1, place - _N_CONTEXT) : place + _N_CONTEXT + 1]]
        here = min(place - 1, _N_CONTEXT)
        found["text"].append(pieces[here])
        found["next"].append(pieces[here + 1] if here + 1 < len(pieces) else "")
        found["before"].append("".join(pieces[:here])[-_CONTEXT_CHARACTERS:])
        found["after"].append("".join(pieces[here + 1 :])[:_CONTEXT_CHARACTERS])
    return found


@torch.no_grad()
def _describe(decomposer: QuadraticDecomposer, sample: _Sample, config: ManifoldConfig) -> dict[str, np.ndarray]:
    """The arrays of ``features/``."""
    u, random = unit_rows(sample.x), np.random.default_rng(config.seed)
    numbers = range(decomposer.n_features)
    pages = [
        _describe_latent(decomposer.form(f), u, sample, config, random)
        for f in progress(numbers, total=len(numbers), what="manifolds", unit="latent")
    ]
    found = {name: np.stack([page[name] for page in pages]) for name in pages[0]}
    random_r2 = _labels_along_random(u, sample, found["label_fit_r2"], seed=config.seed)
    return found | {"label_r2": np.concatenate([found["label_r2"], random_r2[:, :, None]], 2)}


def _labels_along_random(
    u: Float[Tensor, "n d_in"], sample: _Sample, fit_r2: Float[np.ndarray, "n_features n_ordinals"], *, seed: int
) -> Float[np.ndarray, "n_features n_ordinals"]:
    """R^2 of each ordinal in the random plane that has the rank of each latent, by the latents' own ``fit_r2``."""
    null_fit_r2, null_r2 = np.full((2, *fit_r2.shape), np.nan, np.float32)
    planes = random_planes(u.shape[1], len(fit_r2), seed=seed)
    for i, axes in enumerate(progress(planes, total=len(planes), what="random planes", unit="plane")):
        points = u @ axes.T
        null_fit_r2[i], r2, _ = _labels_along([points], strongest(points, STRONGEST).numpy(), sample)
        null_r2[i] = r2[:, 0]
    return of_the_same_rank(fit_r2, null_fit_r2, null_r2)


def _describe_latent(
    form: QuadraticForm,
    u: Float[Tensor, "n d_in"],
    sample: _Sample,
    config: ManifoldConfig,
    random: np.random.Generator,
) -> dict[str, np.ndarray]:
    points = points_of(form, u)
    order = points.square().sum(1).argsort(descending=True).numpy()
    far, rest = order[: config.n_far], order[config.n_far :]
    chosen = np.concatenate([far, random.choice(rest, min(len(rest), config.n_points - config.n_far), replace=False)])
    score, share = best_scores(points)
    fit_r2, r2, curve = _labels_along([points[:, :2], sample.pca], strongest(points, STRONGEST).numpy(), sample)
    return {
        "eigenvalues": form.eigenvalues.numpy(),
        "n_axes": np.array(points.shape[1], np.int32),
        "effective_rank": np.array(form.effective_rank, np.float32),
        "score": score.astype(np.float32),
        "share": share.astype(np.float32),
        "label_fit_r2": fit_r2,
        "label_r2": r2,
        "curve": curve,
        "point": chosen.astype(np.int32),
        "coordinates": _with_more_axes(points, form, u, far)[chosen].numpy(),
        "value": form.value(u[chosen]).numpy(),
    }


def _labels_along(
    planes: Sequence[Float[Tensor, "n n_axes"]], rows: Int[np.ndarray, " k"], sample: _Sample
) -> tuple[
    Float[np.ndarray, " n_ordinals"],
    Float[np.ndarray, "n_ordinals n_planes"],
    Float[np.ndarray, "n_ordinals n_knots 3"],
]:
    """(R^2 where the curve was fitted, R^2 on the other documents, knots) of every ordinal, on the tokens ``rows``.

    The second is in each of ``planes``, by the coordinates of all tokens; the others are in the first.
    """
    fit_r2 = np.full(len(sample.ordinals), np.nan, np.float32)
    r2 = np.full((len(sample.ordinals), len(planes)), np.nan, np.float32)
    knots = np.full((len(sample.ordinals), N_KNOTS, 3), np.nan, np.float32)
    if planes[0].shape[1] < 2:
        return fit_r2, r2, knots
    for i, values in enumerate(sample.ordinals.values()):
        known = rows[np.isfinite(values[rows])]
        label, is_fit = values[known], sample.is_fit[known]
        if _hardly_varies(label[is_fit]) or _hardly_varies(label[~is_fit]):
            continue
        points = [plane[known].numpy() for plane in planes]
        curves, r2[i] = zip(*(LabelCurve.fit_and_score(each, label, is_fit) for each in points), strict=True)
        curve = curves[0]
        fit_r2[i] = curve.r2(points[0][is_fit], label[is_fit])
        knots[i, : len(curve.labels)] = np.column_stack([curve.points, curve.labels])
    return fit_r2, r2, knots


def _hardly_varies(label: Num[np.ndarray, " n"]) -> bool:
    return len(label) == 0 or int(np.unique(label, return_counts=True)[1].max()) > _COMMONEST * len(label)


def _with_more_axes(
    points: Float[Tensor, "n n_axes"], form: QuadraticForm, u: Float[Tensor, "n d_in"], rows: Int[np.ndarray, " k"]
) -> Float[Tensor, "n 3"]:
    """Points on three axes: the form's own, then those outside them along which the tokens ``rows`` vary most."""
    axes = form.eigenvectors[: points.shape[1]]
    while len(axes) < N_AXES:
        rest = u[rows] - u[rows] @ axes.T @ axes
        further = _leading_direction(rest - rest.mean(0))
        axes = torch.cat([axes, further[None]])
        points = torch.cat([points, (u @ further)[:, None]], 1)
    return points


def _leading_direction(rows: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """The first principal direction of centred rows, by power iteration; zeros where they do not vary."""
    direction = rows[rows.square().sum(1).argmax()]
    for _ in range(_N_POWER):
        direction = unit_rows((rows @ direction) @ rows)
    return direction
