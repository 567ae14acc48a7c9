"""Steerer: the features of one site of one model, written into its forward passes and what it generates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.metrics import kl_divergence
from interp.steering.edits import Edit, edit_activations, feature_edit, text_positions
from interp.steering.scales import feature_scales
from interp.steering.search import KL_TOLERANCE, EffectOfVectors, StrengthSearch, rows_per_pass, search_strengths

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run


class Steerer:
    """Features of one site of one model, ready to be written into its forward passes.

    ``directions`` [n_features, d_in] are brought to unit length (an all-zero row is a dead feature). ``scales``
    [n_features] are in units of activation: what strength 1 adds along the direction. Raises InputError when shapes do
    not fit each other or the site, and for values that are not finite.
    """

    units: ClassVar[dict[str, str]] = {
        "add": "× its maximum",
        "clamp": "× its maximum",
        "ablate": "of its component removed",
    }
    """The unit of a strength in each mode, as printed after the number."""
    modes_by_kl: ClassVar[tuple[str, ...]] = ("add",)
    """Modes in which the strength can be found from a target effect."""

    def __init__(
        self,
        model: LanguageModel,
        site: str,
        directions: Float[Tensor, "n_features d_in"] | Float[np.ndarray, "n_features d_in"],
        scales: Float[Tensor, " n_scales"] | Float[np.ndarray, " n_scales"],
    ):
        self.model = model
        self.site = model.site(site)
        rows = torch.as_tensor(directions, dtype=torch.float32, device=model.device)
        lengths = torch.as_tensor(scales, dtype=torch.float32, device=model.device)
        if rows.ndim != 2 or rows.shape[1] != self.site.d_in:
            raise InputError(
                f"the directions are {tuple(rows.shape)} but '{site}' of '{model.id}' is {self.site.d_in} wide; "
                "give one row of that width per feature"
            )
        if lengths.shape != rows.shape[:1]:
            raise InputError(
                f"there are {len(rows)} directions but scales of shape {tuple(lengths.shape)}; give one each"
            )
        if not (torch.isfinite(rows).all() and torch.isfinite(lengths).all()):
            raise InputError("the directions or scales hold values that are not finite")
        self.directions = torch.nn.functional.normalize(rows, dim=1)
        self.scales = lengths.abs()
        self.is_dead = (self.scales == 0) | ~self.directions.any(1)
        """[n_features] Features that never fire or have no direction: there is no unit to steer them in."""

    @classmethod
    def from_run(cls, model: LanguageModel, run: Run) -> Steerer:
        """The features of a trained run, scaled so that strength 1 is each feature's maximum on its store.

        The maxima are kept with the run, and counted first if they are not there yet.
        """
        return cls(model, run.site.write, run.decomposer().write_directions(), feature_scales(run))

    @property
    def n_features(self) -> int:
        return len(self.directions)

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, "n_seq n_pos"], strengths: dict[int, float], *, mode: str = "add"
    ) -> Float[Tensor, "n_seq n_pos d_vocab"]:
        """Next-token logits with the features written in. Strength 0 in mode "add" leaves them bit-identical."""
        with self._steered([strengths], mode):
            return self.model.logits(tokens)

    def generate(
        self,
        prompt: str,
        strengths: dict[int, float],
        *,
        n_samples: int = 4,
        n_tokens: int = 64,
        temperature: float = 1.0,
        seed: int = 0,
        mode: str = "add",
    ) -> list[str]:
        """``n_samples`` continuations of ``prompt``, without the prompt, of ``n_tokens`` tokens each.

        The same seed uses the same random numbers whatever the strengths, so a baseline (``strengths={}``) and a steered
        text differ only through the steering. Temperature 0 takes the likeliest token. Raises InputError when prompt and
        continuation do not fit the model's context.
        """
        start = self.model.encode(prompt)
        tokens = self.sample(
            start.repeat(n_samples, 1), strengths, n_tokens=n_tokens, temperature=temperature, seed=seed, mode=mode
        )
        return [self.continuation_text(start, row) for row in tokens]

    def sample(
        self,
        prompts: Int[Tensor, "n_samples n_prompt"],
        strengths: dict[int, float],
        *,
        n_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        mode: str = "add",
    ) -> Int[Tensor, "n_samples n_new"]:
        """Token ids that follow ``prompts`` (equally long, BOS first); see ``sample_each``."""
        return self.sample_each(prompts, [strengths], n_tokens=n_tokens, temperature=temperature, seed=seed, mode=mode)[
            0
        ]

    @torch.no_grad()
    def sample_each(
        self,
        prompts: Int[Tensor, "n_samples n_prompt"],
        variants: Sequence[dict[int, float]],
        *,
        n_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        mode: str = "add",
    ) -> Int[Tensor, "n_variants n_samples n_new"]:
        """Token ids that follow ``prompts`` under each of several steerings, all in one batch with shared noise.

        Gumbel-max sampling (argmax of logits / temperature + Gumbel noise; Maddison et al. 2014): sample i meets the same
        noise at step t in every variant, which couples the variants token by token.
        """
        self._check_sampling(prompts, n_tokens, temperature)
        generator = torch.Generator().manual_seed(seed)
        step, cache, written = prompts.to(self.model.device).repeat(len(variants), 1), None, []
        with self._steered(variants, mode):
            for _ in range(n_tokens):
                logits, cache = self.model.bridge(
                    step, return_type="logits_and_cache", past_key_values=cache, use_cache=True
                )
                each = logits[:, -1].float().unflatten(0, (len(variants), len(prompts)))
                step = _draw(each, temperature, generator).flatten()[:, None]
                written.append(step)
        return torch.cat(written, dim=1).unflatten(0, (len(variants), len(prompts)))

    @torch.no_grad()
    def log_probs(self, tokens: Int[Tensor, "n_seq n_pos"], *, n_prompt: int) -> Float[Tensor, "n_seq n_new"]:
        """Log-probability in nats, under the model without steering, of each token after the first ``n_prompt``."""
        if not 1 <= n_prompt < tokens.shape[1]:
            raise InputError(f"a prompt of {n_prompt} tokens leaves nothing to score in sequences of {tokens.shape[1]}")
        return _token_log_probs(self.model.logits(tokens), tokens.to(self.model.device))[:, n_prompt - 1 :]

    @torch.no_grad()
    def kl(self, tokens: Int[Tensor, "n_seq n_pos"], strengths: dict[int, float], *, mode: str = "add") -> float:
        """Effect on ``tokens``: mean of KL(p_0 || p_steered) over the tokens of text, nats per token."""
        tokens = self._check_tokens(tokens)
        values = []
        for batch in tokens.split(rows_per_pass(self.model, tokens.shape[1])):
            values.append(kl_divergence(self.model.logits(batch), self.logits(batch, strengths, mode=mode)))
        return float(torch.cat(values)[text_positions(self.model, tokens)].mean())

    @torch.no_grad()
    def perplexity_ratio(
        self, tokens: Int[Tensor, "n_seq n_pos"], strengths: dict[int, float], *, mode: str = "add"
    ) -> float:
        """Perplexity of ``tokens`` under the steered model over that under the model itself (1 = no harm).

        Predictions made at tokens of text count, since nothing is written at BOS and separators.
        """
        tokens = self._check_tokens(tokens)
        losses = []
        for batch in tokens.split(rows_per_pass(self.model, tokens.shape[1])):
            clean = _token_log_probs(self.model.logits(batch), batch)
            losses.append(clean - _token_log_probs(self.logits(batch, strengths, mode=mode), batch))
        is_text = text_positions(self.model, tokens)[:, 1:-1]
        return float(np.exp(float(torch.cat(losses)[:, 1:][is_text].mean())))

    def strength_for_kl(
        self, feature: int, target: float, *, tokens: Int[Tensor, "n_seq n_pos"], sign: int = 1, mode: str = "add"
    ) -> StrengthSearch:
        """The strength of one feature whose effect on ``tokens`` is ``target`` nats per token; see ``strengths_for_kl``.

        Raises InputError for a mode that is not one of ``modes_by_kl``.
        """
        if mode not in self.modes_by_kl:
            raise InputError(
                f"a target KL can set the strength only in mode {' or '.join(self.modes_by_kl)}; give a strength for {mode}"
            )
        return self.strengths_for_kl([feature], target, tokens=tokens, sign=sign)[0]

    @torch.no_grad()
    def strengths_for_kl(
        self,
        features: Sequence[int],
        target: float,
        *,
        tokens: Int[Tensor, "n_seq n_pos"],
        sign: int = 1,
        start: Float[np.ndarray, " n"] | None = None,
    ) -> list[StrengthSearch]:
        """For each feature, the strength (of the given sign) whose effect on neutral ``tokens`` is ``target`` nats per token.

        All features advance together: rows of one batch carry different directions. ``start`` are the strengths tried first
        (absolute values). A target that no strength up to ``LARGEST_STRENGTH`` reaches gives ``reached=False`` with the
        nearest strength found.
        """
        if target <= 0 or sign not in (-1, 1):
            raise InputError(
                f"a target of {target} nats with sign {sign} cannot be met; give a target > 0 and sign 1 or -1"
            )
        rows = self._index(features)
        unit = sign * self.scales[rows, None] * self.directions[rows]
        effect = EffectOfVectors(self.model, self.site.name, self._check_tokens(tokens))

        def kl_of(active: np.ndarray, strengths: np.ndarray) -> np.ndarray:
            return effect(unit[torch.from_numpy(active)] * torch.from_numpy(strengths)[:, None].to(unit))

        strengths, kls = search_strengths(kl_of, len(rows), target, start=start)
        return [
            StrengthSearch(sign * s, kl, reached=abs(kl - target) <= KL_TOLERANCE * target, feature=f, target=target)
            for f, s, kl in zip(rows.tolist(), strengths.tolist(), kls.tolist(), strict=True)
        ]

    def _index(self, features: Sequence[int]) -> Int[Tensor, " k"]:
        wrong = [f for f in features if not 0 <= f < self.n_features]
        if wrong:
            raise InputError(f"there is no feature {wrong[0]}; features are numbered 0 to {self.n_features - 1}")
        return torch.tensor(list(features), dtype=torch.int64, device=self.directions.device)

    def _steered(self, variants: Sequence[dict[int, float]], mode: str) -> Any:
        """A hook that edits an equal share of the batch's rows for each variant; no hook where nothing would be written."""
        edits = [self._edit(strengths, mode) for strengths in variants]
        if not any(edits):
            return nullcontext()

        def edit(x: Tensor) -> Tensor:
            parts = zip(edits, x.chunk(len(edits)), strict=True)
            return torch.cat([part if change is None else change(part) for change, part in parts])

        return edit_activations(self.model, self.site.name, edit)

    def _edit(self, strengths: dict[int, float], mode: str) -> Edit | None:
        if mode not in self.units:
            raise InputError(f"no steering mode '{mode}'; there are " + ", ".join(f"'{m}'" for m in self.units))
        rows = self._index(list(strengths))
        values = torch.tensor(list(strengths.values()), dtype=torch.float32, device=rows.device)
        if not torch.isfinite(values).all():
            raise InputError("a strength is not finite; give a number")
        if not strengths or (mode != "clamp" and not values.any()):
            return None
        dead = rows[self.is_dead[rows]]
        if len(dead):
            raise InputError(
                f"feature {int(dead[0])} never fires on its store, so its strength has no unit; take another"
            )
        return feature_edit(self.directions[rows], values, self.scales[rows], mode)

    def _check_tokens(self, tokens: Int[Tensor, "n_seq n_pos"]) -> Int[Tensor, "n_seq n_pos"]:
        if not len(tokens) or tokens.shape[1] < 3 or tokens.shape[1] > self.model.n_ctx:
            raise InputError(
                f"tokens are {tuple(tokens.shape)}; give at least one sequence of 3 to {self.model.n_ctx} tokens"
            )
        if (tokens[:, 0] != self.model.bos_id).any():
            raise InputError(f"every sequence must begin with the BOS token {self.model.bos_id}")
        return tokens.to(self.model.device)

    def _check_sampling(self, prompts: Tensor, n_tokens: int, temperature: float) -> None:
        if len(prompts) < 1 or n_tokens < 1 or temperature < 0:
            raise InputError(
                f"cannot sample {len(prompts)} texts of {n_tokens} tokens at temperature {temperature}; "
                "give at least one text of one token and a temperature of 0 or more"
            )
        if prompts.shape[1] + n_tokens > self.model.n_ctx:
            raise InputError(
                f"a prompt of {prompts.shape[1]} tokens and {n_tokens} new ones exceed the {self.model.n_ctx} tokens of "
                f"'{self.model.id}'; shorten the prompt or ask for at most {max(0, self.model.n_ctx - prompts.shape[1])}"
            )

    def continuation_text(self, prompt: Int[Tensor, " n_prompt"], new: Int[Tensor, " n_new"]) -> str:
        """The text of ``new`` as it stands after ``prompt``."""
        # Decoded with the prompt, so that tokenizers which drop a leading space keep it.
        before, whole = self.model.decode(prompt), self.model.decode(torch.cat([prompt, new]))
        return whole[len(before) :] if whole.startswith(before) else self.model.decode(new)


def _draw(
    logits: Float[Tensor, "n_variants n d_vocab"], temperature: float, generator: torch.Generator
) -> Int[Tensor, "n_variants n"]:
    if temperature == 0:
        return logits.argmax(-1)
    # -log of a standard exponential is Gumbel noise. Drawn on the CPU, so that a seed means the same on every device.
    noise = torch.empty(logits.shape[1:]).exponential_(generator=generator).log_().neg_()
    return (logits / temperature + noise.to(logits.device)).argmax(-1)


def _token_log_probs(logits: Float[Tensor, "n pos d_vocab"], tokens: Int[Tensor, "n pos"]) -> Float[Tensor, "n new"]:
    """Log-probability of tokens 1.. as predicted at the position before each."""
    log_p = logits[:, :-1].float().log_softmax(-1)
    return log_p.gather(-1, tokens[:, 1:, None]).squeeze(-1)
