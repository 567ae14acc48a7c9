"""``interp steer RUN --sweep``: features x strengths x prompts x seeds to one table and a page of figures."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path

from interp.cli.judging import TOKENS, accuracy_lines, judging_set, own_judge
from interp.corpora.documents import TextJudge
from interp.errors import InputError
from interp.evaluation.judges import OWN
from interp.evaluation.number_text import aligned
from interp.evaluation.sweep import check_place, check_request, sweep
from interp.evaluation.sweep_page import NOTES, frontiers, summary_cells, sweep_page
from interp.evaluation.sweep_records import SweepRequest
from interp.files import refused_writes, write_whole
from interp.model.language_model import load_model
from interp.runs.record import Run
from interp.steering.continuations import neutral_tokens
from interp.steering.forms import steerer_type


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep: every feature at every strength, from every prompt and seed."""

    sweep: bool = False
    """Steer with several features at several strengths, judge every text, and write a table and a page of figures; with
    --features, --strengths or --kls, --out. An interrupted sweep goes on when the same command is run again."""
    features: tuple[int, ...] = ()
    """Of a sweep: numbers of features."""
    strengths: tuple[float, ...] = ()
    """Of a sweep: strengths, in the units of --strength."""
    kls: tuple[float, ...] = ()
    """Of a sweep, instead of --strengths: effects on neutral text to aim for, in nats per token."""
    prompts: tuple[str, ...] = ()
    """Of a sweep: texts to continue, \\n stands for a new line; by default those of the store's label set."""
    seeds: tuple[int, ...] = (0,)
    """Of a sweep: seeds of the sampling noise; --samples continuations of each prompt from each."""
    concepts: tuple[str, ...] = ()
    """Of a sweep: concepts to judge; by default all that the judge knows."""
    out: Path | None = None
    """Of a sweep: the table, NAME.parquet; the page is NAME.html beside it."""

    def refuse_without_sweep(self) -> None:
        """Raise InputError if an option of a sweep was given without --sweep."""
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        if given:
            raise InputError(f"--{given[0]} is an option of a sweep; give --sweep, too")


def run_sweep(
    run: Run,
    options: SweepOptions,
    *,
    mode: str,
    judge: str | None,
    n_samples: int,
    n_tokens: int,
    temperature: float,
) -> None:
    """Write table and page, and print the summary. ``judge`` is what --judge was given."""
    if options.out is None:
        raise InputError("a sweep needs a place for its table; give --out NAME.parquet")
    if options.concepts and judge not in (None, TOKENS):
        raise InputError("--concepts are of label sets, but a command gives one number; leave one of them out")
    label_set = judging_set(run, options.concepts if judge is None else ())
    if label_set is None and judge is None:
        raise InputError(f"no label set of the store '{run.store().name}' can judge a text; give --judge COMMAND")
    if label_set is None and not options.prompts:
        raise InputError("the store has no label set with prompts; give --prompts")
    request = SweepRequest(
        run=run.name,
        run_identity=run.identity,
        features=options.features,
        mode=mode,
        strengths=options.strengths,
        kls=options.kls,
        prompts=tuple(prompt.replace("\\n", "\n") for prompt in options.prompts or label_set.prompts),  # type: ignore[union-attr]
        seeds=options.seeds,
        n_samples=n_samples,
        n_tokens=n_tokens,
        temperature=temperature,
        judge=f"label set {label_set.name}" if judge is None and label_set else str(judge),
        concepts=(OWN,) if judge not in (None, TOKENS) else options.concepts,
    )
    check_request(request)  # and the place: before the model is loaded
    check_place(options.out, request)
    page = options.out.with_suffix(".html")
    if page.exists() and not options.out.exists():
        raise InputError(f"'{page}' is there already, and no table beside it; give another --out, or delete it")
    model = load_model(run.model_id)
    if model.fingerprint != run.record.model_fingerprint:
        raise InputError(
            f"'{run.model_id}' has other weights than the model that '{run.name}' was trained on; put those back, or capture "
            "and train again"
        )
    steerer = steerer_type(run).from_run(model, run)
    by: TextJudge | None = label_set.judge if judge is None and label_set else own_judge(str(judge), run, model)
    assert by is not None
    try:
        table = sweep(steerer, request, judge=by, neutral=neutral_tokens(run), path=options.out)
    except KeyboardInterrupt:
        print("interp: interrupted; what was written is kept, the same command goes on from there", file=sys.stderr)
        raise
    with refused_writes(page.parent, f"the table '{options.out}' is whole"):
        write_whole(page, sweep_page(table, unit=steerer.units[mode]).encode())
    found = frontiers(table)
    print("\n".join([*aligned(summary_cells(found)), "", *NOTES, *accuracy_lines(by, run, list(found))]))
    print(f"\n{len(table.columns['text']):,} texts: {options.out}\nThe page with the figures: {page}")
