"""Where directions begin: anywhere, or in the subspace that activations live in (arXiv 2508.16929).

Captures attention outputs of the bundled model, trains both starts with every width, k and seed for equally many tokens, and
counts the features that fire on none of the captured rows. A planted site of low rank, where a random start must fail, stands
beside it, and the spectrum of every attention output, which says what there is to gain. What is there already is not done
again, so it can be interrupted; the table is written anew after every seed.

    python tests/benchmarks/compare_starts.py WORKSPACE --out examples/subspace_start.md

The defaults take some 30 minutes on one core.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float
from torch import Tensor

from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.sources import load_corpus
from interp.decomposers.sae.autoencoder import SAE, SAEConfig, SparseAutoencoder, SubspaceSAE, SubspaceSAEConfig
from interp.decomposers.sae.initialisation import AUTO_SHARE, choose_rank
from interp.files import write_whole
from interp.metrics import matched_cosine
from interp.model.language_model import load_model
from interp.store.source import ActivationSource, ArraySource

CHUNK = 2048
"""Rows that silent features are looked for on at a time."""
STARTS: dict[str, tuple[type[SparseAutoencoder], type[SAEConfig] | type[SubspaceSAEConfig]]] = {
    "random": (SAE, SAEConfig),
    "subspace": (SubspaceSAE, SubspaceSAEConfig),
}


@dataclass(frozen=True)
class Comparison:
    """What is compared, and on how much."""

    workspace: tyro.conf.Positional[Path]
    """Folder of the stores, and of the figures of what was trained."""
    out: Path
    """Markdown file for the tables."""
    site: str = "blocks.2.hook_attn_out"
    """Hook point; 256 wide in the bundled model."""
    widths: tuple[int, ...] = (8, 32)
    """Numbers of features, in widths of the site; the paper's are 8 to 256."""
    ks: tuple[int, ...] = (8, 32)
    """Features active on a token."""
    seeds: int = 3
    """Seeds of each."""
    tokens: int = 300_000
    """Tokens that each is trained on."""
    lr: float = 1e-3
    """Learning rate; larger ones kill features of any start."""
    rows: int = 1_000_000
    """Tokens captured, over which silent features are counted."""


class Figures(msgspec.Struct, frozen=True):
    """What is measured of one training."""

    silent_at_start: float
    """Share of the features that fire on none of 16 384 rows before the first step."""
    dead: float
    """Share of the trained features that fire on none of the rows captured."""
    fvu: float
    """On held-out rows."""
    recovered: float | None = None
    """Mean cosine of the planted directions with those found, each matched with another one."""


