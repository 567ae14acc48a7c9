"""A control direction: what writing anything at all into the site does, beside which a feature's effect is read.

    d = normalise(z S^(1/2)),   z standard normal, S the covariance of the activations of the site

So a control is distributed like the activations: it points where these vary, as features do, but means nothing. It is added
at the strength that has the feature's effect on neutral text. One draw is an example of chance, not its spread: how a feature
stands beside many draws, chosen with the same freedom, is measured by ``interp.evaluation.steering_effect``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from interp.decomposers.sae.initialisation import random_directions
from interp.errors import InputError
from interp.steering.edits import Positions
from interp.steering.steerer import Steerer, into_residual

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run

_STREAM = 8  # apart from the noise that texts are drawn with


def control_steerer(
    model: LanguageModel, run: Run, *, seed: int, at_residual: bool = False, positions: Positions | None = None
) -> Steerer:
    """A Steerer whose only feature is one random direction, drawn by ``seed`` where the features of ``run`` are written.

    Strength 1 is the site's mean norm. ``at_residual`` writes it behind the layer's output matrix, as features are. Raises
    InputError where the run's store does not have the activations of the site, and as ``into_residual`` does.
    """
    site, store = run.site.write, run.store()
    if site not in store.sites:
        raise InputError(
            f"the store '{store.name}' does not have the activations of '{site}', like which a control would be drawn; capture "
            "this site, too"
        )
    moments = store.site(site).moments()
    own_seed = int(np.random.SeedSequence([seed, _STREAM]).generate_state(1)[0])
    directions = random_directions(1, moments, own_seed, shaped=True)
    scale = moments.mean_norm
    if at_residual:
        site, directions = into_residual(model, site, directions)
        scale *= float(directions.norm())
    return Steerer(model, site, directions, torch.tensor([scale]), positions=positions)
