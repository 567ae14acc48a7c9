"""JSON files and lines of the project: typed records, written in one step, checked when read.

A record is a frozen ``msgspec.Struct``. Reading refuses another schema or version, unknown and missing keys, values of another
type and words that are not among those allowed, each by name; a key may be missing where its field has a default. Dataclasses
of options go through the same checks, whether they come from a file or are made in Python.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Any, ClassVar, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from interp.errors import InputError, unknown_name
from interp.files import write_whole


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a JSON file."""


class FileRecord(Record, frozen=True, kw_only=True):
    """A whole JSON file, or a line of one; ``schema`` and ``version`` stand first in it."""

    SCHEMA: ClassVar[str]
    VERSION: ClassVar[int]


Plain = str | int | float | bool | None
Options = dict[str, Plain | list[Plain] | dict[str, Plain | list[Plain]]]
"""Options of any method as plain JSON data, where the method itself would import torch."""
Notes = dict[str, str | int | float]
"""What a fit found out that a person should know."""

R = TypeVar("R", bound=FileRecord)
T = TypeVar("T")


def to_json(record: Record) -> str:
    """A record as indented JSON. Raises InputError for a value that would not be read back, such as one that is not finite."""
    return msgspec.json.format(_encoded(record), indent=1).decode()


def to_line(record: Record) -> str:
    """A record as one line of JSON, without its end. Raises InputError as ``to_json`` does."""
    return _encoded(record).decode()


def write_record(path: Path, record: FileRecord) -> None:
    """Write a record as a JSON file in one step. Raises InputError as ``to_json`` does."""
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
    return from_json(text, kind, f"'{path}'")


def from_json(text: str, kind: type[T] | GenericAlias, where: str) -> T:
    """A JSON text as ``kind``: of a ``FileRecord``, schema and version are checked first.

    ``where`` names the text's place in messages. Raises InputError as ``read_record`` does.
    """
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise InputError(f"{where} is damaged: it is not valid JSON; make it again") from None
    if isinstance(kind, type) and issubclass(kind, FileRecord):
        head = (found.pop("schema", None), found.pop("version", None)) if isinstance(found, dict) else (None, None)
        if head != (kind.SCHEMA, kind.VERSION):
            raise InputError(
                f"{where} is {head[0]} version {head[1]}, this program reads {kind.SCHEMA} version {kind.VERSION}; "
                "make it again"
            )
    return converted(found, kind, where)


def converted(value: Any, kind: type[T] | GenericAlias, where: str) -> T:
    """Plain JSON data as ``kind``: a Record, a dataclass of options, or plain types.

    Raises InputError naming ``where`` and the key for unknown keys, missing ones, and values of another type.
    """
    if is_dataclass(kind):
        return cast(T, _options_from(value, kind, where))
    try:
        return msgspec.convert(value, kind, str_keys=True)
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
                raise InputError(f"{name} is {value!r}; it must be {' or '.join(_allowed(kind))}")
        elif isinstance(_option(value, kind, name), tuple) and not isinstance(value, tuple):
            raise InputError(f"{name} is {value!r}; it must be a tuple")


def _options_from(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where} should hold the options of {kind.__name__}, not {value!r}; make it again")
    known = _types(kind)
    for key in value:
        if key not in known:
            raise unknown_name("option", key, known, where)
    if missing := [name for name in known if name not in value]:
        raise InputError(f"{where} lacks {', '.join(missing)}; make it again with this version")
    found = {}
    for key, each in value.items():
        if is_dataclass(known[key]):
            found[key] = _options_from(each, known[key], f"'{key}' of {where}")
        else:
            found[key] = _option(each, known[key], f"{key} in {where}")
    return kind(**found)


def _option(value: Any, kind: Any, name: str) -> Any:
    """``value`` as the type of its option; of JSON lists this makes tuples."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise InputError(f"{name} is {value!r}; it must be {' or '.join(_allowed(kind))}") from None


def _allowed(kind: Any) -> list[str]:
    """What an option of a type may be, in words: of a choice the words themselves."""
    if get_origin(kind) is Literal:
        return [repr(word) for word in get_args(kind)]
    if get_origin(kind) in (Union, UnionType):
        return [word for part in get_args(kind) for word in _allowed(part)]
    if kind is type(None):
        return ["None"]
    return [str(kind) if get_args(kind) else kind.__name__]


@cache
def _types(options: type) -> dict[str, Any]:
    hints = get_type_hints(options)
    return {field.name: hints[field.name] for field in fields(options)}


def _encoded(record: Record) -> bytes:
    """A record as JSON, after trying that it can be read back."""
    encoded = msgspec.json.encode(record)
    try:
        msgspec.json.decode(encoded, type=type(record))
    except msgspec.ValidationError as error:
        raise InputError(f"the {type(record).__name__} cannot be written: {_plain(error)}") from None
    if isinstance(record, FileRecord):
        return msgspec.json.encode({"schema": record.SCHEMA, "version": record.VERSION} | msgspec.to_builtins(record))
    return encoded


def _plain(error: msgspec.ValidationError) -> str:
    """msgspec's sentence with a small first letter, without backticks, and with the path of the key as in Python."""
    text = re.sub(r" - at `\$\.?(.*?)`$", r" at \1", str(error)).replace("`", "")
    return text[:1].lower() + text[1:]
