"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Raised for wrong input by a person: what was given, what was expected, what to do next.

    The command line prints its message without a traceback and exits with code 2; the dashboard shows it in a
    red box. Any other exception is a fault of the project and keeps its traceback.
    """


def unknown_name(kind: str, given: str, known: Iterable[str], where: str) -> InputError:
    """The error for a name that is not among ``known``, listing the nearest ones.

    ``kind`` says what was named ("hook point"), ``where`` says where the names come from ("this model").
    """
    names = list(known)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    if near:
        advice = "did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    else:
        shown = ", ".join(f"'{name}'" for name in names[:8]) + (", ..." if len(names) > 8 else "")
        advice = f"it has {shown}." if names else "it has none."
    return InputError(f"no {kind} '{given}' in {where}; {advice}")


def unknown_feature(given: object, n_features: int) -> InputError:
    """The error for a feature number that a run of ``n_features`` does not have."""
    return InputError(f"no feature {given}; this run has 0-{n_features - 1}")
