"""Steer: write features into the model while it continues a prompt, beside what it writes without them."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.indexing import require_index
from app.models import require_model
from app.state import pick_run, restore, view, write_address
from app.steer_job import SteerJob
from app.views.steer_result import HELD, show_job, show_kept, show_result
from app.workspace import find_run, labels_of, open_evidence, run_name
from interp.browse.definitions import tooltip
from interp.browse.features import check_feature, escaped
from interp.browse.kept_steering import open_kept
from interp.browse.steer_concepts import ConceptChoice, concept_choices
from interp.browse.steer_settings import BOUNDS, SteerSettings, setting_readers, settings_of, within
from interp.browse.steering import SteeredText, steer_text
from interp.errors import InputError
from interp.index.reader import FeatureIndex
from interp.runs.record import Run
from interp.steering.forms import steerer_type
from interp.steering.steerer import has_output_matrix

PAGE = "steer"
SET_BY = {"strength": "strength", "effect": "KL target"}
STRENGTHS = {
    "add": ("Strength, × max activation", -10.0, 10.0, 2.0, 0.25),
    "clamp": ("Strength, × max activation", -10.0, 10.0, 2.0, 0.25),
    "scale": ("Times what it contributes", -5.0, 10.0, 2.0, 0.25),
    "ablate": ("Share of its contribution removed", 0.0, 1.0, 1.0, 0.05),
    "flow": ("Time, / largest eigenvalue", -10.0, 10.0, 1.0, 0.25),
    "rotate": ("Turns", -0.5, 0.5, 0.25, 0.01),
}
"""For each mode the label, ends, start and step of its sliders; text breaks down well before 10 times the maximum."""
IN_NORMS = ("Strength, × mean norm of the site", -2.0, 2.0, 0.5, 0.05)
"""The same for add and clamp in the other unit."""
EFFECT = ("KL target, nats per token", -5.0, 5.0, 0.2, 0.05)
"""The same for an effect asked for."""
UNITS = {"maximum": "its maximum", "norm": "mean norm"}
PLACES = {"all": "everywhere", "end": "from the prompt's end"}
MEANING = {
    "add": "add strength × max along the feature's direction",
    "clamp": "make what the feature contributes strength × max",
    "scale": "multiply what the feature contributes (1 changes nothing)",
    "ablate": "remove this share of what the feature contributes (1 removes it)",
    "flow": "move along the gradient of the latent's value, which rises with the time",
    "rotate": "turn in the plane of the latent's first two axes",
}
_JOB, _OPENED = "steer_job", "opened_result"


def show() -> None:
    """Lay out the page."""
    left, right = st.container(key="steer_page").columns([1, 3.1], gap="large")
    with left:
        run = pick_run()
    asked = st.query_params.to_dict()
    is_news = _restore(run, asked)
    with left:
        index = require_index(run)
        settings = _form(run, index)
        is_asked = _generate_button(run, settings)
    with right:
        if is_news and "saved" in asked:
            _open(run, asked["saved"])
        is_link = is_news and asked.get("result") == "1" and bool(settings.features)
        starts = is_asked or (is_link and _held(run, settings) is None and not _is_running(run, settings))
        if starts:
            starts = _start(run, settings)
        _write_address(run, settings)
        if starts:
            st.rerun()  # so that Generate is disabled while it runs
        job = _job(run)
        if job is not None and not job.is_done:
            show_job(job)
        else:
            show_result(run, settings, _latest(run, settings), job)
        show_kept(run)


def _restore(run: Run, asked: dict[str, str]) -> bool:
    """Take the settings from an address that was opened, else from the last visit. Returns whether it was opened now.

    A card leads here with a feature alone, which joins those on the page; the other settings stay.
    """
    joins = "f" in asked and "steered" not in asked
    before = st.session_state.get(f"remembered_{PAGE}", {}) if joins else {}
    readers = {
        name: (lambda text, name=name, read=read: before[name] if text is None and name in before else read(text))
        for name, read in setting_readers().items()
        if name != "steered"
    }
    is_news = restore(PAGE, readers)
    if is_news:
        read = setting_readers()["steered"]
        given = dict.fromkeys(_steered(run)) if joins else {}
        for feature, value in (given | read(asked.get("steered")) | read(asked.get("f"))).items():
            given[feature] = value
            if value is not None:
                _keep_value(run, feature, value)
        _steered(run)[:] = list(given)
    return is_news


def _steered(run: Run) -> list[int]:
    """The features on the page. Each run has its own, which wait for it while another run is on view."""
    of_runs: dict[str, list[int]] = st.session_state.setdefault("steered_of_runs", {})
    return of_runs.setdefault(run_name(run), [])


# ---------------------------------------------------------------------------------------------------------- the settings


def _form(run: Run, index: FeatureIndex) -> SteerSettings:
    """The widgets of all settings."""
    state = st.session_state
    choices = {choice.concept: choice for choice in concept_choices(run, open_evidence(run).features)}
    if state[view("towards")] not in choices:
        state[view("towards")] = ""
    modes = tuple(steerer_type(run).units)
    if state[view("mode")] not in modes:
        state[view("mode")] = "add"
    st.text_area("Prompt", key=view("prompt"), height=100)
    if choices:
        _concept(run, choices)
    st.segmented_control(
        "Set by",
        tuple(SET_BY),
        required=True,
        key=view("set_by"),
        format_func=SET_BY.__getitem__,
        help="A strength means something else for every feature; an effect on neutral text is comparable.",
    )
    meaning = ". ".join(f"**{mode}**: {MEANING[mode]}" for mode in modes)
    st.segmented_control("Mode", modes, required=True, help=meaning, key=view("mode"))
    if state[view("set_by")] == "strength" and state[view("mode")] in ("add", "clamp"):
        st.segmented_control("Unit", tuple(UNITS), required=True, format_func=UNITS.__getitem__, key=view("unit"))
    features = _features_form(run, index)
    with st.expander("Sampling, positions, seed"):
        _sampling(run)
    values = {name: state[view(name)] for name in setting_readers() if name != "steered"}
    return settings_of(values, features)


def _concept(run: Run, choices: dict[str, ConceptChoice]) -> None:
    """The picker of concepts, and why its feature was taken."""
    st.selectbox(
        "Steer towards a concept",
        ("", *choices),
        key=view("towards"),
        format_func=lambda concept: choices[concept].title if concept else "none: nothing is judged",
        on_change=_take_feature,
        args=(run, choices),
        help="Takes the feature that the evaluation chose for the concept, or else the one of the highest output score, at an "
        "effect of 0.2 nats per token. The share of the texts that is the concept is then judged.",
    )
    chosen = st.session_state[view("towards")]
    if chosen:
        st.caption(escaped(choices[chosen].sentence))


def _take_feature(run: Run, choices: dict[str, ConceptChoice]) -> None:
    choice = choices.get(st.session_state[view("towards")])
    if choice is not None and choice.feature is not None:
        st.session_state[view("set_by")], st.session_state[view("mode")] = "effect", "add"
        _steered(run)[:] = [choice.feature]
        _keep_value(run, choice.feature, choice.effect)


def _features_form(run: Run, index: FeatureIndex) -> dict[int, float]:
    """One box for each feature, with its strength, or the effect asked for."""
    labels, wanted = labels_of(run), {}
    label, low, high, start, step = _range()
    for feature in list(_steered(run)):
        with st.container(border=True, gap="xsmall"):
            try:
                check_feature(index, str(feature))
            except InputError as error:
                st.error(str(error))
            line, remove = st.columns([4, 1], vertical_alignment="center")
            # Plain text, never markdown: a label is a stranger's.
            line.text(f"Feature {feature}" + (f" · {labels[feature].marked}" if feature in labels else ""))
            remove.button(
                "✕", key=f"remove_{feature}", help="Leave this feature out", on_click=_remove, args=(run, feature)
            )
            key = _value_key(run, feature)
            kept = st.session_state.setdefault("strengths", {}).get(key)
            # Streamlit forgets a widget that is out of sight.
            st.session_state.setdefault(key, within(kept, low, high, start))
            if st.session_state[view("set_by")] == "strength":
                says = tooltip(PAGE, "strength")
                wanted[feature] = st.slider(label, low, high, step=step, key=key, format="%+.2f", help=says)
            else:
                says = tooltip(PAGE, "effect")
                wanted[feature] = st.number_input(label, low, high, step=step, key=key, help=says)
            st.session_state["strengths"][key] = wanted[feature]
    number, add = st.columns([2, 1], vertical_alignment="bottom")
    to_add = f"to_add_{run_name(run)}"
    number.number_input("Feature", 0, index.n_features - 1, key=to_add, help=tooltip(PAGE, "number"))
    add.button("Add", on_click=_add, args=(run, to_add), width="stretch")
    return wanted


def _range() -> tuple[str, float, float, float, float]:
    """Label, ends, start and step of the widgets of features."""
    state = st.session_state
    if state[view("set_by")] == "effect":
        return EFFECT
    mode = state[view("mode")]
    return IN_NORMS if state[view("unit")] == "norm" and mode in ("add", "clamp") else STRENGTHS[mode]


def _value_key(run: Run, feature: int) -> str:
    """The key of a feature's strength, or of its effect; each mode and unit has a value of its own."""
    by, mode, unit = (st.session_state[view(name)] for name in ("set_by", "mode", "unit"))
    return f"{run_name(run)}_{'effect' if by == 'effect' else f'{mode}_{unit}'}_{feature}"


