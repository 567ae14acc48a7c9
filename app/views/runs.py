"""Runs: every run of the workspace with its metrics, and one of them in detail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.indexing import index_is_stale
from app.state import pick_run
from app.workspace import index_command, index_version, list_runs, run_name
from interp.errors import InputError
from interp.evaluation.table import Metric, measured, metrics_rows
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
    columns = {metric.key: _column(metric) for metric in measured(rows)}
    st.dataframe(
        rows,
        hide_index=True,
        column_order=["run", "kind", "site", *columns, "features", "index"],
        column_config=columns | {"features": st.column_config.NumberColumn(format="localized")},
        placeholder="-",
    )
    st.caption("Metrics are from interp evaluate. A run that was not evaluated, or by another version, has none.")
    _index_line(run, badges[run_name(run)])
    try:
        st.plotly_chart(training_curves(run.training_curve()), config={"displayModeBar": False})
    except InputError as error:
        st.caption(str(error))
    _details(run)


def run_rows(runs: Mapping[str, Run], badges: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row for each run: what it is, its metrics by key (None if not measured), and the state of its index."""
    found = metrics_rows(list(runs.values()))
    return [
        {**row, "run": name, "features": runs[name].config.get("n_features"), "index": badges[name]}
        for name, row in zip(runs, found, strict=True)
    ]


def _column(metric: Metric) -> Any:
    if metric.format is None:
        return st.column_config.CheckboxColumn(metric.heading, help=metric.tooltip)
    return st.column_config.NumberColumn(metric.heading, format=metric.format, help=metric.tooltip)


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


def _details(run: Run) -> None:
    """Configuration, identity of the store, environment: what is needed to train the run again."""
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
