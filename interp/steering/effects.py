"""What edits at hook sites change in a model's predictions: on neutral text as a whole, and token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.metrics import kl_divergence
from interp.steering.edits import SiteEdit, text_positions, written
from interp.steering.search import rows_per_pass

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel


class Effect(NamedTuple):
    """What edits change on a text."""

    kl: float
    """Mean of KL(p_0 || p_edited) over the tokens of text, nats per token; not finite where predictions are not."""
    perplexity_ratio: float
    """Perplexity under the edited model over that under the model itself (1 = no harm)."""


class TokenChange(NamedTuple):
    """A token of a text and what steering does to its likelihood."""

    text: str
    change: float
    """Log-probability with steering less that without, nats."""


class NextToken(NamedTuple):
    """A token that may come next."""

    text: str
    baseline: float
    """Probability without steering."""
    steered: float
    """Probability with steering."""


@torch.no_grad()
def edited_logits(
    model: LanguageModel, edits: Sequence[SiteEdit], tokens: Int[Tensor, "n_seq n_pos"], *, n_prompt: int = 1
) -> Float[Tensor, "n_seq n_pos d_vocab"]:
    """Next-token logits with ``edits``; without any they are bit-identical to the model's own.

    Edits at the prompt's end begin at token ``n_prompt - 1``: by default at BOS, so that all text counts as continuation.
    """
    with written(model, [edits], first=n_prompt - 1):
        return model.logits(tokens)


class EffectOnText:
    """Measures what edits change on fixed ``tokens`` (BOS first), on which the model itself is run once.

    Edits at the prompt's end are measured at every token, since any may be a prompt's last. Predictions made at tokens of
    text count, since nothing is written at BOS and separators. Raises InputError for tokens of which none is text, and for
    a model whose own predictions are not finite.
    """

    def __init__(self, model: LanguageModel, tokens: Int[Tensor, "n_seq n_pos"]):
        self.model, self.tokens = model, check_tokens(model, tokens)
        self.is_text = text_positions(model, self.tokens)
        self.clean = [model.logits(batch) for batch in self._batches()]
        if not all(logits[:, 1:].logsumexp(-1).isfinite().all() for logits in self.clean):
            raise InputError(
                f"'{model.id}' predicts nothing finite on the neutral text, so no effect can be measured; "
                "give its weights in float32"
            )

    @torch.no_grad()
    def __call__(self, edits: Sequence[SiteEdit]) -> Effect:
        """The effect of ``edits``; exactly (0, 1) of none."""
        if not edits:
            return Effect(0.0, 1.0)
        kls, losses = [], []
        for clean, batch in zip(self.clean, self._batches(), strict=True):
            edited = edited_logits(self.model, edits, batch)
            kls.append(kl_divergence(clean, edited))
            losses.append(token_log_probs(clean, batch) - token_log_probs(edited, batch))
        loss = torch.cat(losses)[:, 1:][self.is_text[:, 1:-1]].double().mean()
        return Effect(float(torch.cat(kls)[self.is_text].double().mean()), float(loss.exp()))

    def _batches(self) -> tuple[Tensor, ...]:
        return self.tokens.split(rows_per_pass(self.model, self.tokens.shape[1]))


@torch.no_grad()
def token_changes(
    model: LanguageModel, edits: Sequence[SiteEdit], tokens: Int[Tensor, "n_seq n_pos"], *, n_prompt: int = 1
) -> list[list[TokenChange]]:
    """For each text, of prompt and continuation, what ``edits`` change at each token after BOS, as ``edited_logits`` makes
    them. A token's own position does not matter to its change: it is predicted from those before it."""
    changes = []
    for batch in tokens.to(model.device).split(rows_per_pass(model, tokens.shape[1])):
        edited = token_log_probs(edited_logits(model, edits, batch, n_prompt=n_prompt), batch)
        changes += (edited - token_log_probs(model.logits(batch), batch)).tolist()
    return [
        [TokenChange(text, change) for text, change in zip(model.token_strings(ids[1:]), row, strict=True)]
        for ids, row in zip(tokens.tolist(), changes, strict=True)
    ]


@torch.no_grad()
def next_tokens(
    model: LanguageModel, edits: Sequence[SiteEdit], text: Int[Tensor, " n_pos"], *, n_prompt: int = 1, k: int = 10
) -> list[NextToken]:
    """The ``k`` likeliest tokens after ``text`` (BOS first) with ``edits`` and the ``k`` likeliest without, by the probability
    with them, largest first."""
    logits = torch.stack(
        [model.logits(text[None])[0, -1], edited_logits(model, edits, text[None], n_prompt=n_prompt)[0, -1]]
    )
    p = logits.float().softmax(-1)
    chosen = p.topk(min(k, p.shape[1])).indices.unique()
    chosen = chosen[p[1, chosen].argsort(descending=True, stable=True)]
    return [NextToken(*each) for each in zip(model.token_strings(chosen.tolist()), *p[:, chosen].tolist(), strict=True)]


def token_log_probs(logits: Float[Tensor, "n pos d_vocab"], tokens: Int[Tensor, "n pos"]) -> Float[Tensor, "n new"]:
    """Log-probability of tokens 1.. as predicted at the position before each."""
    log_p = logits[:, :-1].float().log_softmax(-1)
    return log_p.gather(-1, tokens[:, 1:, None]).squeeze(-1)


def check_tokens(model: LanguageModel, tokens: Int[Tensor, "n_seq n_pos"]) -> Int[Tensor, "n_seq n_pos"]:
    """The tokens on the model's device. Raises InputError for sequences too short, too long, or without BOS first."""
    if not len(tokens) or tokens.shape[1] < 3 or tokens.shape[1] > model.n_ctx:
        raise InputError(f"tokens are {tuple(tokens.shape)}; give at least one sequence of 3 to {model.n_ctx} tokens")
    if (tokens[:, 0] != model.bos_id).any():
        raise InputError(f"every sequence must begin with the BOS token {model.bos_id}")
    return tokens.to(model.device)
