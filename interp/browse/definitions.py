"""What every figure of the pages is, and which way is better: the tooltips of the dashboard, each written here alone.

Names are those of the payloads, by page. Metrics of whole runs are defined in ``interp.evaluation.table`` and taken from there.
"""

from __future__ import annotations

from typing import NamedTuple

from interp.browse.evidence import GRADE_RULES
from interp.evaluation.table import DIRECTIONS, METRICS, Better
from interp.manifolds.layout import PLANES, SHAPES


class Definition(NamedTuple):
    """What a figure is."""

    says: str
    """Whole sentences."""
    better: Better | None
    """None for what is no figure: a name, a text."""

    @property
    def tooltip(self) -> str:
        return f"{self.says} {DIRECTIONS[self.better]}" if self.better else self.says


def _named(key: str) -> Definition:
    """That of a metric, with its heading before it."""
    [metric] = [metric for metric in METRICS if metric.key == key]
    return Definition(f"{metric.heading}: {metric.help}", metric.better)


_NUMBER = Definition("The feature's number.", "neither")
_LABEL = Definition("A person's label, else the automatic one.", None)
_DENSITY = Definition(
    "Density: share of the store's tokens on which it fires. A dense feature says little of one token.", "neither"
)
_SHARE_OF_PARENT = Definition(
    "Weight from this parent, as a share of its weights from all parents. Near 100 %, it belongs to no other; a low share "
    "means that the tree shows one of several parents.",
    "neither",
)
_VALUE = Definition("Activation on the outlined token.", "neither")
_LATENT = Definition("The latent's number.", "neither")
_CHANCE = "random directions cut to fire as often, each with its own best concept"
_R2 = "the latent should be above it"

FEATURES = {
    "number": _NUMBER,
    "label": Definition(f"{_LABEL.says} The ring is the grade of the evidence.", None),
    "tokens": Definition("Its strongest tokens, strongest first.", None),
    "f1": Definition(
        f"How well its firing detects the concept that it says most of: F1 on test text. The mark is what {_CHANCE}, reach.",
        "higher",
    ),
    "null": Definition(f"F1 of {_CHANCE}: what chance reaches.", "neither"),
    "excess": Definition(f"F1 less that of {_CHANCE}.", "higher"),
    "simulability": Definition("AUROC of predicting its firing from the tokens around; 0.5 is chance.", "higher"),
    "stability": Definition("Mean cosine with its counterparts under other seeds.", "higher"),
    "lift": Definition(
        "Output effect: how much likelier adding it is estimated to make a concept, in standard deviations over random "
        "directions; − where its opposite does.",
        "higher",
    ),
    "density": _DENSITY,
    "max": Definition("Max: its largest activation on the store.", "neither"),
    "importance": Definition("Importance: share of the variance that it adds to the reconstruction.", "neither"),
    "importance_rank": Definition("Importance rank: its place by importance, 1 the most important.", "neither"),
    "min": Definition("Min: its lowest code on the store.", "neither"),
    "dead": Definition("Dead: features that fire on no token of the store.", "lower"),
    "l0": _named("l0"),
    "grades": Definition(
        " ".join(f"{grade[:1].upper()}{grade[1:]}: {rule}" for grade, rule in GRADE_RULES.items() if grade != "none"),
        None,
    ),
    "n_fire": Definition("Tokens of the store on which it fires.", "neither"),
    "n_tokens": Definition("Tokens: those of the store.", "neither"),
    "hist": Definition(
        "How strongly it fires, on the tokens on which it does. A bar is the logarithm of a count.", "neither"
    ),
    "logits": Definition(
        "First-order effect of its direction on the logit of every token of the vocabulary, less their mean. A feature that "
        "writes few tokens has a long tail on the right. A bar is the logarithm of a count.",
        "neither",
    ),
    "promoted": Definition(
        "Tokens whose logits its direction raises most, to first order, less the mean over all tokens.", "neither"
    ),
    "suppressed": Definition(
        "Tokens whose logits its direction lowers most, to first order, less the mean over all tokens.", "neither"
    ),
    "cosine": Definition("Features of near direction, by cosine: 1 is the same direction.", "neither"),
    "coactivation": Definition(
        "Features that fire on the same tokens, by the phi coefficient: 1 is always together, 0 no more often than by chance.",
        "neither",
    ),
    "siblings": Definition("Its parent in the tree, and the parent's other children with their weights.", "neither"),
    "share": _SHARE_OF_PARENT,
    "neurons": Definition("Largest weights of its direction.", "neither"),
    "value": _VALUE,
    "group": Definition("Examples drawn at random from this part of its range of activations.", None),
    "activations": Definition("Its activation on a token, and that as a share of its largest on the store.", "neither"),
    "changes": Definition(
        "What taking the feature out of the model does to the log-probability of the next token, nats. Below 0, the feature "
        "makes that token likelier.",
        "neither",
    ),
}

