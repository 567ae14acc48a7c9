"""Which concepts features make a model write, estimated for all features at once (``interp.steering.output``).

A concept is written by beginning it. Its tokens are those whose count as first token of a stretch of the concept, times
their log-odds of standing there rather than anywhere else, are greatest on select. Estimates are in standard deviations over
random directions distributed like the activations, which makes concepts of rare and of frequent tokens comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.decomposers.sae.initialisation import random_directions
from interp.evaluation.evidence import Output
from interp.evaluation.judged_rows import JudgedRows, judged_rows
from interp.evaluation.results import ConceptConfig
from interp.model.sites import Site
from interp.steering.output import OutputEffects, output_effects
from interp.store.reader import ActivationStore

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

KL = 0.2
"""Effect at which estimates are made, nats per token; they grow with its root, all alike."""
N_TOKENS = 12
"""Tokens of a concept at most."""
LEAST_BEGINNINGS = 10
"""Stretches of a concept that must begin in select for its tokens to be known."""
_SEQUENCES, _LENGTH = 16, 128
_RANDOM = 1000
_CHANCE = 0.95


@dataclass(frozen=True)
class ConceptOutputs:
    """Estimates at one site for concepts that have tokens."""

    concepts: tuple[str, ...]
    tokens: tuple[Int[Tensor, " _"], ...]
    """Of each concept, the tokens that begin it."""
    effects: OutputEffects
    random: Float[Tensor, "n_random d_in"]
    """Random unit directions distributed like the activations."""

    def lifts(self, directions: Float[Tensor, "n d_in"]) -> Float[np.ndarray, "n_concepts n"]:
        """About how much each unit direction raises the log-probability of each concept's tokens, against all directions at
        the same effect: in standard deviations over the random directions."""
        spread = self.effects.lift(self.random, KL).std(1, keepdim=True)
        return (self.effects.lift(directions.to(self.random), KL) / spread).cpu().numpy()

    def outputs(self, directions: Float[Tensor, "n d_in"], *, is_signed: bool) -> list[Output]:
        """Of each direction, the concept that it is estimated to raise most; where features are signed, it or its opposite."""
        chance = float(np.quantile(_strongest(self.lifts(self.random), is_signed)[1], _CHANCE))
        return [
            Output(concept=self.concepts[concept], sign=int(sign), lift=float(lift), chance=chance)
            for concept, lift, sign in zip(*_strongest(self.lifts(directions), is_signed), strict=True)
        ]


def _strongest(
    lifts: Float[np.ndarray, "n_concepts n"], is_signed: bool
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """(concept, lift, sign) of each direction."""
    concept = (np.abs(lifts) if is_signed else lifts).argmax(0)
    lift = lifts[concept, np.arange(lifts.shape[1])]
    sign = np.where(is_signed & (lift < 0), -1, 1)
    return concept, lift * sign, sign


def concept_outputs(
    model: LanguageModel, store: ActivationStore, site: Site, config: ConceptConfig
) -> ConceptOutputs | None:
    """Estimates at the hook point that ``site`` writes, from text of select; those asked for last stay in memory.

    None where no concept has tokens. Raises InputError for a store without labels or with fewer than two documents.
    """
    return _concept_outputs(model, store.path.resolve(), store.identity, site, config)


@lru_cache(maxsize=1)
def _concept_outputs(
    model: LanguageModel, path: Path, identity: str, site: Site, config: ConceptConfig
) -> ConceptOutputs | None:
    store = ActivationStore(path)
    rows = judged_rows(store, site.read, config)
    sequence, position = store.positions().T
    document, tokens = store.row_documents(), store.tokens()
    is_select = ~np.isin(document, rows.test_documents)
    follows = np.diff(sequence, prepend=-1) == 0
    follows &= (np.diff(position, prepend=-1) == 1) & (np.diff(document, prepend=-1) == 0)
    labels = store.labels(config.label_set) != 0
    found: dict[str, Tensor] = {}
    for column, name in enumerate(rows.names):
        begins = labels[:, column] & ~np.append(False, labels[:-1, column]) & follows
        if not rows.is_depth(column) and (begins & is_select).sum() >= LEAST_BEGINNINGS:
            first = concept_tokens(tokens[sequence, position][is_select], begins[is_select], model.d_vocab)
            found[name] = torch.from_numpy(first).to(model.device)
    if not found:
        return None
    text = sequences_of(store, rows, is_test=False, n=_SEQUENCES, length=_LENGTH)
    effects = output_effects(model, site.write, text, list(found.values()))
    shaped = site.write in store.sites
    moments = store.site(site.write if shaped else site.read).moments()
    width = effects.gradient.shape[1]
    random = (
        random_directions(_RANDOM, moments, 0, shaped=True)
        if shaped
        else torch.nn.functional.normalize(torch.randn(_RANDOM, width, generator=torch.Generator().manual_seed(0)))
    )
    return ConceptOutputs(tuple(found), tuple(found.values()), effects, random.to(model.device))


def concept_tokens(token: Int[np.ndarray, " n"], begins: Bool[np.ndarray, " n"], d_vocab: int) -> Int[np.ndarray, " k"]:
    """At most ``N_TOKENS`` tokens, those of the greatest count x log-odds of standing where ``begins``; never none."""
    there, all_places = (np.bincount(part, minlength=d_vocab) for part in (token[begins], token))
    elsewhere = all_places - there
    share = [(count + 0.5) / (count.sum() + 0.5 * d_vocab) for count in (there, elsewhere)]
    weight = there * np.log(share[0] / share[1])
    ranked = np.argsort(-weight, kind="stable")[:N_TOKENS]
    return ranked[: max(1, int((weight[ranked] > 0).sum()))]


def sequences_of(
    store: ActivationStore, rows: JudgedRows, *, is_test: bool, n: int, length: int
) -> Int[Tensor, "n_seq n_pos"]:
    """The beginnings of at most ``n`` sequences, spread over the store, whose documents are of test, or of select; where no
    sequence has only these, those that have most of them."""
    tokens, (_, document) = store.tokens()[:, :length], store.documents()
    is_wanted = (np.isin(document[:, :length], rows.test_documents) == is_test) | (tokens == store.manifest.bos_id)
    share = is_wanted.mean(1)
    whole = np.flatnonzero(share == share.max())
    chosen = whole[np.unique(np.linspace(0, len(whole) - 1, n).round().astype(int))]
    return torch.from_numpy(tokens[chosen].astype(np.int64))
