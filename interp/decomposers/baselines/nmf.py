"""Non-negative matrix factorisation of the positive part of the activations (Lee and Seung 1999; by coordinate descent,
Cichocki and Phan 2009).

    minimise |relu(X) - Z W_dec|^2     over Z >= 0 and W_dec >= 0
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import LinearDecomposer, register
from interp.decomposers.baselines.sample import SampledConfig, log_reconstruction, sampled_rows
from interp.decomposers.semi_nmf.non_negative import non_negative_codes
from interp.errors import InputError
from interp.records import Notes
from interp.store.source import ActivationSource
from interp.training.protocol import Recorder

MEASURED = 2048
"""Rows that the figures of the fit are measured on: their codes are solved for."""
TOLERANCE = 1e-4
"""Share of a row's codes that its last step may move them by."""


@dataclass(frozen=True)
class NMFConfig(SampledConfig):
    """Options of non-negative matrix factorisation of the positive part of the activations."""

    n_features: int = 200
    """Number of features, as many as semi-NMF learns by default; codes of a row take time as their square."""
    passes: int = 60
    """Passes over the sampled rows, at most; the notes of the run say how many it took."""
    # Measured at blocks.2.mlp.hook_post of the bundled model (5000 rows, 100 features; FVU of the positive part of 1000 other
    # rows): coordinate descent .476 after 60 passes in 10 s (.480 from singular vectors, scikit-learn's own start); its
    # MiniBatchNMF .490 after 200 passes in 206 s.

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.passes < 1:
            raise InputError(f"passes is {self.passes}; it must be 1 or more")


@register
class NMF(LinearDecomposer):
    """scikit-learn's NMF from random features; negative activations count as zero.

    Features are unit rows without negative entries. x^ is what is made of relu(x), yet FVU holds it against x, as with any
    linear method: what of the variance is negative it cannot explain. b_dec is zero.
    """

    kind = "nmf"
    config_type = NMFConfig

    @classmethod
    def _fit(cls, source: ActivationSource, config: NMFConfig, recorder: Recorder | None) -> NMF:
        """Fit features to a sample of the rows. Raises InputError for too few rows and where no activation is above zero."""
        from sklearn.decomposition import NMF as SklearnNMF  # deferred: slow
        from sklearn.exceptions import ConvergenceWarning

        x = sampled_rows(source, config)
        positive = x.relu()
        if not positive.any():
            raise InputError(
                "no activation is above zero, so that none has a positive part; use semi-nmf at this hook point"
            )
        nmf = SklearnNMF(config.n_features, init="random", max_iter=config.passes, random_state=config.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of passes is in the notes
            nmf.fit(positive.numpy())
        tensors = {
            "W_dec": F.normalize(torch.from_numpy(nmf.components_).float(), dim=1),
            "b_dec": torch.zeros(source.d_in),
        }
        total = float(x.double().square().sum())
        notes: Notes = {
            "target": "the positive part of the activations",
            "share_of_squares_in_the_positive_part": round(float(positive.double().square().sum()) / total, 4),
            "rows": len(x),
            "passes": int(nmf.n_iter_),
        }
        found = cls(config, tensors, notes)
        log_reconstruction(recorder, found, x[:MEASURED], len(x))
        return found

    def _encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        """The codes of the objective with the features fixed."""
        W = self.W_dec
        return non_negative_codes(x.relu() @ W.T, W @ W.T, tolerance=TOLERANCE)
