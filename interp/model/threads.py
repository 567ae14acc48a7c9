"""How many threads a model is run with: small ones are run with one.

A forward pass of a small model is hundreds of short operations. With several threads each of them waits for the slowest
thread, which on a machine that does other work as well was put aside for a moment. Measured on two cores beside other busy
programs, medians of three: with two threads, tokens and passes of 256 tokens take 12 times as long as with one for a model of
5 M parameters, 2 to 4 times for 11 M, 3.6 times for 34 M.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel

SMALL = 40_000_000
"""Parameters of the largest model that is run with one thread. Under load one thread is faster for 122 M, too (6.5 times), but
a machine to itself has more to win there."""


@contextmanager
def fitting_threads(model: LanguageModel) -> Iterator[None]:
    """Run what is inside with one thread if the model is small and on the CPU, and set the number back after it.

    The number is the whole process's, so blocks of several threads must not overlap.
    """
    before = torch.get_num_threads()
    is_small = sum(parameter.numel() for parameter in model.bridge.original_model.parameters()) <= SMALL
    if model.device.type != "cpu" or not is_small:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
