"""Steering in a thread of its own, so that the page goes on: it shows what is there, and can be changed, left and stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from app.models import ModelTurn
from interp.browse.steer_settings import SteerSettings
from interp.browse.steering import Progress, SteeredText, Tell
from interp.model.language_model import LanguageModel


class SteerJob:
    """The work of one press of Generate."""

    def __init__(
        self, run_name: str, settings: SteerSettings, model: LanguageModel, work: Callable[[Tell], SteeredText]
    ) -> None:
        self.run_name, self.settings = run_name, settings
        self.shown: SteeredText | None = None
        """What is there."""
        self.progress = Progress("Beginning", 0.0)
        self.error: Exception | None = None
        """An InputError for what cannot be steered; any other is a fault of the program."""
        self.is_collected = False
        """Whether the page has taken what came of it."""
        self._turn, self._work, self._is_stopping = ModelTurn(model), work, threading.Event()
        self._thread = threading.Thread(target=self._run, name="steering", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        return not self._thread.is_alive()

    @property
    def was_stopped(self) -> bool:
        """Whether a person ended it; what was there by then is still shown."""
        return self._is_stopping.is_set()

    def stop(self) -> None:
        """End the work at its next step: a token, or a forward pass of the measurement."""
        self._is_stopping.set()

    def wait(self) -> None:
        """Until it is done."""
        self._thread.join()

    def _run(self) -> None:
        try:
            with suppress(_StopError), self._turn:
                self.shown = self._work(self._tell)
        except Exception as error:  # told on the page, which a thread cannot do
            self.error = error

    def _tell(self, shown: SteeredText, progress: Progress) -> None:
        """Between two steps no hook is on the model: others get their turn."""
        self.shown, self.progress = shown, progress
        if self._is_stopping.is_set():
            raise _StopError
        self._turn.__exit__()
        self._turn.__enter__()


class _StopError(Exception):
    """The person wants no more."""