def _keep_value(run: Run, feature: int, value: float) -> None:
    """Set a feature's value for the widget that will be made for it."""
    _, low, high, start, _ = _range()
    key = _value_key(run, feature)
    st.session_state.setdefault("strengths", {})[key] = within(value, low, high, start)
    st.session_state[key] = within(value, low, high, start)


def _add(run: Run, key: str) -> None:
    if st.session_state[key] not in _steered(run):
        _steered(run).append(st.session_state[key])


def _remove(run: Run, feature: int) -> None:
    _steered(run).remove(feature)


def _sampling(run: Run) -> None:
    """How to sample, and where to write."""
    first, second = st.columns(2)

    def number(column: Any, label: str, name: str, field: str, step: float | None = None) -> None:
        low, high = BOUNDS[field]
        column.number_input(label, low, high, step=step, key=view(name), help=tooltip(PAGE, field))

    number(first, "Samples", "samples", "n_samples")
    number(second, "Tokens each", "tokens", "n_tokens")
    number(first, "Temperature", "temperature", "temperature", 0.1)
    number(second, "Top-k (0: all)", "top_k", "top_k")
    number(first, "Top-p", "top_p", "top_p", 0.05)
    number(second, "Repetition penalty", "penalty", "repetition_penalty", 0.05)
    number(first, "Seed", "seed", "seed")
    st.segmented_control("Write", tuple(PLACES), required=True, format_func=PLACES.__getitem__, key=view("at"))
    st.text_area(
        "Only at these tokens",
        help="One a line, with its blanks; \\n stands for a new line. Empty: at any.",
        height=68,
        key=view("only"),
    )
    if has_output_matrix(run.site.write) and not run.can("forms"):
        meaning = "Write features of neurons or heads behind the layer's output matrix, into the residual stream."
        st.checkbox("Into the residual stream", key=view("residual"), help=meaning)
    else:
        st.session_state[view("residual")] = False
    st.text_area(
        "With features of other runs",
        help="STORE/RUN:FEATURE:STRENGTH, one a line, in the same mode and unit; of the same model, at any layer.",
        height=68,
        key=view("also"),
    )


