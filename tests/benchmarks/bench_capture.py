"""Capture of three sites to disk against the model's bare forward pass to the same layer, over the same batches.

"step by step" is TransformerLens' own forward pass, "fused" the same by the model's own kernels, without any hook or disk.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from side_by_side import alternate, arguments, report

from interp.capturing.forward import native_kernels
from interp.capturing.to_store import TOKENS_PER_FORWARD, CaptureConfig, capture
from interp.corpora.documents import Corpus
from interp.corpora.sources import standard_library
from interp.model.language_model import LanguageModel, load_model
from interp.store.reader import ActivationStore

N_TOKENS = {  # a capture has some fixed cost, its self-check above all: half a second's work of the larger model
    "bundled model": 24_576,
    "random GPT-2 small": 8_192,
}
SITES = {
    "bundled model": ("blocks.2.mlp.hook_post", "blocks.2.hook_resid_post", "blocks.2.hook_attn_out"),
    "random GPT-2 small": ("blocks.8.mlp.hook_post", "blocks.8.hook_resid_post", "blocks.8.hook_attn_out"),
}


def gpt2_small(folder: Path) -> LanguageModel:
    """12 layers, d_model 768, n_ctx 1024, 50257 tokens; weights from one seed, the bundled model's tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    load_model("demo").tokenizer.save_pretrained(folder)
    return load_model(str(folder), device="cpu")


def bare(model: LanguageModel, tokens: torch.Tensor, layer: int) -> Callable[[], None]:
    """The forward pass to the end of ``layer`` over all batches."""

    @torch.no_grad()
    def run() -> None:
        for batch in tokens.split(max(1, TOKENS_PER_FORWARD // model.n_ctx)):
            model.bridge(batch, stop_at_layer=layer + 1)

    return run


def ways(model: LanguageModel, sites: tuple[str, ...], n_tokens: int, out: Path) -> dict[str, Callable[[], object]]:
    """Capture to ``out``, and the forward passes over the same batches."""
    corpus = Corpus("stdlib", [document for document, _ in zip(standard_library(), range(300), strict=False)])
    config = CaptureConfig(sites=sites, tokens=n_tokens // model.n_ctx * (model.n_ctx - 1))

    def ours() -> ActivationStore:
        shutil.rmtree(out, ignore_errors=True)
        return capture(model, corpus, config, out)

    step_by_step = bare(model, torch.from_numpy(ours().tokens()).long(), model.site(sites[0]).layer)

    def fused() -> None:
        with native_kernels(model):
            step_by_step()

    return {"bare, step by step": step_by_step, "bare, fused": fused, "ours": ours}


def main() -> None:
    given = arguments(__doc__ or "")
    cases = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, sites in SITES.items():
            model = load_model("demo", device="cpu") if name == "bundled model" else gpt2_small(Path(scratch) / "gpt2")
            cases[name] = alternate(ways(model, sites, N_TOKENS[name], Path(scratch) / "store"), given.rounds)
    report("capture", cases, given, skipped=[])


if __name__ == "__main__":
    main()
