"""The tour: what each page is for, how it is used, and how it is to be read, a sentence each."""

from __future__ import annotations

TOUR: dict[str, tuple[str, str, str]] = {
    "features": (
        "This page lists what the run has found: each row is a feature, and the card says what it fires on and what it does.",
        "Search for a word or a concept, press a heading to sort, and step with J and K; the address keeps what you see.",
        "A full ring means that a feature detects a concept and a test shows that it acts; F1 counts only beyond its null, "
        "which is what random directions reach.",
    ),
    "tree": (
        "This page shows the features of a hierarchical run as a tree: general ones above, the special ones below them.",
        "Click a row, or step with the arrow keys, to read the text on which that feature fires.",
        "How much a level leaves unexplained stands above, beside the same for shuffled features: it should be far below.",
    ),
    "prompt": (
        "This page shows which features fire on a text of your own.",
        "Type a text, then choose tokens by click or with the arrow keys and Enter; the features are ranked for these alone.",
        "A feature that fires on a large share of all text says little of one token: hide such with “fires on at most”.",
    ),
    "steer": (
        "This page writes features into the model while it continues a text, and shows the text with and without them.",
        "Choose a concept, which takes its feature, or add a feature by its number; then press Generate.",
        "Compare at equal KL: a strong push changes any text, so what counts is the change beyond that of a control direction.",
    ),
    "manifolds": (
        "This page shows the tokens of one quadratic latent in its plane: a ring, a line or clusters say how it orders them.",
        "Rank by a shape or by a label, then click a row or step with the arrow keys.",
        "An R² counts only above that of PCA's plane and of the random plane, which stand beside it.",
    ),
    "runs": (
        "This page compares the runs of the workspace by what was measured of them on text they were not trained on.",
        "Point at a heading to read what a number means and which way is better; choose a run to see everything about it.",
        "Judge a score by its interval and its null: where the interval reaches the null, nothing is shown.",
    ),
    "compare": (
        "This page shows two or three runs side by side on one text.",
        "Type a text or take one of the store, and point at a token to see it in every run.",
        "Features are matched by the correlation of their codes; what one run finds and the other does not is listed.",
    ),
}
"""By the page's name in the address: what it is for, how it is used, how it is read."""
