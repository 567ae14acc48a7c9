"""The methods on the command line: each is a subcommand with the options of its config, some of which take several values."""

from __future__ import annotations

import re
from dataclasses import field, fields, make_dataclass
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

from interp.decomposers import Decomposer, registry
from interp.errors import InputError
from interp.training.config import DecomposerConfig

SEVERAL = {"n_features": "n", "k": "k"}
"""Options that take several values, and the letter that stands for each in the names of runs."""


def of_several_values(config_type: type[DecomposerConfig]) -> type[DecomposerConfig]:
    """The config type with a tuple for each of its options in ``SEVERAL``, for the command line; ``configs_of`` reads it."""
    options = [
        (option.name, tuple[int, ...], field(default=(option.default,)))
        for option in fields(config_type)
        if option.name in SEVERAL
    ]
    unchecked = {"__post_init__": lambda self: None}
    return make_dataclass(config_type.__name__, options, bases=(config_type,), frozen=True, namespace=unchecked)


def configs_of(method: Any) -> dict[str, DecomposerConfig]:
    """The configs that the command line asked for, one for each combination of values, by the ending of their runs' names.

    A single config has the ending ""; several have one such as "-n64-k16", of the options with several values. Raises
    InputError for values out of range, for an option without a value, and for a value given twice.
    """
    options = {option.name: getattr(method, option.name) for option in fields(method)}
    config_type: Any = type(method).__base__
    several = {name: options[name] for name in SEVERAL if name in options}
    for name, values in several.items():
        flag = "--" + name.replace("_", "-")
        if not values:
            raise InputError(f"{flag} needs a number, or several")
        if len(set(values)) < len(values):
            raise InputError(f"{flag} names a number twice: {' '.join(map(str, values))}")
    configs = {}
    for values in product(*map(sorted, several.values())):
        chosen = dict(zip(several, values, strict=True))
        ending = "".join(f"-{SEVERAL[name]}{value}" for name, value in chosen.items() if len(several[name]) > 1)
        configs[ending] = config_type(**options | chosen)
    return configs


def _what_it_is(method: type[Decomposer]) -> str:
    """The first sentence of the method's docstring."""
    return " ".join(re.split(r"(?<=\.)\s", method.__doc__ or "", maxsplit=1)[0].split())


if TYPE_CHECKING:
    Methods = DecomposerConfig
else:  # one subcommand a registered decomposer
    Methods = Union[
        tuple(
            Annotated[
                of_several_values(method.config_type), tyro.conf.subcommand(kind, description=_what_it_is(method))
            ]
            for kind, method in sorted(registry.items())
        )
    ]
