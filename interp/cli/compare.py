"""``interp compare``: runs side by side, as a table and as a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import tyro

from interp.errors import InputError
from interp.evaluation.compare import Comparison, compare_runs, metrics_by_name
from interp.evaluation.comparison_page import comparison_page
from interp.evaluation.comparison_text import apart_sentence, group_sentences, matched_sentences
from interp.evaluation.results import Metrics
from interp.evaluation.table import help_lines, measured, metrics_table
from interp.files import refused_writes, write_whole
from interp.runs.record import Run, resolve_run


@dataclass(frozen=True)
class Compare:
    """Compare evaluated runs: prints a table and what it says in sentences, and writes a page of figures that opens in any
    browser without a network. Runs that were judged differently are kept apart, and it is said why."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, or names of runs in the workspace; two or more."""
    out: Path | None = None
    """File of the page, NAME.html; by default comparison.html in the workspace. With --json there is a page only where this
    is given."""
    all: bool = False
    """Print every column, not only those to begin with."""
    workspace: Path = Path("activations")
    """Where runs are looked up by name."""
    json: bool = False
    """Print all that was found as JSON, and nothing else."""

    def run(self) -> None:
        runs = [resolve_run(name, self.workspace) for name in self.runs]
        page = self.out if self.out is not None or self.json else self.workspace / "comparison.html"
        if page is not None and (page.suffix != ".html" or not page.parent.is_dir()):
            raise InputError(f"the page cannot be '{page}'; give --out NAME.html in a folder that there is")
        metrics, comparison = metrics_by_name(runs), compare_runs(runs)
        by_name = dict(zip(metrics, runs, strict=True))
        if page is not None:
            content = comparison_page(by_name, metrics, comparison).encode()
            with refused_writes(page.parent, "nothing was written"):
                write_whole(page, content)
        if self.json:
            print(msgspec.json.format(msgspec.json.encode(comparison), indent=1).decode())
            return
        print("\n".join(_text(by_name, metrics, comparison, everything=self.all)))
        print(f"\nThe page with the figures: {page}")


def _text(
    runs: dict[str, Run], metrics: dict[str, Metrics], comparison: Comparison, *, everything: bool
) -> Iterator[str]:
    """The comparison group by group, then what is said of all."""
    for group in comparison.groups:
        table = metrics_table({name: runs[name] for name in group.runs}, everything=everything, explained=False)
        sentences = group_sentences(group, {name: metrics[name] for name in group.runs})
        yield from (group.title, "", table, "", *sentences, "")
    yield from map(apart_sentence, comparison.apart)
    if matched := matched_sentences(comparison):
        yield from ("Features paired one to one by the cosine of their read directions, or of their forms:", *matched)
    if comparison.settings.differing:
        yield f"The runs differ in: {', '.join(comparison.settings.differing)}."
    yield ""
    yield from help_lines(measured(list(metrics.values()), everything=everything))
