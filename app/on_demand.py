"""What the feature card and the Prompt page ask of the language model: typed texts, and ablation.

Importing this module loads torch.
"""

from __future__ import annotations

from functools import lru_cache

from app.models import ModelTurn, held_model
from app.workspace import find_run, index_version, labels_of, open_index, weights_version
from interp.browse.on_demand import ablation_changes, firing_on
from interp.browse.prompt import PromptCodes, PromptPayload, encode_prompt, prompt_payload
from interp.index.reader import Example
from interp.interop.feature_vector import feature_vector
from interp.runs.record import Run

__all__ = [
    "changes_of_sequence",
    "changes_of_typed_text",
    "codes_of_text",
    "feature_vector",
    "payload_of_text",
    "typed_text",
]


def typed_text(run: Run, name: str, feature: int, text: str) -> Example:
    """Where a feature fires in a text. Raises InputError as ``encode_prompt`` does."""
    return firing_on(codes_of_text(run, name, text), feature)


def codes_of_text(run: Run, name: str, text: str) -> PromptCodes:
    """The codes of a whole text. Raises InputError as ``encode_prompt`` does."""
    return _codes(name, weights_version(run), text)


def payload_of_text(run: Run, name: str, text: str) -> PromptPayload:
    """The same with labels, for the Prompt page."""
    index = open_index(run) if index_version(run) else None
    return prompt_payload(codes_of_text(run, name, text), labels_of(run), index)


def changes_of_typed_text(run: Run, name: str, feature: int, text: str) -> list[float | None]:
    """What taking the feature out changes at each token of a text, without BOS."""
    ids = codes_of_text(run, name, text).token_ids
    return _changes(name, weights_version(run), feature, tuple(ids.tolist()))[1:]


def changes_of_sequence(run: Run, name: str, feature: int, sequence: int) -> list[float | None]:
    """What taking the feature out changes at each token of a sequence of the store, BOS first."""
    ids = open_index(run).sequence(sequence)
    return _changes(name, weights_version(run), feature, tuple(ids.tolist()))


@lru_cache(maxsize=16)
def _codes(name: str, version: str, text: str) -> PromptCodes:
    run = find_run(name)
    model = held_model(run)
    with ModelTurn(model):
        return encode_prompt(model, run, text)


@lru_cache(maxsize=512)
def _changes(name: str, version: str, feature: int, tokens: tuple[int, ...]) -> list[float | None]:
    run = find_run(name)
    model = held_model(run)
    with ModelTurn(model):
        return ablation_changes(model, run, tokens, feature)
