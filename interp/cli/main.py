"""The command line: ``interp VERB``. Every verb is a dataclass, its fields are the options, their docstrings the help.

Wrong input ends with one or two plain sentences on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from importlib.metadata import version

import tyro

from interp.cli.dashboard import Dashboard
from interp.errors import InputError


def main(argv: list[str] | None = None) -> None:
    """Entry point of the ``interp`` command."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if arguments == ["--version"]:
            print(f"interp-features {version('interp-features')}")
        elif arguments[:1] == ["dashboard"]:
            tyro.cli(Dashboard, prog="interp dashboard", args=arguments[1:]).run()
        else:
            # deferred: loads torch, which takes seconds and 250 MB; the pages do without until one needs the model
            from interp.cli.verbs import run_verb

            run_verb(arguments)
    except InputError as error:
        print(f"interp: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
