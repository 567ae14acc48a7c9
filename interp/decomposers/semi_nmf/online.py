"""Features of semi-NMF learned in shuffled batches, before exact passes or where the rows are too many for passes.

Codes of a batch are solved from nothing and dropped; the sums forget, so that they are of the last batches; each batch ends
in one sweep over the features. (Online dictionary learning, Mairal, Bach, Ponce and Sapiro 2010, with a fixed memory.)
"""

from __future__ import annotations

from contextlib import closing

from jaxtyping import Float
from torch import Tensor

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
from interp.distributed import World
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
    processes: World,
    *,
    epochs: int,
    l1: float,
    s: int,
    seed: int,
) -> Float[Tensor, "K d_in"]:
    """Unit-norm features with at most ``s`` non-zeros after ``epochs``; each process takes its share of every batch."""
    n, K = len(source), len(centres)
    size = min(BATCH, n)
    n_batches = epochs * (n // size)
    share = slice(processes.rank, None, processes.size)
    held = Sums(K, source.d_in)
    features = centres
    with closing(shuffled_batches(source, size, range(n_batches), seed=seed, share=share)) as batches:
        for i, x in enumerate(progress(batches, total=n_batches, what="online epochs", unit="batch")):
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
    return features
