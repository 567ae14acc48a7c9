"""Steering with a quadratic latent x^T Q x: change its value, rotate in its plane, or set the position on its axes.

Q = sum_i lambda_i v_i v_i^T. All three have a closed form, act on each row of activations alone and keep its length |x|:

    value flow     |x| normalise(exp(t Q) u), u = x / |x|     the value grows with t, from the row's own at t = 0
    rotation       u turned by an angle in the plane of two orthonormal axes
    set position   |x| (A^T z + s (u - A^T A u))              coordinates z on the axes A; s keeps the length

A form's manifold is where its tokens lie, not where its value is large: a circle is often a saddle (one eigenvalue positive,
one negative), and growing the value leaves the circle. Then take the plane from Q, and rotate or set the position.

To get an edit for ``edit_activations``, give all arguments but x: ``lambda x: rotate(x, axes, angle)``.
``QuadraticSteerer`` has the first two as modes of steering, in units that a person can set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.decomposers.base import QuadraticDecomposer
from interp.decomposers.forms import QuadraticForm, unit_rows
from interp.errors import InputError
from interp.metrics import kl_divergence
from interp.steering.edits import Edit, edit_activations, text_positions
from interp.steering.scales import feature_scales
from interp.steering.search import KL_TOLERANCE, StrengthSearch, rows_per_pass, search_strengths
from interp.steering.steerer import Steerer

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run

QuadraticMode = Literal["flow", "rotate"]

_LONGEST_FLOW = 40.0
"""Largest |t| times the largest |eigenvalue|: by then a row lies along its outermost eigenvector to float precision."""
_N_HALVINGS = 60


def value_flow(x: Float[Tensor, "*batch d_in"], form: QuadraticForm, t: float | Tensor) -> Float[Tensor, "*batch d_in"]:
    """Rows moved for a time ``t``, one number or one a row [*batch], along the gradient of the value, length kept.

    Raises InputError for a form that is zero, and for one with a bias: its flow has no closed form.
    """
    _check(form, x)
    u = unit_rows(x)
    on_axes = u @ form.eigenvectors.T
    exponent = torch.as_tensor(t, dtype=x.dtype, device=x.device)[..., None] * form.eigenvalues
    # All factors are divided by the largest, 1 of the rest among them, so that none overflows.
    largest = exponent.amax(-1, keepdim=True).clamp_min(0)
    moved = (u - on_axes @ form.eigenvectors) * (-largest).exp()
    moved = moved + (on_axes * (exponent - largest).exp()) @ form.eigenvectors
    return unit_rows(moved) * x.norm(dim=-1, keepdim=True)


def flow_to_value(
    x: Float[Tensor, "n d_in"], form: QuadraticForm, value: float
) -> tuple[Float[Tensor, "n d_in"], Bool[Tensor, " n"]]:
    """(rows moved until the latent has ``value``, whether it is reached to 1e-3 of the largest eigenvalue).

    A row can reach values between the smallest and the largest eigenvalue of the axes that it has a component on; one that
    cannot reach ``value`` is moved as near as it gets.
    """
    _check(form, x)
    end = _LONGEST_FLOW / float(form.eigenvalues.abs().max())
    low, high = torch.full((2, len(x)), end).mul_(torch.tensor([[-1.0], [1.0]]))
    for _ in range(_N_HALVINGS):
        middle = (low + high) / 2
        is_above = form.value(value_flow(x, form, middle)) >= value
        high, low = torch.where(is_above, middle, high), torch.where(is_above, low, middle)
    moved = value_flow(x, form, (low + high) / 2)
    return moved, (form.value(moved) - value).abs() <= 1e-3 * float(form.eigenvalues.abs().max())


def rotate(
    x: Float[Tensor, "*batch d_in"], axes: Float[Tensor, "k d_in"], angle: float
) -> Float[Tensor, "*batch d_in"]:
    """Rows turned by ``angle`` (radians, from the first axis towards the second); the part outside the plane is unchanged."""
    _check_axes(axes, x)
    if len(axes) != 2:
        raise InputError(f"a rotation is in a plane, but {len(axes)} axes were given; give two")
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    turn = torch.tensor([[cos - 1, sin], [-sin, cos - 1]], dtype=x.dtype, device=x.device)
    return x + (x @ axes.T) @ turn @ axes


def set_position(
    x: Float[Tensor, "*batch d_in"], axes: Float[Tensor, "k d_in"], position: Float[Tensor, " k"]
) -> Float[Tensor, "*batch d_in"]:
    """Rows whose coordinates on ``axes`` are ``position`` times their length, such as a point of a ``LabelCurve``.

    The part outside the axes is scaled so that the length stays; adding the difference and restoring the
    length afterwards would miss the position. Raises InputError for a position outside of the unit ball.
    """
    _check_axes(axes, x)
    length = float(position.norm())
    if position.shape != (len(axes),) or length > 1:
        raise InputError(
            f"the position {position.tolist()} is not one of a unit row on {len(axes)} axes; give {len(axes)} "
            "coordinates of length at most 1"
        )
    u = unit_rows(x)
    rest = unit_rows(u - (u @ axes.T) @ axes) * (1 - length**2) ** 0.5
    return unit_rows(position.to(x) @ axes + rest) * x.norm(dim=-1, keepdim=True)


class QuadraticSteerer(Steerer):
    """A Steerer for latents that are quadratic forms, with two more modes.

    flow    value flow for a time of strength / (largest |eigenvalue|); negative lowers the value
    rotate  rotation by strength turns in the plane of the form's first two axes

    Several latents are written one after the other, in the order given. The other modes act along each latent's first axis.
    """

    units: ClassVar[dict[str, str]] = Steerer.units | {"flow": "/ its largest eigenvalue", "rotate": "turns"}
    modes_by_kl: ClassVar[tuple[str, ...]] = (*Steerer.modes_by_kl, "flow")

    @classmethod
    def from_run(cls, model: LanguageModel, run: Run) -> QuadraticSteerer:
        """Raises InputError for a run whose features are directions."""
        decomposer = run.decomposer()
        if not isinstance(decomposer, QuadraticDecomposer):
            raise InputError(
                f"'{run.name}' is a run of {run.kind}, whose features have no forms; steer it by adding them"
            )
        steerer = cls(model, run.site.write, decomposer.write_directions(), feature_scales(run))
        steerer.forms = decomposer.form
        return steerer

    forms: Callable[[int], QuadraticForm]
    """The form of each latent."""

    def strength_for_kl(
        self, feature: int, target: float, *, tokens: Int[Tensor, "n_seq n_pos"], sign: int = 1, mode: str = "add"
    ) -> StrengthSearch:
        """As of a ``Steerer``; for mode "flow" see ``flow_for_kl``."""
        if mode != "flow":
            return super().strength_for_kl(feature, target, tokens=tokens, sign=sign, mode=mode)
        form = self.forms(feature)
        found = flow_for_kl(self.model, self.site.name, form, target, tokens=tokens, sign=sign)
        strength = found.t * float(form.eigenvalues.abs().max())
        return StrengthSearch(strength, found.kl, reached=found.reached, feature=feature, target=target)

    def _edit(self, strengths: dict[int, float], mode: str) -> Edit | None:
        if mode not in get_args(QuadraticMode):
            return super()._edit(strengths, mode)
        self._index(list(strengths))
        if not all(math.isfinite(strength) for strength in strengths.values()):
            raise InputError("a strength is not finite; give a number")
        parts = [self._operator(self.forms(f), strength, mode) for f, strength in strengths.items() if strength]
        if not parts:
            return None

        def edit(x: Tensor) -> Tensor:
            moved = x.float()
            for part in parts:
                moved = part(moved)
            return moved.to(x.dtype)

        return edit

    def _operator(self, form: QuadraticForm, strength: float, mode: str) -> Edit:
        device = self.directions.device
        if mode == "rotate":
            axes = form.axes(2).to(device)
            return lambda x: rotate(x, axes, 2 * math.pi * strength)
        _check(form, self.directions)
        flowing = replace(form, eigenvalues=form.eigenvalues.to(device), eigenvectors=form.eigenvectors.to(device))
        t = strength / float(form.eigenvalues.abs().max())
        return lambda x: value_flow(x, flowing, t)


def steerer_type(run: Run) -> type[Steerer]:
    """What steers with the features of a run: a QuadraticSteerer where they are forms."""
    return QuadraticSteerer if run.can("forms") else Steerer


@dataclass(frozen=True)
class FlowSearch:
    """The time of a value flow whose effect on neutral text is nearest to a target."""

    t: float
    """Signed; positive raises the value."""
    kl: float
    """Effect at that time: mean KL(p_0 || p_t) in nats per token."""
    reached: bool
    """Whether ``kl`` is within 5 % of the target; report a False, do not drop it."""


def flow_for_kl(
    model: LanguageModel,
    site: str,
    form: QuadraticForm,
    target: float,
    *,
    tokens: Int[Tensor, "n_seq n_pos"],
    sign: int = 1,
) -> FlowSearch:
    """The time t (of the given sign) at which the value flow at ``site`` changes the predictions on ``tokens`` by ``target``.

    Times are tried as ``Steerer.strengths_for_kl`` tries strengths, in units of 1 / the largest |eigenvalue|.
    """
    if target <= 0 or sign not in (-1, 1):
        raise InputError(
            f"a target of {target} nats with sign {sign} cannot be met; give a target > 0 and sign 1 or -1"
        )
    _check(form, torch.zeros(model.site(site).d_in))
    unit = sign / float(form.eigenvalues.abs().max())

    def effect(_: np.ndarray, strengths: np.ndarray) -> np.ndarray:
        t = unit * float(strengths[0])
        return np.array([kl_of_edit(model, site, lambda x: value_flow(x.float(), form, t).to(x.dtype), tokens)])

    strengths, kls = search_strengths(effect, 1, target)
    return FlowSearch(unit * float(strengths[0]), float(kls[0]), bool(abs(kls[0] - target) <= KL_TOLERANCE * target))


@torch.no_grad()
def kl_of_edit(model: LanguageModel, site: str, edit: Edit, tokens: Int[Tensor, "n_seq n_pos"]) -> float:
    """Effect of any edit on ``tokens``: mean of KL(p_0 || p_edited) over the tokens of text, nats per token.

    Raises InputError where there is no text.
    """
    is_text, values = text_positions(model, tokens), []
    for batch in tokens.split(rows_per_pass(model, tokens.shape[1])):
        clean = model.logits(batch)
        with edit_activations(model, site, edit):
            values.append(kl_divergence(clean, model.logits(batch)))
    return float(torch.cat(values)[is_text].double().mean())


def _check(form: QuadraticForm, x: Tensor) -> None:
    """Refuse a form that has no value flow, or another width than ``x``."""
    if form.rank == 0:
        raise InputError("the form is zero, so no flow changes its value; take a latent of rank 1 or more")
    if form.has_bias:
        raise InputError(
            "a latent with a bias has no closed-form value flow; rotate in its plane or set a position on its axes"
        )
    _check_axes(form.eigenvectors, x)


def _check_axes(axes: Tensor, x: Tensor) -> None:
    if axes.shape[1] != x.shape[-1]:
        raise InputError(
            f"the latent is {axes.shape[1]} wide, but the activations are {x.shape[-1]}; take its own site"
        )