PROMPT = {
    "feature": _NUMBER,
    "codes": Definition("Its code on the chosen tokens: the largest by size, or the sum of all.", "neither"),
    "max": Definition(
        "Its largest code on the chosen tokens as a share of its largest on the store; above 100 % it is stronger here than "
        "anywhere there.",
        "neither",
    ),
    "at": Definition("Chosen tokens on which it is not zero.", "neither"),
    "density": _DENSITY,
    "label": _LABEL,
}

COMPARE = {
    "feature": _NUMBER,
    "codes": Definition("Its code on this token; the bar is its share of the largest code on it.", "neither"),
    "largest": Definition(
        "Its code of largest size on this text; the bar is its share of the largest listed here.", "neither"
    ),
    "correlation": Definition(
        "r: the greatest correlation of its codes with those of a feature of the other run, on tokens of their store. By "
        "chance: the same choice with the other run's codes shifted along the text.",
        "higher",
    ),
    "n_on": Definition("Features of the run that are not zero on this token.", "neither"),
    "n": Definition(
        "Features that fire on this text and have no counterpart in the other run, of all that fire on it.", "neither"
    ),
}

TREE = {
    "branch": Definition(
        "LEVEL.FEATURE, and the commonest tokens of its strongest contexts. Each stands below its heaviest parent.",
        None,
    ),
    "leaves": Definition("Features of level 0 below it.", "neither"),
    "share": _SHARE_OF_PARENT,
    "tokens": Definition("How many of its strongest contexts have this token in their middle.", "neither"),
    "unexplained": Definition(
        "Share of the variance of the features below that a level leaves, beside the same of shuffled ones; it should be far "
        "below that.",
        "lower",
    ),
    "value": _VALUE,
}

MANIFOLDS = {
    "latent": _LATENT,
    "score": Definition("How well its tokens lie on the shape, from 0 to 1. No label is used.", "higher"),
    "rank": Definition("Effective rank, (Σ|λ|)² / Σλ²: how many axes matter.", "neither"),
    "R²": Definition(
        "Share of the label's variance that the curve in the latent's plane explains on documents it was not fitted on; 1 is "
        "all, 0 no better than the mean.",
        "higher",
    ),
    "PCA": Definition(f"The same tokens in the plane of {PLANES[1]}: what no training reaches; {_R2}.", "neither"),
    "random": Definition(
        f"The random plane of the same rank, of as many as there are latents: chance; {_R2}.", "neither"
    ),
    "scores": Definition(" ".join(f"{shape}: {rule}." for shape, rule in SHAPES.items()), "higher"),
    "n_far": Definition("The tokens on which the latent is largest by size, drawn as larger points.", "neither"),
    "eigenvalues": Definition(
        "Of the latent's form, by size: how much each axis adds to its value, or takes off.", "neither"
    ),
    "value": Definition(
        "Of the label that colours the tokens, or else of the latent, on the outlined token.", "neither"
    ),
}

