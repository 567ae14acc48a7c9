"""Steer: write features into the model while it continues a prompt, beside what it writes without them."""

from __future__ import annotations

import html
import json
from typing import Any

import streamlit as st

from app.indexing import require_index
from app.models import require_model
from app.state import pick_run, restore, view, write_address
from app.workspace import labels_of, run_name
from interp.browse.features import check_feature, plain_number
from interp.browse.steering import steer_text
from interp.errors import InputError
from interp.figures import next_tokens_html, steering_sweep, token_changes_html
from interp.index.reader import FeatureIndex
from interp.records import to_json
from interp.runs.record import Run
from interp.steering.continuations import (
    Continuations,
    SteeringRequest,
    SteeringResult,
    neutral_tokens,
    steerer_for,
    steering_record,
    unit_of,
)
from interp.steering.edits import Positions
from interp.steering.forms import steerer_type
from interp.steering.records import SteeringRecord, read_steering_records, write_steering_record
from interp.steering.sampling import Sampling

PAGE = "steer"
EXAMPLE = "def parse_config(path):\n"
LARGEST_SEED = 2_147_483_647
BY_STRENGTH, BY_KL = "strength", "KL target"
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


def show() -> None:
    """Lay out the page."""
    left, right = st.columns([1.1, 2.5], gap="large")
    with left:
        run = pick_run()
    if restore(PAGE, {"prompt": lambda text: text or EXAMPLE}):
        _read_features(run)
    with left:
        index = require_index(run)
        prompt = st.text_area("Prompt", key=view("prompt"), height=100)
        how = st.segmented_control("Set by", (BY_STRENGTH, BY_KL), default=BY_STRENGTH, required=True, key="how")
        mode, unit = _mode(run, how)
        wanted = _features_form(run, index, how, mode, unit)
        request = _request_form(prompt, mode, unit, wanted)
    features = _steered(run)
    address = {
        "run": run_name(run),
        "steered": ",".join(map(str, features)),
        "prompt": "" if prompt == EXAMPLE else prompt,
    }
    write_address(PAGE, address, {"prompt": prompt})
    with right:
        if request is not None:
            _generate(run, request, how, wanted)
        _result(run)
        _saved(run)


def _steered(run: Run) -> list[int]:
    """The features on the page. Each run has its own, which wait for it while another run is on view."""
    of_runs: dict[str, list[int]] = st.session_state.setdefault("steered_of_runs", {})
    return of_runs.setdefault(run_name(run), [])


def _read_features(run: Run) -> None:
    """Take the features from an address that was opened; one that a card leads to joins those on the page.

    Numbers are "5,812" in the address; anything else in it is left out.
    """
    asked = st.query_params
    before = _steered(run) if "f" in asked and "steered" not in asked else []
    numbers = [plain_number(part) for part in (*asked.get("steered", "").split(","), asked.get("f", ""))]
    _steered(run)[:] = dict.fromkeys([*before, *(number for number in numbers if number is not None)])


def _mode(run: Run, how: str) -> tuple[Any, Any]:
    """The pickers of the mode and, where a strength has one, of its unit."""
    modes = tuple(steerer_type(run).units)
    meaning = ". ".join(f"**{mode}**: {MEANING[mode]}" for mode in modes)
    mode = st.segmented_control("Mode", modes, default="add", required=True, help=meaning, key=f"mode_{len(modes)}")
    if how == BY_KL or mode not in ("add", "clamp"):
        return mode, "maximum"
    options = tuple(UNITS)
    unit = st.segmented_control(
        "Unit", options, default="maximum", required=True, format_func=UNITS.__getitem__, key="unit"
    )
    return mode, unit


def _features_form(run: Run, index: FeatureIndex, how: str, mode: str, unit: str) -> dict[int, float]:
    """One box for each feature, with its strength, or its target in nats per token."""
    labels, wanted = labels_of(run), {}
    for feature in list(_steered(run)):
        with st.container(border=True, gap="xsmall"):
            try:
                check_feature(index, str(feature))
            except InputError as error:
                st.error(str(error))
            line, remove = st.columns([6, 1], vertical_alignment="center")
            # Plain text, never markdown: a label is a stranger's.
            line.text(f"Feature {feature}" + (f" · {labels[feature].marked}" if feature in labels else ""))
            remove.button(
                "✕", key=f"remove_{feature}", help="Leave this feature out", on_click=_remove, args=(run, feature)
            )
            if how == BY_STRENGTH:
                label, low, high, start, step = IN_NORMS if unit == "norm" else STRENGTHS[mode]
                key = _kept_value(run, f"{mode}_{unit}_{feature}", start)
                wanted[feature] = st.slider(label, low, high, step=step, key=key, format="%+.2f")
            else:
                key = _kept_value(run, f"target_{feature}", 0.3)
                wanted[feature] = st.number_input("KL target, nats per token", 0.01, 5.0, step=0.05, key=key)
            st.session_state["strengths"][key] = wanted[feature]
    number, add = st.columns([2, 1], vertical_alignment="bottom")
    to_add = f"to_add_{run_name(run)}"
    number.number_input("Feature", 0, index.n_features - 1, key=to_add)
    add.button("Add", on_click=_add, args=(run, to_add), width="stretch")
    return wanted


def _kept_value(run: Run, name: str, start: float) -> str:
    """The key of a strength of this run, holding what was last set: Streamlit forgets a widget that is out of sight."""
    key = f"{run_name(run)}_{name}"
    kept = st.session_state.setdefault("strengths", {})
    st.session_state.setdefault(key, kept.get(key, start))
    return key


def _add(run: Run, key: str) -> None:
    if st.session_state[key] not in _steered(run):
        _steered(run).append(st.session_state[key])


def _remove(run: Run, feature: int) -> None:
    _steered(run).remove(feature)


