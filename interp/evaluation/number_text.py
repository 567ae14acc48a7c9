"""How numbers are written in tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence


def short(value: float, format: str = "%.2f") -> str:
    """A number by a format for ``%``, without the 0 before its point: ".44", "-.31", "1.00"."""
    text = format % value
    sign, digits = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    return sign + (digits.removeprefix("0") if "." in digits else digits)


def percent(value: float) -> str:
    """A share in percent, to two digits: "42", "3.1", "0.04"."""
    return f"{100 * value:.0f}" if abs(value) >= 0.0995 else f"{100 * value:.2g}"


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as lines of text in columns."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
