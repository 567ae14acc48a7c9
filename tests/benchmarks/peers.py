"""The tools compared with, where they are installed: ``make bench`` puts them into an environment of their own."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from unittest.mock import MagicMock

PEERS = {"sae-lens": "sae_lens", "dictionary-learning": "dictionary_learning", "overcomplete": "overcomplete"}
"""Name on the package index to module."""

_PICTURES = ("torchvision", "skimage", "cv2", "matplotlib", "matplotlib.pyplot", "matplotlib.colors")
"""What overcomplete's package imports for its picture models and plots; none of its factorisations uses them."""


def peer(name: str) -> ModuleType | None:
    """The peer's module, or None where it is not installed. An installed peer that cannot be imported raises."""
    if importlib.util.find_spec(PEERS[name]) is None:
        return None
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    return _without_pictures(PEERS[name]) if name == "overcomplete" else importlib.import_module(PEERS[name])


def _without_pictures(module: str) -> ModuleType:
    """Import with stand-ins for the picture libraries: torchvision as published needs CUDA, and the plots an old matplotlib."""
    before = {name: sys.modules.get(name) for name in _PICTURES}
    sys.modules.update({name: MagicMock(__path__=[], __spec__=ModuleSpec(name, None)) for name in _PICTURES})
    try:
        return importlib.import_module(module)
    finally:
        for name, was in before.items():
            if was is None:
                del sys.modules[name]
            else:
                sys.modules[name] = was
