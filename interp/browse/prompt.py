"""A run's features on a given text: codes of every token, features ranked for chosen tokens.

The beginning-of-sequence token is shown but never ranked: no store holds it, its activation is tens of times longer than
any other, and it would head every list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

import numpy as np
import torch
from jaxtyping import Float, Int

from interp.browse.evidence import ShownLabel
from interp.capturing.forward import forward
from interp.errors import InputError
from interp.index.reader import FeatureIndex

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run

RankBy = Literal["max", "sum"]
RANKINGS: tuple[RankBy, ...] = get_args(RankBy)


@dataclass(frozen=True)
class PromptCodes:
    """A text and the codes of a run on it."""

    token_ids: Int[np.ndarray, " n_tokens"]
    """Ids, BOS first."""
    tokens: tuple[str, ...]
    """Text of each token; of BOS too."""
    codes: Float[np.ndarray, "n_tokens n_features"]
    """Code of each feature on each token, float32; the row of BOS is zero."""


@dataclass(frozen=True)
class RankedFeature:
    """One feature's place in the ranking for some tokens of a text."""

    feature: int
    value: float
    """Largest (by absolute value, with its sign) or summed code over the chosen tokens."""
    n_active: int
    """Chosen tokens on which it is not zero."""


def check_model(model: LanguageModel, run: Run) -> None:
    """Raises InputError for a model that is not the one the run's store was captured from."""
    if model.fingerprint != run.record.model_fingerprint:
        raise InputError(f"run '{run.name}' was trained on '{run.model_id}', not on these weights of '{model.id}'.")


@torch.no_grad()
def encode_prompt(model: LanguageModel, run: Run, text: str) -> PromptCodes:
    """Codes of every token of ``text``.

    Raises InputError for an empty text, for one longer than the model's context, and for a model that is not the one
    the run's store was captured from.
    """
    check_model(model, run)
    ids = model.encode(text)
    if len(ids) < 2:
        raise InputError("the text is empty; type at least one token.")
    if len(ids) > model.n_ctx:
        raise InputError(f"the text has {len(ids)} tokens; '{model.id}' reads at most {model.n_ctx}: shorten it.")
    site = model.site(run.site.read)
    rows = forward(model, [site], ids[None])[site.name][0, 1:].float().cpu()
    codes = run.decomposer().encode(rows).cpu().numpy().astype(np.float32)
    return PromptCodes(
        token_ids=ids.cpu().numpy(),
        tokens=tuple(model.token_strings(ids.tolist())),
        codes=np.concatenate([np.zeros_like(codes[:1]), codes]),
    )


def rank_features(
    prompt: PromptCodes, positions: Sequence[int] = (), *, by: RankBy = "max", n: int = 30
) -> list[RankedFeature]:
    """The ``n`` features that stand out most on the tokens at ``positions`` (all of them if empty), strongest first.

    "max" ranks by the largest absolute code, "sum" by the absolute sum of codes; features that are zero on all chosen
    tokens are left out, and ties are in order of number. Raises InputError for positions outside the text.
    """
    n_tokens = len(prompt.tokens)
    wrong = [position for position in positions if not 0 <= position < n_tokens]
    if wrong:
        raise InputError(f"there is no token {wrong[0]}; this text has tokens 0-{n_tokens - 1}.")
    chosen = prompt.codes[sorted(set(positions) - {0}) if positions else slice(1, None)]
    if not len(chosen):
        return []
    values = chosen.sum(0)
    if by == "max":  # of largest absolute value, with its sign
        values = np.take_along_axis(chosen, np.abs(chosen).argmax(0)[None], axis=0)[0]
    n_active = (chosen != 0).sum(0)
    order = np.argsort(-np.abs(values), kind="stable")
    return [RankedFeature(int(f), float(values[f]), int(n_active[f])) for f in order[:n] if n_active[f]]


class FiringFeature(TypedDict):
    """A feature that is not zero on some token of a text."""

    feature: int
    at: list[int]
    """Tokens on which it is not zero; BOS is 0 and never among them."""
    codes: list[float]
    """Its code on each of them, with four significant digits."""
    label: str
    is_automatic: bool
    max: float | None
    """Its largest code on the store; None where the run has no index."""
    density: float | None
    """Share of the store's tokens on which it fires; None where the run has no index."""


class PromptPayload(TypedDict):
    """A text and all that is needed to rank features for any of its tokens."""

    tokens: list[str]
    """BOS first."""
    features: list[FiringFeature]
    """In order of number."""


def prompt_payload(prompt: PromptCodes, labels: Mapping[int, ShownLabel], index: FeatureIndex | None) -> PromptPayload:
    """The codes of a whole text for JSON, so that a page can rank by itself as ``rank_features`` does."""
    unlabelled = ShownLabel("", False)
    most = None if index is None else index.summary["max"].to_numpy()
    density = None if index is None else index.summary["density"].to_numpy()
    features = []
    for feature in np.flatnonzero(prompt.codes.any(0)).tolist():
        column = prompt.codes[:, feature]
        at = np.flatnonzero(column)
        label = labels.get(feature, unlabelled)
        features.append(
            FiringFeature(
                feature=feature,
                at=at.tolist(),
                codes=[float(f"{code:.4g}") for code in column[at].tolist()],
                label=label.text,
                is_automatic=label.is_automatic,
                max=None if most is None else float(most[feature]),
                density=None if density is None else float(density[feature]),
            )
        )
    return PromptPayload(tokens=list(prompt.tokens), features=features)
