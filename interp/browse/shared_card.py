"""A feature's card to hand on: as JSON, and as one HTML file that needs neither server nor network nor script."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import TypedDict

from interp.browse.evidence import Line, RunEvidence, ShownLabel
from interp.browse.features import FeatureCard, example_payload, feature_payload
from interp.browse.palette import BACKGROUNDS, N_LEVELS, token_styles
from interp.index.reader import Example, FeatureIndex, Histogram, RankedTokens
from interp.runs.feature_labels import FeatureLabels
from interp.runs.record import Run

SCHEMA, VERSION = "interp-feature-card", 1
KINDS = {
    "top": "Where it fires most",
    "intervals": "By interval",
    "near-threshold": "Near the threshold",
    "not-firing": "Where it does not fire",
    "lowest": "Where it is lowest",
}
"""Kinds of examples on a shared card with their headings."""
HIDDEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Controls, invisible formatting such as right-to-left marks, and halves of surrogate pairs: shown by number."""


class SharedCard(TypedDict):
    """All that a card shows, and of what."""

    schema: str
    version: int
    run: str
    run_identity: str
    kind: str
    """The method."""
    model: str
    site: str
    store: str
    store_identity: str
    label: str
    """A person's, else the automatic one, else empty."""
    label_is_automatic: bool
    note: str
    bookmarked: bool
    feature: FeatureCard
    examples: dict[str, list[Example]]
    """By kind, 24 tokens on each side."""


def shared_card(index: FeatureIndex, run: Run, evidence: RunEvidence, feature: int) -> SharedCard:
    """The card of a feature. Raises InputError for a number the run does not have."""
    about = feature_payload(index, str(feature), run, evidence)
    said = FeatureLabels(run.labels_path).get(feature)
    made = str(evidence.columns["label"].iloc[feature]) if feature < len(evidence.features) else ""
    kinds = [kind for kind in KINDS if kind != "lowest" or index.has_below]
    return SharedCard(
        schema=SCHEMA,
        version=VERSION,
        run=run.name,
        run_identity=run.identity,
        kind=run.kind,
        model=run.model_id,
        site=str(run.site),
        store=index.record.store,
        store_identity=run.store_identity,
        label=said.label or made,
        label_is_automatic=bool(made) and not said.label,
        note=said.note,
        bookmarked=said.bookmarked,
        feature=about,
        examples={kind: example_payload(index, str(feature), kind, "24") for kind in kinds},
    )


def card_json(card: SharedCard) -> str:
    """The card as JSON in ASCII: whatever a text holds, it is written as an escape."""
    return json.dumps(card, indent=1, allow_nan=False)


def card_html(card: SharedCard) -> str:
    """The card as a page of its own, light or dark as the reader's system is.

    Every text is escaped, and the page forbids itself scripts and requests.
    """
    about = card["feature"]
    largest = max(abs(about["max"]), -about["below"]["min"] if about["below"] else 0.0)
    title = f"Feature {about['id']} of {card['run']}"
    body = [f"<header><h1>Feature {about['id']}</h1>{_label(card)}</header>", _figures(card)]
    if card["note"]:
        body.append(f'<p class="note">{_shown(card["note"])}</p>')
    body += [_evidence(card), _overview(about)]
    for kind, examples in card["examples"].items():
        if examples:
            body += [f"<h2>{KINDS[kind]}</h2>", context_lines(examples, largest)]
    return _PAGE.format(title=_shown(title), style=_STYLE + token_styles(), body="\n".join(body))


