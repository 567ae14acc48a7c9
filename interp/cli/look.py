"""``interp info``, ``interp read`` and ``interp tree``: what is in a store, a run, a feature, a hierarchy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from msgspec import structs

from interp.browse.contents import RunContents, StoreContents, contents_text, run_contents, store_contents
from interp.browse.evidence import evidence_text
from interp.browse.reading import directions_of_level, firing_text, read_feature, reading_text
from interp.browse.tree import ConceptTree, tree_rows, tree_text
from interp.errors import InputError
from interp.index.reader import FeatureIndex
from interp.model.language_model import load_model
from interp.records import to_json
from interp.runs.record import resolve_run
from interp.store.reader import ActivationStore


@dataclass(frozen=True)
class Info:
    """Show what is in a store or a run, and whether it is complete."""

    path: tyro.conf.Positional[Path]
    """Folder of a store or a run."""
    verify: bool = False
    """Read every byte of a store again and compare the checksums."""
    spectra: bool = False
    """Compute the spectra of the sites of a store that lack them, in a pass over all activations."""
    json: bool = False
    """Print JSON, and nothing else."""

    def run(self) -> None:
        if (self.path / "run.json").exists():
            contents: RunContents | StoreContents = run_contents(self.path)
        else:
            contents = store_contents(self.path, spectra=self.spectra)
            if self.verify:
                contents = structs.replace(contents, verified=_verified(self.path))
        print(to_json(contents) if self.json else contents_text(contents))


@dataclass(frozen=True)
class Read:
    """Describe a feature: how often it fires, the contexts it fires on most, the tokens it promotes and suppresses, its label
    and evidence, if the run was indexed and evaluated; of MLP neurons also which neurons, and the features that share them."""

    run_name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="run")]
    """Run folder, or the name of a run in the workspace."""
    feature: int
    """Number of the feature."""
    level: int = 0
    """Level of the hierarchy that the feature is on; level 0 holds the features of the run itself."""
    n: int = 10
    """Length of each list."""
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""

    def run(self) -> None:
        run = resolve_run(self.run_name, self.workspace)
        of_neurons = run.site.write.endswith("mlp.hook_post")
        if of_neurons or self.level:
            directions, model = directions_of_level(run, self.level), load_model(run.model_id)
            print(reading_text(read_feature(model, run.site.write, directions, self.feature, n=self.n)))
        if self.level == 0:
            print(firing_text(run, self.feature, n=self.n, with_tokens=not of_neurons))
            print(evidence_text(run, self.feature))


@dataclass(frozen=True)
class Tree:
    """Print the hierarchy of a semi-NMF run as a tree, each feature named by the tokens it fires on. The run needs an index."""

    run_name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="run")]
    """Run folder, or the name of a run in the workspace."""
    json: bool = False
    """Print the rows of the tree as JSON, and nothing else."""
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""

    def run(self) -> None:
        run = resolve_run(self.run_name, self.workspace)
        with FeatureIndex(run.index_path) as index:
            tree = ConceptTree(run, index)
            nodes = tree.nodes()
        if self.json:
            print(json.dumps(tree_rows(nodes), indent=1))
            return
        for sentence in tree.what_levels_leave:
            print(sentence)
        print(tree_text(nodes))


def _verified(path: Path) -> str:
    store = ActivationStore(path, allow_unfinished=True)
    if damaged := store.verify():
        raise InputError(
            f"'{path}' is damaged: {', '.join(damaged)} of {len(store.manifest.shards)} shards are not what was written; "
            "delete those files and run the same interp capture command again, which makes them anew"
        )
    return "every byte is what was written"