@torch.no_grad()
def dead_share(sae: SparseAutoencoder, source: ActivationSource, k: int) -> float:
    """Share of the features of a TopK autoencoder that fire on no row.

    Once few are left, a row is encoded only if one of them is above the k-th largest of the features that fire most: on any
    other row k features are larger than all of them.
    """
    n = sae.n_features
    n_fired = torch.zeros(n, dtype=torch.int64)
    for x in source.chunks(CHUNK):
        silent = (n_fired == 0).nonzero().squeeze(1)
        if not len(silent):
            break
        if len(silent) < n // 8:
            some = torch.cat([n_fired.topk(n // 8).indices, silent])
            pre = torch.addmm(sae.tensors["b_enc"][some], x - sae.b_dec, sae.tensors["W_enc"][:, some])
            kth = pre[:, : n // 8].topk(k, dim=1).values[:, -1]
            x = x[pre[:, n // 8 :].amax(1) >= kth.clamp_min(0)]
        n_fired += (sae.encode(x) > 0).sum(0)
    return float((n_fired == 0).float().mean())


def measured(
    start: str, options: dict[str, Any], source: ActivationSource, held_out: Tensor, truth: np.ndarray | None = None
) -> Figures:
    """Train one, and measure it."""
    method, config = STARTS[start]
    sae = method.fit(source, config(**options))
    recovered = None if truth is None else matched_cosine(sae.write_directions().numpy(), truth)[0]
    return Figures(
        silent_at_start=float(sae.notes["silent_at_start"]),
        dead=dead_share(sae, source, options["k"]),
        fvu=sae.fvu(held_out),
        recovered=recovered,
    )


def planted(n: int, d: int = 256, rank: int = 26, n_directions: int = 512, l0: int = 4) -> tuple[Tensor, np.ndarray]:
    """(rows, the directions planted): positive combinations of ``l0`` directions, ``rank`` dimensions of which hold 99 % of
    their squared length, with a little noise."""
    random = np.random.default_rng(0)
    share = np.r_[np.full(rank, AUTO_SHARE / rank), np.full(d - rank, (1 - AUTO_SHARE) / (d - rank))]
    directions = random.standard_normal((n_directions, d)) * np.sqrt(share)
    directions @= np.linalg.qr(random.standard_normal((d, d)))[0].T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    chosen = torch.from_numpy(random.integers(n_directions, size=(n, l0)))
    codes = torch.from_numpy(random.uniform(0.5, 1.5, (n, l0))).float()
    rows = F.embedding_bag(chosen, torch.from_numpy(directions).float(), per_sample_weights=codes, mode="sum")
    return rows + 0.01 * torch.from_numpy(random.standard_normal((n, d))).float(), directions


READING = """\
With few codes a token (k 8) the paper holds: directions that begin in the subspace nearly all live, of random ones 5 % (8 x)
to 9 % (32 x) die, and the error is lower. With k 32 at most one feature dies from either start, and the subspace loses: its
error is 2 % higher for every seed. Silence at step 0 does not tell the starts apart (28 and 30 % at 32 x): in training those
of the subspace all come to life, random ones do not. On the planted site it takes dead features from 44 to 7 %, but finds the
planted directions no better, so fewer dead features are not more features found. Every attention output here is of low rank,
the first layer's most; the paper's 87 % dead of a million features is out of reach of this machine, and neither shown nor
refuted."""
"""What the tables say, made with the defaults but for two seeds."""


def spectra(model: Any, workspace: Path) -> Iterator[str]:
    """Lines of the table of how many directions each attention output needs."""
    options = CaptureConfig(sites=("blocks.*.hook_attn_out",))
    store = capture(model, load_corpus(["stdlib"]), options, workspace / "starts-spectra")
    yield "| attention output | directions that hold 99 % of the variance | the first alone holds | automatic rank |"
    yield "|---|---|---|---|"
    for site, d_in in store.sites.items():
        moments = store.site(site).moments()
        n, first = moments.rank_for_variance(AUTO_SHARE), moments.spectrum[0][0] / moments.total_variance
        rank = choose_rank(moments, "auto").rank
        yield f"| `{site}` | {n} of {d_in} ({n / d_in:.0%}) | {first:.0%} | {rank} |"


def row(cells: Sequence[str], found: Sequence[Figures]) -> str:
    """Mean over the seeds, with the least and the greatest."""
    shown = [*cells]
    for name, factor, decimals in (("silent_at_start", 100, 1), ("dead", 100, 2), ("fvu", 1, 4), ("recovered", 1, 3)):
        values = [factor * getattr(each, name) for each in found if getattr(each, name) is not None]
        if values:
            mean, least, most = (f"{f(values):.{decimals}f}" for f in (fmean, min, max))
            shown.append(f"{mean} ({least} to {most})" if len(values) > 1 else mean)
    return f"| {' | '.join(shown)} |"


class Comparing:
    """The figures of what was trained so far, kept in the workspace."""

    def __init__(self, given: Comparison):
        self.given, self._path = given, given.workspace / "starts.json"
        self._kept = (
            msgspec.json.decode(self._path.read_bytes(), type=dict[str, Figures]) if self._path.exists() else {}
        )
        self._rows, self._truth = planted(given.tokens)
        model = load_model("demo")
        of_site = CaptureConfig(sites=(given.site,), tokens=given.rows)
        self._store = capture(model, load_corpus(["stdlib"]), of_site, given.workspace / "starts")
        held_out = replace(of_site, tokens=20_000, snippet_tokens=300, snippets=4)
        unseen = capture(model, load_corpus(["stdlib:held-out"]), held_out, given.workspace / "starts-held-out")
        self._held_out: Float[Tensor, "n d_in"] = torch.cat(list(unseen.site(given.site).chunks()))
        self._spectra = list(spectra(model, given.workspace))

    def figures(self, start: str, width: int, k: int, seed: int, *, is_planted: bool = False) -> Figures:
        """Of one training, made if they are not kept."""
        given = self.given
        where = "planted" if is_planted else given.site
        key = f"{where} {start} {width}x k{k} seed {seed} tokens {given.tokens} lr {given.lr} rows {given.rows}"
        if key not in self._kept:
            source = ArraySource(self._rows) if is_planted else self._store.site(given.site)
            options = {"n_features": width * source.d_in, "k": k, "tokens": given.tokens, "lr": given.lr, "seed": seed}
            if is_planted:
                self._kept[key] = measured(start, options, source, self._rows[:20_000], self._truth)
            else:
                self._kept[key] = measured(start, options, source, self._held_out)
            print(key, self._kept[key], flush=True)
            write_whole(self._path, msgspec.json.format(msgspec.json.encode(self._kept), indent=1))
        return self._kept[key]

    def page(self, seeds: Sequence[int]) -> str:
        """The tables over these seeds."""
        given = self.given
        heads = "start | silent at step 0, % | dead, % | FVU"
        lines = [*self._spectra, "", f"| features | k | {heads} |", "|---" * 6 + "|"]
        for width in given.widths:
            for k in given.ks:
                for start in STARTS:
                    found = [self.figures(start, width, k, seed) for seed in seeds]
                    lines.append(row([f"{width} x", str(k), start], found))
        lines += ["", f"| planted, of rank 26 | {heads} | recovered |", "|---" * 6 + "|"]
        for start in STARTS:
            found = [self.figures(start, 8, 8, seed, is_planted=True) for seed in seeds]
            lines.append(row(["8 x, k 8", start], found))
        command = shlex.join(["python", "tests/benchmarks/compare_starts.py", "WORKSPACE", *sys.argv[2:]])
        said = (
            f"`{given.site}` of the bundled model, {len(self._held_out[0])} wide, TopK, {given.tokens:,} tokens each at a "
            f"learning rate of {given.lr:g}; mean over {len(seeds)} seeds (least to greatest). Silent at step 0: share of the "
            "features that fire on none of 16 384 rows before the first step. Dead: share of the trained features that fire "
            f"on none of {len(self._store.site(given.site)):,} rows (planted: {len(self._rows):,}). FVU: on modules held out. "
            "Recovered: mean cosine of the planted directions with those found, one to one."
        )
        return "\n".join(["# Where the directions begin", "", f"    {command}", "", said, "", READING, "", *lines, ""])


def main(given: Comparison) -> None:
    torch.set_num_threads(1)
    comparing = Comparing(given)
    for seed in range(given.seeds):
        write_whole(given.out, comparing.page(range(seed + 1)).encode())


if __name__ == "__main__":
    main(tyro.cli(Comparison, config=(tyro.conf.OmitArgPrefixes,)))
