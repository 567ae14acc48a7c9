"""What the Steer page shows of a result: while it is made, when it is there, and of those kept with the run."""

from __future__ import annotations

import json

import streamlit as st

from app.state import go_to
from app.steer_job import SteerJob
from app.workspace import run_name
from interp.browse.definitions import STEER, tooltip
from interp.browse.features import escaped
from interp.browse.kept_steering import delete_kept, keep, kept_texts, open_kept
from interp.browse.palette import token_styles
from interp.browse.steer_settings import SteerSettings
from interp.browse.steered_page import (
    columns_html,
    legend_html,
    old_result,
    outcome,
    sweep_figure,
)
from interp.browse.steering import SteeredText
from interp.errors import InputError
from interp.figures import next_tokens_html
from interp.records import to_json
from interp.runs.record import Run
from interp.steering.records import SteeringRecord, read_steering_records

HELD = 8
"""Results of a run that a session holds, so that Back shows them."""
_EVERY_S = 0.5  # how often what is being written is shown


@st.fragment(run_every=_EVERY_S)
def show_job(job: SteerJob) -> None:
    """The work under way, with the texts as they grow, and the button that stops it."""
    if job.is_done:
        st.rerun()
    bar, stop = st.columns([5, 1], vertical_alignment="bottom")
    bar.progress(job.progress.share, text=job.progress.doing)
    stop.button("Stop", icon=":material/stop:", on_click=job.stop, width="stretch", key="stop_steering")
    if job.shown is not None:
        _texts(job.shown)
        _measured(job.shown)


def show_result(run: Run, settings: SteerSettings, shown: SteeredText | None, job: SteerJob | None) -> None:
    """The result, marked where it is not that of the present settings or weights, or was stopped."""
    if job is not None and job.error is not None:
        if not isinstance(job.error, InputError):
            raise job.error
        if job.settings == settings:
            st.error(escaped(str(job.error)))
    if shown is None:
        st.caption("Add features from their cards (Steer →), by number, or by a concept; then press Generate.")
        return
    differences = settings.differences(shown.settings)
    if differences:
        st.warning(old_result(differences), icon=":material/history:")
    elif shown.run_identity != run.identity:
        st.warning("Old result: the run was trained again since. Generate to steer with its present features.")
    if not shown.is_whole:
        st.info("Stopped: this is what was there by then.")
    with st.container(key="old_result" if differences else "present_result"):
        _texts(shown)
        _measured(shown)
    if shown.is_whole:
        _buttons(run, shown)


def _texts(shown: SteeredText) -> None:
    st.html(f"<style>{token_styles()}</style>")
    for note in shown.notes:
        st.warning(escaped(note))
    if said := outcome(shown):
        st.markdown(escaped(said), help=tooltip("steer", "gain"))
    if shown.columns:
        st.html(columns_html(shown))
    if shown.prompt_changes:
        st.html(legend_html())
        st.caption(tooltip("steer", "changes"))


def _measured(shown: SteeredText) -> None:
    """The effect against the strength, and what may follow the prompt."""
    left, right = st.columns([1.3, 1], gap="large")
    if shown.sweep:
        left.caption("Effect against strength", help=tooltip("steer", "sweep"))
        left.plotly_chart(sweep_figure(shown), config={"displayModeBar": False}, key="sweep")
    if shown.next_tokens:
        right.caption("What may follow the prompt", help=tooltip("steer", "next_tokens"))
        right.html(next_tokens_html(shown.next_tokens))


def _buttons(run: Run, shown: SteeredText) -> None:
    keeping, export, _ = st.columns([1, 1, 3])
    if keeping.button("Keep with the run", width="stretch"):
        try:
            keep(run, shown)
        except InputError as error:
            st.error(escaped(str(error)))
    export.download_button("Export JSON", to_json(shown), "steered.json", "application/json", width="stretch")


def show_kept(run: Run) -> None:
    """Results that were kept, each with buttons that open and delete it; and what the command line logged."""
    kept = kept_texts(run)
    if kept:
        with st.expander(f"Kept results ({len(kept)})"):
            for each in kept:
                title, opening, deleting = st.columns([6, 1, 1], vertical_alignment="center")
                title.text(each.title)
                if opening.button("Open", key=f"open_{each.name}", disabled=not each.is_readable, width="stretch"):
                    _open(run, each.name)
                with deleting.popover("Delete", width="stretch"):
                    st.button("Delete for good", key=f"delete_{each.name}", on_click=delete_kept, args=(run, each.name))
    try:
        records = read_steering_records(run)
    except InputError as error:
        st.error(escaped(str(error)))
        return
    if records:
        with st.expander(f"Steered by the command line ({len(records)})"):
            columns = {
                name: st.column_config.Column(help=tooltip("steer", name))
                for name in SteeringRecord.__struct_fields__
                if name in STEER
            }
            st.dataframe([_flat(record) for record in reversed(records)], hide_index=True, column_config=columns)


def _open(run: Run, name: str) -> None:
    """Lead to a kept result with the settings that it was made with."""
    try:
        settings = open_kept(run, name).settings
    except InputError as error:
        st.error(escaped(str(error)))
        return
    go_to("steer", run=run_name(run), **settings.address(), saved=name)


def _flat(record: SteeringRecord) -> dict[str, str | int | float]:
    """A record as a table row: nested values as JSON."""
    values = {name: getattr(record, name) for name in record.__struct_fields__}
    return {
        name: value if isinstance(value, str | int | float) else json.dumps(value) for name, value in values.items()
    }
