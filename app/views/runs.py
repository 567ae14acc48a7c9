"""Runs: every run of the workspace with its metrics, what the runs of a site find, and one run in detail."""

from __future__ import annotations

import html
from typing import Any

import streamlit as st

from app.indexing import index_is_stale
from app.panels import concept_map, runs_table
from app.state import choose_run, go_to, pick_run, restore, view, write_address
from app.workspace import evaluate_command, index_command, index_version, list_runs, open_index, run_name
from interp.browse.definitions import tooltip
from interp.browse.features import escaped, firing_figures
from interp.browse.runs import concept_map as concept_cells
from interp.browse.runs import judged_beside, steered_pair, steering_rows, steering_summary
from interp.browse.runs import runs_table as table_of
from interp.errors import InputError
from interp.evaluation.comparison_figures import tradeoff_figure
from interp.evaluation.groups import families
from interp.evaluation.results import Metrics
from interp.evaluation.steering_results import SteeringReport
from interp.evaluation.table import METRICS, metrics_of
from interp.figures import training_curves
from interp.runs.record import Run

PAGE = "runs"
ALIKE, THIS = "runs judged alike", "this run"
PARTS = (ALIKE, THIS)
"""What stands below the table."""
_PLAIN = {"displayModeBar": False}


def show() -> None:
    """Lay out the page."""
    restore(PAGE, {"below": lambda text: text if text in PARTS else ALIKE})
    with st.container(key="filters"):
        pick, _ = st.columns([2.3, 5])
    with pick:
        run = pick_run()
    name, runs = run_name(run), list_runs()
    badges = {each: _badge(one) for each, one in runs.items()}
    runs_table()(key="runs_table", data={**table_of(runs, badges), "chosen": name}, on_run_change=_open_row)
    part = st.segmented_control("Below", PARTS, key=view("below"), required=True, label_visibility="collapsed")
    # Before what stands below is drawn: a click there may leave the page, and Back must lead to this view.
    write_address(PAGE, {"run": name, "below": "" if part == ALIKE else str(part)}, {"below": part})
    if part == ALIKE:
        _alike(name, runs)
    else:
        _one(run, badges[name])


def _open_row() -> None:
    """A row of the table shows its run."""
    choose_run(str(st.session_state["runs_table"].run))
    st.session_state[view("below")] = THIS


def _one(run: Run, badge: str) -> None:
    """What steering with the run did, how it was trained, and what it was made with."""
    st.markdown(f"##### {escaped(run_name(run))}")
    _index_line(run, badge)
    metrics = metrics_of(run)
    if metrics is not None and metrics.steering is not None:
        _steering(metrics.steering)
    st.markdown("###### Training", help=tooltip(PAGE, "loss", "fvu", "l0", "dead"))
    try:
        st.plotly_chart(training_curves(run.training_curve()), config=_PLAIN, key="training")
    except InputError as error:
        st.caption(str(error))
    _details(run, metrics, badge)


def _badge(run: Run) -> str:
    if not index_version(run):
        return "none"
    return "stale" if index_is_stale(run) else "fresh"


def _alike(name: str, runs: dict[str, Run]) -> None:
    """The runs that were judged like the one that is chosen: the concepts each finds, and what is kept for how many codes."""
    metrics = judged_beside(name, runs)
    if not metrics:
        st.write("This run was not evaluated, so it cannot be compared with others. Measure it with:")
        st.code(evaluate_command(runs[name]), language="bash")
        return
    left, right = st.columns([1, 1.25], gap="large")
    with left:
        st.markdown("###### Which concepts each run finds")
        try:
            cells = concept_cells(metrics)
        except InputError as error:
            st.caption(str(error))
        else:
            result = concept_map()(
                key="concept_map", data={**cells, "card_path": "/features"}, on_open_change=lambda: None
            )
            st.caption(tooltip(PAGE, "share"))
            if result.open is not None:
                go_to("features", run=str(result.open[0]), f=str(int(result.open[1])))
    with right:
        st.markdown(
            "###### What is kept, for how many features that fire on a token",
            help=tooltip(PAGE, "fvu", "ce_recovered", "l0"),
        )
        try:
            figure = tradeoff_figure(metrics, families({name: runs[name] for name in metrics}))
            st.plotly_chart(figure, config=_PLAIN, key="tradeoff")
            st.caption(
                "A line joins runs that differ in their number of features and k alone; bars are 95 % intervals. Compare at "
                "the same L0. Methods whose codes are hardly ever 0 have no L0 and are left out."
            )
        except InputError as error:
            st.caption(str(error))


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


def _steering(report: SteeringReport) -> None:
    """What steering with the best feature of each concept wrote, beside chance, and a text of one concept."""
    st.markdown("###### Steering")
    st.caption(steering_summary(report))
    if not report.effects:
        return
    rows = steering_rows(report)
    formats = {"without": "%.1f %%", "with": "%.1f %%", "fluency": "%.2f", "KL": "%.2f"}
    columns = {name: st.column_config.Column(help=tooltip(PAGE, name)) for name in rows[0]}
    columns |= {
        name: st.column_config.NumberColumn(help=tooltip(PAGE, name), format=each) for name, each in formats.items()
    }
    st.dataframe(rows, hide_index=True, height="content", column_config=columns)
    by_concept = {effect.concept: effect for effect in report.effects}
    concept = st.pills("Texts of", list(by_concept), default=next(iter(by_concept)), key="steered_concept")
    if concept in by_concept:
        try:
            prompt, without, steered = steered_pair(by_concept[concept])
        except InputError as error:
            st.caption(str(error))
            return
        st.caption("Of the texts kept, the one whose share of the concept rose most: not a typical one.")
        st.html(f'<div class="pairs">{_text("Without", prompt, without)}{_text("With", prompt, steered)}</div>')


def _text(title: str, prompt: str, text: str) -> str:
    """A continuation under its title; a model's text is a stranger's."""
    return (
        f'<div><h6>{title}</h6><pre class="sample"><span class="prompt">{html.escape(prompt)}</span>{html.escape(text)}'
        "</pre></div>"
    )


def _details(run: Run, metrics: Metrics | None, badge: str) -> None:
    """Every metric with its interval; configuration, store and environment, which is what is needed to train the run again.

    Dead features and L0 are those of the Features page, over the store's own tokens, where there is a fresh index.
    """
    if metrics is not None:
        with st.expander("Everything that was measured"):
            cells = {metric.heading: metric.cell(metric.score(metrics)) for metric in METRICS}
            cells |= firing_figures(open_index(run)) if badge == "fresh" else {}
            says = {metric.heading: metric.tooltip for metric in METRICS}
            rows = [{"name": name, "value": value, "what it is": says[name]} for name, value in cells.items()]
            st.dataframe(rows, hide_index=True, height="content")
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
