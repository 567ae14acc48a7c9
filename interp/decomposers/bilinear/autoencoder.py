"""Bilinear autoencoder (Finding Manifolds With Bilinear Autoencoders, arXiv 2510.16820): latents that are quadratic forms.

    u = x / |x|, or (1, x / |x|) with a bias                     the row as it is seen
    f_h = (l_h . u)(r_h . u) = u^T Q_h u                         what atom h reads; a latent is one atom, or a sum of rank / 2
    X^  = sum_h g_h Q_h,  g = f, or D^T D f where atoms are mixed  the reconstruction of X = u u^T, by the same forms
    loss = mean over rows of |X - X^|^2 / |u|^4  +  alpha * Hoyer density of the latents over the batch

``kernels`` evaluates it exactly; ``interp.decomposers.forms`` is how a latent is read. It reconstructs u u^T, not x: there is
no ``decode``, and its FVU, that of u u^T, is measured in another space than a linear method's.

Three deviations from the paper: latents may have several atoms each (``rank``); its training loss weighs the two halves of
the kernel otherwise (``gamma`` = 1); and with a bias |X|^2 = 4 for every row, so the error is divided by 4: alpha then means
the same with and without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.decomposers.base import QuadraticDecomposer, checked_moments, register
from interp.decomposers.bilinear.kernels import hoyer_density, read_atoms, reconstruction_error
from interp.decomposers.forms import Forms, QuadraticForm, atom_spectra, composite_spectra, unit_rows
from interp.decomposers.gradient import GradientDecomposer
from interp.distributed import world
from interp.errors import InputError, unknown_feature
from interp.records import Notes
from interp.store.source import ActivationSource
from interp.training.config import GradientConfig, Schedule

COMPOSITE = 8
"""Atoms in a latent of a mixed autoencoder: those that its own atom is mixed with most, itself included."""
ACTIVE, ACTIVE_AXES = 32, 2
"""``span_fvu`` takes the first 2 axes of the 32 latents that write most on a row: as many directions as an SAE of L0 64."""
_ROWS = 4096
_SPAN_VALUES = 2**23  # of axes gathered at a time: 32 MB
_RIDGE = 1e-6  # of the Gram matrix of unit axes: latents that share an axis make it singular


@dataclass(frozen=True)
class BilinearConfig(GradientConfig):
    """Options of the bilinear autoencoder."""

    n_features: int = 1024
    """Number of latents."""
    tokens: int = 1_024_000
    """Tokens to train on, counted with repetition: 1000 steps of the default batch."""
    lr: float = 0.01
    """Learning rate at its height, of Adam; Muon wants .03."""
    schedule: Schedule = field(default_factory=lambda: Schedule(warmup=0.0, cooldown=1.0, clip=0.0))
    """How the training proceeds: linearly to zero from the start, with no clipping: no step depends on the gradient's size."""
    structure: Literal["vanilla", "ordered", "mixed", "combined"] = "ordered"
    """vanilla: atoms alone. ordered: every prefix of the atoms reconstructs, so that the first matter most. mixed: atoms
    are written in mixtures, which gives latents of any rank. combined: both."""
    rank: int = 2
    """Greatest rank of a latent's form, even: it has half as many atoms. With 2 a surface is several planes; with 4 or 6 one
    latent may hold it. Latents of mixed and combined get theirs from the mixture: leave it at 2."""
    # Planted sphere and patch (examples/bilinear.md): with 2, five or six of the six forms of their space are latents in every
    # seed; with 6 and with 4 the latent of the highest surface score is one of them in four and five seeds of six.
    biased: bool = False
    """See (1, x) in place of x: finds manifolds that do not lie about the origin."""
    alpha: float = 0.1
    """Weight of the Hoyer density, reached over the first quarter of the training."""
    gamma: float = 0.0
    """Weight of the antisymmetric part: 0 is the exact error, 1 the paper's training loss, which ends in a larger error."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Muon orthogonalises each step (momentum 0.95)."""
    # Measured: FVU on held-out rows of blocks.2.hook_mlp_out after 300 steps, with CPU seconds on one thread: Adam .003 .451,
    # .01 .394, .03 .452 (46-52 s); Muon .03 .506 (77 s, its Newton-Schulz steps being in bfloat16). Planted circle, three
    # seeds, error after 800 steps: Adam .003 .128-.134, .01 .098-.101; Muon .01 .154-.160, .03 .105-.112.

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            raise InputError(f"alpha is {self.alpha:g}, but the weight of a penalty must be 0 or more")
        if not -1 < self.gamma <= 1:
            raise InputError(f"gamma is {self.gamma:g}, but it must be above -1 and at most 1; 0 is the exact error")
        if self.rank < 2 or self.rank % 2:
            raise InputError(f"rank is {self.rank}, but latents are made of atoms of rank 2; give 2, 4, 6 and so on")
        if self.rank > 2 and self.is_mixed:
            raise InputError(f"latents of {self.structure} have the rank of their mixture; leave --rank at 2")
        if self.batch < 2:
            raise InputError("a batch of 1 row has no density; use a batch of 2 or more")

    @property
    def is_mixed(self) -> bool:
        return self.structure in ("mixed", "combined")

    @property
    def is_ordered(self) -> bool:
        return self.structure in ("ordered", "combined")


