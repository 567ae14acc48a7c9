"""Feature pages: our capture and index of every feature against sae-dashboard's ``SaeVisRunner``, CPU time a feature.

Both get the bundled model's weights, the same tokens and the same TopK autoencoder, trained here, and make what a page of a
feature shows. Ours captures the site to disk and indexes it, both in one pass for all features. sae-dashboard runs the model
and encodes all tokens again for every batch of features, and then works feature by feature, so its time a feature falls as the
batch grows: timed are 64 at a time (its README), 256 (its default) and all, each one batch of features spread evenly over all.
Our index alone stands beside 256 at a time with the model's activations in its cache from before.

Both make: 50 top examples and 10 of each fifth of the range, with 8 tokens on either side; histograms of activations and of
effects on the logits; the 20 tokens promoted and suppressed most; 20 neighbours. Only ours: top examples of different
sequences, examples near the threshold, at random and not firing, a context of any width, neighbours among all features
(sae-dashboard's are those of the batch), every activation by feature, importance, the file; and it reads and splits the text,
which sae-dashboard gets as tokens. Only sae-dashboard's: correlated neurons, quantiles, skew and kurtosis, the effect on the
logit of each token shown. Its HTML and JSON are not timed.

    python tests/benchmarks/bench_index.py [--features 2048] [--tokens 65536]
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import torch
from peers import peer
from side_by_side import Rounds, Seconds, alternate, arguments, report

from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.sources import load_corpus
from interp.decomposers.sae.autoencoder import SAEConfig
from interp.index.build import IndexConfig, build_index
from interp.index.layout import N_BINS, N_INTERVALS
from interp.interop.saelens import export_saelens
from interp.model.language_model import BUNDLED_MODEL, load_model
from interp.runs.training import train_run

SITE, K, N_CTX = "blocks.2.hook_resid_post", 32, 129
BATCHES = (64, 256)
"""Features at a time of sae-dashboard, beside all."""
SEQUENCES = 16
"""Sequences at a time of sae-dashboard: a fifth faster here than its default of 64."""
CONTEXT = (8, 8)
"""Tokens before and after that sae-dashboard keeps of an example: the narrowest of our page, which costs it least."""


class Task:
    """A store, an autoencoder trained on it for two passes, and both in the form of each tool; kept in ``folder``."""

    def __init__(self, folder: Path, n_features: int, n_tokens: int):
        self.folder, self.model, self.corpus = folder, load_model("demo", device="cpu"), load_corpus(["stdlib"])
        self.capture_config = CaptureConfig(sites=(SITE,), tokens=n_tokens, n_ctx=N_CTX)
        store = capture(self.model, self.corpus, self.capture_config, folder / "store")
        config = SAEConfig(n_features=n_features, k=K, variant="topk", tokens=2 * n_tokens, batch=1024)
        self.run = train_run(store, SITE, config, "sae")
        self.n_features = n_features
        self.tokens = torch.from_numpy(store.tokens()).long()
        if not (folder / "saelens").exists():
            export_saelens(self.run, folder / "saelens")

    def capture(self) -> None:
        """The same store once more."""
        shutil.rmtree(self.folder / "again", ignore_errors=True)
        capture(self.model, self.corpus, self.capture_config, self.folder / "again")

    def index(self) -> Path:
        return build_index(self.run, model=self.model)

    def capture_and_index(self) -> None:
        self.capture()
        self.index()

    def sae_dashboard(self, size: int, cache: Path | None = None) -> Callable[[], Any]:
        """The runner over one batch of ``size`` features, spread evenly over all."""
        dashboard: Any = peer("sae-dashboard")
        saelens: Any = peer("sae-lens")
        model, features = their_model(), list(range(0, self.n_features, self.n_features // size))[:size]

        def run() -> Any:
            autoencoder = saelens.SAE.load_from_disk(self.folder / "saelens")
            # The runner folds the decoder's norms in, which SAELens refuses of TopK without this; ours are 1, so codes stay.
            autoencoder.cfg.rescale_acts_by_decoder_norm = True
            config = dashboard.SaeVisConfig(
                hook_point=SITE,
                features=features,
                minibatch_size_features=size,
                minibatch_size_tokens=SEQUENCES,
                ignore_tokens={self.model.bos_id},
                feature_centric_layout=their_layout(),
                cache_dir=cache,
            )
            return dashboard.SaeVisRunner(config).run(encoder=autoencoder, model=model, tokens=self.tokens)

        return run


def their_model() -> Any:
    """The bundled model as SAELens's ``HookedSAETransformer``, its weights unprocessed as ours are."""
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
    from transformers import AutoModelForCausalLM

    original = AutoModelForCausalLM.from_pretrained(BUNDLED_MODEL, dtype=torch.float32)
    of = original.config
    config = HookedTransformerConfig(
        n_layers=of.n_layer, d_model=of.n_embd, d_head=of.n_embd // of.n_head, n_heads=of.n_head, d_mlp=of.n_inner,
        n_ctx=of.n_positions, d_vocab=of.vocab_size, act_fn=of.activation_function, eps=of.layer_norm_epsilon,
        normalization_type="LN", device="cpu",
    )  # fmt: skip
    saelens: Any = peer("sae-lens")
    model = saelens.HookedSAETransformer(config)
    processing = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    model.load_and_process_state_dict(convert_gpt2_weights(original, config), **dict.fromkeys(processing, False))
    return model


