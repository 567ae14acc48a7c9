"""Steering on the bundled model: strengths of 64 features for a target KL, searched together against one after the other, and
texts written with the key-value cache against without. Also prints how many texts a second are written in a batch.

    python tests/benchmarks/bench_steering.py
"""

from __future__ import annotations

import statistics

import torch
from side_by_side import alternate, arguments, report
from torch import Tensor

from interp.corpora.labels.python import PYTHON
from interp.corpora.sources import load_corpus
from interp.model.language_model import load_model
from interp.steering.steerer import Steerer

SITE = "blocks.2.hook_resid_post"
N_FEATURES, KL = 64, 0.2
N_TEXTS, N_TOKENS = 16, 48


def main() -> None:
    given = arguments(__doc__ or "")
    model = load_model("demo", device="cpu")
    directions = torch.randn(N_FEATURES, model.site(SITE).d_in, generator=torch.Generator().manual_seed(0))
    steerer = Steerer(model, SITE, directions, torch.full((N_FEATURES,), 50.0))
    text = next(iter(load_corpus(["stdlib:held-out"]).documents)).text
    tokens = model.encode(text)[: 8 * 63].view(8, -1)
    neutral = torch.cat([torch.full((8, 1), model.bos_id), tokens], dim=1)
    features = list(range(N_FEATURES))
    start = model.encode(PYTHON.prompts[1]).repeat(N_TEXTS, 1)

    def cached() -> Tensor:
        return steerer.sample(start, {0: 1.0}, n_tokens=N_TOKENS)

    def uncached() -> Tensor:
        generator, sequence = torch.Generator().manual_seed(0), start
        for _ in range(N_TOKENS):
            logits = steerer.logits(sequence, {0: 1.0})[:, -1]
            noise = torch.empty(logits.shape).exponential_(generator=generator).log_().neg_()
            sequence = torch.cat([sequence, (logits + noise).argmax(-1, keepdim=True)], dim=1)
        return sequence[:, start.shape[1] :]

    assert torch.equal(cached(), uncached())
    cases = {
        f"strengths of {N_FEATURES} features at KL {KL}": alternate(
            {
                "ours": lambda: steerer.strengths_for_kl(features, KL, tokens=neutral),
                "one by one": lambda: [steerer.strengths_for_kl([f], KL, tokens=neutral) for f in features],
            },
            given.rounds,
        ),
        f"{N_TEXTS} texts of {N_TOKENS} tokens": alternate(
            {"ours": cached, "without the cache": uncached}, given.rounds
        ),
    }
    many = start[:1].repeat(256, 1)
    batch = alternate({"ours": lambda: steerer.sample(many, {0: 1.0}, n_tokens=N_TOKENS)}, max(1, given.rounds // 3))
    seconds = statistics.median(each.cpu for each in batch["ours"])
    facts = {"texts of 48 tokens a second of CPU, in a batch of 256": round(256 / seconds, 1)}
    report("steering", cases, given, skipped=[], facts=facts)


if __name__ == "__main__":
    main()
