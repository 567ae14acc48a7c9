"""Steering sweeps: features x strengths x prompts x seeds, every text judged, to one table.

All texts of a prompt and a seed, the baseline among them, are drawn from the same noise. Features share batches, and the
strengths of all features for one target KL are searched together. Every batch that was written and judged is a line of a
journal beside the table, so that an interrupted sweep goes on with the next one; the batches are the same however often it was
interrupted, and so is the table, which is written whole at the end and takes the journal's place.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.corpora.documents import TextJudge
from interp.errors import InputError, unknown_feature, unknown_name
from interp.evaluation.fluency import repetition
from interp.evaluation.results import defined
from interp.evaluation.sweep_records import Part, Steering, SweepJournal, SweepRequest, Written
from interp.evaluation.sweep_table import SweepTable, read_sweep, sweep_table, write_sweep
from interp.files import append_line, refused_writes, write_whole
from interp.metrics import distinct_n
from interp.progress import progress_bar
from interp.records import converted, from_json, to_line

if TYPE_CHECKING:
    from interp.steering.steerer import Steerer

_ROWS_PER_PASS = 128  # texts written at once: the per-step overhead is spread, the key-value cache stays small
_LARGEST_SEED = 2**32


def sweep(
    steerer: Steerer,
    request: SweepRequest,
    *,
    judge: TextJudge,
    neutral: Int[Tensor, "n_seq n_pos"],
    path: Path,
) -> SweepTable:
    """Write and judge all that ``request`` asks for, and the table ``path``; or go on where an interruption left it.

    ``neutral`` are sequences, BOS first, on which effects are measured. A table of the same request that is there already is
    read. Raises InputError before the first text for what cannot be done: see ``check_request``, ``check_place`` and, of the
    model, dead features, prompts that do not fit its context, strengths at which it predicts nothing finite, and a judge that
    fails on the first prompt or does not know a concept. Raises InputError for a judge that fails later, too; what was written
    is kept.
    """
    check_request(request)
    journal = check_place(path, request)
    if path.exists():
        _journal_path(path).unlink(missing_ok=True)
        return read_sweep(path)
    _check_model(steerer, request)
    known = judge(request.prompts[0], start=0)
    for concept in request.concepts:
        if concept not in known:
            raise unknown_name("concept", concept, known, "what the judge knows")
    with refused_writes(path.parent, "what was written before is kept"):
        if journal is None:
            journal = SweepJournal(request=request, steerings=_steerings(steerer, request, neutral))
            write_whole(_journal_path(path), (to_line(journal) + "\n").encode())
        parts = _parts(steerer, journal, judge, path)
        table = sweep_table(journal, parts)
        write_sweep(path, table)
        _journal_path(path).unlink()
    return table


def check_request(request: SweepRequest) -> None:
    """Refuse what no model can do. Raises InputError for nothing to do, for things given twice, and for impossible numbers."""
    for name in ("features", "prompts", "seeds", "strengths", "kls", "concepts"):
        given = getattr(request, name)
        if name in ("features", "prompts", "seeds") and not given:
            raise InputError(f"a sweep needs {name}; give at least one")
        if twice := [each for each, n in Counter(given).items() if n > 1]:
            raise InputError(f"{name} has {str(twice[0])[:40]!r} more than once; give each once")
    if bool(request.strengths) == bool(request.kls):
        raise InputError("give either strengths or target KLs, to say how strongly to steer")
    if not all(map(math.isfinite, request.strengths)):
        raise InputError("a strength is not finite; give numbers")
    if not all(math.isfinite(kl) and kl > 0 for kl in request.kls):
        raise InputError("a target KL must be above 0 nats per token")
    if not all(0 <= seed < _LARGEST_SEED for seed in request.seeds):
        raise InputError(f"seeds must be whole numbers from 0 to {_LARGEST_SEED - 1}")
    if request.n_samples < 1 or request.n_tokens < 1 or not 0 <= request.temperature < math.inf:
        raise InputError("give at least one sample of one token, and a temperature of 0 or more")


def check_place(path: Path, request: SweepRequest) -> SweepJournal | None:
    """The journal of an interrupted sweep of this request, or None.

    Raises InputError where the table cannot be written, and where a table or journal of another request is there.
    """
    if path.suffix != ".parquet" or not path.parent.is_dir() or path.is_dir():
        raise InputError(f"the table cannot be '{path}'; give NAME.parquet in a folder that there is")
    if path.exists():
        _refuse_another(read_sweep(path).request, request, path)
    lines = _lines(_journal_path(path))
    if not lines:
        return None
    journal = from_json(lines[0], SweepJournal, f"'{_journal_path(path)}' line 1")
    _refuse_another(journal.request, request, _journal_path(path))
    return journal


def _refuse_another(found: SweepRequest, request: SweepRequest, path: Path) -> None:
    other = [name for name in request.__struct_fields__ if getattr(found, name) != getattr(request, name)]
    if other:
        raise InputError(
            f"'{path}' is of another sweep, which differs in {', '.join(other)}; give another --out, or delete it"
        )


def _check_model(steerer: Steerer, request: SweepRequest) -> None:
    for feature in request.features:
        if not 0 <= feature < steerer.n_features:
            raise unknown_feature(feature, steerer.n_features)
    if dead := [feature for feature in request.features if steerer.is_dead[feature]]:
        listed = ", ".join(map(str, dead))
        raise InputError(
            f"no strength has a unit for features that never fire on their store: {listed}; leave them out"
        )
    if request.mode not in steerer.units:
        raise unknown_name("steering mode", request.mode, steerer.units, f"the run '{request.run}'")
    for prompt in request.prompts:
        if (n := len(steerer.model.encode(prompt))) + request.n_tokens > steerer.model.n_ctx:
            raise InputError(
                f"the prompt {prompt[:40]!r} of {n} tokens and {request.n_tokens} new ones exceed the {steerer.model.n_ctx} "
                f"tokens of '{steerer.model.id}'; shorten the prompt or ask for fewer tokens"
            )


def _steerings(steerer: Steerer, request: SweepRequest, neutral: Int[Tensor, "n_seq n_pos"]) -> tuple[Steering, ...]:
    """The strengths of all features with their effects, features first."""
    found: list[tuple[int, float | None, float, float, bool | None]] = []
    for target in request.kls:
        if request.mode == "add":
            searches = steerer.strengths_for_kl(request.features, target, tokens=neutral)
        else:
            searches = [
                steerer.strength_for_kl(feature, target, tokens=neutral, mode=request.mode)
                for feature in request.features
            ]
        found += [(search.feature, target, search.strength, search.kl, search.reached) for search in searches]
    for strength in request.strengths:
        for feature in request.features:
            kl = steerer.kl(neutral, {feature: strength}, mode=request.mode)
            if not math.isfinite(kl):
                raise InputError(
                    f"at strength {strength:g} of feature {feature} the model predicts nothing finite; give smaller strengths"
                )
            found.append((feature, None, strength, kl, None))
    found.sort(
        key=lambda each: request.features.index(each[0])
    )  # stable: targets and strengths stay as they were given
    return tuple(
        Steering(
            feature=feature,
            target=target,
            strength=strength,
            kl=kl,
            reached=reached,
            perplexity_ratio=defined(steerer.perplexity_ratio(neutral, {feature: strength}, mode=request.mode)),
        )
        for feature, target, strength, kl, reached in found
    )


def _parts(steerer: Steerer, journal: SweepJournal, judge: TextJudge, path: Path) -> list[Part]:
    """All batches, those of the journal first; each of the others is appended to it when it is judged."""
    request, file = journal.request, _journal_path(path)
    variants: list[dict[int, float]] = [{}, *({each.feature: each.strength} for each in journal.steerings)]
    size = max(1, _ROWS_PER_PASS // request.n_samples)
    places = [
        (prompt, seed, first)
        for prompt in range(len(request.prompts))
        for seed in request.seeds
        for first in range(0, len(variants), size)
    ]
    kept: dict[tuple[int, int, int], Part] = {}
    for number, line in enumerate(_lines(file)[1:], start=2):
        part = converted(msgspec.json.decode(line), Part, f"'{file}' line {number}")
        kept[part.prompt, part.seed, part.first] = part
    with progress_bar(total=len(places), what="sweep", unit="batch") as bar:
        bar.update(len(kept))
        for place in places:
            if place in kept:
                continue
            try:
                part = _write(steerer, request, place, variants[place[2] : place[2] + size], judge)
            except InputError as error:
                raise InputError(
                    f"{error} ({len(kept)} of {len(places)} batches are kept in '{file}'; the same command goes on from there)"
                ) from error
            append_line(file, to_line(part))
            kept[place] = part
            bar.update(1)
    return [kept[place] for place in places]


def _write(
    steerer: Steerer,
    request: SweepRequest,
    place: tuple[int, int, int],
    variants: Sequence[dict[int, float]],
    judge: TextJudge,
) -> Part:
    number, seed, first = place
    prompt = request.prompts[number]
    start = steerer.model.encode(prompt)
    prompts = start.repeat(request.n_samples, 1)
    # No two prompts and seeds share their noise, and the first prompt has that of interp steer --seed.
    noise = seed + _LARGEST_SEED * number
    new = steerer.sample_each(
        prompts,
        variants,
        n_tokens=request.n_tokens,
        temperature=request.temperature,
        seed=noise,
        mode=request.mode,
    )
    texts = []
    for tokens in new:
        nll = -steerer.log_probs(torch.cat([prompts, tokens], dim=1), n_prompt=len(start)).double().mean(1)
        texts.append(
            tuple(
                _written(steerer.continuation_text(start, row), row.cpu().numpy(), float(mean), prompt, judge)
                for row, mean in zip(tokens, nll, strict=True)
            )
        )
    return Part(prompt=number, seed=seed, first=first, texts=tuple(texts))


def _written(text: str, tokens: Int[np.ndarray, " n"], nll: float, prompt: str, judge: TextJudge) -> Written:
    return Written(
        text=text,
        nll=defined(nll),
        distinct_2=defined(distinct_n(tokens, n=2)),
        repetition=defined(repetition(tokens)),
        judged=judge(prompt + text, start=len(prompt)),
    )


def _journal_path(path: Path) -> Path:
    return path.with_suffix(".journal.jsonl")


def _lines(path: Path) -> list[str]:
    """The lines of a journal that are whole."""
    lines = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            msgspec.json.decode(line)
            lines.append(line.decode())
        except (msgspec.DecodeError, UnicodeDecodeError):  # cut short, perhaps within a character
            continue
    return lines
