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
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.decomposers.base import QuadraticDecomposer
from interp.decomposers.forms import QuadraticForm, unit_rows
from interp.errors import InputError
from interp.steering.edits import Edit, Positions
from interp.steering.scales import Unit
from interp.steering.steerer import Steerer, WriteAt

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
    ends: ClassVar[dict[str, float]] = Steerer.ends | {"rotate": 0.5}

    @classmethod
    def from_run(
        cls,
        model: LanguageModel,
        run: Run,
        *,
        at: WriteAt = "site",
        unit: Unit = "maximum",
        positions: Positions | None = None,
    ) -> QuadraticSteerer:
        """Raises InputError for a run whose features are directions, and for a form anywhere but at its own site."""
        decomposer = run.decomposer()
        if not isinstance(decomposer, QuadraticDecomposer):
            raise InputError(
                f"'{run.name}' is a run of {run.kind}, whose features have no forms; steer it by adding them"
            )
        if at == "residual":
            raise InputError(f"the latents of '{run.name}' are forms of its own site; steer them there")
        steerer = super().from_run(model, run, unit=unit, positions=positions)
        assert isinstance(steerer, cls)
        steerer.forms = decomposer.form
        return steerer

    forms: Callable[[int], QuadraticForm]
    """The form of each latent."""

    def _edit(self, strengths: dict[int, float], mode: str) -> Edit:
        if mode not in get_args(QuadraticMode):
            return super()._edit(strengths, mode)
        parts = [self._operator(self.forms(f), strength, mode) for f, strength in strengths.items() if strength]

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
