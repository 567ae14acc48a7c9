"""The one gradient loop: every decomposer that learns by gradient descent goes through ``train``.

A method hands over its parameters, its optimisers and a loss; the loop owns batches, the learning rate's course,
checkpoints and the record of the training. A training that was killed goes on from its last checkpoint and ends with the
same bits as one that was not. Several trainings may share one pass over the rows, and several processes, started by
``torchrun``, one training: each takes its share of every batch and the gradients are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.distributed import World, world
from interp.errors import InputError
from interp.progress import progress_bar
from interp.store.source import ActivationSource, shuffled_batches
from interp.training.checkpoints import load_checkpoint, save_checkpoint
from interp.training.config import GradientConfig
from interp.training.protocol import Recorder, Trainable

N_RECORDS = 50
"""Records and checkpoints per training, at most."""
HELD_OUT_BLOCK = 128
"""Most rows held out in one piece: long enough that most of them do not stand beside a row that is trained on, whose text is
nearly theirs, and so short that 2048 rows come from 16 places, each another document where documents are not long."""


class Training:
    """One trainable on its way: its optimisers, the step it is at, and the step it will end at."""

    def __init__(self, trainable: Trainable, config: GradientConfig, recorder: Recorder):
        self.trainable, self.config, self.recorder = trainable, config, recorder
        self.optimizers = trainable.optimizers()
        self._heights = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self._warmup = config.steps * config.schedule.warmup
        self._cooldown = config.steps * config.schedule.cooldown
        self._every = math.ceil(config.steps / N_RECORDS)
        # float64 and one tensor, so that it is saved like everything else: step, last step, best FVU, records since
        self._progress = torch.tensor([0, config.steps, math.inf, 0], dtype=torch.float64)
        load_checkpoint(self.tensors(), self.optimizers, config, recorder.checkpoints)

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the optimisers' states that the next step depends on, by name; written to in place."""
        parameters = {f"parameter.{name}": tensor.detach() for name, tensor in self.trainable.parameters.items()}
        state = {f"state.{name}": tensor for name, tensor in self.trainable.state.items()}
        return {**parameters, **state, "progress": self._progress}

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self._progress[0])

    @property
    def last(self) -> int:
        """Steps after which the training has finished."""
        return int(self._progress[1])

    def advance(self, x: Float[Tensor, "share d_in"], held_out: Float[Tensor, "n d_in"], processes: World) -> None:
        """One step on this process's share of a batch; the record and the checkpoint where they are due."""
        factor = lr_factor(self.step, self.last, warmup=self._warmup, cooldown=self._cooldown)
        for optimizer, heights in zip(self.optimizers, self._heights, strict=True):
            for group, height in zip(optimizer.param_groups, heights, strict=True):
                group["lr"] = height * factor
        loss, seen = self.trainable.loss(x)
        loss.backward()
        value = _averaged(loss, list(self.trainable.parameters.values()), processes)
        self._refuse_not_finite("loss", value)
        self.trainable.before_step()
        self._clip()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.trainable.after_step(seen)
        self._progress[0] += 1
        if self.step % self._every == 0 or self.step == self.last:
            self._record(value, held_out if len(held_out) else x, processes)

    def _clip(self) -> None:
        if self.config.schedule.clip:
            norm = torch.nn.utils.clip_grad_norm_(self.trainable.parameters.values(), self.config.schedule.clip)
            self._refuse_not_finite("gradient's norm", float(norm))

    def _record(self, loss: float, x: Float[Tensor, "n d_in"], processes: World) -> None:
        with torch.no_grad():
            measured = self.trainable.measure(x)
        for name, value in measured.items():
            self._refuse_not_finite(name, value, after=True)
        if self.config.schedule.patience:
            self._stop_early(measured["fvu"], processes)
        if processes.is_first:
            tokens = self.step * self.config.batch
            self.recorder.log({"step": self.step, "tokens": tokens, "loss": loss, **measured})
            save_checkpoint(self.tensors(), self.optimizers, self.config, self.recorder.checkpoints)

    def _stop_early(self, fvu: float, processes: World) -> None:
        """Let the cool-down begin here when nothing is gained any more."""
        device = next(iter(self.trainable.parameters.values())).device
        shared = torch.tensor(fvu, dtype=torch.float64, device=device)
        processes.broadcast(shared)  # the processes must decide alike
        if shared < 0.999 * self._progress[2]:
            self._progress[2:] = torch.tensor([float(shared), 0.0])
            return
        self._progress[3] += 1
        cooldown = math.ceil(self._cooldown)
        if self._progress[3] >= self.config.schedule.patience:
            self._progress[1] = min(self.last, self.step + cooldown)

    def _refuse_not_finite(self, what: str, value: float, *, after: bool = False) -> None:
        if not math.isfinite(value):
            raise InputError(
                f"the {what} is {value} {'after' if after else 'at'} step {self.step + (not after)}; the last checkpoint is "
                f"kept: train again with a smaller --lr than {self.config.lr:g}"
            )


