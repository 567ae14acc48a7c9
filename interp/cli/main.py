"""The command line: ``interp VERB``. Every verb is a dataclass, its fields are the options, their docstrings the help.

Wrong input ends with one or two plain sentences on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, Union

import tyro

from interp.cli.capture import Capture
from interp.cli.compare import Compare
from interp.cli.dashboard import Dashboard, Demo
from interp.cli.evaluate import Evaluate, Index
from interp.cli.exchange import Export, Import
from interp.cli.look import Info, Read, Tree
from interp.cli.steer import Steer
from interp.cli.train import Train
from interp.distributed import joined
from interp.errors import InputError

DESCRIPTION = "Look inside a language model: capture activations, learn features, evaluate, browse and steer with them."


def main(argv: list[str] | None = None) -> None:
    """Entry point of the ``interp`` command."""
    verbs = (Demo, Capture, Train, Index, Evaluate, Compare, Steer, Read, Tree, Info, Export, Import, Dashboard)
    commands: Any = Union[tuple(Annotated[verb, tyro.conf.subcommand(verb.__name__.lower())] for verb in verbs)]
    options = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs)
    try:
        verb = tyro.cli(commands, prog="interp", description=DESCRIPTION, args=argv, config=options)
        with joined():
            verb.run()
    except InputError as error:
        print(f"interp: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
