"""Texts that a model writes with vectors added to its activations, and what is said of each.

Of a text: how much of it is a concept, by a judge of written text, and how well it is written (``fluency``). Texts are drawn
from the same noise as those written without steering from the same prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.capturing.forward import FastestForward
from interp.corpora.documents import TextJudge
from interp.evaluation.fluency import fluency, repetition
from interp.evaluation.steering_results import SteeringConfig
from interp.metrics import distinct_n
from interp.model.language_model import LanguageModel
from interp.steering.steerer import Steerer

_ROWS_PER_PASS = 256  # texts written at once: the per-step overhead is spread, the key-value cache stays small


@dataclass(frozen=True)
class Written:
    """What was written under several steerings, the first of them none, from the same prompts and noise."""

    shares: Float[np.ndarray, "n_steerings n_prompts n_texts n_concepts"]
    nll: Float[np.ndarray, "n_steerings n_prompts n_texts"]
    distinct_2: Float[np.ndarray, "n_steerings n_prompts n_texts"]
    repetition: Float[np.ndarray, "n_steerings n_prompts n_texts"]
    texts: tuple[tuple[str, ...], ...]
    """Of each steering, the first text of each prompt."""

    @property
    def fluencies(self) -> Float[np.ndarray, "n_steerings n_prompts n_texts"]:
        return fluency(self.nll, np.broadcast_to(self.nll[0].mean(1)[:, None], self.nll.shape))

    def of(self, steerings: Sequence[int]) -> Written:
        """These steerings alone."""
        chosen = list(steerings)
        return Written(
            self.shares[chosen],
            self.nll[chosen],
            self.distinct_2[chosen],
            self.repetition[chosen],
            tuple(self.texts[i] for i in chosen),
        )

    def more(self, other: Written) -> Written:
        """With further texts of the same steerings and prompts."""
        return Written(
            np.concatenate([self.shares, other.shares], axis=2),
            np.concatenate([self.nll, other.nll], axis=2),
            np.concatenate([self.distinct_2, other.distinct_2], axis=2),
            np.concatenate([self.repetition, other.repetition], axis=2),
            self.texts,
        )


class Writer:
    """Writes texts at one site and has them judged."""

    def __init__(
        self, model: LanguageModel, site: str, judge: TextJudge, concepts: Sequence[str], config: SteeringConfig
    ):
        self.model, self.site, self.judge = model, site, judge
        self.concepts, self.config = tuple(concepts), config

    def write(
        self, vectors: Float[Tensor, "n n_prompts d_in"], prompts: Sequence[str], *, n_texts: int, seed: int
    ) -> Written:
        """``n_texts`` texts of each prompt without steering, and with each row of ``vectors`` added at the site.

        A steering may add another vector at each prompt; zeros change nothing. The noise depends on the seed and on the
        prompt's place in the list.
        """
        found = [self._write(vectors[:, i], prompt, n_texts=n_texts, seed=seed + i) for i, prompt in enumerate(prompts)]
        return Written(
            shares=np.stack([each.shares for each in found], axis=1),
            nll=np.stack([each.nll for each in found], axis=1),
            distinct_2=np.stack([each.distinct_2 for each in found], axis=1),
            repetition=np.stack([each.repetition for each in found], axis=1),
            texts=tuple(zip(*(each.texts for each in found), strict=True)),
        )

    def _write(self, vectors: Float[Tensor, "n d_in"], prompt: str, *, n_texts: int, seed: int) -> _OfPrompt:
        steerer = Steerer(self.model, self.site, vectors, vectors.norm(dim=1))
        dead = steerer.is_dead.tolist()
        variants: list[dict[int, float]] = [{}, *({} if dead[i] else {i: 1.0} for i in range(len(vectors)))]
        start, per_pass = self.model.encode(prompt), max(1, _ROWS_PER_PASS // n_texts)
        repeated = start.repeat(n_texts, 1)
        with FastestForward(self.model, [steerer.site], repeated[:1]).kernels():
            parts = [
                steerer.sample_each(
                    repeated,
                    variants[first : first + per_pass],
                    n_tokens=self.config.n_tokens,
                    temperature=self.config.temperature,
                    seed=seed,
                )
                for first in range(0, len(variants), per_pass)
            ]
            tokens = torch.cat(parts)
            whole = [torch.cat([repeated, new], dim=1) for new in tokens]
            nll = torch.stack([-steerer.log_probs(rows, n_prompt=len(start)).mean(1) for rows in whole])
        texts = [[steerer.continuation_text(start, row) for row in rows] for rows in tokens]
        ids = tokens.cpu().numpy()
        return _OfPrompt(
            shares=np.asarray([[self._shares(prompt, text) for text in row] for row in texts]),
            nll=nll.cpu().numpy(),
            distinct_2=np.asarray([[distinct_n(row, n=2) for row in rows] for rows in ids]),
            repetition=np.asarray([[repetition(row) for row in rows] for rows in ids]),
            texts=[row[0] for row in texts],
        )

    def _shares(self, prompt: str, text: str) -> list[float]:
        share = self.judge(prompt + text, start=len(prompt))
        return [share[concept] for concept in self.concepts]


@dataclass(frozen=True)
class _OfPrompt:
    """What was written from one prompt."""

    shares: Float[np.ndarray, "n_steerings n_texts n_concepts"]
    nll: Float[np.ndarray, "n_steerings n_texts"]
    distinct_2: Float[np.ndarray, "n_steerings n_texts"]
    repetition: Float[np.ndarray, "n_steerings n_texts"]
    texts: list[str]
