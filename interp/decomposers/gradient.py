"""Decomposers that learn by gradient descent: what is to be written for one is what it trains."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from interp.decomposers.base import Decomposer
from interp.records import Notes
from interp.store.source import ActivationSource
from interp.training.config import GradientConfig
from interp.training.loop import Training, train_together
from interp.training.protocol import Recorder, Silent, Trainable

G = TypeVar("G", bound="GradientDecomposer")


@runtime_checkable
class TrainableDecomposer(Trainable, Protocol):
    """What a decomposer trains, and what is left of it at the end."""

    notes: Notes
    """What a person should know of the training; JSON."""

    def note_start(self, source: ActivationSource) -> None:
        """Add to the notes what only a training needs to know of the initial values, which are still in place."""
        ...

    def finished(self) -> dict[str, Tensor]:
        """The tensors of the trained decomposer, float32, on the CPU."""
        ...


class GradientDecomposer(Decomposer):
    """A decomposer that ``interp.training.loop`` trains; several configs are trained in one pass over the rows."""

    @classmethod
    @abstractmethod
    def trainable(cls, source: ActivationSource, config: Any) -> TrainableDecomposer:
        """What is trained, at its initial values. Raises InputError when the config does not suit the source."""

    @classmethod
    def _fit(cls: type[G], source: ActivationSource, config: GradientConfig, recorder: Recorder | None) -> G:
        """Train by gradient descent; see ``interp.training.loop.train``."""
        return cls.fit_together(source, [config], [recorder or Silent()])[0]

    @classmethod
    def untrained(cls: type[G], source: ActivationSource, config: Any) -> G:
        """What is trained, as it is before the first step."""
        trainable = cls.trainable(source, config)
        return cls(config, trainable.finished(), trainable.notes)

    @classmethod
    def fit_together(
        cls: type[G], source: ActivationSource, configs: Sequence[GradientConfig], recorders: Sequence[Recorder]
    ) -> list[G]:
        """One trained decomposer for each config, each the same as if it had been trained alone."""
        trainables = [cls.trainable(source, config) for config in configs]
        for trainable in trainables:
            trainable.note_start(source)
        trainings = [Training(*each) for each in zip(trainables, configs, recorders, strict=True)]
        train_together(trainings, source)
        return [
            cls(config, trainable.finished(), trainable.notes)
            for config, trainable in zip(configs, trainables, strict=True)
        ]