RUNS = {
    "run": Definition("STORE/RUN. A click shows all about it.", None),
    "kind": Definition("The method.", None),
    "features": Definition("Features that the run has.", "neither"),
    "l0": _named("l0"),
    "index": Definition("Whether what the dashboard shows of its features was built of the run as it is.", None),
    "share": Definition(
        "F1 of each concept's best feature on test text. = and no shade: not above the same choice among random directions. "
        "A cell opens its feature.",
        "higher",
    ),
    "concept": Definition("The concept that was steered towards.", None),
    "feature": _NUMBER,
    "without": Definition("Share of the text written without steering that is the concept.", "neither"),
    "with": Definition("The same with the feature added, at the same KL for all.", "higher"),
    "gain": Definition("With less without, and its 95 % interval.", "higher"),
    "best null": Definition(
        "Gain of the null that adds most: as many random features, random directions or features of other concepts, found and "
        "tried in the same way. The gain should be above it.",
        "neither",
    ),
    "verdict": Definition("Whether the gain is above the nulls, by the interval of the difference.", None),
    "fluency": Definition("How likely the model itself finds the text, beside its own; 0 to 1.", "higher"),
    "KL": Definition("Effect on neutral text, nats per token: the same was aimed at for all.", "neither"),
    "loss": Definition("Loss: what the method minimises, mean over rows; not comparable between methods.", "lower"),
    "fvu": _named("fvu"),
    "dead": Definition("Dead: features that do not fire.", "lower"),
    "ce_recovered": _named("ce_recovered"),
}

STEER = {
    "strength": Definition(
        "How much of the feature is written; what 1 means depends on the mode. Strong steering breaks the text.", "neither"
    ),
    "effect": Definition(
        "The strength is searched that has this effect on neutral text; below 0: against the feature.", "neither"
    ),
    "number": Definition("The number of a feature to add.", "neither"),
    "n_samples": Definition("Texts a column. More make the interval of a share narrower.", "neither"),
    "n_tokens": Definition("Tokens written a text.", "neither"),
    "temperature": Definition("Of the sampling: 0 takes the likeliest token.", "neither"),
    "top_k": Definition("Draw from this many of the likeliest tokens; 0 is all.", "neither"),
    "top_p": Definition("Draw from the likeliest tokens that together have this probability.", "neither"),
    "repetition_penalty": Definition("Makes tokens that were written less likely; 1 is none.", "neither"),
    "seed": Definition("Of the noise that all columns share, and of the control.", "neither"),
    "kl": Definition(
        "Effect on neutral text of the store: mean KL divergence of the next-token predictions, nats per token. 0 changes "
        "nothing; from about 0.6 on a text breaks.",
        "neither",
    ),
    "perplexity_ratio": Definition(
        "Perplexity of neutral text, times that of the model itself. 1 means no harm.", "lower"
    ),
    "share": Definition(
        "Share of the non-blank characters of these texts that is the concept steered towards, with its 95 % interval over the "
        "texts.",
        "higher",
    ),
    "gain": Definition(
        "Points of the share of the concept: with steering less without, and less the control, with 95 % intervals.", "higher"
    ),
    "changes": Definition(
        "Colour: what steering does to the log-probability of each token after the text before it, nats. In the baseline's "
        "column, of what the model wrote by itself; in the control's, what the control does. Point at a token for the number.",
        "neither",
    ),
    "next_tokens": Definition(
        "Probability that the model gives to a token right after the prompt, without steering and with it.", "neither"
    ),
    "sweep": Definition(
        "KL on neutral text against the strength; the strength in use is marked. A steep curve leaves little room.", "neither"
    ),
    "strengths": Definition("Strength of each feature, in the unit of the mode.", "neither"),
}  # fmt: skip

DEFINITIONS = {
    "features": FEATURES,
    "prompt": PROMPT,
    "compare": COMPARE,
    "tree": TREE,
    "manifolds": MANIFOLDS,
    "runs": RUNS,
    "steer": STEER,
}
"""Page, name of the figure, definition."""


def tooltip(page: str, *names: str) -> str:
    """The tooltip of a figure, or of several that stand together."""
    return " ".join(DEFINITIONS[page][name].tooltip for name in names)


def tooltips() -> dict[str, dict[str, str]]:
    """All of them, for the scripts of the pages."""
    return {page: {name: tooltip(page, name) for name in figures} for page, figures in DEFINITIONS.items()}
