"""The log of what was steered and what came of it: one JSON line each in a run's ``steering.jsonl``."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from interp.errors import InputError

if TYPE_CHECKING:
    from interp.runs.record import Run

log = logging.getLogger(__name__)

_RECORD_SCHEMA, _RECORD_VERSION = "interp.steering-record", 1


def write_steering_record(run: Run, record: dict[str, Any]) -> None:
    """Append ``record``, with schema, version and UTC time, as one line of the run's ``steering.jsonl``, and sync it.

    One write call a line, so that writers side by side do not interleave. Raises InputError for a record that is not JSON.
    """
    head = {
        "schema": _RECORD_SCHEMA,
        "version": _RECORD_VERSION,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        line = json.dumps(head | record, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the steering record cannot be written as JSON: {error}") from None
    file = os.open(run.path / "steering.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"  # a writer killed half-way left no newline
        os.write(file, (("\n" if torn else "") + line + "\n").encode())
        os.fsync(file)
    finally:
        os.close(file)


def read_steering_records(run: Run) -> list[dict[str, Any]]:
    """The run's steering records, oldest first; a line cut short by a killed writer is left out with a warning in the log."""
    path = run.path / "steering.jsonl"
    records = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            log.warning("%s line %d was cut short and is left out", path, number)
            continue
        if record.get("schema") != _RECORD_SCHEMA or record.get("version") != _RECORD_VERSION:
            raise InputError(
                f"{path} line {number} is no steering record of version {_RECORD_VERSION}; move the file away"
            )
        records.append(record)
    return records
