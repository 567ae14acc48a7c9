"""Files written in one step: a reader, and a process that was killed, see the old file or the new one, never half of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.errors import InputError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file under a temporary name, sync it, and rename it over ``path``; the rename is synced too."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb", buffering=0) as file:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    partial.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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
