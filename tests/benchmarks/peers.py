"""The tools compared with, where they are installed: ``make bench`` puts them into an environment of their own."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from unittest.mock import MagicMock

PEERS = {
    "sae-lens": "sae_lens",
    "dictionary-learning": "dictionary_learning",
    "overcomplete": "overcomplete",
    "sae-dashboard": "sae_dashboard.sae_vis_runner",
}
"""Name on the package index to module."""

_PICTURES = {
    "overcomplete": ("torchvision", "skimage", "cv2", "matplotlib", "matplotlib.pyplot", "matplotlib.colors"),
    "sae-dashboard": ("matplotlib", "matplotlib.colors"),
}
"""What a peer imports for picture models, plots and colours of HTML; nothing that is compared uses it."""


def peer(name: str) -> ModuleType | None:
    """The peer's module, or None where it is not installed. An installed peer that cannot be imported raises."""
    if importlib.util.find_spec(PEERS[name].partition(".")[0]) is None:
        return None
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    return _without(_PICTURES.get(name, ()), PEERS[name])


def _without(pictures: tuple[str, ...], module: str) -> ModuleType:
    """Import with stand-ins for the picture libraries: torchvision as published needs CUDA, and the plots an old matplotlib."""
    before = {name: sys.modules.get(name) for name in pictures}
    sys.modules.update({name: MagicMock(__path__=[], __spec__=ModuleSpec(name, None)) for name in pictures})
    try:
        return importlib.import_module(module)
    finally:
        for name, was in before.items():
            if was is None:
                del sys.modules[name]
            else:
                sys.modules[name] = was
