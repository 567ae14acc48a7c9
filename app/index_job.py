"""The program that builds what is missing or stale of a run's index: a process of its own, so that the server stays small.

python -m app.index_job RUN_FOLDER
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from interp.browse.index_parts import build_index_parts
from interp.errors import InputError
from interp.model.language_model import load_model
from interp.runs.record import Run


def main(path: Path) -> None:
    """Build the parts; without the language model, tokens have numbers in place of text."""
    # A terminated build clears up as an interrupted one does; interrupts are ignored below a server in the background.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run = Run.load(path)
        try:
            model = load_model(run.model_id)
        except InputError as error:
            print(f"Without the model, tokens are shown by number: {error}", file=sys.stderr)
            model = None
        list(build_index_parts(run, model, only_stale=True))
    except InputError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the run is as it was")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
