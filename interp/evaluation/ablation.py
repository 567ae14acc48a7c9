"""Ablation: does taking a feature out of the model lower the probability of its concept's tokens?

In a sequence in which a feature f of a linear decomposer fires, its contribution is taken out wherever it fires,

    x' = x - z_f W_dec[f],

at the hook point that the decomposer writes; the rest of the activation stays, the reconstruction error too. BOS and
separators are left alone. What is measured is the prediction made at each position where the feature fires:

    with_concept     mean of log p'(next) - log p(next) over the predictions whose next token has the concept
    without_concept  the same mean over the others
    specific         with_concept - without_concept
    kl               mean of KL(p || p') over all of them

Many features fire on a concept's token and not before it: then the KL says whether they do anything.

The controls take out the same amounts z_f |W_dec[f]| at the same positions, along the write directions of the features whose
firing rates are nearest, and along random directions. Intervals resample documents (ratios of sums), and the difference to
the mean control is taken prediction by prediction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.capturing.forward import FastestForward, logits_of_versions
from interp.decomposers import Decomposer, LinearDecomposer
from interp.errors import InputError, unknown_name
from interp.evaluation.ablation_results import AblationConfig, AblationControl, AblationEffect, ConceptAblation, Kind
from interp.evaluation.prediction_means import PredictionMeans
from interp.metrics import kl_of_log_probabilities
from interp.model.sites import Site
from interp.progress import progress

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

_ROWS_ENCODED = 4096
_LOGITS_PER_PASS = 2**24  # values held at once: 64 MB in float32


@dataclass(frozen=True)
class LabelledText:
    """Sequences of tokens, whose document each token is from, and which concepts it has."""

    tokens: Int[np.ndarray, "n_seq n_pos"]
    """Token ids, BOS first."""
    documents: Int[np.ndarray, "n_seq n_pos"]
    """Document number of each token; -1 for tokens that nothing is to be judged by, such as those of the select half."""
    labels: dict[str, Bool[np.ndarray, "_ _"]]
    """For each concept, the tokens that have it [n_seq, n_pos]."""


@dataclass(frozen=True)
class AblationTarget:
    """A feature to be taken out, and the concept whose tokens are looked at; chosen on other text."""

    concept: str
    feature: int
    sign: int = 1
    """The sign of its codes that means the concept."""
    threshold: float = 0.0
    """It fires where sign times its code is greater than this; features of dense methods need one above 0."""


@torch.no_grad()
def ablate_features(
    model: LanguageModel,
    decomposer: Decomposer,
    *,
    site: Site,
    text: LabelledText,
    targets: Sequence[AblationTarget],
    config: AblationConfig,
) -> tuple[ConceptAblation, ...]:
    """What taking each target's feature out changes, in the order of ``targets``.

    A feature that several targets share is taken out once. One that is dead or never fires on ``text`` has a record that
    says so. Raises InputError for codes that do not decode, for shapes that do not fit, for sequences without BOS, and for
    features and concepts that there are not.
    """
    linear = _checked(model, decomposer, site, text, targets)
    wanted = sorted({target.feature for target in targets})
    names = list(dict.fromkeys((site.read, site.write)))
    forward = FastestForward(model, model.sites(names), torch.from_numpy(text.tokens[:1]))
    codes, rates = _codes(forward, linear, site.read, text.tokens, wanted)
    found: dict[tuple[int, int, float], _Changes] = {}
    records = []
    with forward.kernels():
        for target in progress(targets, total=len(targets), what="ablate", unit="feature"):
            key = (target.feature, target.sign, target.threshold)
            if key not in found:
                z = codes[wanted.index(target.feature)]
                taken_out = np.where(target.sign * z > target.threshold, z, 0.0).astype(np.float32)
                directions = _directions(linear, target.feature, rates, config)
                found[key] = _changes(model, site.write, text, taken_out, directions, config.n_sequences)
            records.append(_judged(target, found[key], text.labels[target.concept], config))
    return tuple(records)


_Directions = dict[Literal["own"] | Kind, Float[Tensor, "n d_out"]]
"""The directions that are taken out of the activation, all as long as the feature's own."""


@dataclass(frozen=True)
class _Changes:
    """What every prediction where a feature fires became."""

    values: dict[str, Float[np.ndarray, "2 n_directions n"]]
    """By direction taken out: the change of the next token's log-probability, and KL(clean || ablated); nats."""
    next_token: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]
    """Sequence and position of the token that is predicted."""
    document: Int[np.ndarray, " n"]
    n_sequences: int
    reason: str | None
    """Why there is no prediction."""


