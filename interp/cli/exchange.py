"""``interp export`` and ``interp import``: runs of other tools."""

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
    """Folder to make."""
    format: Literal["saelens"] = "saelens"
    """saelens: what SAELens 6 reads with SAE.load_from_disk."""
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""

    def run(self) -> None:
        export_saelens(resolve_run(self.run_name, self.workspace), self.folder)
        print(self.folder)


@dataclass(frozen=True)
class Import:
    """Keep a sparse autoencoder that another tool saved as a run of a store, to be indexed, judged and steered like any."""

    folder: tyro.conf.Positional[Path]
    """Folder that SAELens saved, with cfg.json and sae_weights.safetensors."""
    store: Path
    """Folder of a store of the same model."""
    name: str | None = None
    """Name of the run; by default that of the folder."""
    site: str | None = None
    """Hook point it was trained at; by default the one it names."""

    def run(self) -> None:
        name = self.name or self.folder.resolve().name
        run = import_saelens(self.folder, ActivationStore(self.store), name, site=self.site)
        print(run.path)
        print_notes(run)
