"""``interp export`` and ``interp import``: exchange runs with other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from interp.cli.train import print_notes
from interp.interop.saelens import export_saelens, import_saelens
from interp.runs.record import resolve_run
from interp.store.reader import ActivationStore


@dataclass(frozen=True)
class Export:
    """Write a run's sparse autoencoder in the format of another tool."""

    run_name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="run")]
    """Run folder, or the name of a run in the workspace."""
    folder: tyro.conf.Positional[Path]
    """Folder to write; it must not exist yet."""
    format: Literal["saelens"] = "saelens"
    """saelens: what SAELens 6 reads with SAE.load_from_disk."""
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""

    def run(self) -> None:
        export_saelens(resolve_run(self.run_name, self.workspace), self.folder)
        print(self.folder)


@dataclass(frozen=True)
class Import:
    """Make a run from a sparse autoencoder that another tool saved, to index, evaluate and steer like any other run."""

    folder: tyro.conf.Positional[Path]
    """Folder that SAELens saved, with cfg.json and sae_weights.safetensors."""
    store: Path
    """Folder of a store captured from the same model; the run is kept in it."""
    name: str | None = None
    """Name of the run; by default the folder's name."""
    site: str | None = None
    """Hook point it was trained at; by default the one that its cfg.json names."""

    def run(self) -> None:
        name = self.name or self.folder.resolve().name
        run = import_saelens(self.folder, ActivationStore(self.store), name, site=self.site)
        print(run.path)
        print_notes(run)
