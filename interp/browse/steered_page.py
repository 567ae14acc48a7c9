"""A steered text as HTML: the columns side by side, tokens coloured by what steering does to their likelihood.

All text is escaped, since what a model writes is a stranger's. Signs that are not seen, or that would reorder a line, are
shown by number; a new line is shown as a sign before it, so that its colour can be seen.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence

import plotly.graph_objects as go

from interp.browse.definitions import tooltip
from interp.browse.palette import N_LEVELS
from interp.browse.steering import ColumnName, SteeredColumn, SteeredText
from interp.evaluation.estimates import Estimate
from interp.evaluation.number_text import percent
from interp.figures import steering_sweep

FULL_CHANGE = 4.0
"""Nats at which a change has its full colour: the token is 55 times as likely, or a 55th."""
LEAST_CHANGE = 0.1
"""Smaller changes have no colour."""
_HIDDEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]"
)
_TITLES: dict[ColumnName, str] = {"baseline": "Baseline", "steered": "Steered", "control": "Control"}
_MEANS: dict[ColumnName, str] = {
    "baseline": "The model as it is.",
    "steered": "",
    "control": "A random direction, distributed like the site's activations and drawn by the seed, with the same effect on "
    "neutral text. One draw: an example of chance, not its spread.",
}


def columns_html(shown: SteeredText) -> str:
    """The prompt, and below it the columns: what each is, what was measured of it, and its texts; a line of texts grew from the
    same noise. Of a text whose columns have been begun."""
    columns = shown.columns
    heads = "".join(f'<div class="head">{_head(shown, column)}</div>' for column in columns)
    rows = []
    for i in range(len(columns[0].texts)):
        for column in columns:
            text = _of_text(column, i)
            rows.append(f'<pre class="sample" data-column="{_TITLES[column.name]}">{text}</pre>')
    prompt = tokens_html(shown.prompt_changes) or escaped_text(shown.settings.prompt)
    before = f'<div class="before"><span>Prompt</span><pre class="sample">{prompt}</pre></div>'
    return f'{before}<div class="columns" style="--columns:{len(columns)}">{heads}{"".join(rows)}</div>'


def legend_html() -> str:
    """The colours of changes with their numbers."""
    steps = [f'<i class="{step}"></i>' for step in [f"n{i}" for i in range(N_LEVELS, 0, -2)] + ["none"] + _RISING]
    return (
        f'<div class="legend"><span>less likely, −{FULL_CHANGE:g} nats or more</span>{"".join(steps)}'
        f"<span>likelier, +{FULL_CHANGE:g} nats or more</span></div>"
    )


_RISING = [f"p{i}" for i in range(2, N_LEVELS + 1, 2)]


def tokens_html(changes: Sequence[tuple[str, float]]) -> str:
    """Tokens coloured by the change of their log-probability (nats), which is shown when pointed at."""
    return "".join(
        f'<span class="{colour_class(change)}" title="{change:+.2f} nats">{escaped_text(text)}</span>'
        for text, change in changes
    )


def colour_class(change: float) -> str:
    """The class of ``palette.token_styles`` for a change in nats; empty for a small one."""
    if not math.isfinite(change) or abs(change) < LEAST_CHANGE:
        return ""
    level = min(N_LEVELS, max(1, math.ceil(abs(change) / FULL_CHANGE * N_LEVELS)))
    return f"{'p' if change > 0 else 'n'}{level}"


def escaped_text(text: str) -> str:
    """A stranger's text for HTML, with hidden signs by number and new lines marked."""
    shown = _HIDDEN.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", text.replace("\r\n", "\n"))
    return html.escape(shown).replace("\n", '<span class="ws">⏎</span>\n')


def sweep_figure(shown: SteeredText) -> go.Figure:
    """The effect against the strength, with the strength in use marked."""
    strengths, kls = zip(*shown.sweep, strict=True)
    return steering_sweep(strengths, kls, unit=shown.unit, present=next(iter(shown.strengths.values())))


def outcome(shown: SteeredText) -> str:
    """What the judge says, in one sentence; empty where no concept was judged."""
    steered, control = shown.column("steered"), shown.column("control")
    if steered is None or steered.gain is None:
        return ""
    concept, n = shown.settings.concept, len(steered.texts)
    said = f"Steering raises the share of {concept} by {_points(steered.gain, n)}"
    if control is None or shown.excess is None:
        return f"{said}; there is no control to compare it with yet."
    beyond = f"{said}; beyond the control by {_points(shown.excess, n)}"
    if n < 2:
        return f"{beyond}. One text has no interval: ask for more samples."
    what = "more than" if shown.excess.is_above_zero else "NOT clearly more than"
    return f"{beyond}: {what} this control. Intervals are over these {n} texts of one prompt, and so too narrow."


def old_result(differences: Sequence[str]) -> str:
    """The sentence for a result that was made with other settings than the present ones."""
    return f"Old result: it was made with other settings ({', '.join(differences)}). Generate to run the present ones."


def steered_with(shown: SteeredText) -> str:
    """What was written in the steered column."""
    parts = [f"feature {feature} at {strength:+.3g} {shown.unit}" for feature, strength in shown.strengths.items()]
    parts += [line.strip() for line in shown.settings.also.split("\n") if line.strip()]
    return f"{shown.settings.mode}: {', '.join(parts)}"


def _head(shown: SteeredText, column: SteeredColumn) -> str:
    means = _MEANS[column.name] or f"{steered_with(shown)}."
    lines = [f"<h6>{_TITLES[column.name]}</h6>", f"<p>{escaped_text(means[:1].upper() + means[1:])}</p>"]
    measured = []
    if column.kl is not None:
        measured.append(f'<span title="{_KL}">KL <b>{column.kl:.3g}</b> nats per token</span>')
    if column.perplexity_ratio is not None:
        measured.append(f'<span title="{_PERPLEXITY}">perplexity × <b>{column.perplexity_ratio:.2f}</b></span>')
    if column.share is not None:
        share, concept = _share(column.share, len(column.texts)), html.escape(shown.settings.concept)
        measured.append(f'<span title="{_SHARE}">{concept} <b>{share}</b></span>')
    return "".join([*lines, f'<div class="measured">{"".join(measured)}</div>'])


_KL = html.escape(tooltip("steer", "kl"))
_PERPLEXITY = html.escape(tooltip("steer", "perplexity_ratio"))
_SHARE = html.escape(tooltip("steer", "share"))


def _of_text(column: SteeredColumn, i: int) -> str:
    if i < len(column.changes):
        return tokens_html(column.changes[i])
    return escaped_text(column.texts[i]) if i < len(column.texts) else ""


def _share(estimate: Estimate, n: int) -> str:
    if n < 2:
        return f"{percent(estimate.value)} %"
    return f"{percent(estimate.value)} % [{percent(estimate.low)}, {percent(estimate.high)}]"


def _points(estimate: Estimate, n: int) -> str:
    low, high = (f"{100 * each:+.0f}" for each in (estimate.low, estimate.high))
    return f"{100 * estimate.value:+.0f} points" + (f" [{low}, {high}]" if n > 1 else "")