def _request_form(prompt: str, mode: Any, unit: Any, wanted: dict[int, float]) -> SteeringRequest | None:
    """How to sample, and at which tokens to write; the request, once Generate is pressed."""
    with st.expander("Sampling, positions, seed"):
        first, second = st.columns(2)
        n_samples = first.number_input("Samples", 1, 8, 3)
        n_tokens = second.number_input("Tokens each", 1, 256, 48)
        sampling = Sampling(
            temperature=first.number_input("Temperature", 0.0, 2.0, 0.7, 0.1),
            top_k=second.number_input("Top-k (0: all)", 0, 1000, 0),
            top_p=first.number_input("Top-p", 0.01, 1.0, 1.0, 0.05),
            repetition_penalty=second.number_input("Repetition penalty", 1.0, 2.0, 1.0, 0.05),
        )
        seed = first.number_input("Seed", 0, LARGEST_SEED, 0)
        at: Any = st.segmented_control(
            "Write", tuple(PLACES), default="all", required=True, format_func=PLACES.__getitem__, key="at"
        )
        tokens = st.text_area(
            "Only at these tokens",
            help="One a line, with its blanks; \\n stands for a new line. Empty: at any.",
            height=68,
        )
    if not st.button("Generate", type="primary", icon=":material/play_arrow:", disabled=not wanted, width="stretch"):
        return None
    at_tokens = tuple(line.replace("\\n", "\n") for line in tokens.split("\n") if line)
    return SteeringRequest(
        prompt,
        wanted,
        mode=mode,
        unit=unit,
        positions=Positions(at, at_tokens),
        n_samples=n_samples,
        n_tokens=n_tokens,
        sampling=sampling,
        seed=seed,
    )


def _generate(run: Run, request: SteeringRequest, how: str, wanted: dict[int, float]) -> None:
    """Run the request, showing the texts while they are written, and keep its result for the reruns that follow."""
    model = require_model(run)
    growing = st.empty()

    def show(texts: Continuations) -> None:
        growing.html(pairs_html(request.prompt, texts.baseline, texts.steered))

    try:
        with st.spinner("Generating and measuring the effect"):
            steerer = steerer_for(model, run, request)
            targets = wanted if how == BY_KL else None
            steered = steer_text(steerer, request, neutral_tokens(run), targets=targets, show=show)
    except InputError as error:
        st.error(str(error))
        return
    finally:
        growing.empty()
    st.session_state["steering_result"] = (run_name(run), steered)


def _result(run: Run) -> None:
    name, steered = st.session_state.get("steering_result", (None, None))
    if steered is None or name != run_name(run):
        st.caption("Add features from their cards (Steer →) or by number, then press Generate.")
        return
    request, result = steered.request, steered.result
    first, second, third = st.columns([1, 1, 2])
    first.metric("KL on neutral text, nats per token", f"{result.kl:.3g}")
    second.metric("Perplexity ×", f"{result.perplexity_ratio:.2f}", help="of the store's own text; 1 means no harm")
    unit = unit_of(run, request)
    written = [f"feature {f}: {s:+.3g} {unit}" for f, s in request.strengths.items()]
    third.caption(" · ".join([request.mode, *written]))
    for note in steered.notes:
        st.warning(note)
    st.html(pairs_html(request.prompt, result.baseline, result.steered))
    with st.expander("Token by token"):
        st.caption(
            "The steered texts, each token coloured by what steering does to its log-probability: orange makes it "
            "likelier, blue less likely. Point at a token for the number. Below, what may follow the prompt."
        )
        st.html(changes_html(result))
        st.html(next_tokens_html(result.next_tokens))
    if steered.sweep is not None:
        present = next(iter(request.strengths.values()))
        figure = steering_sweep(*steered.sweep, unit=unit, present=present)
        st.plotly_chart(figure, config={"displayModeBar": False})
    record = steering_record(request, result)
    keep, export, _ = st.columns([1, 1, 3])
    if keep.button("Keep with the run", width="stretch"):
        write_steering_record(run, record)
    export.download_button("Export JSON", to_json(record), "steering.json", "application/json", width="stretch")


def pairs_html(prompt: str, baseline: list[str], steered: list[str]) -> str:
    """Baseline and steered continuations side by side: the two of a line grew from the same noise.

    All text is escaped, since what a model writes is a stranger's.
    """
    before = f'<span class="prompt">{html.escape(prompt)}</span>'
    texts = [text for pair in zip(baseline, steered, strict=True) for text in pair]
    cells = [f'<pre class="sample">{before}{html.escape(text)}</pre>' for text in texts]
    return f'<div class="pairs"><h6>Baseline</h6><h6>Steered</h6>{"".join(cells)}</div>'


def changes_html(result: SteeringResult) -> str:
    """The steered texts with their prompt, each token coloured by the change of its log-probability."""
    prompt = f'<span class="prompt">{token_changes_html(result.prompt_changes)}</span>'
    texts = [f'<pre class="sample">{prompt}{token_changes_html(changes)}</pre>' for changes in result.changes]
    return f"<div>{''.join(texts)}</div>"


def _saved(run: Run) -> None:
    """Results that were kept earlier, here or by the command line."""
    try:
        records = read_steering_records(run)
    except InputError as error:
        st.error(str(error))
        return
    if records:
        with st.expander(f"Saved steering results ({len(records)})"):
            st.dataframe([_flat(record) for record in reversed(records)], hide_index=True)


def _flat(record: SteeringRecord) -> dict[str, str | int | float]:
    """A record as a table row: nested values as JSON."""
    values = {name: getattr(record, name) for name in record.__struct_fields__}
    return {
        name: value if isinstance(value, str | int | float) else json.dumps(value) for name, value in values.items()
    }
