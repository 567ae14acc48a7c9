"""Text of tokens as lists show it."""

from __future__ import annotations


def show_blanks(text: str) -> str:
    """Text with a sign for every blank."""
    return text.replace("\r", "").replace("\n", "⏎").replace("\t", "→").replace(" ", "␣")
