"""The colours of tokens: twelve steps from the page's background to the data colour, readable on light and dark pages.

Positive activations are orange and negative ones sky blue (Okabe and Ito's pair, told apart with every type of colour
vision). A step mixes the data colour with the background in sRGB; its text is black or white, whichever contrasts more.
Black and white always leave one with a WCAG contrast of at least 4.58, so every step is readable.
"""

from __future__ import annotations

from interp.figures import NEGATIVE, POSITIVE

N_LEVELS = 12
"""Steps of colour: as many as can be told apart in a line of text."""

BACKGROUNDS = {"light": "#FFFFFF", "dark": "#15171B"}
"""Page backgrounds; the server hands the same ones to Streamlit as its theme."""

_FAINTEST, _STRONGEST = 0.10, 1.0


def token_styles() -> str:
    """CSS classes ``p1``-``p12`` (positive) and ``n1``-``n12`` (negative), following the page's colour scheme.

    ``light-dark()`` reads the ``color-scheme`` that Streamlit sets on the page, so a change of theme recolours at once.
    """
    rules = []
    for prefix, colour in (("p", POSITIVE), ("n", NEGATIVE)):
        for level in range(1, N_LEVELS + 1):
            light, dark = (shade(colour, level, BACKGROUNDS[theme]) for theme in ("light", "dark"))
            rules.append(
                f".{prefix}{level}{{background:light-dark({light},{dark});"
                f"color:light-dark({readable_on(light)},{readable_on(dark)})}}"
            )
    return "\n".join(rules)


def shade(colour: str, level: int, background: str) -> str:
    """The colour of ``level`` (1 to 12) as ``#RRGGBB``: ``background`` mixed with ever more of ``colour``."""
    share = _FAINTEST + (_STRONGEST - _FAINTEST) * (level - 1) / (N_LEVELS - 1)
    mixed = (round(a * share + b * (1 - share)) for a, b in zip(_channels(colour), _channels(background), strict=True))
    return "#" + "".join(f"{channel:02X}" for channel in mixed)


def readable_on(colour: str) -> str:
    """Black or white, whichever contrasts more with ``colour``."""
    return max("#000000", "#FFFFFF", key=lambda text: contrast(text, colour))


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio of two colours, from 1 (same) to 21 (black on white)."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in _channels(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
