"""``interp dashboard``: the pages. Nothing here may load torch, so that they are there at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Dashboard:
    """Serve the dashboard on 127.0.0.1."""

    workspace: tyro.conf.Positional[Path] = Path("activations")
    """Folder that holds the stores."""
    port: int = 8501
    """Port to listen on."""
    open_browser: bool = True
    """Open it in the browser."""

    def run(self) -> None:
        from app.server import serve  # deferred: Streamlit takes a second to import, and no other verb needs it

        print(f"the dashboard is at http://127.0.0.1:{self.port} (Ctrl+C ends it)")
        serve(self.workspace, port=self.port, open_browser=self.open_browser)
