"""One whole training step of a sparse autoencoder: ours against the plain autograd loop that most people would write.

Both do the same work on the same rows from the same weights: squared error summed over the width, mean over the batch; the
decoder's gradient less its part along each row; clipping to norm 1; Adam; unit rows; the count of tokens since each feature
fired. Ours selects, decodes and differentiates active codes alone; the plain loop uses dense products and autograd.

SAELens and dictionary_learning take part where they are installed: each makes its own training step, with its own loss,
auxiliary loss and constraints, on the same rows with the same width, number of features, k and batch.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
from typing import Literal

import torch
import torch.nn.functional as F
from side_by_side import alternate, arguments, report

from interp.decomposers.sae.autoencoder import SAE, SAEConfig
from interp.distributed import World
from interp.store.source import ArraySource
from interp.training.config import Schedule
from interp.training.loop import Training
from interp.training.protocol import Silent

BATCH, K, LR = 2048, 32, 1e-3
Kind = Literal["topk", "batchtopk"]
Step = Callable[[], object]


def rows(d_in: int) -> torch.Tensor:
    """One batch of mean norm sqrt(d_in)."""
    return torch.randn(BATCH, d_in, generator=torch.Generator().manual_seed(0))


def directions(d_in: int, n_features: int) -> torch.Tensor:
    return F.normalize(torch.randn(n_features, d_in, generator=torch.Generator().manual_seed(1)), dim=1)


def plain(kind: Kind, d_in: int, n_features: int) -> Step:
    """Autograd with a dense decode and fused Adam."""
    x, silent_for = rows(d_in), torch.zeros(n_features, dtype=torch.int64)
    W_dec = directions(d_in, n_features)
    W_enc, b_enc, b_dec = W_dec.clone(), torch.zeros(n_features), torch.zeros(d_in)
    parameters = [tensor.requires_grad_() for tensor in (W_enc, b_enc, W_dec, b_dec)]
    optimizer = torch.optim.Adam(parameters, lr=LR, fused=True)

    def step() -> None:
        pre = torch.addmm(b_enc, x - b_dec, W_enc.T)
        if kind == "topk":
            values, indices = pre.topk(K, dim=1, sorted=False)
            z = torch.zeros_like(pre).scatter(1, indices, values.relu())
        else:
            values, indices = pre.flatten().topk(K * BATCH, sorted=False)
            z = torch.zeros_like(pre).flatten().scatter(0, indices, values.relu()).view_as(pre)
        loss = (torch.addmm(b_dec, z, W_dec) - x).square().sum() / BATCH
        loss.backward()
        with torch.no_grad():
            assert W_dec.grad is not None
            W_dec.grad.addcmul_((W_dec.grad * W_dec).sum(1, keepdim=True), W_dec, value=-1)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))
            silent_for.add_(BATCH)
            silent_for[indices.flatten() % n_features if kind == "batchtopk" else indices.flatten()] = 0

    return step


def ours(kind: Kind, d_in: int, n_features: int) -> Step:
    """The step of ``interp.training.loop``, without its records and checkpoints."""
    x = rows(d_in)
    # so many tokens that no record falls due, and a rate that is at its height from the first step
    config = SAEConfig(
        n_features=n_features,
        k=K,
        variant=kind,
        lr=LR,
        batch=BATCH,
        tokens=BATCH * 10**6,
        schedule=Schedule(warmup=0.0),
    )
    training = Training(SAE.trainable(ArraySource(x), config), config, Silent())
    return lambda: training.advance(x, x[:0], World())


def sae_lens(kind: Kind, d_in: int, n_features: int) -> Step:
    """The step of SAELens' ``SAETrainer``, which its ``fit`` repeats."""
    import sae_lens as peer
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    name = {"topk": "TopKTraining", "batchtopk": "BatchTopKTraining"}[kind]
    options = {"d_in": d_in, "d_sae": n_features, "k": K, "normalize_activations": "none"}
    sae = getattr(peer, f"{name}SAE")(getattr(peer, f"{name}SAEConfig")(**options))
    config = SAETrainerConfig(BATCH * 10**6, BATCH, lr=LR, lr_end=LR, device="cpu")
    trainer, x = SAETrainer(config, sae, iter(())), rows(d_in)
    return lambda: trainer.step(x)


def dictionary_learning(kind: Kind, d_in: int, n_features: int) -> Step:
    """``update`` of dictionary_learning's trainers; its step 0 would compute a median besides."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    size = {"activation_dim": d_in, "dict_size": n_features, "k": K, "device": "cpu"}
    trainer = {"topk": TopKTrainer, "batchtopk": BatchTopKTrainer}[kind](
        steps=10**6, warmup_steps=1, lr=LR, layer=0, lm_name="none", seed=0, **size
    )
    x, steps = rows(d_in), count(1)
    return lambda: trainer.update(next(steps), x)


PEERS = {"sae_lens": sae_lens, "dictionary_learning": dictionary_learning}


def main() -> None:
    given = arguments(__doc__ or "")
    alternatives: dict[str, Callable[[Kind, int, int], Step]] = {"plain autograd": plain, "ours": ours}
    skipped = [name for name in PEERS if find_spec(name) is None]
    alternatives |= {name: peer for name, peer in PEERS.items() if name not in skipped}
    cases = {}
    for d_in, n_features in ((512, 4096), (768, 6144)):
        for kind in ("topk", "batchtopk"):
            steps = {name: make(kind, d_in, n_features) for name, make in alternatives.items()}
            cases[f"{kind} {d_in} -> {n_features}"] = alternate(steps, given.rounds)
    report("sae", cases, given, skipped=skipped)


if __name__ == "__main__":
    main()
