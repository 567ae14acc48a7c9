"""JSON files and lines of the project: typed records, written in one step, checked when read.

A record is a frozen ``msgspec.Struct``. Reading refuses another schema or version, unknown and missing keys, values of another
type and words that are not among those allowed, each by name. Dataclasses of options go through the same checks, whether they
come from a file or are made in Python.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast, get_type_hints

import msgspec

from interp.errors import InputError, unknown_name
from interp.files import write_whole


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a JSON file."""


class FileRecord(Record, frozen=True, kw_only=True):
    """A whole JSON file, or a line of one; ``schema`` and ``version`` stand first in it."""

    SCHEMA: ClassVar[str]
    VERSION: ClassVar[int]


R = TypeVar("R", bound=FileRecord)
T = TypeVar("T")


def to_json(record: Record) -> str:
    """A record as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(_named(record)), indent=1).decode()


def to_line(record: Record) -> str:
    """A record as one line of JSON, without its end."""
    return msgspec.json.encode(_named(record)).decode()


def write_record(path: Path, record: FileRecord) -> None:
    """Write a record as a JSON file in one step."""
    write_whole(path, to_json(record).encode())


def read_record(path: Path, kind: type[R], absent: str) -> R:
    """The record in a JSON file.

    Raises InputError with the text ``absent`` when the file is not there; and, naming the file and the key, when it is
    damaged, of another schema or version, or has keys or values that ``kind`` does not know.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(absent) from None
    except UnicodeDecodeError:
        raise InputError(f"'{path}' is damaged: it is not valid JSON; make it again") from None
    return parse_record(text, kind, f"'{path}'")


def parse_record(text: str, kind: type[R], where: str) -> R:
    """The record in a JSON text; ``where`` names its place in messages. Raises InputError as ``read_record`` does."""
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise InputError(f"{where} is damaged: it is not valid JSON; make it again") from None
    head = (found.pop("schema", None), found.pop("version", None)) if isinstance(found, dict) else (None, None)
    if head != (kind.SCHEMA, kind.VERSION):
        raise InputError(
            f"{where} is {head[0]} version {head[1]}, this program reads {kind.SCHEMA} version {kind.VERSION}; make it again"
        )
    return converted(found, kind, where)


def converted(value: Any, kind: type[T], where: str) -> T:
    """Plain JSON data as ``kind``: a Record, or a dataclass of options, or anything of those.

    Raises InputError naming ``where`` and the key for unknown keys, missing ones, and values of another type.
    """
    if is_dataclass(kind):
        return _dataclass_from(value, kind, where)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{where} is damaged: {_plain(error)}; make it again") from None


def check_options(options: Any) -> None:
    """For ``__post_init__`` of a dataclass of options: every value is of its field's type.

    Raises InputError naming the option, what was given, and what is allowed.
    """
    for name, kind in _types(cast(type, type(options))).items():
        value = getattr(options, name)
        if is_dataclass(kind):
            if not isinstance(value, cast(type, kind)):
                raise InputError(f"{name} must be a {cast(type, kind).__name__}, not {value!r}")
            continue
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise InputError(f"{name} is {value!r}: {_plain(error)}{_allowed(kind)}") from None


def _dataclass_from(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where} should hold the options of {kind.__name__}, not {value!r}; make it again")
    known = _types(kind)
    for key in value:
        if key not in known:
            raise unknown_name("option", key, known, where)
    if missing := [name for name in known if name not in value]:
        raise InputError(f"{where} lacks {', '.join(missing)}; make it again with this version")
    return kind(**{key: converted(each, cast(type, known[key]), f"'{key}' of {where}") for key, each in value.items()})


@cache
def _types(options: type) -> dict[str, Any]:
    hints = get_type_hints(options)
    return {field.name: hints[field.name] for field in fields(options)}


def _named(record: Record) -> Any:
    if not isinstance(record, FileRecord):
        return record
    return {"schema": record.SCHEMA, "version": record.VERSION, **msgspec.structs.asdict(record)}


def _allowed(kind: Any) -> str:
    words = [repr(word) for word in getattr(kind, "__args__", ()) if isinstance(word, str)]
    return f"; choose {' or '.join(words)}" if words else ""


def _plain(error: msgspec.ValidationError) -> str:
    """msgspec's sentence with a small first letter and without backticks."""
    text = str(error).replace("`", "")
    return text[:1].lower() + text[1:]


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
