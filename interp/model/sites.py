"""Places in a model where activations are read and written, by their TransformerLens names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from interp.errors import InputError, unknown_name


@dataclass(frozen=True)
class Site:
    """Where a decomposer works: the hook point whose activations it reads, and the one whose activations it writes.

    An autoencoder writes what it reads, so the two are the same; a transcoder's are not.
    """

    read: str
    write: str

    @classmethod
    def of(cls, given: str | Site) -> Site:
        """A Site as it is, or one from a text: a hook point, or ``READ->WRITE``. Raises InputError for any other text."""
        if isinstance(given, Site):
            return given
        names = [name.strip() for name in given.split("->")]
        if len(names) > 2 or not all(names):
            raise InputError(f"'{given}' is no site; give a hook point, or two as READ->WRITE")
        return cls(names[0], names[-1])

    def __str__(self) -> str:
        return self.read if self.read == self.write else f"{self.read}->{self.write}"


@dataclass(frozen=True)
class HookPoint:
    """One hook point of one model."""

    name: str
    """TransformerLens name, such as ``blocks.2.mlp.hook_post``."""
    layer: int
    """Block the hook point is in, from 0; -1 for the embedding, ``n_layers`` after the last block."""
    d_in: int
    """Width of the activation there, heads flattened."""


def layer_of(name: str, n_layers: int) -> int:
    """The block a hook point belongs to: -1 before the first block, ``n_layers`` after the last."""
    match = re.match(r"blocks\.(\d+)\.", name)
    if match:
        return int(match.group(1))
    return -1 if "embed" in name and "unembed" not in name else n_layers


def resolve_names(patterns: Sequence[str], known: Iterable[str]) -> list[str]:
    """Hook points that match ``patterns`` (exact names or globs such as ``blocks.*.mlp.hook_post``), without repeats.

    Raises InputError for a name the model does not have, with the near names, and for a pattern that matches nothing.
    """
    names = list(known)
    found: dict[str, None] = {}
    if not patterns:
        raise InputError("no hook point was named; give at least one, such as blocks.2.mlp.hook_post")
    for pattern in patterns:
        if pattern in names:
            found[pattern] = None
        elif any(character in pattern for character in "*?["):
            matches = fnmatch.filter(names, pattern)
            if not matches:
                raise InputError(f"the pattern '{pattern}' matches no hook point of this model")
            found.update(dict.fromkeys(matches))
        else:
            raise unknown_name("hook point", pattern, names, "this model")
    return list(found)