def lr_factor(step: int, last: int, *, warmup: float, cooldown: float) -> float:
    """Share of its height that a learning rate has at a step.

    It rises linearly over ``warmup`` steps, is constant, and falls linearly over ``cooldown`` steps to zero at ``last``.
    """
    return min(1.0, (step + 1) / max(1.0, warmup), (last - step) / max(1.0, cooldown))


def held_out_rows(n_rows: int, n_asked: int) -> Int[np.ndarray, " n_held_out"]:
    """The rows of a source of ``n_rows`` that are not trained on, ascending: ``n_asked``, but at most a tenth of the source.

    They are blocks of at most ``HELD_OUT_BLOCK`` rows. The source is cut into as many equal stretches as there are blocks, and
    each block is the end of its stretch.
    """
    n = min(n_asked, n_rows // 10)
    n_blocks = max(1, math.ceil(n / HELD_OUT_BLOCK))
    counts, ends = (np.arange(n_blocks + 1) * total // n_blocks for total in (n, n_rows))
    return np.arange(n) + np.repeat((ends - counts)[1:], np.diff(counts))


def train(trainable: Trainable, source: ActivationSource, config: GradientConfig, recorder: Recorder) -> None:
    """Run ``config.steps`` steps of the trainable's optimisers, in place.

    Raises InputError when the loss or the gradient is no finite number; the last checkpoint is kept.
    """
    train_together([Training(trainable, config, recorder)], source)


def train_together(trainings: Sequence[Training], source: ActivationSource) -> None:
    """Train several in one pass over the rows: every batch is read once, and each ends as it would have alone.

    Raises InputError when they do not agree on batch, tokens, seed and held-out rows, or when the source is too small.
    """
    first = trainings[0].config
    for training in trainings:
        config = training.config
        if (config.batch, config.steps, config.seed) != (first.batch, first.steps, first.seed) or (
            config.schedule.held_out != first.schedule.held_out
        ):
            raise InputError("runs trained in one pass need the same batch, tokens, seed and held-out rows")
    processes = world()
    held_out = held_out_rows(len(source), first.schedule.held_out)
    _check_batch(first.batch, len(source) - len(held_out), len(held_out), processes)
    held_out_x = source.rows(held_out)
    steps = range(min(training.step for training in trainings), first.steps)
    # A batch's rows stand in the source's order, so a part of it in one piece would be a part of the source.
    share = slice(processes.rank, None, processes.size)
    bar = progress_bar(total=len(steps) * first.batch, what="train", unit="tok", silent=not processes.is_first)
    batches = shuffled_batches(source, first.batch, steps, seed=first.seed, held_out=held_out, share=share)
    with bar, closing(batches):
        for step, x in zip(steps, batches, strict=True):
            going = [training for training in trainings if step < training.last]
            if not going:
                break
            for training in going:
                if training.step == step:  # one that was killed a little later than the others waits for them
                    training.advance(x, held_out_x, processes)
            bar.update(first.batch)


def _check_batch(batch: int, n: int, n_held_out: int, processes: World) -> None:
    if batch > n:
        besides = f", of which {n_held_out} are held out" if n_held_out else ""
        raise InputError(
            f"a batch of {batch} rows was asked for, but the source holds {n + n_held_out}{besides}; use a smaller --batch"
        )
    if batch % processes.size:
        raise InputError(
            f"a batch of {batch} rows cannot be shared by {processes.size} processes; use a multiple of that"
        )


def _averaged(loss: Tensor, parameters: Sequence[Tensor], processes: World) -> float:
    """The loss of the whole batch; every parameter's gradient becomes that of the whole batch, in one exchange."""
    if processes.size > 1:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        together = torch.cat([loss.detach().reshape(1), *(gradient.flatten() for gradient in gradients)])
        processes.sum(together)
        together /= processes.size
        loss, *parts = together.split([1, *(gradient.numel() for gradient in gradients)])
        for parameter, gradient, part in zip(parameters, gradients, parts, strict=True):
            parameter.grad = gradient.copy_(part.view(gradient.shape))
    return float(loss.detach())
