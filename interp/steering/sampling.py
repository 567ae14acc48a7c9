"""Continuations of a prompt under several steerings at once, drawn from the same noise, token by token.

    logits x -> repetition penalty -> x / temperature -> top-k -> top-p -> argmax of x + Gumbel noise

The last step draws from softmax(x) (Gumbel-max; Maddison et al. 2014). Its noise depends on the seed, the sample and the step
alone, so a baseline and a steered text differ only through the steering.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.records import check_options
from interp.steering.edits import SiteEdit, written

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 1.0
    """Sampling temperature; 0 takes the likeliest token."""
    top_k: int = 0
    """Draw from this many of the likeliest tokens; 0 draws from all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability (nucleus sampling); 1 draws from all."""
    repetition_penalty: float = 1.0
    """Makes tokens that the text has already less likely; 1.2 is usual, 1 none."""

    def __post_init__(self) -> None:
        check_options(self)
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"the temperature is {self.temperature}; give 0 or more")
        if self.top_k < 0:
            raise InputError(f"top-k is {self.top_k}; give a number of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top-p is {self.top_p}; give a probability above 0 and at most 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise InputError(f"the repetition penalty is {self.repetition_penalty}; give a number above 0, 1 for none")


def sample_tokens(
    model: LanguageModel,
    variants: Sequence[Sequence[SiteEdit]],
    prompts: Int[Tensor, "n_samples n_prompt"],
    *,
    n_tokens: int,
    sampling: Sampling,
    seed: int = 0,
) -> Iterator[Int[Tensor, "n_variants n_samples n_new"]]:
    """The token ids that follow ``prompts`` (equally long, BOS first) under each variant, after every step all so far.

    No hook is on the model while the caller has a step's tokens in hand. Raises InputError when prompt and continuation do
    not fit the model's context, and when its logits are not finite.
    """
    if len(prompts) < 1 or n_tokens < 1:
        raise InputError(
            f"cannot sample {len(prompts)} texts of {n_tokens} tokens; give at least one text of one token"
        )
    check_fits(model, prompts.shape[1], n_tokens)
    generator = torch.Generator().manual_seed(seed)
    n_prompt, n_rows = prompts.shape[1], (len(variants), len(prompts))
    step = text = prompts.to(model.device).repeat(len(variants), 1)
    cache = None
    for i in range(n_tokens):
        with torch.no_grad(), written(model, variants, first=0 if i else n_prompt - 1):
            logits, cache = model.bridge(step, return_type="logits_and_cache", past_key_values=cache, use_cache=True)
        last = logits[:, -1].float()
        if not last.amax(-1).isfinite().all():
            raise InputError(
                f"the logits for new token {i + 1} are not finite, so none can be drawn; steer less strongly, or give the "
                f"weights of '{model.id}' in float32"
            )
        if sampling.repetition_penalty != 1:
            last = penalised(last, text, sampling.repetition_penalty, bos_id=model.bos_id)
        step = _draw(last.unflatten(0, n_rows), sampling, generator).flatten()[:, None]
        text = torch.cat([text, step], dim=1)
        yield text[:, n_prompt:].unflatten(0, n_rows)


def penalised(
    logits: Float[Tensor, "n d_vocab"], text: Int[Tensor, "n n_pos"], penalty: float, *, bos_id: int
) -> Float[Tensor, "n d_vocab"]:
    """Logits with those of tokens in ``text``, prompt included, made smaller (Keskar et al. 2019, section 4.1).

    The paper divides them by the penalty; a negative logit is multiplied instead, since division would raise it. BOS, which
    begins every text, is left as it is.
    """
    found = logits.gather(-1, text)
    smaller = logits.scatter(-1, text, torch.where(found > 0, found / penalty, found * penalty))
    smaller[:, bos_id] = logits[:, bos_id]
    return smaller


def kept(logits: Float[Tensor, "*batch d_vocab"], sampling: Sampling) -> Float[Tensor, "*batch d_vocab"]:
    """Logits, already divided by the temperature, with those of tokens outside of top-k and top-p at minus infinity.

    Top-p is the smallest set of likeliest tokens whose probabilities add up to at least p (Holtzman et al. 2020, equation
    2), of what top-k keeps. Tokens as likely as the last of the top k are all kept.
    """
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        p, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
        is_outside = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, p.cumsum(-1) - p >= sampling.top_p)
        logits = logits.masked_fill(is_outside, -torch.inf)
    return logits


def _draw(
    logits: Float[Tensor, "n_variants n d_vocab"], sampling: Sampling, generator: torch.Generator
) -> Int[Tensor, "n_variants n"]:
    if sampling.temperature == 0:
        return logits.argmax(-1)
    # -log of a standard exponential is Gumbel noise. Drawn on the CPU, so that a seed means the same on every device.
    noise = torch.empty(logits.shape[1:]).exponential_(generator=generator).log_().neg_()
    return (kept(logits / sampling.temperature, sampling) + noise.to(logits.device)).argmax(-1)


def check_fits(model: LanguageModel, n_prompt: int, n_tokens: int) -> None:
    """Raises InputError for a prompt of ``n_prompt`` tokens, BOS included, that with ``n_tokens`` more exceeds the context."""
    if n_prompt + n_tokens > model.n_ctx:
        raise InputError(
            f"a prompt of {n_prompt} tokens and {n_tokens} new ones exceed the {model.n_ctx} tokens of '{model.id}'; "
            f"shorten the prompt or ask for at most {max(0, model.n_ctx - n_prompt)}"
        )
