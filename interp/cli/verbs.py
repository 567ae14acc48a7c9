"""All verbs of the command line, most of which compute: importing this module loads torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Union

import tyro

from interp.cli.capture import Capture
from interp.cli.compare import Compare
from interp.cli.dashboard import Dashboard
from interp.cli.demo import Demo
from interp.cli.evaluate import Evaluate, Index
from interp.cli.exchange import Export, Import
from interp.cli.look import Info, Read, Tree
from interp.cli.steer import Steer
from interp.cli.train import Train
from interp.distributed import joined
from interp.errors import InputError

DESCRIPTION = "Look inside a language model: capture activations, learn features, evaluate, browse and steer with them."


def run_verb(arguments: Sequence[str]) -> None:
    """Run the verb that the arguments begin with, in one process or in those that ``torchrun`` started."""
    verbs = (Demo, Capture, Train, Index, Evaluate, Compare, Steer, Read, Tree, Info, Export, Import, Dashboard)
    commands: Any = Union[tuple(Annotated[verb, tyro.conf.subcommand(verb.__name__.lower())] for verb in verbs)]
    options = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs)
    verb = tyro.cli(commands, prog="interp", description=DESCRIPTION, args=arguments, config=options)
    refuse_not_finite(verb)
    with joined():
        verb.run()


def refuse_not_finite(options: Any) -> None:
    """Raises InputError naming an option, also of a method or a config inside, that is nan or infinite."""
    for option in fields(options):
        value = getattr(options, option.name)
        if is_dataclass(value):
            refuse_not_finite(value)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                flag = "--" + option.name.replace("_", "-")
                raise InputError(f"{flag} {number} is not a number to compute with; give a finite one")