@register
class Bilinear(GradientDecomposer, QuadraticDecomposer):
    """A bilinear autoencoder, whose codes are quadratic forms of the row (arXiv 2510.16820).

    Tensors L, R [n_atoms, d_in], one wider with a bias, and D [2 d, n_atoms] if mixed. Latent f is atom f, or the sum of the
    atoms that follow one another from f rank / 2 on; of a mixed autoencoder, whose h = D f are defined only up to a rotation,
    it is the composite of the atoms that atom f is mixed with most (``composites``).
    """

    kind = "bilinear"
    config_type = BilinearConfig
    config: BilinearConfig
    signed_codes = True

    @classmethod
    def trainable(cls, source: ActivationSource, config: BilinearConfig) -> TrainableBilinear:
        return TrainableBilinear(source, config)

    @property
    def n_features(self) -> int:
        return len(self.tensors["L"]) // (self.config.rank // 2)

    @property
    def d_in(self) -> int:
        return self.tensors["L"].shape[1] - self.config.biased

    def _encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        """Every latent's value on the rows brought to unit length; signed. Raises InputError for rows of another width."""
        f = read_atoms(self._seen(x), self.tensors["L"], self.tensors["R"])
        atoms, weights = self.composites
        if atoms.shape[1] == 1:
            return f
        return torch.nn.functional.embedding_bag(
            atoms, f.T.contiguous(), per_sample_weights=weights, mode="sum"
        ).T.contiguous()

    def fvu(self, x: Float[Tensor, "n d_in"]) -> float:
        """sum |X - X^|^2 / sum |X - mean of X|^2 over the rows, X = u u^T: how much of the rows' *second* moments is missed.

        Not comparable with the FVU of a linear method. NaN if the rows do not vary.
        """
        variance = _target_variance(x.split(_ROWS), self.config.biased)
        return self.error(x) / variance if variance > 0 else float("nan")

    @torch.no_grad()
    def span_fvu(self, x: Float[Tensor, "n d_in"]) -> float:
        """sum |x - P x|^2 / sum |x - mean(x)|^2, with P the projection on the span of a row's active latents' axes.

        A row's active latents are the ``ACTIVE`` of largest |z| |Q|, each with its first ``ACTIVE_AXES`` eigenvectors. It is
        a linear FVU, of a projection that is chosen for every row by its codes but does not know their values: it says
        whether the latents look where the rows are, and no decoder reaches it. NaN if the rows do not vary.
        """
        variance = float((x - x.mean(0)).square().sum())
        if not variance:
            return float("nan")
        axes = self.spectra[1][:, :ACTIVE_AXES]
        n_active, outside = min(ACTIVE, self.n_features), 0.0
        for part in x.split(max(1, _SPAN_VALUES // (n_active * axes[0].numel()))):
            written = self.encode(part).abs() * self.norms
            A = axes[written.topk(n_active, dim=1).indices].flatten(1, 2)
            on_axes = (A @ part[:, :, None]).double()
            gram = (A @ A.mT).double() + _RIDGE * torch.eye(A.shape[1], dtype=torch.float64)
            inside = on_axes.mT @ torch.cholesky_solve(on_axes, torch.linalg.cholesky(gram))
            outside += float(part.double().square().sum() - inside.sum())
        return max(0.0, outside) / variance

    @torch.no_grad()
    def error(self, x: Float[Tensor, "n d_in"]) -> float:
        """Mean over rows of |X - X^|^2 / |u|^4: 0 is perfect, 1 is what reconstructing nothing achieves."""
        p, total = self.tensors, 0.0
        for part in x.split(_ROWS):
            error, _ = reconstruction_error(self._seen(part), p["L"], p["R"], p.get("D"), n_each=self.config.rank // 2)
            total += float(error) * len(part)
        return total / max(len(x), 1) * _scale(self.config.biased)

    # ------------------------------------------------------------------------------------------------ reading latents

    @cached_property
    def composites(self) -> tuple[Int[Tensor, "n_features k"], Float[Tensor, "n_features k"]]:
        """(atoms, signed weights) of every latent; k is rank / 2. If mixed, its own atom first: the cosines of D's columns,
        largest in magnitude."""
        if not self.config.is_mixed:
            own = torch.arange(len(self.tensors["L"])).view(self.n_features, -1)
            return own, torch.ones(own.shape)
        columns = unit_rows(self.tensors["D"].T)
        atoms, weights = [], []
        for part in columns.split(1024):
            cosine = part @ columns.T
            _, strongest = cosine.abs().topk(min(COMPOSITE, self.n_features), dim=1)
            atoms.append(strongest)
            weights.append(cosine.gather(1, strongest))
        return torch.cat(atoms), torch.cat(weights)

    @cached_property
    def spectra(self) -> tuple[Float[Tensor, "n_features r"], Float[Tensor, "n_features r d_in"]]:
        """(eigenvalues by magnitude, unit eigenvectors) of every latent's form."""
        L, R = (self.tensors[name][:, self.config.biased :] for name in "LR")
        atoms, weights = self.composites
        if atoms.shape[1] == 1:
            return atom_spectra(L, R)
        parts = [composite_spectra(L[a], R[a], w) for a, w in zip(atoms.split(256), weights.split(256), strict=True)]
        values, vectors = zip(*parts, strict=True)
        return torch.cat(values), torch.cat(vectors)

    def form(self, feature: int) -> QuadraticForm:
        """One latent as an object. Raises InputError for a number that there is not."""
        self._check(feature)
        values, vectors = (each[feature] for each in self.spectra)
        linear, constant = torch.zeros(self.d_in), 0.0
        if self.config.biased:
            atoms, weights = (each[feature] for each in self.composites)
            L, R = self.tensors["L"][atoms], self.tensors["R"][atoms]
            linear = (weights[:, None] * (L[:, :1] * R[:, 1:] + R[:, :1] * L[:, 1:])).sum(0) / 2
            constant = float((weights * L[:, 0] * R[:, 0]).sum())
        return QuadraticForm(values, vectors, linear, constant)

    @cached_property
    def forms(self) -> Forms:
        return Forms(self.tensors["L"], self.tensors["R"], *self.composites)

    def importance(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, " n_features"]:
        """Mean over rows of z^2 |Q|^2, the squared length of what each latent writes alone; sort by it, largest first.

        In an ordered autoencoder the numbers of the latents are an order of importance already.
        """
        return self.encode(x).square().mean(0) * self.norms.square()

    def _check(self, feature: int) -> None:
        if not 0 <= feature < self.n_features:
            raise unknown_feature(feature, self.n_features)

    def _seen(self, x: Float[Tensor, "n _"]) -> Float[Tensor, "n d"]:
        if x.shape[1] != self.d_in:
            raise InputError(
                f"the rows are {x.shape[1]} wide, but this bilinear autoencoder was trained on {self.d_in}"
            )
        return _as_seen(x, self.config.biased)


class TrainableBilinear:
    """The parameters in training."""

    def __init__(self, source: ActivationSource, config: BilinearConfig):
        checked_moments(source)
        self.config = config
        self.notes: Notes = {}
        self.variance = _target_variance(_refuse_zeros(source), config.biased)
        n_each = config.rank // 2
        d, n = source.d_in + config.biased, config.n_features * n_each
        shapes = {"L": (n, d), "R": (n, d)} | ({"D": (2 * d, n)} if config.is_mixed else {})
        generator = torch.Generator().manual_seed(config.seed)
        self.parameters = {
            name: (torch.nn.init.orthogonal_(torch.empty(shape), generator=generator) / n_each**0.5).requires_grad_()
            for name, shape in shapes.items()
        }
        self.state = {"step": torch.zeros((), dtype=torch.int64)}

    def note_start(self, source: ActivationSource) -> None:
        """Nothing: no latent can be silent."""

    def optimizers(self) -> list[torch.optim.Optimizer]:
        matrices = list(self.parameters.values())
        if self.config.optimizer == "adam":
            return [torch.optim.Adam(matrices, lr=self.config.lr, fused=True)]
        return [torch.optim.Muon(matrices, lr=self.config.lr, momentum=0.95, weight_decay=0.0)]

    def loss(self, x: Float[Tensor, "batch d_in"]) -> tuple[Float[Tensor, ""], None]:
        config = self.config
        error, f = self._error(x, ordered=config.is_ordered, gamma=config.gamma)
        ramp = min(1.0, 4 * int(self.state["step"]) / config.steps)
        density = hoyer_density(f, ordered=config.is_ordered, processes=world())
        return error + config.alpha * ramp * density, None

    def _error(
        self, x: Float[Tensor, "n d_in"], *, ordered: bool, gamma: float
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "n n_latents"]]:
        p, n_each = self.parameters, self.config.rank // 2
        seen = _as_seen(x, self.config.biased)
        error, f = reconstruction_error(seen, p["L"], p["R"], p.get("D"), n_each=n_each, ordered=ordered, gamma=gamma)
        return error * _scale(self.config.biased), f

    def before_step(self) -> None:
        """Nothing: the gradients are used as they are."""

    def after_step(self, seen: None) -> None:
        """Count the step; the parameters are free."""
        self.state["step"] += 1

    def measure(self, x: Float[Tensor, "n d_in"]) -> dict[str, float]:
        """The FVU of the exact error of all atoms, whatever the training minimises, and the mean Hoyer density."""
        error, f = self._error(x, ordered=False, gamma=0.0)
        density = float(hoyer_density(f))
        return {"fvu": float(error) / self.variance, "error": float(error), "density": density}

    def finished(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.parameters.items()}


def _scale(biased: bool) -> float:
    """1 / |u|^4."""
    return 0.25 if biased else 1.0


def _as_seen(x: Float[Tensor, "n d_in"], biased: bool) -> Float[Tensor, "n d"]:
    u = unit_rows(x)
    return torch.cat([torch.ones_like(u[:, :1]), u], 1) if biased else u


def _target_variance(chunks: Any, biased: bool) -> float:
    """Mean over rows of |X - mean of X|^2 / |u|^4 = (mean |X|^2 - |mean of X|^2) / |u|^4, for X = u u^T."""
    n, squares, total = 0, 0.0, torch.zeros((), dtype=torch.float64)
    for chunk in chunks:
        u = _as_seen(chunk, biased).double()
        n += len(u)
        squares += float(u.square().sum(1).square().sum())
        total = total + u.T @ u
    if not n:
        return 0.0
    return max(0.0, squares / n - float((total / n).square().sum())) * _scale(biased)


def _refuse_zeros(source: ActivationSource) -> Iterator[Tensor]:
    """The rows in chunks. Raises InputError at the end where rows were zero: they have no direction to learn from."""
    n_zero = 0
    for chunk in source.chunks():
        n_zero += int((~chunk.any(1)).sum())
        yield chunk
    if n_zero:
        raise InputError(
            f"{n_zero} of {len(source)} activations are zero; a bilinear autoencoder sees directions, and these have none: "
            "leave them out, or choose another hook point"
        )
