"""The verbs of the command line: what each is for, an example, and where its code is, which loads only when it is run.

Most verbs compute: their modules load torch, which takes seconds and 250 MB. Help on all verbs and the dashboard do without.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple

import tyro

from interp.errors import InputError, unknown_name


class Verb(NamedTuple):
    """One verb."""

    module: str
    """Module of ``interp.cli`` with a dataclass named like the verb, capitalised: its fields are the options."""
    says: str
    """What the verb does, in half a line."""
    example: str
    """The rest of a whole command, after ``interp``."""


_GROUPS = {
    "Everything at once": {
        "demo": Verb("demo", "the whole flow on the bundled model, then the dashboard", "demo"),
    },
    "Learn features": {
        "capture": Verb(
            "capture",
            "run a model over text and keep its activations in a store",
            "capture --model gpt2 --text notes.txt --sites 'blocks.6.*' --tokens 100000 --out activations/mine",
        ),
        "train": Verb(
            "train",
            "learn features from one site of a store",
            "train sae --store activations/mine --site blocks.6.hook_resid_post --name first --k 32",
        ),
        "index": Verb("evaluate", "compute what the dashboard shows of a run", "index first"),
    },
    "Judge them": {
        "evaluate": Verb(
            "evaluate",
            "measure runs, beside nulls and simple methods",
            "evaluate first second --store activations/mine-held-out",
        ),
        "compare": Verb(
            "compare", "compare evaluated runs in a table and a page", "compare first second --out comparison.html"
        ),
    },
    "Use them": {
        "dashboard": Verb("dashboard", "browse features and steer with them on 127.0.0.1", "dashboard activations"),
        "steer": Verb(
            "steer",
            "continue a prompt with and without a feature",
            "steer first --feature 12 --prompt 'Once upon a time' --kl 0.2",
        ),
        "read": Verb("look", "describe a feature: contexts, tokens, evidence, neurons", "read first --feature 12"),
        "tree": Verb("look", "print the hierarchy of a semi-NMF run", "tree neurons"),
    },
    "Files": {
        "info": Verb("look", "what is in a store or a run, and is it whole?", "info activations/mine --verify"),
        "import": Verb(
            "exchange", "make a run of another tool's autoencoder", "import saelens-folder --store activations/mine"
        ),
        "export": Verb("exchange", "write a run's autoencoder for another tool", "export first saelens-folder"),
    },
}
VERBS = {name: verb for group in _GROUPS.values() for name, verb in group.items()}
"""Each verb by its name."""


def run(arguments: Sequence[str]) -> None:
    """Run the verb that the arguments begin with, in one process or in those that ``torchrun`` started.

    Raises InputError for a verb that there is not, and for what the verb itself refuses.
    """
    match arguments:
        case [] | ["-h"] | ["--help"]:
            print(_page())
        case ["--version"]:
            print(f"interp-features {version('interp-features')}")
        case ["dashboard", *_]:
            parse(arguments).run()
        case _:
            verb = parse(arguments)
            # deferred: loads torch
            from interp.distributed import joined

            with joined():
                verb.run()


def parse(arguments: Sequence[str]) -> Any:
    """The verb with its options, not run. Raises InputError; ends the process where an option is unknown, or help wanted."""
    name, *options = arguments
    if name not in VERBS:
        raise unknown_name("verb", name, VERBS, "interp")
    module = import_module(f"interp.cli.{VERBS[name].module}")
    verb_type = getattr(module, name.capitalize())
    verb = tyro.cli(
        verb_type,
        prog=f"interp {name}",
        description=f"{inspect.cleandoc(verb_type.__doc__)}\n\nExample: interp {VERBS[name].example}",
        args=options,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs),
    )
    refuse_not_finite(verb)
    return verb


def refuse_not_finite(options: Any) -> None:
    """Raises InputError naming an option, also of a method or a config inside, that is nan or infinite."""
    for option in fields(options):
        value = getattr(options, option.name)
        if is_dataclass(value):
            refuse_not_finite(value)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                flag = "--" + option.name.replace("_", "-")
                raise InputError(f"{flag} {number} is not a number to compute with; give a finite one")


def _page() -> str:
    lines = [
        "Look inside a language model: capture activations, learn features, judge them, browse them, steer with them.",
        "",
    ]
    for title, verbs in _GROUPS.items():
        lines.append(title)
        for name, verb in verbs.items():
            lines += [f"  {name:<11}{verb.says}", f"  {'':<11}  interp {verb.example}"]
        lines.append("")
    return "\n".join(
        [*lines, "interp VERB --help lists the options of a verb; interp --version says which version this is."]
    )
