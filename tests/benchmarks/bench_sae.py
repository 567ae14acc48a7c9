"""One training step of a TopK autoencoder: our sparse backward pass against the plain autograd loop with a dense decode."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from side_by_side import alternate, arguments, report

from interp.decomposers.sparse_kernels import topk_autoencode

BATCH, K = 2048, 32


def step_of(forward: Callable[..., torch.Tensor], d_in: int, n_features: int) -> Callable[[], None]:
    """A whole step: loss, gradients, Adam; weights [n_features, d_in] from one seed."""
    torch.manual_seed(0)
    W_dec = F.normalize(torch.randn(n_features, d_in), dim=1)
    parameters = [W_dec.clone(), torch.zeros(n_features), W_dec, torch.zeros(d_in)]
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    x = torch.randn(BATCH, d_in)

    def step() -> None:
        loss = (forward(x, *parameters) - x).square().sum() / BATCH
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain(
    x: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, W_dec: torch.Tensor, b_dec: torch.Tensor
) -> torch.Tensor:
    """What most people would write."""
    pre = torch.addmm(b_enc, x - b_dec, W_enc.T)
    values, indices = pre.topk(K, dim=1, sorted=False)
    return torch.zeros_like(pre).scatter(1, indices, values.relu()) @ W_dec + b_dec


def ours(
    x: torch.Tensor, W_enc: torch.Tensor, b_enc: torch.Tensor, W_dec: torch.Tensor, b_dec: torch.Tensor
) -> torch.Tensor:
    return topk_autoencode(x, W_enc, b_enc, W_dec, b_dec, K)[0]


def main() -> None:
    given = arguments(__doc__ or "")
    cases = {}
    for d_in, n_features in ((512, 4096), (768, 6144)):
        steps = {"plain autograd": step_of(plain, d_in, n_features), "ours": step_of(ours, d_in, n_features)}
        cases[f"{d_in} -> {n_features}"] = alternate(steps, given.rounds)
    report("sae", cases, given, skipped=[])


if __name__ == "__main__":
    main()