def _checked(
    model: LanguageModel, decomposer: Decomposer, site: Site, text: LabelledText, targets: Sequence[AblationTarget]
) -> LinearDecomposer:
    if not isinstance(decomposer, LinearDecomposer):
        raise InputError(
            f"codes of '{decomposer.kind}' do not decode to an activation, so a feature's part of it cannot be taken out"
        )
    for name, width in ((site.read, decomposer.d_in), (site.write, decomposer.W_dec.shape[1])):
        if (there := model.site(name).d_in) != width:
            raise InputError(f"the decomposer is for width {width}, but '{name}' is {there} wide")
    shapes = {array.shape for array in (text.tokens, text.documents, *text.labels.values())}
    if len(shapes) > 1 or not text.tokens.size:
        raise InputError(f"tokens, documents and labels must be tables of one size, not {sorted(shapes)}")
    if (text.tokens[:, 0] != model.bos_id).any():
        raise InputError(f"every sequence must begin with the BOS token {model.bos_id}")
    for target in targets:
        if target.concept not in text.labels:
            raise unknown_name("concept", target.concept, text.labels, "the labels of the text")
        if not 0 <= target.feature < decomposer.n_features:
            raise InputError(
                f"there is no feature {target.feature}; features are numbered 0 to {decomposer.n_features - 1}"
            )
        if target.sign not in (-1, 1) or not target.threshold >= 0:
            raise InputError(
                f"a feature cannot fire by sign {target.sign} and threshold {target.threshold}; give 1 or -1, and 0 or more"
            )
    return decomposer


