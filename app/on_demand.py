"""What the feature card asks of the language model: a typed text, and ablation. Importing this module loads torch."""

from __future__ import annotations

from functools import lru_cache

from app.models import ModelTurn, held_model
from app.workspace import find_run, open_index, weights_version
from interp.browse.on_demand import ablation_changes, firing_on
from interp.browse.prompt import PromptCodes, encode_prompt
from interp.index.reader import Example
from interp.runs.record import Run


def typed_text(run: Run, name: str, feature: int, text: str) -> Example:
    """Where a feature fires in a text. Raises InputError as ``encode_prompt`` does."""
    return firing_on(_codes(name, weights_version(run), text), feature)


def changes_of_typed_text(run: Run, name: str, feature: int, text: str) -> list[float | None]:
    """What taking the feature out changes at each token of a text, without BOS."""
    ids = _codes(name, weights_version(run), text).token_ids
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