# ------------------------------------------------------------------------------------------------------------ the result


def _generate_button(run: Run, settings: SteerSettings) -> bool:
    job = _job(run)
    is_running = job is not None and not job.is_done
    return st.button(
        "Generate",
        type="primary",
        icon=":material/play_arrow:",
        disabled=is_running or not settings.features,
        width="stretch",
    )


def _start(run: Run, settings: SteerSettings) -> bool:
    """Begin to steer, in place of what this session is doing; False, with the reason said, where the settings cannot be
    read."""
    model = require_model(run)
    try:
        others = {name: find_run(name) for name in settings.request.also}
    except InputError as error:
        st.error(escaped(str(error)))
        return False
    if (before := st.session_state.get(_JOB)) is not None:
        before.stop()
    st.session_state[_JOB] = SteerJob(
        run_name(run),
        settings,
        model,
        lambda tell: steer_text(model, run, settings, other_runs=others, tell=tell),
    )
    return True


def _job(run: Run) -> SteerJob | None:
    """The last work of this session, if it is about this run."""
    job: SteerJob | None = st.session_state.get(_JOB)
    return job if job is not None and job.run_name == run_name(run) else None


def _results(run: Run) -> list[SteeredText]:
    """The last results of this session about the run, newest last, so that Back shows what was there."""
    of_runs: dict[str, list[SteeredText]] = st.session_state.setdefault("steer_results", {})
    return of_runs.setdefault(run_name(run), [])


def _held(run: Run, settings: SteerSettings) -> SteeredText | None:
    """The whole result of these settings, if it is held."""
    identity = run.identity
    return next(
        (
            each
            for each in reversed(_results(run))
            if each.settings == settings and each.is_whole and each.run_identity == identity
        ),
        None,
    )


def _latest(run: Run, settings: SteerSettings) -> SteeredText | None:
    """The result of these settings, else the last one."""
    job, results = _job(run), _results(run)
    if job is not None and job.is_done and not job.is_collected:
        job.is_collected = True
        results += [job.shown] if job.shown is not None else []
        del results[:-HELD]
    return _held(run, settings) or (results[-1] if results else None)


def _open(run: Run, name: str) -> None:
    """Show a kept result, and remember that it is one."""
    try:
        shown = open_kept(run, name)
    except InputError as error:
        st.error(escaped(str(error)))
        return
    _results(run).append(shown)
    st.session_state[_OPENED] = (name, shown)


def _write_address(run: Run, settings: SteerSettings) -> None:
    """The address says that there is a result where it is that of the settings, so that the link makes it again."""
    shown, address = _latest(run, settings), {"run": run_name(run), **settings.address()}
    name, opened = st.session_state.get(_OPENED, ("", None))
    if shown is not None and shown is opened and shown.settings == settings:
        address["saved"] = name
    elif _is_running(run, settings) or _held(run, settings) is not None:
        address["result"] = "1"
    remembered = {name: st.session_state[view(name)] for name in setting_readers() if name != "steered"}
    write_address(PAGE, address, remembered)


def _is_running(run: Run, settings: SteerSettings) -> bool:
    """Whether these settings are being worked on."""
    job = _job(run)
    return job is not None and not job.is_done and job.settings == settings
