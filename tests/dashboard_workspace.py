"""A small workspace for the dashboard's tests: a random GPT-2, text that would do harm unescaped, two runs, one index.

Everything goes through the project's own capture, training and indexing, so that the pages are tested on real files.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.documents import Corpus, Document
from interp.decomposers.baselines.pca import PCAConfig
from interp.decomposers.bilinear.autoencoder import BilinearConfig
from interp.decomposers.sae.autoencoder import SAEConfig
from interp.decomposers.semi_nmf.decomposer import SemiNMFConfig
from interp.evaluation.estimates import Estimate
from interp.evaluation.evidence import CausalTest, Counterpart, Detected, Evidence, FeatureEvidence, Output
from interp.index.build import IndexConfig, build_index
from interp.manifolds.build import build_manifolds
from interp.model.language_model import load_model
from interp.runs.record import Run
from interp.runs.training import train_run

SITE = "blocks.0.mlp.hook_post"
HARMFUL = ("<script>", "<b>", "<img src=x onerror=alert(1)>")
"""Tokens of the vocabulary and of the text: shown, they must stay text."""

_TEXT = '''
def read_{name}(path, limit={number}):
    """Read {name} from <b>path</b>."""
    with open(path) as file:
\t\trows = [line.split(",") for line in file if "{name}" in line]
    return rows[:limit] + ["<script>alert({number})</script>", "<img src=x onerror=alert(1)>"]


class {Name}Error(ValueError):
    # raised when {name} is missing
    limit = {number}

'''


@dataclass(frozen=True)
class DashboardWorkspace:
    """The folder of stores, and the runs in it by what they are for."""

    folder: Path
    run: Run
    """Indexed, and left alone by the tests that share the workspace."""
    bare: Run
    """Without an index."""

    @property
    def name(self) -> str:
        return f"{self.run.path.parent.parent.name}/{self.run.path.name}"

    def copied_to(self, folder: Path) -> DashboardWorkspace:
        """The same in another folder, which is made."""
        shutil.copytree(self.folder, folder)
        run, bare = (Run.load(folder / each.path.relative_to(self.folder)) for each in (self.run, self.bare))
        return DashboardWorkspace(folder, run, bare)


def make_workspace(folder: Path, *, n_tokens: int = 3000) -> DashboardWorkspace:
    """Build model, store, runs and index below ``folder``, in a few seconds."""
    model = load_model(str(_tiny_model(folder / "model")), device="cpu")
    corpus = Corpus("test", [Document(f"module_{i}.py", _document(i)) for i in range(8)])
    config = CaptureConfig(sites=(SITE,), tokens=n_tokens, n_ctx=64)
    store = capture(model, corpus, config, folder / "activations" / "tiny")
    run = train_run(store, SITE, SAEConfig(n_features=48, k=4, tokens=30_000), "sae")
    bare = train_run(store, SITE, PCAConfig(n_features=8), "pca")
    build_index(run, config=IndexConfig(n_top=20, n_sample=512), model=model)
    return DashboardWorkspace(folder / "activations", run, bare)


def add_other_kinds(made: DashboardWorkspace) -> None:
    """Two indexed runs more, of fewer features and of the kinds that have pages of their own: "levels" and "forms".

    Manifolds need a store of 4000 tokens.
    """
    store = made.run.store()
    levels = train_run(store, SITE, SemiNMFConfig(n_features=9, passes=12, levels=(3,)), "levels")
    forms = train_run(store, SITE, BilinearConfig(n_features=12, tokens=20_000, batch=256), "forms")
    for run in (levels, forms):
        build_index(run, config=IndexConfig(n_top=20, n_sample=512), model=load_model(run.model_id))
    build_manifolds(forms, model=load_model(forms.model_id))


def evidence_by_hand(run: Run, n_features: int = 48) -> Evidence:
    """Evidence of four kinds of features in turn: one that acts, one that detects, one that is contradicted, one of no concept.

    Excess falls with the number; simulability rises; only features below 8 have counterparts under other seeds, of cosine
    0.9, 0.8 and so on. Every sixth is estimated to make the model write comments; the estimate of the others is below chance.
    """
    acts = CausalTest(by="ablation", concept="comment", effect=Estimate(value=0.1, low=0.05, high=0.15))
    against = CausalTest(by="steering", concept="keyword", effect=Estimate(value=-0.1, low=-0.15, high=-0.05))
    tests = ((acts,), (), (against,), ())
    features = []
    for f in range(n_features):
        excess = 0.5 - f / 100
        detected = Detected(
            concept=("comment", "<b>number", "keyword", "keyword")[f % 4],
            f1=0.6,
            precision=0.7,
            recall=0.5,
            excess=Estimate(value=excess, low=excess - 0.1, high=excess + 0.1),
            n_documents=9,
            is_detected=f % 4 < 3,
        )
        seeds = (Counterpart(run="pca", feature=f, cosine=0.9 - f / 10, chance=0.3),) if f < 8 else ()
        features.append(
            FeatureEvidence(
                feature=f,
                sign=1,
                n_fires=100,
                detected=detected,
                tokens=("<script>", "  "),
                simulability=0.5 + f / 100,
                seeds=seeds,
                tests=tests[f % 4],
                output=Output(concept="comment", sign=1 - 2 * (f % 2), lift=1.0 if f % 6 else 3.0, chance=2.0),
            )
        )
    return Evidence(run_identity=run.identity, store_identity="by hand", features=tuple(features))


def _document(i: int) -> str:
    words = ("users", "prices", "tokens", "layers", "cities", "orders", "scores", "files")
    return "".join(
        _TEXT.format(name=words[(i + j) % 8], Name=words[(i + j) % 8].title(), number=10 * i + j) for j in range(8)
    )


def _tiny_model(folder: Path) -> Path:
    """A random GPT-2 of two layers with a byte-level BPE of 500 tokens, saved as any Hugging Face model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([_document(i) for i in range(8)], trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in HARMFUL])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    torch.manual_seed(0)
    size = GPT2Config(
        vocab_size=len(wrapped), n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(size).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder
