"""The command line: ``interp VERB``. Every verb is a dataclass, its fields are the options, their docstrings the help.

Wrong input ends with one or two plain sentences on stderr and exit code 2.
"""

from __future__ import annotations

import sys

from interp.cli.verbs import run
from interp.errors import InputError


def main(argv: list[str] | None = None) -> None:
    """Entry point of the ``interp`` command."""
    try:
        run(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        print(f"interp: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
