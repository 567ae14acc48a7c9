"""Results of the Steer page that were kept with their run: a file each in its folder ``steering``, written in one step."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.browse.steering import SteeredText
from interp.errors import InputError
from interp.files import refused_writes
from interp.records import read_record, to_json, write_record

if TYPE_CHECKING:
    from interp.runs.record import Run

FOLDER = "steering"
_NAME = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}")
_SHOWN = 60


@dataclass(frozen=True)
class KeptText:
    """A line of the list of kept results."""

    name: str
    """By which it is opened and deleted."""
    title: str
    """What was steered, and with what effect; plain text."""
    is_readable: bool
    """Whether this version of the program can open it."""


def keep(run: Run, shown: SteeredText) -> str:
    """Write a result into the folder of its run, and return its name; the same result has the same name.

    Raises InputError for a result that is not whole, and where the folder cannot be written.
    """
    if not shown.is_whole:
        raise InputError("this result is not whole; generate it to the end before it is kept")
    digest = hashlib.sha256(to_json(shown).encode()).hexdigest()[:8]
    name = f"{re.sub('[^0-9T]', '', shown.time.split('+')[0])}-{digest}"
    with refused_writes(run.path, "what was kept before is as it was"):
        (run.path / FOLDER).mkdir(exist_ok=True)
        write_record(run.path / FOLDER / f"{name}.json", shown)
    return name


def kept_texts(run: Run) -> list[KeptText]:
    """The kept results of a run, newest first; damaged ones too, so that they can be deleted."""
    names = [path.stem for path in (run.path / FOLDER).glob("*.json") if _NAME.fullmatch(path.stem)]
    return [_listed(run, name) for name in sorted(names, reverse=True)]


def open_kept(run: Run, name: str) -> SteeredText:
    """The kept result ``name``. Raises InputError where there is none, and for a damaged file or another version's."""
    absent = f"'{run.name}' has no kept result '{name}'; it was deleted, or never kept"
    if not _NAME.fullmatch(name):
        raise InputError(absent)
    return read_record(run.path / FOLDER / f"{name}.json", SteeredText, absent)


def delete_kept(run: Run, name: str) -> None:
    """Delete the kept result ``name``; one that is gone already is no error."""
    if _NAME.fullmatch(name):
        (run.path / FOLDER / f"{name}.json").unlink(missing_ok=True)


def _listed(run: Run, name: str) -> KeptText:
    try:
        shown = open_kept(run, name)
    except InputError:
        return KeptText(name, f"{name}: damaged, or of another version of this program", False)
    features = ", ".join(f"{feature} at {strength:+.3g}" for feature, strength in shown.strengths.items())
    steered, settings = shown.column("steered"), shown.settings
    effect = f"{steered.kl:.2g} nats" if steered and steered.kl is not None else ""
    prompt = " ".join(settings.prompt.split())
    parts = [
        shown.time[:16].replace("T", " "),
        f"{settings.mode} {features}",
        effect,
        settings.concept,
        prompt if len(prompt) <= _SHOWN else prompt[:_SHOWN] + "…",
        "" if shown.run_identity == run.identity else "of other weights than the run has now",
    ]
    return KeptText(name, " · ".join(part for part in parts if part), True)
