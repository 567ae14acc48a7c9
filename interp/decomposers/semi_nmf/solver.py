"""The accelerated solver of semi-NMF: codes and features improved in turn, by passes over the rows in chunks.

* codes: a few sweeps of non-negative least squares with the features fixed, warm-started from the last pass;
* features: first the least-squares solution cut to the s largest entries of each row, then, row by row, the exact
  minimiser over that row and the scale of its codes (block coordinate descent with hard thresholding).

Of a pass only sums over the rows are kept (``Sums``), and the objective follows from them without a residual:
|X|^2 - 2 <B, F> + <C, F F^T> + 2 l1 sum_k S_k |F_k|. The row-by-row stage does not raise it, but for the rounding of float32
products. Memory is those sums and one chunk of rows and codes; the codes lie in a ``CodeTable``.

Each process of a job keeps a share of the rows; the sums are added up once a pass, and every process then takes the same
step of the features. The result is that of one process but for the order of additions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.decomposers.base import check_enough_rows
from interp.decomposers.semi_nmf.checkpoints import Checkpoints
from interp.decomposers.semi_nmf.codes import IN_MEMORY, CodeTable
from interp.decomposers.semi_nmf.config import SemiNMFConfig
from interp.decomposers.semi_nmf.features import (
    COLD_SWEEPS,
    Sums,
    badly_explained,
    hard_threshold_descent,
    is_dead,
    least_squares_features,
    take_out_norms,
)
from interp.decomposers.semi_nmf.multiplicative import fit_multiplicative
from interp.decomposers.semi_nmf.non_negative import Sweeps, improve_codes
from interp.decomposers.semi_nmf.online import learn_online
from interp.decomposers.semi_nmf.start import chunks_of, codes_from_centres, share_of, spherical_centres, totals_of
from interp.distributed import world
from interp.errors import InputError
from interp.progress import progress
from interp.store.source import ActivationSource
from interp.training.protocol import Recorder

LEAST_SQUARES_PASSES = 10
WARM_SWEEPS = 2
"""Sweeps over the codes of a pass. With one there are more passes; with three the time to a loss is as with two."""
RESEED_ROWS = 4096
"""Rows looked at, anew each time, for those explained worst."""


class Solver:
    """The state of one factorisation: the features, this process's codes, and the sums over the last pass.

    ``folder`` is where codes lie that are too many for memory, and where checkpoints lie, from which a fit of the same options
    goes on. ``toward`` says of features [K, d] what they are drawn to, with the weight ``config.pull``. Raises InputError as
    ``SemiNMF.fit`` says.
    """

    def __init__(
        self,
        source: ActivationSource,
        config: SemiNMFConfig,
        folder: Path | None = None,
        *,
        toward: Callable[[Tensor], Tensor] | None = None,
    ):
        n, K = len(source), config.n_features
        check_enough_rows(source, K)
        self.source, self.config, self.world, self._toward = source, config, world(), toward
        self.rows = share_of(n, self.world)
        self.totals = totals_of(source, self.rows, self.world)
        self.s = config.n_non_zero(source.d_in)
        self.l1 = config.l1_weight * self.totals.mean_norm
        self.codes = CodeTable(len(self.rows), K, folder=folder, limit=IN_MEMORY)
        # Column by column in memory, as a least-squares step leaves them: the last bits of products depend on it.
        self.features = torch.zeros(source.d_in, K).T
        # Passes done, most passes, last loss, passes running without progress
        self._progress = torch.tensor([0, config.passes, math.inf, 0], dtype=torch.float64)
        self._checkpoints = Checkpoints(config, folder)
        self.n_least_squares = 0 if config.online_epochs else LEAST_SQUARES_PASSES
        is_online = config.online_epochs > 0 and not self._checkpoints.has("state.codes")
        if is_online or not self._checkpoints.load(self._tensors(), tables={"state.codes": self.codes}):
            self._begin()

    def _begin(self) -> None:
        """The first features, and the first codes where exact passes follow at once."""
        config = self.config
        centres = spherical_centres(self.source, config.n_features, seed=config.seed)
        self.world.broadcast(centres)
        if not config.online_epochs:
            self._start(centres)
            return
        self.features = learn_online(
            self.source, centres, config=config, l1=self.l1, s=self.s, checkpoints=self._checkpoints
        )

    def _tensors(self) -> dict[str, Tensor]:
        """What the next pass depends on besides the codes, by name."""
        return {"parameter.features": self.features, "progress": self._progress}

    def close(self) -> None:
        """Give the codes back."""
        self.codes.close()

    def run(self, recorder: Recorder) -> None:
        """Passes until the loss no longer falls, or ``config.passes``."""
        done, _, last, flat = self._progress.tolist()
        for i in progress(
            range(int(done), self.config.passes), total=self.config.passes - int(done), what="semi-nmf", unit="pass"
        ):
            if flat == 3:
                return
            self._update_codes(cold=i == 0 and self.config.online_epochs > 0)
            if i < self.n_least_squares:
                self.features = least_squares_features(self.sums, self.s)
            else:
                B, C = self._pulled()
                hard_threshold_descent(self.features, B, C, self.l1 * self.sums.S, s=self.s)
            error, penalty = self._objective()
            loss = error + penalty
            n_dead = self._finish_pass(i)
            n = self.totals.n
            record = {"step": i + 1, "tokens": (i + 1) * n, "loss": loss / n, "fvu": error / self.totals.variance}
            recorder.log({**record, "l0": float(self.sums.n_active.sum()) / n, "dead": n_dead})
            # Drawn to something else, features may explain the rows less, pass by pass.
            is_flat = i >= self.n_least_squares and self._toward is None and last - loss < self.config.tolerance * loss
            flat, last = flat + 1 if is_flat else 0, loss
            self._progress[[0, 2, 3]] = torch.tensor([i + 1, last, flat], dtype=torch.float64)
            self._checkpoints.save_when_due(self._tensors(), tables={"state.codes": self.codes})

    def _pulled(self) -> tuple[Float[Tensor, "K d_in"], Float[Tensor, "K K"]]:
        """B and C of the objective with pull sum_k C_kk |f_k - t_k|^2 added, t what the features are drawn to."""
        B, C = self.sums.B, self.sums.C
        if self._toward is None:
            return B, C
        weight = self.config.pull * C.diagonal()
        return B + weight[:, None] * self._toward(self.features).double(), C + torch.diag(weight)

    def _start(self, centres: Float[Tensor, "K d_in"]) -> None:
        """The first codes, from the centres, and the features that suit them."""
        self.sums = Sums(self.config.n_features, self.source.d_in)
        for rows, x in chunks_of(self.source, self.rows):
            g = codes_from_centres(x, centres)
            self.codes[rows] = g
            self.sums.add(x, g)
        self.sums.add_up(self.world)
        self.features, self.codes.scale = take_out_norms(least_squares_features(self.sums, self.s))

    def _update_codes(self, *, cold: bool) -> None:
        """A few sweeps for every row, from the last pass's codes or, ``cold``, from none; and the sums over them."""
        sweeps = Sweeps(self.features @ self.features.T)
        self.sums = Sums(self.config.n_features, self.source.d_in)
        for rows, x in chunks_of(self.source, self.rows):
            products = x @ self.features.T - self.l1
            if cold:
                g = improve_codes(products, sweeps, torch.zeros_like(products), n_sweeps=COLD_SWEEPS)
            else:
                g = improve_codes(products, sweeps, self.codes[rows], n_sweeps=WARM_SWEEPS)
            self.codes[rows] = g
            self.sums.add(x, g)
        self.sums.add_up(self.world)
        self.codes.scale = torch.ones(self.config.n_features)
        if not self.sums.S.any():
            raise InputError(f"with --l1 {self.config.l1_weight:g} no feature is used by any row; give a smaller one")

    def _objective(self) -> tuple[float, float]:
        """(squared error, l1 term), both summed over all rows, with codes scaled so that features have unit norm."""
        f = self.features.double()
        error = self.totals.squared_norm - 2 * float((self.sums.B * f).sum()) + float((f @ f.T * self.sums.C).sum())
        return error, 2 * self.l1 * float(self.sums.S @ f.norm(dim=1))

    def _finish_pass(self, i: int) -> int:
        """Move the features' norms into the codes and reseed the dead, whose codes become zero; the number of dead.

        The objective stays: nothing was explained by them.
        """
        dead = is_dead(self.features, self.sums)
        self.features, self.codes.scale = take_out_norms(self.features)
        n_dead = int(dead.sum())
        if n_dead:
            self.codes.scale[dead] = 0
            rng, n = np.random.default_rng([self.config.seed, i]), self.totals.n
            x = self.source.rows(np.sort(rng.choice(n, min(n, RESEED_ROWS), replace=False)))
            self.features[dead] = badly_explained(x, self.features, l1=self.l1, s=self.s, count=n_dead)
            self.world.broadcast(self.features)
        return n_dead


def fit_features(
    source: ActivationSource,
    config: SemiNMFConfig,
    recorder: Recorder,
    *,
    toward: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "K d_in"], float]:
    """(unit-norm features of ``source``, l1 in units of activation), by the solver that the config names.

    ``toward`` is that of ``Solver``.
    """
    if config.solver == "multiplicative":
        return fit_multiplicative(source, config, recorder), 0.0
    with closing(Solver(source, config, recorder.checkpoints, toward=toward)) as solver:
        solver.run(recorder)
    return solver.features, solver.l1
