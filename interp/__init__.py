"""Look inside language models: capture activations, learn features from them, judge them, steer with them.

    import interp

    model = interp.load_model("gpt2")                      # or "demo", a folder, a Hugging Face model in memory
    config = interp.CaptureConfig(sites=("blocks.6.hook_resid_post",), tokens=100_000)
    store = interp.capture(model, texts, config, "activations/mine")
    run = interp.train(store, "blocks.6.hook_resid_post", interp.SAEConfig(k=32), name="first")
    index = interp.FeatureIndex(interp.build_index(run, model=model))
    metrics = interp.evaluate(run, model=model, store=held_out)
    steerer = interp.Steerer.from_run(model, run)

The names are those of ``interp.api``, which loads when the first of them is used: importing the package loads nothing. They
stay; what is not among them may change with any version.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from interp.errors import unknown_name

if TYPE_CHECKING:
    from interp.api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(name)
    api = import_module("interp.api")
    if name != "__all__" and name not in api.__all__:
        raise AttributeError(str(unknown_name("name", name, api.__all__, "interp")))
    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *__getattr__("__all__")]
