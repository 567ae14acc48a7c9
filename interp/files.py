"""Files written in one step: a reader, and a process that was killed, see the old file or the new one, never half of it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.errors import InputError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path to write a file or a folder at, which then takes the place of ``path`` in one step.

    What was written is synced, renamed to ``path``, and the rename is synced too. After an exception ``path`` is as it was and
    nothing is left beside it.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write ``content`` as the file ``path`` in one step."""
    with whole(path) as partial, partial.open("wb", buffering=0) as file:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]


def append_line(path: Path, line: str) -> None:
    """Append ``line`` to a file of lines, made if it is not there, and sync it.

    One write call, so that lines of several writers do not interleave. Where a killed writer left half a line, a new one is
    begun.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(file).st_size
        is_torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, (("\n" if is_torn else "") + line + "\n").encode())
        os.fsync(file)
    finally:
        os.close(file)


def _sync(path: Path) -> None:
    is_folder = path.is_dir()
    if is_folder and os.name != "posix":
        return  # elsewhere a folder cannot be opened
    opened = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def refused_writes(folder: Path, kept: str) -> Iterator[None]:
    """Turn a full disk or a folder that may not be written into an InputError; ``kept`` says what is not lost."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            advice = f"free some space and run the same command again; {kept}"
        elif error.errno in _NOT_ALLOWED:
            advice = f"make the folder writable or choose another one; {kept}"
        else:
            raise
        raise InputError(f"'{folder}' could not be written ({error.strerror}); {advice}") from None
