"""Steerer: the features of one site of one model, written into its forward passes and what it generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.decomposers import LinearDecomposer
from interp.errors import InputError
from interp.steering.edits import Edit, Positions, SiteEdit, feature_edit
from interp.steering.effects import EffectOnText, check_tokens, edited_logits, token_log_probs
from interp.steering.sampling import Sampling, sample_tokens
from interp.steering.scales import Unit, feature_scales
from interp.steering.search import KL_TOLERANCE, EffectOfVectors, StrengthSearch, search_strengths

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run

WriteAt = Literal["site", "residual"]

_INTO_RESIDUAL = {"mlp.hook_post": "hook_mlp_out", "attn.hook_z": "hook_attn_out"}


class Steerer:
    """Features of one site of one model, ready to be written into its forward passes.

    ``directions`` [n_features, d_in] are brought to unit length (an all-zero row is a dead feature). ``scales``
    [n_features] are in units of activation: what strength 1 adds along the direction. ``contributions`` maps rows [n, d_in]
    to what each feature contributes to them [n, n_features], along its direction; without it, that is the coefficient.
    ``positions`` says at which tokens is written. Raises InputError when shapes do not fit each other or the site, for
    values that are not finite, and for tokens that the model does not have.
    """

    units: ClassVar[dict[str, str]] = {
        "add": "× its maximum",
        "clamp": "× its maximum",
        "scale": "× what it contributes",
        "ablate": "of what it contributes removed",
    }
    """The unit of a strength in each mode, as printed after the number; of add and clamp, where it is not the mean norm."""
    neutral: ClassVar[dict[str, float]] = {"scale": 1.0}
    """The strength that changes nothing, where it is not 0 (clamp has none: 0 takes out what the feature contributes)."""
    ends: ClassVar[dict[str, float]] = {"ablate": 1.0}
    """How far from the neutral strength a search goes, where there is an end."""

    def __init__(
        self,
        model: LanguageModel,
        site: str,
        directions: Float[Tensor, "n_features d_in"] | Float[np.ndarray, "n_features d_in"],
        scales: Float[Tensor, " n_scales"] | Float[np.ndarray, " n_scales"],
        *,
        contributions: Callable[[Tensor], Tensor] | None = None,
        positions: Positions | None = None,
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
        self.contributions = contributions
        self.positions = positions or Positions()
        self._token_ids = self.positions.token_ids(model)

    @classmethod
    def from_run(
        cls,
        model: LanguageModel,
        run: Run,
        *,
        at: WriteAt = "site",
        unit: Unit = "maximum",
        positions: Positions | None = None,
    ) -> Steerer:
        """The features of a trained run; strength 1 is each feature's maximum on its store, or the site's mean norm.

        ``at="residual"`` writes features of MLP neurons or attention heads behind the layer's output matrix, into the
        residual stream. The maxima are kept with the run, and counted first if they are not there yet. Raises InputError
        for a run of another model, for a site without an output matrix, and for unit "norm" at a site that the store
        lacks.
        """
        if model.fingerprint != run.record.model_fingerprint:
            raise InputError(
                f"run '{run.name}' was trained on '{run.model_id}', not on these weights of '{model.id}'; take a run of "
                "this model"
            )
        decomposer = run.decomposer()
        site, directions = run.site.write, decomposer.write_directions()
        scales = feature_scales(run)
        if at == "residual":
            site, directions = into_residual(model, site, directions)
            scales = scales * directions.norm(dim=1).cpu().numpy()
        if unit == "norm":
            scales = np.where(scales > 0, run.store().site(site).moments().mean_norm, 0.0)
        contributions = None
        if isinstance(decomposer, LinearDecomposer) and run.site.read == site:
            lengths = decomposer.W_dec.norm(dim=1)
            contributions = lambda x: (decomposer.encode(x.cpu()) * lengths).to(x.device)  # noqa: E731
        return cls(model, site, directions, scales, contributions=contributions, positions=positions)

    @property
    def n_features(self) -> int:
        return len(self.directions)

    def edits(self, strengths: dict[int, float], *, mode: str = "add") -> list[SiteEdit]:
        """What writes the features into the site; nothing where all have the mode's neutral strength.

        Raises InputError for an unknown mode, features that are not there or dead, and strengths that are not finite.
        """
        if mode not in self.units:
            raise InputError(f"no steering mode '{mode}'; there are " + ", ".join(f"'{m}'" for m in self.units))
        self._index(list(strengths))
        if not np.isfinite(list(strengths.values())).all():
            raise InputError("a strength is not finite; give a number")
        neutral = self.neutral.get(mode, 0.0)
        if not strengths or (mode != "clamp" and all(strength == neutral for strength in strengths.values())):
            return []
        return [SiteEdit(self.site.name, self._edit(strengths, mode), self.positions.at, self._token_ids)]

    def logits(
        self, tokens: Int[Tensor, "n_seq n_pos"], strengths: dict[int, float], *, mode: str = "add"
    ) -> Float[Tensor, "n_seq n_pos d_vocab"]:
        """Next-token logits with the features written in. A strength that changes nothing leaves them bit-identical."""
        return edited_logits(self.model, self.edits(strengths, mode=mode), tokens)

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
        sampling: Sampling | None = None,
    ) -> list[str]:
        """``n_samples`` continuations of ``prompt``, without the prompt, of ``n_tokens`` tokens each.

        The same seed uses the same random numbers whatever the strengths, so a baseline (``strengths={}``) and a steered
        text differ only through the steering. Raises InputError when prompt and continuation do not fit the model's
        context.
        """
        start = self.model.encode(prompt)
        tokens = self.sample(
            start.repeat(n_samples, 1),
            strengths,
            n_tokens=n_tokens,
            temperature=temperature,
            seed=seed,
            mode=mode,
            sampling=sampling,
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
        sampling: Sampling | None = None,
    ) -> Int[Tensor, "n_samples n_new"]:
        """Token ids that follow ``prompts`` (equally long, BOS first); see ``sample_each``."""
        return self.sample_each(
            prompts, [strengths], n_tokens=n_tokens, temperature=temperature, seed=seed, mode=mode, sampling=sampling
        )[0]

    def sample_each(
        self,
        prompts: Int[Tensor, "n_samples n_prompt"],
        variants: Sequence[dict[int, float]],
        *,
        n_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        mode: str = "add",
        sampling: Sampling | None = None,
    ) -> Int[Tensor, "n_variants n_samples n_new"]:
        """Token ids that follow ``prompts`` under each of several steerings, all in one batch with shared noise.

        Sample i meets the same noise at step t in every variant; ``interp.steering.sampling`` says how tokens are drawn.
        ``sampling`` is given in place of ``temperature`` where there is more to say.
        """
        edits = [self.edits(strengths, mode=mode) for strengths in variants]
        sampling = sampling or Sampling(temperature=temperature)
        *_, tokens = sample_tokens(self.model, edits, prompts, n_tokens=n_tokens, sampling=sampling, seed=seed)
        return tokens

    @torch.no_grad()
    def log_probs(self, tokens: Int[Tensor, "n_seq n_pos"], *, n_prompt: int) -> Float[Tensor, "n_seq n_new"]:
        """Log-probability in nats, under the model without steering, of each token after the first ``n_prompt``."""
        if not 1 <= n_prompt < tokens.shape[1]:
            raise InputError(f"a prompt of {n_prompt} tokens leaves nothing to score in sequences of {tokens.shape[1]}")
        return token_log_probs(self.model.logits(tokens), tokens.to(self.model.device))[:, n_prompt - 1 :]

    def kl(self, tokens: Int[Tensor, "n_seq n_pos"], strengths: dict[int, float], *, mode: str = "add") -> float:
        """Effect on ``tokens``: mean of KL(p_0 || p_steered) over the tokens of text, nats per token."""
        return EffectOnText(self.model, tokens)(self.edits(strengths, mode=mode)).kl

    def perplexity_ratio(
        self, tokens: Int[Tensor, "n_seq n_pos"], strengths: dict[int, float], *, mode: str = "add"
    ) -> float:
        """Perplexity of ``tokens`` under the steered model over that under the model itself (1 = no harm)."""
        return EffectOnText(self.model, tokens)(self.edits(strengths, mode=mode)).perplexity_ratio

    def strength_for_kl(
        self,
        feature: int,
        target: float,
        *,
        tokens: Int[Tensor, "n_seq n_pos"] | EffectOnText,
        sign: int = 1,
        mode: str = "add",
    ) -> StrengthSearch:
        """The strength of one feature, in any mode, whose effect on ``tokens`` is ``target`` nats per token.

        An ``EffectOnText`` in place of tokens has run the model itself on them already.
        Strengths are counted from the mode's neutral one, upwards or, with sign -1, downwards: adding, clamping, flowing and
        turning begin at 0, scaling at 1. Ablation has no sign, and ends where all is removed; a rotation ends at half a turn.
        A target that no strength reaches gives ``reached=False`` with the nearest effect that was found. Raises InputError as
        ``edits`` does.
        """
        _check_target(target, sign)
        self.edits({feature: 2.0}, mode=mode)  # refuses what cannot be steered: 2 is no mode's neutral strength
        if mode == "add" and not self.positions.at_tokens and not isinstance(tokens, EffectOnText):
            return self.strengths_for_kl([feature], target, tokens=tokens, sign=sign)[0]
        neutral, end = self.neutral.get(mode, 0.0), self.ends.get(mode, float("inf"))
        direction = 1 if mode == "ablate" else sign
        effect = tokens if isinstance(tokens, EffectOnText) else EffectOnText(self.model, tokens)
        found: dict[float, float] = {}

        def kl_at(offset: float) -> float:
            if offset not in found:
                strength = neutral + direction * offset
                found[offset] = effect(self.edits({feature: strength}, mode=mode)).kl
            return found[offset]

        offsets, _ = search_strengths(lambda _, tried: np.array([kl_at(min(float(tried[0]), end))]), 1, target)
        nearest = min(float(offsets[0]), end)
        kl = kl_at(nearest)  # measured at 0 too, where a clamp has an effect
        reached = abs(kl - target) <= KL_TOLERANCE * target
        return StrengthSearch(neutral + direction * nearest, kl, reached=reached, feature=feature, target=target)

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
        _check_target(target, sign)
        rows = self._index(features)
        unit = sign * self.scales[rows, None] * self.directions[rows]
        effect = EffectOfVectors(self.model, self.site.name, check_tokens(self.model, tokens))

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

    def _edit(self, strengths: dict[int, float], mode: str) -> Edit:
        rows = self._index(list(strengths))
        dead = rows[self.is_dead[rows]]
        if len(dead):
            raise InputError(
                f"feature {int(dead[0])} never fires on its store, so its strength has no unit; take another"
            )
        values = torch.tensor(list(strengths.values()), dtype=torch.float32, device=rows.device)
        contributions = self.contributions
        if contributions is None:
            return feature_edit(self.directions[rows], values, self.scales[rows], mode)

        def of_chosen(x: Tensor) -> Tensor:
            return contributions(x.flatten(0, -2))[:, rows].unflatten(0, x.shape[:-1])

        return feature_edit(self.directions[rows], values, self.scales[rows], mode, of_chosen)

    def continuation_text(self, prompt: Int[Tensor, " n_prompt"], new: Int[Tensor, " n_new"]) -> str:
        """The text of ``new`` as it stands after ``prompt``."""
        # Decoded with the prompt, so that tokenizers which drop a leading space keep it.
        before, whole = self.model.decode(prompt), self.model.decode(torch.cat([prompt, new]))
        return whole[len(before) :] if whole.startswith(before) else self.model.decode(new)


def has_output_matrix(site: str) -> bool:
    """Whether features of a hook point can be written behind its layer's output matrix."""
    return site.split(".", 2)[-1] in _INTO_RESIDUAL


