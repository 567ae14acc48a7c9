"""Judges of one's own: a function, or a command, that is handed a text and gives a number.

Either is handed the continuation alone, without the prompt. A label set's judge is ``interp.corpora.labels.registry.judge_of``;
one that learns from labelled text is ``interp.evaluation.token_judge``.
"""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from numbers import Real

from interp.errors import InputError

OWN = "judge"
"""What the number of a judge of one's own is called, in place of a label."""
_EXPECTED = "it is given the continuation, without the prompt, and must {say} one finite number"


@dataclass(frozen=True)
class FunctionJudge:
    """A ``TextJudge`` that is a function from a continuation, without its prompt, to a number. Shares are best: 0 to 1."""

    function: Callable[[str], float]
    name: str = OWN
    """What the number is called, in place of a label."""

    def __call__(self, text: str, *, start: int) -> dict[str, float]:
        """``{name: number}``. Raises InputError if the function raises, or returns something that is no finite number."""
        called = getattr(self.function, "__name__", self.name)
        try:
            number = self.function(text[start:])
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the judge '{called}' failed with {type(error).__name__}: {error}; mend it") from error
        if not isinstance(number, Real) or not math.isfinite(number):
            expected = _EXPECTED.format(say="return")
            raise InputError(f"the judge '{called}' returned {str(number)[:60]!r}; {expected}")
        return {self.name: float(number)}


def command_judge(command: str, *, seconds: float = 60.0) -> FunctionJudge:
    """A judge that is a command, run once for each text: the continuation on stdin (UTF-8), one number on stdout.

    The command is split into words as a shell would split it, and run without a shell. Raises InputError for one that has no
    words; and, when a text is judged, naming the command, its exit status and what it said on stderr, if it cannot be run,
    fails, takes longer than ``seconds``, or prints something other than one finite number.
    """
    judge = _Command(command, seconds)
    if not judge.words:
        raise InputError('the judge is an empty command; give a program and its arguments, such as "python score.py"')
    return FunctionJudge(judge)


@dataclass(frozen=True)
class _Command:
    command: str
    seconds: float

    @cached_property
    def words(self) -> list[str]:
        try:
            return shlex.split(self.command)
        except ValueError as error:
            reason = str(error)[:1].lower() + str(error)[1:]
            raise InputError(f"the judge '{self.command}' is no command: {reason}; close every quote") from None

    def __call__(self, text: str) -> float:
        out, said, status = self._run(text.encode(errors="replace"))
        if status:
            ended = f"ended with exit status {status}" if status > 0 else f"was ended by signal {-status}"
            raise InputError(f"the judge '{self.command}' {ended}{said}; {_EXPECTED.format(say='print')}")
        printed = out.decode(errors="replace").strip()
        try:
            number = float(printed)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            shown = repr(printed[:60]) if printed else "nothing"
            raise InputError(
                f"the judge '{self.command}' printed {shown} (exit status 0{said}); {_EXPECTED.format(say='print')}"
            )
        return number

    def _run(self, text: bytes) -> tuple[bytes, str, int]:
        """(stdout, what stderr says, exit status)."""
        pipe = subprocess.PIPE
        try:
            # A group of its own, so that at the time limit what the command started is ended with it.
            process = subprocess.Popen(self.words, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        except OSError as error:
            raise InputError(
                f"the judge '{self.command}' cannot be run ({error.strerror}); give a program that there is"
            ) from None
        with process:
            try:
                out, err = process.communicate(text, timeout=self.seconds)
            except BaseException as error:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                raise InputError(
                    f"the judge '{self.command}' took more than {self.seconds:g} seconds for one text and was stopped; "
                    "make it faster"
                ) from None
        lines = err.decode(errors="replace").strip().splitlines() or [""]
        # The first line of a Python traceback says nothing, its last says what happened.
        line = lines[-1 if lines[0].startswith("Traceback") else 0].strip()
        return out, f": {line[:200]}" if line else "", process.returncode