def _shown(text: str) -> str:
    """A stranger's text as HTML: what cannot be seen by its number, what HTML reads as an escape."""
    return html.escape(HIDDEN.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", text.replace("\r\n", "\n")))


def _label(card: SharedCard) -> str:
    label = ShownLabel(card["label"], card["label_is_automatic"])
    return f"<b>{_shown(label.marked)}</b>" if label.text else ""


def _figures(card: SharedCard) -> str:
    about = card["feature"]
    side = "positive side: " if about["positive_side_only"] else ""
    figures = [
        f"{side}fires on {about['density']:.3%} of {about['n_tokens']:,} tokens",
        f"max {about['max']:.3g}",
        f"importance rank {about['importance_rank']}",
    ]
    if about["below"]:
        figures.append(f"negative side: {about['below']['density']:.3%}, min {about['below']['min']:.3g}")
    made_of = f"{card['run']} ({card['kind']}) at {card['site']} of {card['model']}, on {card['store']}"
    return (
        f"<p class=sub>{_shown(' · '.join(figures))}<br>{_shown(made_of)}; weights {_shown(card['run_identity'])}</p>"
    )


def _evidence(card: SharedCard) -> str:
    found = card["feature"]["evidence"]
    if found["missing"]:
        return '<p class="sub">What it detects and does has not been measured.</p>'
    blocks = []
    for heading, lines in (
        (f"What it fires on ({found['grade']})", found["fires_on"]),
        ("What it does", found["does"]),
    ):
        sentences = "".join(f"<p>{_sentence(line)}</p>" for line in lines)
        blocks.append(f"<section><h2>{_shown(heading)}</h2>{sentences}</section>")
    return f"<div class=blocks>{''.join(blocks)}</div>"


def _sentence(line: Line) -> str:
    return "".join(
        _shown(part)
        if isinstance(part, str)
        else f"<code>{_token(part['token'])}</code>"
        if "token" in part
        else _shown(part["text"])
        for part in line
    )


def _overview(about: FeatureCard) -> str:
    parts = [("Activations", _bins(about["hist"]))]
    if about["below"]:
        parts.append(("Negative activations", _bins(about["below"]["hist"])))
    if about["logits"]:
        parts.append(("Effects on logits", _bins(about["logits"])))
    for heading, tokens in (("Promotes", about["promoted"]), ("Suppresses", about["suppressed"])):
        if tokens:
            parts.append((heading, _token_list(tokens)))
    for heading, name in (("Near by cosine", "cosine"), ("Fires together with", "coactivation")):
        if near := about["neighbours"].get(name):
            parts.append((heading, _rows((str(f), value) for f, value in near[:8])))
    if about["neurons"]:
        parts.append(("Neurons", _rows((str(n), value) for n, value in about["neurons"][:8])))
    return f"<div class=overview>{''.join(f'<section><h2>{name}</h2>{body}</section>' for name, body in parts)}</div>"


def _token_list(tokens: RankedTokens) -> str:
    return _rows((f"<code>{_token(token)}</code>", value) for token, value in tokens[:8])


def _rows(pairs: Iterable[tuple[str, float]]) -> str:
    """Names, which are HTML, with numbers."""
    return f"<table>{''.join(f'<tr><td>{name}<td>{value:.3g}' for name, value in pairs)}</table>"


def _token(token: str) -> str:
    """A token on one line, its blanks visible."""
    return _shown(token).replace("\n", "⏎").replace("\t", "→").replace(" ", "␣")


def _bins(histogram: Histogram) -> str:
    """Bars of the logarithms of the counts."""
    counts, edges = histogram["counts"], histogram["edges"]
    tallest = math.log10(1 + max([1, *counts]))
    bars = "".join(
        f'<rect x="{10 * i}" y="{100 - tall:.1f}" width="9" height="{tall:.1f}"/>'
        for i, tall in enumerate(96 * math.log10(1 + count) / tallest for count in counts)
    )
    ends = f"<div class=ends><span>{edges[0]:.3g}</span><span>{edges[-1]:.3g}</span></div>" if edges else ""
    return f'<svg viewBox="0 0 {10 * len(counts)} 100" preserveAspectRatio="none">{bars}</svg>{ends}'


def context_lines(examples: Sequence[Example], largest: float | None = None) -> str:
    """Examples as HTML, a line for each; the classes of ``token_styles`` colour tokens by their share of ``largest``, or of the
    largest value of the examples."""
    if largest is None:
        largest = max((abs(example["value"]) for example in examples), default=0.0)
    lines, group = [], ""
    for example in examples:
        if example["group"] != group:
            group = example["group"]
            lines.append(f"<h3>{_shown(group)}</h3>")
        tokens = "".join(
            _coloured(token, value, largest, i == example["centre"])
            for i, (token, value) in enumerate(zip(example["tokens"], example["activations"], strict=True))
        )
        source = f"{example['document']} · sequence {example['sequence']}, token {example['position']}"
        lines.append(
            f'<div class=example title="{_shown(source)}"><span>{example["value"]:.2f}</span><pre>{tokens}</pre></div>'
        )
    return "".join(lines)


def _coloured(token: str, value: float, largest: float, is_centre: bool) -> str:
    text = _shown(token).replace("\t", "→\t")
    if not value and not is_centre:
        return text
    classes = ["centre"] if is_centre else []
    if value:
        level = min(N_LEVELS, max(1, math.ceil(abs(value) / (largest or 1.0) * N_LEVELS)))
        classes.append(f"{'p' if value > 0 else 'n'}{level}")
    shown = text.replace("\n", "⏎\n") if text.strip() else _token(token)
    return f'<b class="{" ".join(classes)}" title="{value:.3g}">{shown}</b>'


def file_name(run: Run, ending: str) -> str:
    """A name for a file about a run that is plain on every system: the run's, and ``ending``."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', run.name)}-{ending}"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>{style}</style></head><body>
{body}
</body></html>
"""
_STYLE = f"""
:root {{ color-scheme: light dark; }}
body {{ font: 14px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 24px auto; padding: 0 20px;
  background: light-dark({BACKGROUNDS["light"]}, {BACKGROUNDS["dark"]}); color: light-dark(#1F2328, #E4E6EA); }}
header {{ display: flex; gap: 14px; align-items: baseline; flex-wrap: wrap; }} h1 {{ font-size: 22px; margin: 0; }}
h2 {{ font-size: 13px; margin: 14px 0 4px; }} h3 {{ font-size: 12.5px; margin: 10px 0 2px; }}
p {{ margin: 2px 0; overflow-wrap: anywhere; }}
.sub {{ font-size: 12.5px; color: light-dark(#50565E, #B4BAC3); }}
.note {{ white-space: pre-wrap; border-left: 3px solid #5B7BC0; padding: 4px 10px; }}
.blocks, .overview {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 0 28px; }}
.blocks {{ grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); }}
table {{ width: 100%; border-collapse: collapse; font-size: 12.5px; }} td {{ border-bottom: 1px solid #8883; }}
td + td {{ text-align: right; font-variant-numeric: tabular-nums; }}
code, pre {{ font: 12.5px/1.65 ui-monospace, monospace; margin: 0; }}
code {{ overflow-wrap: anywhere; }} svg {{ width: 100%; height: 70px; fill: #E69F00; display: block; }}
.ends {{ display: flex; justify-content: space-between; font-size: 11.5px; border-top: 1px solid #8886; }}
.example {{ display: flex; gap: 14px; border-bottom: 1px solid #8883; padding: 4px 0; }}
.example > span {{ flex: 0 0 46px; text-align: right; font-variant-numeric: tabular-nums; font-size: 12.5px; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4; }} pre b {{ font-weight: 400; border-radius: 3px; }}
pre b.centre {{ font-weight: 700; outline: 1.5px solid; }}
"""
