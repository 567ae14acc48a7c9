"""What a person has set on the Steer page, as the address of the page and as a request to the model.

The address holds all that differs from the defaults, so that the same link gives the same texts. What cannot be read in an
address, or is out of bounds, is the default: an old or mistyped link opens the page rather than an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, get_args

import msgspec

from interp.browse.features import plain_number
from interp.records import Record
from interp.steering.continuations import SteeringRequest, parse_also
from interp.steering.edits import At, Mode, Positions
from interp.steering.forms import QuadraticMode
from interp.steering.sampling import Sampling
from interp.steering.scales import Unit

EXAMPLE = "def parse_config(path):\n"
SetBy = Literal["strength", "effect"]

BOUNDS: dict[str, tuple[float, float]] = {
    "n_samples": (1, 8),
    "n_tokens": (1, 256),
    "temperature": (0.0, 2.0),
    "top_k": (0, 1000),
    "top_p": (0.01, 1.0),
    "repetition_penalty": (1.0, 2.0),
    "seed": (0, 2_147_483_647),
}
"""Least and greatest value of each number."""
LARGEST_VALUE = 50.0
"""Of a strength or an effect in an address."""

_IN_ADDRESS = {
    "prompt": "prompt",
    "features": "steered",
    "set_by": "set_by",
    "mode": "mode",
    "unit": "unit",
    "concept": "towards",
    "n_samples": "samples",
    "n_tokens": "tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "repetition_penalty": "penalty",
    "seed": "seed",
    "at": "at",
    "at_tokens": "only",
    "at_residual": "residual",
    "also": "also",
}
_IN_WORDS = {
    "n_samples": "number of samples",
    "n_tokens": "number of tokens",
    "set_by": "way to set the strength",
    "top_k": "top-k",
    "top_p": "top-p",
    "repetition_penalty": "repetition penalty",
    "at": "positions",
    "at_tokens": "tokens written at",
    "at_residual": "place written at",
    "also": "features of other runs",
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "set_by": get_args(SetBy),
    "mode": (*get_args(Mode), *get_args(QuadraticMode)),
    "unit": get_args(Unit),
    "at": get_args(At),
}


class SteerSettings(Record, frozen=True):
    """All that the texts of the Steer page depend on, apart from the run."""

    prompt: str = EXAMPLE
    features: dict[int, float] = msgspec.field(default_factory=dict)
    """Strength of each feature in the mode's unit; or its effect asked for in nats per token, negative against the feature."""
    set_by: SetBy = "strength"
    """What the numbers of ``features`` are."""
    mode: Mode | QuadraticMode = "add"
    unit: Unit = "maximum"
    concept: str = ""
    """Label whose share of the texts is judged; empty for none."""
    n_samples: int = 3
    n_tokens: int = 48
    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    """Of the sampling noise, which all columns share, and of the control direction."""
    at: At = "all"
    at_tokens: str = ""
    """Tokens written at, one a line, ``\\n`` for a new line; empty: at any."""
    at_residual: bool = False
    also: str = ""
    """Features of other runs, one RUN:FEATURE:STRENGTH a line."""

    def address(self) -> dict[str, str]:
        """What differs from the defaults, by its name in the address."""
        default = SteerSettings()
        return {
            in_address: address_text(name, getattr(self, name))
            for name, in_address in _IN_ADDRESS.items()
            if getattr(self, name) != getattr(default, name)
        }

    @property
    def request(self) -> SteeringRequest:
        """The request, without strengths where effects are asked for. Raises InputError for features of other runs that
        cannot be read."""
        return SteeringRequest(
            prompt=self.prompt,
            strengths=self.features if self.set_by == "strength" else {},
            mode=self.mode,
            unit=self.unit,
            positions=Positions(
                self.at, tuple(line.replace("\\n", "\n") for line in self.at_tokens.split("\n") if line)
            ),
            at_residual=self.at_residual,
            also=parse_also((line for line in self.also.split("\n") if line.strip()), "the line"),
            n_samples=self.n_samples,
            n_tokens=self.n_tokens,
            sampling=Sampling(self.temperature, self.top_k, self.top_p, self.repetition_penalty),
            seed=self.seed,
        )

    def differences(self, other: SteerSettings) -> list[str]:
        """The names, as a person reads them, of what is set in another way."""
        found = [name for name in _IN_ADDRESS if getattr(self, name) != getattr(other, name)]
        if "features" in found and list(self.features) == list(other.features):
            found[found.index("features")] = "strength" if self.set_by == "strength" else "effect asked for"
        return [_IN_WORDS.get(name, name) for name in found]


def setting_readers() -> dict[str, Callable[[str | None], Any]]:
    """For each name in the address a function from its text, None where it is missing, to the setting."""
    return {in_address: partial(setting_in, name) for name, in_address in _IN_ADDRESS.items()}


def settings_of(values: Mapping[str, Any], features: Mapping[int, float]) -> SteerSettings:
    """The settings whose values are given by their names in the address, with these features."""
    held = {name: values[in_address] for name, in_address in _IN_ADDRESS.items() if name != "features"}
    return SteerSettings(**held, features=dict(features))


def within(value: float | None, low: float, high: float, start: float) -> float:
    """The value brought into bounds; ``start`` for None."""
    return start if value is None else min(max(value, low), high)


def setting_in(name: str, text: str | None) -> Any:
    """The setting ``name`` by its text in an address; the default where it is missing, cannot be read, or is out of bounds.

    Features may stand without a value, which is then None.
    """
    default = getattr(SteerSettings(), name)
    if text is None:
        return default
    if name == "features":
        return _features_in(text)
    if name == "at_residual":
        return text == "1"
    if name in _CHOICES:
        return text if text in _CHOICES[name] else default
    if name not in BOUNDS:
        return text
    low, high = BOUNDS[name]
    number = _number(text)
    if number is None or not low <= number <= high or (isinstance(default, int) and number % 1):
        return default
    return type(default)(number)


def address_text(name: str, value: Any) -> str:
    """A setting as it stands in the address."""
    if name == "features":
        return ",".join(f"{feature}:{number:.12g}" for feature, number in value.items())
    if isinstance(value, bool):
        return "1" if value else ""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _features_in(text: str) -> dict[int, float | None]:
    """Of ``5:2.5,40``: 5 with 2.5, and 40 without a value."""
    found = {}
    for part in text.split(","):
        feature, _, value = part.partition(":")
        number = _number(value)
        if (known := plain_number(feature)) is not None:
            found[known] = number if number is not None and abs(number) <= LARGEST_VALUE else None
    return found


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