def _codes(
    forward: FastestForward,
    decomposer: LinearDecomposer,
    read: str,
    tokens: Int[np.ndarray, "n_seq n_pos"],
    features: Sequence[int],
) -> tuple[Float[np.ndarray, "k n_seq n_pos"], Float[np.ndarray, " n_features"]]:
    """Codes of some features, 0 at BOS and separators, and the share of tokens at which each feature of all fires."""
    batches = torch.from_numpy(tokens.astype(np.int64)).split(max(1, _ROWS_ENCODED // tokens.shape[1]))
    codes = np.zeros((len(features), *tokens.shape), np.float32)
    n_fire, at = torch.zeros(decomposer.n_features, dtype=torch.int64), 0
    for batch in batches:
        is_text = batch != forward.model.bos_id
        z = decomposer.encode(forward(batch)[read].float().cpu()[is_text])
        n_fire += (z != 0).sum(0)
        codes[:, at : at + len(batch)][:, is_text.numpy()] = z[:, list(features)].T.numpy()
        at += len(batch)
    return codes, n_fire.numpy() / max(1, int((tokens != forward.model.bos_id).sum()))


def _directions(
    decomposer: LinearDecomposer, feature: int, rates: Float[np.ndarray, " n_features"], config: AblationConfig
) -> _Directions:
    """What is taken out for each unit of the feature's code: its own row of W_dec, and the controls of the same length."""
    random = np.random.default_rng([config.seed, feature])
    unit = decomposer.write_directions()
    own = decomposer.W_dec[feature]
    order = random.permutation(len(rates))  # settles between features that fire equally often
    order = order[(rates[order] > 0) & unit[order].any(1).numpy() & (order != feature)]
    distance = np.abs(np.log(rates[order] / max(rates[feature], 1e-12)))
    nearest = order[np.argsort(distance, kind="stable")[: config.n_draws]]
    drawn = torch.from_numpy(random.standard_normal((config.n_draws, len(own)))).float()
    found: _Directions = {
        "own": own[None],
        "features": unit[nearest] * own.norm(),
        "random": torch.nn.functional.normalize(drawn, dim=1) * own.norm(),
    }
    return {name: rows for name, rows in found.items() if len(rows)}


def _changes(
    model: LanguageModel,
    site: str,
    text: LabelledText,
    taken_out: Float[np.ndarray, "n_seq n_pos"],
    directions: _Directions,
    n_sequences: int,
) -> _Changes:
    """The change of every prediction made where ``taken_out`` is not 0, and whose next token is judged."""
    is_judged = (text.documents >= 0) & (text.tokens != model.bos_id)
    asks = is_judged[:, :-1] & is_judged[:, 1:] & (text.documents[:, 1:] == text.documents[:, :-1])
    fires = asks & (taken_out[:, :-1] != 0)
    reason = None
    if not directions["own"].any():
        reason = "the feature is dead: it has no direction that could be taken out"
    elif not fires.any():
        reason = "the feature never fires on the text"
    chosen = [] if reason else _spread_sequences(fires, text.documents, n_sequences)
    rows = torch.cat(list(directions.values()))
    parts = [np.zeros((2, len(rows), 0))]
    for sequence in chosen:
        positions = np.flatnonzero(fires[sequence])
        parts.append(_predictions(model, site, text.tokens[sequence], taken_out[sequence], rows, positions))
    kinds = np.split(np.concatenate(parts, axis=2), np.cumsum([len(d) for d in directions.values()])[:-1], axis=1)
    turn, positions = np.nonzero(fires[chosen])
    sequences = np.asarray(chosen, np.int64)[turn]
    return _Changes(
        values=dict(zip(directions, kinds, strict=True)),
        next_token=(sequences, positions + 1),
        document=text.documents[sequences, positions],
        n_sequences=len(chosen),
        reason=reason,
    )


def _spread_sequences(
    fires: Bool[np.ndarray, "n_seq n_asked"], documents: Int[np.ndarray, "n_seq n_pos"], n: int
) -> list[int]:
    """At most ``n`` sequences in which the feature fires: of each document the one with most firings, then the second, ...

    A sequence counts for the document in which it has most of its firings.
    """
    counts = fires.sum(1)
    taken: Counter[int] = Counter()
    turns: list[tuple[int, int, int]] = []
    for sequence in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist():
        home = int(np.bincount(documents[sequence, :-1][fires[sequence]]).argmax())
        turns.append((taken[home], -int(counts[sequence]), sequence))
        taken[home] += 1
    return [sequence for *_, sequence in sorted(turns)[:n]]


def _predictions(
    model: LanguageModel,
    site: str,
    tokens: Int[np.ndarray, " n_pos"],
    taken_out: Float[np.ndarray, " n_pos"],
    directions: Float[Tensor, "n d_out"],
    positions: Int[np.ndarray, " k"],
) -> Float[np.ndarray, "2 n k"]:
    """Change of the next token's log-probability, and KL(clean || ablated), at ``positions``, for each direction."""
    sequence = torch.from_numpy(tokens.astype(np.int64)).to(model.device)
    at = torch.from_numpy(positions).to(model.device)
    amounts = torch.from_numpy(taken_out).to(model.device)[:, None]
    found = []
    for rows in directions.to(model.device).split(max(1, _LOGITS_PER_PASS // (len(positions) * model.d_vocab))):
        offsets = amounts * torch.cat([torch.zeros_like(rows[:1]), rows])[:, None]
        logits = logits_of_versions(model, site, sequence, lambda x: x - offsets.to(x.dtype), at)  # noqa: B023
        log_p = logits.float().log_softmax(-1)
        of_next = log_p[:, torch.arange(len(at)), sequence[at + 1]]
        found.append(torch.stack([of_next[1:] - of_next[:1], kl_of_log_probabilities(log_p[:1], log_p[1:])]))
    return torch.cat(found, dim=1).double().cpu().numpy()


def _judged(
    target: AblationTarget, found: _Changes, has_concept: Bool[np.ndarray, "n_seq n_pos"], config: AblationConfig
) -> ConceptAblation:
    """The record of one target."""
    has = has_concept[found.next_token]
    n, n_with, reason = len(has), int(has.sum()), found.reason
    for count, what in ((n_with, "with"), (n - n_with, "without")):
        if reason is None and count < config.min_predictions:
            reason = f"the feature fires before {count} tokens {what} the concept, fewer than {config.min_predictions}"
    own: AblationEffect | None = None
    controls: list[AblationControl] = []
    if n:
        means = PredictionMeans(has, found.document, config)
        of_feature = found.values["own"][:, 0]
        own = means.effect(of_feature)
        kinds: tuple[Kind, ...] = ("features", "random")
        controls = [means.control(kind, of_feature, found.values[kind]) for kind in kinds if kind in found.values]
    return ConceptAblation(
        concept=target.concept,
        feature=target.feature,
        sign=target.sign,
        threshold=target.threshold,
        n_sequences=found.n_sequences,
        n_documents=len(np.unique(found.document)),
        n_predictions=n,
        n_with_concept=n_with,
        reason=reason,
        own=own,
        controls=tuple(controls),
    )
