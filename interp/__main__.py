"""``python -m interp`` is the ``interp`` command."""

from interp.cli.main import main

main()
