"""What CONTRIBUTING.md and the pre-commit hooks say is so: the paths exist, and the hooks are the checks of ``make lint``."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    body = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.M)
    assert body, target
    return [line.strip().lstrip("@").replace("$(BIN)", ".venv/bin") for line in body[1].splitlines()]


def test_the_hooks_are_the_checks_of_make_lint() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"entry: (.+)", hooks) == recipe("lint")
    assert set(re.findall(r"- repo: (.+)", hooks)) == {"local"}


def test_contributing_names_files_that_exist() -> None:
    """In backticks or as the target of a link; NAME and METHOD stand for what is to be made."""
    paths = re.findall(r"`((?:interp|app|tests|activations|examples)/[\w/.]*)`", CONTRIBUTING)
    paths += [link.split("#")[0] for link in re.findall(r"\]\(([^):]+)\)", CONTRIBUTING)]
    assert len(paths) > 20
    for path in paths:
        there = path if not re.search("NAME|METHOD", path) else str(Path(path).parent)
        assert (ROOT / there).exists(), path


def test_contributing_names_targets_that_exist() -> None:
    targets = set(re.findall(r"\bmake (\w+)", CONTRIBUTING))
    assert {"test", "lint", "imports"} <= targets
    assert all(recipe(target) for target in targets)
