"""HTML pages that need nothing else: plotly's program is in them, and a policy in their head keeps a browser from loading
anything from anywhere."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from interp.errors import InputError

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1120px; padding: 24px 32px 64px; background: #fff; color: #1f2933;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 8px; }
h2 { font-size: 20px; margin: 44px 0 8px; padding-top: 12px; border-top: 2px solid #e4e7eb; }
h3 { font-size: 16px; margin: 32px 0 2px; }
p { margin: 4px 0; } p.note, details { color: #52606d; font-size: 13.5px; } ul { margin: 8px 0; padding-left: 20px; }
.wide { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid #e4e7eb; vertical-align: top; }
th { font-weight: 600; } td { white-space: nowrap; } small { color: #52606d; }
summary { cursor: pointer; margin-top: 12px; }
"""


def html_page(title: str, parts: Sequence[str]) -> str:
    """A whole page; ``parts`` are HTML, the title is text."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head>\n<body>{chr(10).join(parts)}</body></html>\n"
    )


def figure_html(title: str, note: str, draw: Callable[[], go.Figure], numbers: Iterator[int]) -> list[str]:
    """A figure with its title; nothing where there is nothing to draw."""
    try:
        figure = draw()
    except InputError:
        return []
    options = {"displaylogo": False, "responsive": True, "displayModeBar": False}
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, config=options, div_id=f"figure-{next(numbers)}")
    return [f"<h3>{html.escape(title)}</h3>", f'<p class="note">{html.escape(note)}</p>' if note else "", drawn]


def table_html(cells: Sequence[Sequence[str]]) -> str:
    """Lines of cells of text as a table; the first line is its head."""
    head, *lines = cells
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(map(_cell, line)) + "</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def list_html(lines: Sequence[str]) -> str:
    """Lines of text as a list; nothing where there are none."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


def _cell(text: str) -> str:
    """A cell; the null of a score stands below it, which keeps the table narrow."""
    score, null, *_ = *re.split(r" (?=[>=<] null |\(null )", text, maxsplit=1), ""
    return f"<td>{html.escape(score)}{f'<br><small>{html.escape(null)}</small>' if null else ''}</td>"