def into_residual(
    model: LanguageModel, site: str, directions: Float[Tensor, "n d_in"]
) -> tuple[str, Float[Tensor, "n d_model"]]:
    """(hook point behind the site's output matrix, what unit directions at the site add there).

    Raises InputError for a site without an output matrix, and for a model with a norm behind it.
    """
    block, short = site.rpartition(site.split(".", 2)[-1])[0], site.split(".", 2)[-1]
    if short not in _INTO_RESIDUAL:
        raise InputError(
            f"'{site}' has no output matrix that leads to the residual stream; write its features at the site itself"
        )
    behind, inside = block + _INTO_RESIDUAL[short], f"{block}{short.split('.')[0]}.hook_out"
    seen: dict[str, Tensor] = {}
    look = [(name, lambda x, hook, name=name: seen.__setitem__(name, x.clone())) for name in (inside, behind)]
    with model.bridge.hooks(fwd_hooks=look):
        model.logits(model.encode("a b")[None])
    if not torch.equal(seen[inside], seen[behind]):
        raise InputError(
            f"'{model.id}' has a norm between '{site}' and the residual stream, so a feature adds no fixed direction there; "
            "write its features at the site itself"
        )
    residual = model.residual_directions(site, directions.to(model.device))
    assert residual is not None
    return behind, residual


def _check_target(target: float, sign: int) -> None:
    if not 0 < target < float("inf") or sign not in (-1, 1):
        raise InputError(
            f"a target of {target} nats with sign {sign} cannot be met; give a target > 0 and sign 1 or -1"
        )
