"""JSON files of the project: written in one step, and checked for schema and version before anything else is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interp.errors import InputError
from interp.files import write_whole


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file in one step."""
    write_whole(path, json.dumps(record, indent=1).encode())


def read_json(path: Path, schema: str, version: int, absent: str) -> dict[str, Any]:
    """A JSON file of the project without its ``schema`` and ``version``, both checked first.

    Raises InputError with the text ``absent`` when the file is not there.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(absent) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"'{path}' is damaged: it is not valid JSON; make it again") from None
    found = (record.pop("schema", None), record.pop("version", None)) if isinstance(record, dict) else (None, None)
    if found != (schema, version):
        raise InputError(
            f"'{path}' is {found[0]} version {found[1]}, this program reads {schema} version {version}; make it again"
        )
    return record
