"""One feature on one text, computed when a person asks: where it fires, and what taking it out of the model does there.

Taking out is that of ``interp.evaluation.ablation``: x' = x - z_f W_dec[f] at every token but BOS and separators. The change of
token t is log p'(t+1) - log p(t+1), in nats: below 0 the feature made the token that comes next likelier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from interp.browse.prompt import PromptCodes, check_model
from interp.capturing.forward import forward, logits_of_versions
from interp.decomposers import LinearDecomposer
from interp.errors import InputError
from interp.index.reader import Example

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel
    from interp.runs.record import Run


def firing_on(prompt: PromptCodes, feature: int) -> Example:
    """A typed text as an example of the feature: its strongest token is the centre. BOS is left out."""
    codes = prompt.codes[1:, feature]
    centre = int(abs(codes).argmax())
    return Example(
        value=float(codes[centre]),
        sequence=0,
        position=centre + 1,
        document="",
        tokens=list(prompt.tokens[1:]),
        activations=[float(f"{code:.4g}") for code in codes.tolist()],
        centre=centre,
        group="",
    )


@torch.no_grad()
def ablation_changes(model: LanguageModel, run: Run, token_ids: Sequence[int], feature: int) -> list[float | None]:
    """What taking the feature out of one sequence changes at each of its tokens, BOS first; None for the last one.

    One forward pass to the site for the codes, then one for both versions. Raises InputError for a model that is not the run's,
    and for codes that do not decode.
    """
    check_model(model, run)
    decomposer = run.decomposer()
    if not isinstance(decomposer, LinearDecomposer):
        raise InputError(
            f"codes of '{run.kind}' do not decode to an activation, so a feature's part of it cannot be taken out."
        )
    tokens = torch.tensor(token_ids, device=model.device)
    site = model.site(run.site.read)
    rows = forward(model, [site], tokens[None])[site.name][0].float().cpu()
    z = decomposer.encode(rows)[:, feature].masked_fill(tokens.cpu() == model.bos_id, 0.0)
    part = (z[:, None] * decomposer.W_dec[feature]).to(model.device)
    at = torch.arange(len(tokens) - 1, device=model.device)
    logits = logits_of_versions(model, run.site.write, tokens, lambda x: torch.stack([x, x - part.to(x.dtype)]), at)
    of_next = logits.float().log_softmax(-1)[:, at, tokens[1:]]
    return [*(float(f"{change:.4g}") for change in (of_next[1] - of_next[0]).tolist()), None]
