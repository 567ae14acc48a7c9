"""Where the directions of a sparse autoencoder begin, and the rank of the subspace that they may begin in.

* random: uniform on the sphere.
* datapoint: rows of the data less their mean, at random, four in five; the rest uniform.
* covariance: normalised Gaussian rows with the covariance of the data.
* subspace (arXiv 2508.16929): normalised Gaussian rows within the r leading principal directions. Attention outputs live in
  a space of few dimensions; directions outside of it fire on nothing and die.

The encoder begins as the decoder times ``encoder_scale``, the decoder's bias as the mean of the data and the encoder's as
zero, which is then minus the mean pre-activation.

Measured at blocks.2.hook_attn_out of the bundled model (2048 features, k 32, subspace, 400 000 tokens, two seeds), by learning
rate: FVU on held-out rows, and features that fire on none of the 120 000 rows.

    encoder_scale           1e-3              2e-3                 3e-3
    1, first FVU 1.9        .071, 0 and 0     .061, 16 and 25      .053, 194 and 199
    auto, first FVU .37     .068, 12 and 6    .058, 169 and 177

So a lower error at the start is worth less than a higher rate, which leaves fewer features silent at the same FVU; with random
directions, too (2e-3, one seed: .061 and 103, with auto .060 and 328). The authors' other choices, each with auto and 1e-3, are
not kept: the decoder's bias at the geometric median .068, 14 and 7; its rows free of their norm .068, 16 and 6; a rate of 1e-4
.120; batches of 32 768 .183. The half of the width that they take as the rank is what auto takes here, 124 of 256.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.records import Notes, check_options
from interp.store.moments import Moments
from interp.store.source import ActivationSource

AUTO_SHARE = 0.99
"""Share of the variance that an automatic rank holds."""
FULL_RANK = 0.85
"""Of an automatic rank above this share of the width it is said that there is no subspace."""
DOMINANT = 0.3
"""A direction that holds more than this share of the variance says nothing about the rank of the rest."""
ROWS_PER_DIMENSION = 20
"""Rows that a covariance is estimated from, at least, for each dimension: one batch of d_in rows underestimates the rank by
an eighth."""
DATA_SHARE = 0.8
"""Share of the rows that are data in ``datapoint``."""


@dataclass(frozen=True)
class Initialisation:
    """Where the directions begin."""

    # At blocks.2.hook_attn_out of the bundled model (4096 features, k 32, 200 000 tokens, lr 3e-3, 3 seeds; silent on 30 000
    # held-out rows, FVU, concept AUROC): random 38 %, .0464, .757; datapoint 65 %, .0449, .765; subspace 45 %, .0466, .758.
    start: Literal["random", "datapoint", "covariance"] = "random"
    """Directions uniform on the sphere, rows of the data (one in five uniform), or Gaussian with the data's covariance."""
    encoder_scale: float | Literal["auto"] = 1.0
    """The encoder begins as this multiple of the decoder; auto is the one that reconstructs some of the rows best. It
    recovers planted features of topk and jumprelu better, and leaves more features of real activations dead."""

    def __post_init__(self) -> None:
        check_options(self)
        _check_scale(self.encoder_scale)


@dataclass(frozen=True)
class SubspaceInitialisation:
    """In which subspace the directions begin."""

    rank: int | float | Literal["auto"] = "auto"
    """Dimensions of the subspace: a whole number, or a share (below 1, with a point) of the variance to hold. auto holds 99 %
    of the variance, at least a quarter of the width; where that takes 85 % of the width, directions begin anywhere."""
    full_space: float = 0.0
    """Share of the directions that begin anywhere. None do by default, because it is they that die: at an attention output of
    the bundled model (2048 features, 3 seeds) a fifth left 73, 64 and 54 features dead, none left 1, 1 and 1, at the same FVU;
    half of that fifth fired on nothing before the first step. Where features lie outside of the subspace some are needed: of
    such planted ones a fifth found 81 %, none found none."""
    encoder_scale: float | Literal["auto"] = 1.0
    """The encoder begins as this multiple of the decoder; auto is the one that reconstructs some of the rows best. It
    recovers planted features of topk and jumprelu better, and leaves more features of real activations dead."""

    def __post_init__(self) -> None:
        check_options(self)
        _check_scale(self.encoder_scale)
        if not 0 <= self.full_space <= 1:
            raise InputError(f"the share of full-space directions is {self.full_space:g}; it must lie between 0 and 1")
        if self.rank == "auto":
            return
        is_share = isinstance(self.rank, float)
        if not (0 < self.rank <= 1 if is_share else self.rank >= 1):
            raise InputError(
                f"the rank is {self.rank}; give a whole number from 1, a share of the variance above 0 and at most 1, or auto"
            )


@dataclass(frozen=True)
class Rank:
    """The rank of a subspace, and why it is this one."""

    rank: int
    d_in: int
    variance_share: float
    """Share of the variance that the ``rank`` leading directions hold."""
    reason: str

    def as_dict(self) -> Notes:
        """For the notes of a run."""
        return {"rank": self.rank, "rank_reason": self.reason, "rank_variance_share": round(self.variance_share, 4)}


