"""``interp demo``: the whole flow on the bundled model, then the pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interp.cli.dashboard import Dashboard
from interp.demo.recipe import DemoConfig, run_demo
from interp.evaluation.results import read_metrics
from interp.evaluation.steering_text import changed_texts, steering_lines
from interp.evaluation.table import metrics_table


@dataclass(frozen=True)
class Demo:
    """The whole flow on the bundled model, then the dashboard."""

    config: DemoConfig
    workspace: Path = Path("activations")
    """Folder for the stores and runs; steps whose results are there already are skipped."""
    dashboard: bool = True
    """Open the dashboard at the end."""
    port: int = 8501
    """Port of the dashboard on 127.0.0.1."""

    def run(self) -> None:
        result = run_demo(self.workspace, self.config)
        print(metrics_table(result.runs))
        for run in result.runs:
            if (steering := read_metrics(run).steering) is not None:
                print("", *steering_lines(run.name, steering), *changed_texts(steering), sep="\n")
        print()
        for step in result.steps:
            print(f"{step.name:<34}{step.wall_seconds:>7.1f} s wall {step.cpu_seconds:>7.1f} s CPU")
        if self.dashboard:
            Dashboard(self.workspace, self.port).run()
