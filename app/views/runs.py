"""Runs: every run of the workspace with its metrics, and one of them in detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.indexing import index_is_stale
from app.state import pick_run
from app.workspace import index_command, index_version, list_runs, open_index, run_name
from interp.browse.features import firing_figures
from interp.errors import InputError
from interp.evaluation.table import METRICS, Metric, measured, metrics_of, metrics_rows
from interp.figures import training_curves
from interp.runs.record import Run


def show() -> None:
    """Lay out the page."""
    pick, _ = st.columns([2.3, 5])
    with pick:
        run = pick_run()
    st.query_params.from_dict({"run": run_name(run)})
    runs = list_runs()
    badges = {name: _badge(each) for name, each in runs.items()}
    rows = run_rows(runs, badges)
    columns = _columns(measured([metrics_of(each) for each in runs.values()]))
    st.dataframe(
        rows,
        hide_index=True,
        column_order=["run", "kind", "site", *columns, "features", "index"],
        column_config=columns | {"features": st.column_config.NumberColumn(format="localized")},
        placeholder="-",
    )
    st.caption(
        "Metrics are from interp evaluate. A run that was not evaluated, or by another version, has none. A null is what "
        "chance achieves with as many candidates. Intervals, and the other metrics, are below for the run that is chosen."
    )
    _index_line(run, badges[run_name(run)])
    try:
        st.plotly_chart(training_curves(run.training_curve()), config={"displayModeBar": False})
    except InputError as error:
        st.caption(str(error))
    _details(run, badges[run_name(run)])


def run_rows(runs: Mapping[str, Run], badges: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row for each run: what it is, its metrics by key (None if not measured), and the state of its index."""
    found = metrics_rows(list(runs.values()))
    return [
        {**row, "run": name, "features": runs[name].config.get("n_features"), "index": badges[name]}
        for name, row in zip(runs, found, strict=True)
    ]


def _columns(metrics: Sequence[Metric]) -> dict[str, Any]:
    """The columns of metrics by their keys in the rows, each with its null beside it."""
    columns: dict[str, Any] = {}
    for metric in metrics:
        if metric.format is None:
            columns[metric.key] = st.column_config.CheckboxColumn(metric.heading, help=metric.tooltip)
            continue
        columns[metric.key] = st.column_config.NumberColumn(metric.heading, format=metric.format, help=metric.tooltip)
        if metric.null:
            what = f"{metric.heading}: what chance achieves with as many candidates and the same freedom of choice."
            columns[f"null_{metric.key}"] = st.column_config.NumberColumn("null", format=metric.format, help=what)
    return columns


def _badge(run: Run) -> str:
    if not index_version(run):
        return "none"
    return "stale" if index_is_stale(run) else "fresh"


def _index_line(run: Run, badge: str) -> None:
    if badge == "fresh":
        st.badge("index fresh", color="blue")
    elif badge == "stale":
        st.error(
            f"The index is stale: run or store changed after it was built. Rebuild it with  `{index_command(run)}`"
        )
    else:
        st.badge("no index", color="orange")
        st.code(index_command(run), language="bash")


def _details(run: Run, badge: str) -> None:
    """Every metric with its interval; configuration, store and environment, which is what is needed to train the run again.

    Dead features and L0 are those of the Features page, over the store's own tokens, where there is a fresh index.
    """
    if metrics := metrics_of(run):
        with st.expander("Everything that was measured"):
            cells = {metric.heading: metric.cell(metric.score(metrics)) for metric in METRICS}
            _pairs(cells | (firing_figures(open_index(run)) if badge == "fresh" else {}))
    config, store, environment = st.columns(3, gap="large")
    with config:
        st.markdown("###### Configuration")
        _pairs(run.config)
    with store:
        st.markdown("###### Store")
        _pairs(
            {
                "store": run.path.parent.parent.name,
                "identity": run.store_identity,
                "model": run.model_id,
                "site": run.site,
            }
        )
    with environment:
        st.markdown("###### Environment")
        _pairs({**run.record.versions, "training time, s": run.record.seconds})


def _pairs(values: dict[str, Any]) -> None:
    """Names and values as a small table; values as text, since their types differ."""
    st.dataframe(
        [{"name": name, "value": "-" if value is None else str(value)} for name, value in values.items()],
        hide_index=True,
        height="content",
    )