def choose_rank(moments: Moments, asked: int | float | Literal["auto"]) -> Rank:
    """The rank that was asked for, or that the spectrum suggests.

    Raises InputError for a rank above the width. Where there are too few rows to know the covariance by, the reason says so.
    """
    d_in = len(moments.mean)
    if isinstance(asked, int) and asked > d_in:
        raise InputError(
            f"a subspace of rank {asked} was asked for, but the site is {d_in} wide; give a smaller --rank"
        )
    values = moments.spectrum[0]
    held = np.cumsum(values) / values.sum()
    if isinstance(asked, int):
        rank, reason = asked, "as asked for"
    elif isinstance(asked, float):
        rank, reason = moments.rank_for_variance(asked), f"holds {asked:.4g} of the variance, as asked for"
    else:
        rank, reason = _automatic(values)
    if moments.n < ROWS_PER_DIMENSION * d_in and not isinstance(asked, int):
        reason += f"; {moments.n} rows are few to tell by, {ROWS_PER_DIMENSION * d_in} would be enough"
    return Rank(min(rank, d_in), d_in, float(held[min(rank, d_in) - 1]), reason)


def _automatic(values: Float[np.ndarray, " d_in"]) -> tuple[int, str]:
    """99 % of the variance that a dominant direction leaves, within [d_in / 4, d_in]; d_in where that is nearly all."""
    d_in = len(values)
    n_dominant = int(values[0] > DOMINANT * values.sum())
    rest = np.cumsum(values[n_dominant:])
    rank = n_dominant + int(np.searchsorted(rest, AUTO_SHARE * rest[-1]) + 1)
    what = f"{rank} of {d_in} directions hold {AUTO_SHARE:.0%} of the variance"
    if n_dominant:
        what += f" beside the first, which alone holds {values[0] / values.sum():.0%}"
    if rank < d_in / 4:
        return -(-d_in // 4), f"{what}; taken up to a quarter of the width"
    if rank >= FULL_RANK * d_in:
        return d_in, f"{what}: there is no small subspace, and directions begin anywhere"
    return rank, what


def initial_directions(
    source: ActivationSource, n: int, start: Literal["random", "datapoint", "covariance"], generator: torch.Generator
) -> Float[Tensor, "n d_in"]:
    """``n`` unit rows; see the module's docstring."""
    uniform = torch.randn(n, source.d_in, generator=generator)
    if start == "datapoint":
        n_data = round(DATA_SHARE * n)
        chosen = torch.randint(len(source), (n_data,), generator=generator).numpy()
        rows = source.rows(chosen).cpu() - torch.from_numpy(source.moments().mean).float()
        is_row = rows.norm(dim=1, keepdim=True) > 0  # a row that is the mean has no direction
        uniform[:n_data] = torch.where(is_row, rows, uniform[:n_data])
    elif start == "covariance":
        uniform = with_covariance(uniform, source.moments())
    return F.normalize(uniform, dim=1)


def with_covariance(normal: Float[Tensor, "n d_in"], moments: Moments) -> Float[Tensor, "n d_in"]:
    """Rows drawn from a standard normal distribution, turned into rows with the covariance of the activations."""
    values, vectors = moments.spectrum
    return normal @ torch.from_numpy(np.sqrt(values)[:, None] * vectors).float()


def random_directions(n: int, moments: Moments, seed: int, *, shaped: bool) -> Float[Tensor, "n d_in"]:
    """``n`` random unit directions: isotropic, or ``shaped`` as draws from a normal distribution with the covariance of the
    rows."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(n, len(moments.mean), generator=generator)
    if shaped:
        directions = with_covariance(directions, moments)
    return F.normalize(directions, dim=1)


def subspace_directions(
    moments: Moments, n: int, rank: int, full_space: float, generator: torch.Generator
) -> Float[Tensor, "n d_in"]:
    """``n`` unit rows, all within the ``rank`` leading principal directions but the last ``full_space`` share of them."""
    basis = torch.from_numpy(moments.spectrum[1][:rank]).float()
    n_within = n - round(full_space * n)
    within = torch.randn(n_within, rank, generator=generator) @ basis
    anywhere = torch.randn(n - n_within, basis.shape[1], generator=generator)
    return F.normalize(torch.cat([within, anywhere]), dim=1)


def best_scale(centred: Float[Tensor, "n d_in"], directions: Float[Tensor, "n_features d_in"], l0: float) -> float:
    """The multiple of ``directions`` that as an encoder reconstructs the rows best, about ``l0`` codes active on each.

    Which codes are the largest of a row does not depend on it, so that it is a ratio of least squares: <x, x^> / |x^|^2, where
    x is a row less the mean and x^ what the unscaled directions make of it. 1 where no code is active.
    """
    values, indices = (centred @ directions.T).topk(max(1, round(l0)), dim=1)
    decoded = F.embedding_bag(indices, directions, per_sample_weights=values.relu(), mode="sum")
    squares = float(decoded.square().sum())
    return float((decoded * centred).sum()) / squares if squares else 1.0


def _check_scale(scale: float | Literal["auto"]) -> None:
    if scale != "auto" and scale <= 0:
        raise InputError(f"the encoder's scale is {scale:g}; it must be above 0")
