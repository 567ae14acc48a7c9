"""One pass over a site: what every feature does on every token.

Memory is bounded by one chunk and the kept activations. A feature that fires on most tokens would fill the index with
activations nobody looks at. So a random sample of tokens is encoded first. A feature firing on more than ``max_density``
of the sample gets a *cut*, the quantile that about that share of tokens exceed, and only activations above the cut are
kept. Counts, sums and maxima are taken before the cut.

Of signed codes (PCA, random directions) only the positive side fires: a code at or below zero does not fire. The variance
is that of the whole code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from interp.errors import InputError
from interp.progress import progress
from interp.runs.firing import rows_per_chunk


@dataclass(frozen=True)
class SiteCodes:
    """Everything an index needs of a decomposer's codes at a site.

    n_fire: tokens on which each feature is positive; maximum, mean: over those tokens; variance: over all tokens.
    cut: 0 where every firing token is in ``acts``. acts: the kept activations by feature, rows ascending.
    sample_rows: sorted tokens drawn at random; sample_codes: every code on them, by feature.
    """

    n_fire: Int[np.ndarray, " n_features"]
    maximum: Float[np.ndarray, " n_features"]
    mean: Float[np.ndarray, " n_features"]
    variance: Float[np.ndarray, " n_features"]
    cut: Float[np.ndarray, " n_features"]
    acts: sparse.csc_array
    sample_rows: Int[np.ndarray, " n_sample"]
    sample_codes: Float[np.ndarray, "n_features n_sample"]


def read_codes(decomposer: Any, source: Any, *, max_density: float, n_sample: int, seed: int) -> SiteCodes:
    """Encode every token of ``source`` (an ActivationSource) once; InputError if a code is not finite."""
    n_tokens, n_features = len(source), decomposer.n_features
    size = rows_per_chunk(n_features, source.d_in)
    sample_rows = np.sort(np.random.default_rng(seed).choice(n_tokens, min(n_sample, n_tokens), replace=False))
    parts = np.split(sample_rows, range(size, len(sample_rows), size))
    sample = np.concatenate([_encode(decomposer, source.rows(part)) for part in parts])
    cut = _cuts(sample, max_density)
    totals = np.zeros((4, n_features))  # firing tokens, sum of positive codes, sum of codes, sum of squares
    maximum = np.zeros(n_features, np.float32)
    columns, values, counts = [], [], []
    for x in progress(source.chunks(size), total=n_tokens, what="index", unit="tok", amount=size):
        z = _encode(decomposer, x)
        positive = np.maximum(z, 0.0) if decomposer.signed_codes else z
        maximum = np.maximum(maximum, z.max(axis=0))
        totals += [np.count_nonzero(positive, axis=0), positive.sum(0), z.sum(0), np.einsum("nf,nf->f", z, z)]
        places = np.flatnonzero(z > cut)  # with divmod, three times as fast as np.nonzero of the matrix
        row, column = np.divmod(places, n_features)
        columns.append(column.astype(np.int32))
        values.append(z.ravel()[places])
        counts.append(np.bincount(row, minlength=len(z)))
    if not np.isfinite(totals).all():
        raise InputError(f"feature {int(np.argmin(np.isfinite(totals).all(0)))} has codes that are not finite numbers")
    n_fire, total, signed_total, squares = totals
    return SiteCodes(
        n_fire=n_fire.astype(np.int64),
        maximum=maximum,
        mean=(total / np.maximum(n_fire, 1)).astype(np.float32),
        variance=np.maximum(squares / n_tokens - (signed_total / n_tokens) ** 2, 0.0),
        cut=cut,
        acts=_by_feature(values, columns, counts, n_features),
        sample_rows=sample_rows,
        sample_codes=np.ascontiguousarray(sample.T),
    )


def _encode(decomposer: Any, x: Any) -> Float[np.ndarray, "n n_features"]:
    return decomposer.encode(x).detach().cpu().numpy().astype(np.float32, copy=False)


def _by_feature(
    values: list[np.ndarray], columns: list[np.ndarray], counts: list[np.ndarray], n_features: int
) -> sparse.csc_array:
    """Activations gathered token by token (``counts`` says how many each token has), sorted by feature."""
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    shape = (len(indptr) - 1, n_features)
    return sparse.csr_array((np.concatenate(values), np.concatenate(columns), indptr), shape=shape).tocsc()


def _cuts(sample: Float[np.ndarray, "n_sample n_features"], max_density: float) -> Float[np.ndarray, " n_features"]:
    """The activation that about ``max_density`` of the tokens exceed, for features that fire on more of the sample."""
    n_kept = int(max_density * len(sample))
    if n_kept >= len(sample):
        return np.zeros(sample.shape[1], np.float32)
    place = len(sample) - n_kept - 1
    return np.maximum(np.partition(sample, place, axis=0)[place], 0.0).astype(np.float32)
