"""What the Manifolds page shows: latents ranked, a summary of one, and the tokens along its curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interp.manifolds.layout import PLANES, SHAPES
from interp.manifolds.reader import ManifoldIndex, ManifoldView


def ranking_rows(index: ManifoldIndex, by: str) -> list[dict[str, Any]]:
    """One row for each latent, the highest score first, latents without a score (NaN) last.

    Beside the score of a shape stands the effective rank; beside the R² of a label, the R² in other planes.
    """
    headings = {"id": "latent", "score": "score", "effective_rank": "rank"}
    if by not in SHAPES:
        headings = {"id": "latent", "score": "R²", PLANES[1]: "PCA", PLANES[2]: "random"}
    table: list[dict[str, Any]] = index.table(by)[list(headings)].rename(columns=headings).to_dict("records")
    return table


def ranking_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The rows of ``ranking_rows`` as text; "-" for what is not measured."""

    def cell(name: str, value: float) -> str:
        if name == "latent":
            return str(value)
        return "-" if value != value else f"{value:.3f}" if name in ("score", "R²") else f"{value:.2f}"

    return [[cell(name, value) for name, value in row.items()] for row in rows]


def latent_text(view: ManifoldView) -> str:
    """The latent's score for each shape that it has axes for, and how many of its tokens are on view."""
    scores = " · ".join(f"{shape} {score:.2f}" for shape, score in view.scores.items() if score == score)  # not NaN
    n_others = len(view.value) - view.n_far
    return f"{scores or 'too few axes for a shape'} · {view.n_far:,} strongest tokens and {n_others:,} others"


def tokens_to_read(view: ManifoldView, colour: str) -> list[tuple[float, str, str, str]]:
    """(value, text before, token, text after) of tokens along the curve of the label ``colour``, in its order.

    Without such a curve they are tokens around the centre. The value is that of the label, or else of the latent.
    """
    values = view.ordinals.get(colour, view.value)
    rows = view.along(colour) if colour in view.curves else view.around()
    before, text, after = (view.text[name] for name in ("before", "text", "after"))
    return [(float(values[i]), before[i], text[i], after[i]) for i in rows]
