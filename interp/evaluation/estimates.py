"""A figure and how sure it is."""

from __future__ import annotations

from interp.records import Record


class Estimate(Record, frozen=True):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_above_zero(self) -> bool:
        """Of a difference: whether the whole interval is above 0."""
        return self.low > 0
