"""The dashboard's server: the Streamlit pages and the JSON routes behind the feature card, on this machine alone."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from app.routes import OwnPagesOnly, routes
from app.workspace import WORKSPACE_VARIABLE
from interp.browse.palette import BACKGROUNDS
from interp.errors import InputError

ADDRESS = "127.0.0.1"


def serve(workspace: Path, *, port: int = 8501, open_browser: bool = True) -> None:
    """Serve the runs of ``workspace`` on ``http://127.0.0.1:port`` until interrupted.

    Raises InputError for a workspace that is not a folder and for a port that is taken.
    """
    workspace = Path(workspace).resolve()
    if not workspace.is_dir():
        raise InputError(f"{workspace} is not a folder; give the folder of stores, or make one with 'interp demo'.")
    _check_port(port)
    os.environ[WORKSPACE_VARIABLE] = str(workspace)
    application().run(config=settings(port, open_browser))


def application() -> st.App:
    """The pages, and the JSON routes on the same address; every request must come from them."""
    script = Path(__file__).with_name("main.py")
    return st.App(script, routes=routes(), middleware=[Middleware(OwnPagesOnly)])


def settings(port: int, open_browser: bool) -> dict[str, object]:
    """Streamlit's settings: local address only, no usage statistics, our colours in light and dark."""
    return {
        "server.address": ADDRESS,
        "server.port": port,
        "server.headless": not open_browser,
        "server.showEmailPrompt": False,
        # Also what Streamlit would recommend in the page to people who write pages with it.
        "logger.hideWelcomeMessage": True,
        # The package's own files do not change while it serves, and watching them would cost a thread per folder.
        "server.fileWatcherType": "none",
        "browser.serverAddress": ADDRESS,
        "browser.gatherUsageStats": False,
        # A bare string in a page, such as the docstring of a constant, is no output.
        "runner.magicEnabled": False,
        # A full collection after every rerun, of a page or of a part of it, holds everything up for 0.2 s once torch is there:
        # the work of the Steer page, which shows what it writes twice a second, came to a halt.
        "runner.postScriptGC": False,
        # The density slider needs a default, and its value from the address as well.
        "global.disableWidgetStateDuplicationWarning": True,
        "client.toolbarMode": "minimal",
        "client.showErrorLinks": False,
        # Dense enough for a table beside a card, large enough to read; Streamlit's own is 16.
        "theme.baseFontSize": 15,
        "theme.baseRadius": "7px",
        "theme.showWidgetBorder": True,
        "theme.light.backgroundColor": BACKGROUNDS["light"],
        "theme.light.secondaryBackgroundColor": "#F5F6F8",
        "theme.light.textColor": "#1F2328",
        "theme.light.borderColor": "#DDE0E5",
        "theme.light.primaryColor": "#42609E",
        "theme.dark.backgroundColor": BACKGROUNDS["dark"],
        "theme.dark.secondaryBackgroundColor": "#20242A",
        "theme.dark.textColor": "#E4E6EA",
        "theme.dark.borderColor": "#363B44",
        # As light as white text on it allows (4.56); where it is text itself, app/page.css takes the text's own colour.
        "theme.dark.primaryColor": "#5474BC",
    }


def _check_port(port: int) -> None:
    """Refuse a taken port here: Streamlit would quietly end the process instead."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise InputError(
                f"port {port} of {ADDRESS} cannot be used ({error.strerror}); choose another with --port."
            ) from None