def their_layout() -> Any:
    """A page with as many examples, bins, tokens and neighbours as ours has."""
    from sae_dashboard import components_config as part
    from sae_dashboard.layout import SaeVisLayoutConfig

    ours = IndexConfig()
    examples = part.SequencesConfig(
        buffer=CONTEXT, top_acts_group_size=ours.n_top, n_quantiles=N_INTERVALS, quantile_group_size=ours.n_each
    )
    histograms = (
        part.ActsHistogramConfig(N_BINS),
        part.LogitsTableConfig(ours.n_tokens),
        part.LogitsHistogramConfig(N_BINS),
    )
    columns = (part.FeatureTablesConfig(ours.n_neighbours),), histograms, (examples,)
    return SaeVisLayoutConfig([part.Column(*each) for each in columns])


def check_same(task: Task, pages: Any) -> float:
    """The share of the features' firing tokens by which the tools' counts differ; the store's float16 moves a few."""
    with h5py.File(task.index(), "r") as file:
        ours = file["features/n_fire"][:]
    heights = {f: page.acts_histogram_data.bar_heights for f, page in pages.feature_data_dict.items()}
    share = sum(abs(int(ours[f]) - sum(each)) for f, each in heights.items()) / max(1, ours[list(heights)].sum())
    assert share < 0.01, f"the tools were given different codes: counts of firing tokens differ by {share:.1%}"
    return round(float(share), 5)


def compare(task: Task, rounds: int) -> tuple[dict[str, Rounds], dict[str, Any]]:
    """Times of one feature, and further facts; ours alone where sae-dashboard is not installed."""
    ways: dict[str, Callable[[], object]] = {"capture": task.capture, "index": task.index}
    sizes = dict.fromkeys(ways, task.n_features)
    facts: dict[str, Any] = {}
    theirs: dict[str, int] = {}
    cached = ""
    if peer("sae-dashboard") is not None:
        theirs = {f"sae-dashboard, {size} at a time": size for size in BATCHES if size < task.n_features}
        theirs["sae-dashboard, all at a time"] = task.n_features
        size = min(BATCHES[-1], task.n_features)
        cached = f"sae-dashboard, {size} at a time, cached"
        ways |= {name: task.sae_dashboard(n) for name, n in theirs.items()}
        ways[cached] = task.sae_dashboard(size, task.folder / "cache")
        sizes |= {**theirs, cached: size}
        facts["firing tokens counted differently, of all"] = check_same(task, ways[cached]())
    times = {
        name: [Seconds(each.cpu / sizes[name], each.wall / sizes[name]) for each in taken]
        for name, taken in alternate(ways, rounds).items()
    }
    both = [Seconds(*map(sum, zip(*pair, strict=True))) for pair in zip(times["capture"], times["index"], strict=True)]
    facts["of ours, CPU ms a feature"] = {
        name: round(1000 * statistics.median(each.cpu for each in times[name]), 2) for name in ("capture", "index")
    }
    cases = {"capture and index": {"ours": both, **{name: times[name] for name in theirs}}}
    cases["index alone"] = {"ours": times["index"], **({cached: times[cached]} if cached else {})}
    return cases, facts


MEMORY = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from pathlib import Path
from bench_index import Task
from side_by_side import resident
torch.set_num_threads(int(sys.argv[2]))
task = Task(Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
run = task.capture_and_index if sys.argv[6] == "ours" else task.sae_dashboard(int(sys.argv[6]))
base = resident("VmRSS")
run()
print(resident("VmHWM") - base)
"""


def peak_memory(folder: Path, given: Any) -> dict[str, int]:
    """MiB above what the process holds before, each in a process of its own."""
    ways = {"ours": "ours"}
    if peer("sae-dashboard") is not None:
        sizes = {*BATCHES[-1:], given.features}
        ways |= {f"sae-dashboard, {size} at a time": str(size) for size in sorted(sizes) if size <= given.features}
    found = {}
    for name, way in ways.items():
        sizes_and_way = [str(given.threads), str(folder), str(given.features), str(given.tokens), way]
        command = [sys.executable, "-W", "ignore", "-c", MEMORY, str(Path(__file__).parent), *sizes_and_way]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = round(float(done.stdout.split()[-1]))
    return found


def main() -> None:
    given = arguments(__doc__ or "", rounds=3, sizes={"features": 2048, "tokens": 65_536})
    warnings.simplefilter("ignore")  # the peer uses what torch and TransformerLens are about to drop
    with tempfile.TemporaryDirectory() as scratch:
        task = Task(Path(scratch), given.features, given.tokens)
        cases, facts = compare(task, given.rounds)
        facts["peak memory in MiB"] = peak_memory(Path(scratch), given)
    name = f"index, {given.features} features x {given.tokens} tokens, a feature"
    report(name, cases, given, skipped=[] if peer("sae-dashboard") else ["sae-dashboard"], facts=facts)


if __name__ == "__main__":
    main()
