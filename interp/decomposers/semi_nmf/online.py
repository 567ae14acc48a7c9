"""Features of semi-NMF learned in shuffled batches, before exact passes or where the rows are too many for passes.

Codes of a batch are solved from nothing and dropped; the sums forget, so that they are of the last batches; each batch ends
in one sweep over the features. (Online dictionary learning, Mairal, Bach, Ponce and Sapiro 2010, with a fixed memory.)
"""

from __future__ import annotations

from contextlib import closing

import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.semi_nmf.checkpoints import Checkpoints
from interp.decomposers.semi_nmf.config import SemiNMFConfig
from interp.decomposers.semi_nmf.features import (
    Sums,
    badly_explained,
    cold_codes,
    hard_threshold_descent,
    is_dead,
    least_squares_features,
    take_out_norms,
)
from interp.decomposers.semi_nmf.start import codes_from_centres
from interp.distributed import world
from interp.progress import progress
from interp.store.source import ActivationSource, shuffled_batches

BATCH = 2048
MEMORY = 25
"""Batches over which the sums reach back, on average: 50 000 rows."""
LEAST_SQUARES = 0.75
"""Share of the batches that end in a least-squares step, in which a feature may still change all its entries."""


def learn_online(
    source: ActivationSource,
    centres: Float[Tensor, "K d_in"],
    *,
    config: SemiNMFConfig,
    l1: float,
    s: int,
    checkpoints: Checkpoints,
) -> Float[Tensor, "K d_in"]:
    """Unit-norm features with at most ``s`` non-zeros after ``config.online_epochs``; each process takes its share of every
    batch. What a killed fit has saved in ``checkpoints`` it goes on from."""
    n, K, processes = len(source), len(centres), world()
    size = min(BATCH, n)
    n_batches = config.online_epochs * (n // size)
    share = slice(processes.rank, None, processes.size)
    held, done = Sums(K, source.d_in), torch.zeros(1, dtype=torch.float64)
    features = torch.zeros(source.d_in, K).T  # column by column, as a least-squares step leaves them
    checkpoints.load({"parameter.features": features, "state.sums": held.flat, "progress": done})
    left = range(int(done), n_batches)
    with closing(shuffled_batches(source, size, left, seed=config.seed, share=share)) as batches:
        for i, x in zip(left, progress(batches, total=len(left), what="online epochs", unit="batch"), strict=True):
            g = codes_from_centres(x, centres) if i == 0 else cold_codes(x, features, l1=l1)
            sums = Sums(K, source.d_in)
            sums.add(x, g)
            sums.add_up(processes)
            held.absorb(sums, keep=1 - 1 / min(i + 1, MEMORY))
            if i < LEAST_SQUARES * n_batches:
                features = least_squares_features(held, s)
            else:
                hard_threshold_descent(features, held.B, held.C, l1 * held.S, s=s)
            dead = is_dead(features, held)
            features, norms = take_out_norms(features)
            held.rescale(norms)
            if dead.any():
                features[dead] = badly_explained(x, features, l1=l1, s=s, count=int(dead.sum()))
                processes.broadcast(features)
            done[0] = i + 1
            checkpoints.save_when_due({"parameter.features": features, "state.sums": held.flat, "progress": done})
    return features
