"""The unit of steering strengths: what each feature of a run adds to an activation at its maximum.

Or, the same for all features, the mean norm of the site's rows (``Steerer.from_run``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers import LinearDecomposer
from interp.runs.firing import firing_of

if TYPE_CHECKING:
    from interp.runs.record import Run

Unit = Literal["maximum", "norm"]
"""What strength 1 adds: what the feature adds at its maximum on the store, or the mean norm of the site's rows."""

_PROJECTION_ROWS = 65_536


def feature_scales(run: Run) -> Float[np.ndarray, " n_features"]:
    """What each feature of ``run`` adds to an activation at its maximum on the store, in units of activation.

    For a linear decomposer: the largest code times the length of what one unit of code decodes to.
    Where codes decode to no activation (bilinear latents): the largest distance of a row from the mean row along the
    direction, over at most the first 65,536 rows of the store.
    """
    decomposer = run.decomposer()
    if not isinstance(decomposer, LinearDecomposer):
        return _largest_projection(run, decomposer.write_directions())
    return firing_of(run).maximum * decomposer.W_dec.norm(dim=1).numpy()


def _largest_projection(run: Run, directions: Float[Tensor, "n d_in"]) -> Float[np.ndarray, " n"]:
    source = run.store().site(run.site.write)
    mean = torch.from_numpy(source.moments().mean).float()
    largest, seen = torch.zeros(len(directions)), 0
    for chunk in source.chunks():
        largest = torch.maximum(largest, ((chunk - mean) @ directions.T).abs().amax(0))
        seen += len(chunk)
        if seen >= _PROJECTION_ROWS:
            break
    return largest.numpy()
