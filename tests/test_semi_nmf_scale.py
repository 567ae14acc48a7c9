"""Semi-NMF on more rows than memory holds, in several processes and in online epochs: the same features come out."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from interp.decomposers.semi_nmf import solver
from interp.decomposers.semi_nmf.codes import CodeTable
from interp.decomposers.semi_nmf.decomposer import SemiNMF, SemiNMFConfig
from interp.decomposers.semi_nmf.start import CHUNK, share_of
from interp.distributed import World
from interp.errors import InputError
from interp.metrics import mean_max_cosine
from interp.store.source import ArraySource

K, D = 16, 120
CONFIG = SemiNMFConfig(n_features=K, sparsity=0.05, passes=25, l1=0.02)


def planted(n: int) -> tuple[torch.Tensor, np.ndarray]:
    """(rows, true features): sparse features of both signs, a few of them in each row, and noise of a tenth."""
    random = np.random.default_rng(0)
    features = np.zeros((K, D))
    for row in features:
        row[random.choice(D, 6, replace=False)] = random.standard_normal(6)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    codes = random.exponential(size=(n, K)) * (random.random((n, K)) < 0.2)
    rows = codes @ features
    rows += 0.1 * rows.std() * random.standard_normal(rows.shape)
    return torch.from_numpy(rows).float(), features


class Memory:
    """A recorder that keeps the losses."""

    checkpoints: Path | None = None

    def __init__(self) -> None:
        self.losses: list[float] = []

    def log(self, record: dict[str, float]) -> None:
        self.losses.append(record["loss"])


# ------------------------------------------------------------------------------------------------------- codes on disk


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_a_code_table_holds_what_was_written_times_its_scale(tmp_path, limit):
    table = CodeTable(50, 3, folder=tmp_path, limit=limit)
    assert table.is_on_disk == (limit == 0)
    assert not table.whole().any()
    codes = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    for first in (32, 0, 16):
        table[slice(first, min(first + 16, 50))] = codes[first : first + 16]
    table[slice(48, 50)] = codes[48:]
    assert torch.equal(table.whole(), codes)
    table.scale = torch.tensor([2.0, 0.0, 1.0])
    assert torch.equal(table[slice(7, 20)], codes[7:20] * table.scale)
    assert list(tmp_path.iterdir()) == []  # nothing to clean up, however the process ends
    table.close()


def test_codes_on_disk_give_the_features_of_codes_in_memory_to_the_bit(monkeypatch):
    x, _ = planted(9000)
    in_memory = SemiNMF.fit(ArraySource(x), CONFIG)
    monkeypatch.setattr(solver, "IN_MEMORY", 0.0)
    on_disk = SemiNMF.fit(ArraySource(x), CONFIG)
    assert torch.equal(in_memory.W_dec, on_disk.W_dec)


def test_rows_streamed_from_a_store_give_the_features_of_rows_in_memory(tiny_store, monkeypatch):
    source = tiny_store.site("blocks.1.mlp.hook_post")
    config = SemiNMFConfig(n_features=12, passes=14)
    in_memory = SemiNMF.fit(ArraySource(source.rows(np.arange(len(source)))), config)
    monkeypatch.setattr(solver, "IN_MEMORY", 0.0)
    streamed = SemiNMF.fit(source, config)
    assert torch.equal(streamed.W_dec, in_memory.W_dec)


# ------------------------------------------------------------------------------------------------------ many processes

JOB = """
import sys
sys.path.insert(0, sys.argv[2])
import torch
from safetensors.torch import save_file
from test_semi_nmf_scale import fitted_with_losses
from interp.distributed import joined

torch.set_num_threads(1)
with joined() as world:
    for online_epochs in (0, 2):
        save_file(fitted_with_losses(online_epochs), f"{sys.argv[1]}/{online_epochs}-{world.size}-{world.rank}")
"""


def fitted_with_losses(online_epochs: int) -> dict[str, torch.Tensor]:
    memory = Memory()
    config = replace(CONFIG, passes=14, levels=(5,), online_epochs=online_epochs)
    tensors = SemiNMF.fit(ArraySource(planted(10_000)[0]), config, memory).tensors  # three chunks
    tensors["losses"] = torch.tensor(memory.losses, dtype=torch.float64)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


@pytest.mark.slow
def test_processes_that_share_the_rows_end_with_what_one_ends_with(tmp_path: Path):
    (tmp_path / "job.py").write_text(JOB)
    arguments = [str(tmp_path / "job.py"), str(tmp_path), str(Path(__file__).parent)]
    for n in (2, 3):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
        subprocess.run([*torchrun, *arguments], check=True, capture_output=True, timeout=120)
    for online_epochs in (0, 2):
        alone = fitted_with_losses(online_epochs)
        for n, rank in ((2, 0), (2, 1), (3, 0), (3, 1), (3, 2)):
            found = load_file(tmp_path / f"{online_epochs}-{n}-{rank}")
            torch.testing.assert_close(found["losses"], alone["losses"], rtol=1e-5, atol=0)
            # A level is solved to a tolerance of its own, so what differs below it may grow.
            for name, tolerance in (("features", 1e-5), ("level1.features", 1e-4)):
                assert float((found[name] - alone[name]).norm() / alone[name].norm()) < tolerance, name
                assert torch.equal(found[name], load_file(tmp_path / f"{online_epochs}-{n}-0")[name])


@pytest.mark.parametrize("n", [1, 4096, 4097, 50_000])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_processes_keep_every_row_once_in_whole_chunks(n: int, size: int):
    shares = [share_of(n, World(rank, size)) for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(n))
    assert all(share.start % CHUNK == 0 or not share for share in shares)
    assert max(map(len, shares)) <= CHUNK * -(-n // (CHUNK * size))


# ------------------------------------------------------------------------------------------------------------ target L0


@pytest.mark.parametrize("options", [{"target_l0": 2.0}, {"target_l0": 5.0, "debias": True}], ids=str)
def test_a_target_l0_is_reached_on_other_rows_within_a_tenth(options):
    x, _ = planted(10_000)
    config = replace(CONFIG, l1=None, **options)
    found = SemiNMF.fit(ArraySource(x[:7000]), config)
    assert found.config == config
    assert float((found.encode(x[7000:]) > 0).sum(1).float().mean()) == pytest.approx(config.target_l0, rel=0.1)
    assert torch.equal(SemiNMF.fit(ArraySource(x[:7000]), config).W_dec, found.W_dec)
    untrained = SemiNMF.untrained(ArraySource(x[:7000]), config)
    assert float((untrained.encode(x[7000:]) > 0).sum(1).float().mean()) == pytest.approx(config.target_l0, rel=0.1)


# ------------------------------------------------------------------------------------------------------- online epochs


def test_online_epochs_find_planted_features_with_few_passes_after():
    x, features = planted(30_000)
    fitted = SemiNMF.fit(ArraySource(x), replace(CONFIG, online_epochs=3, passes=3))
    assert mean_max_cosine(features, fitted.W_dec.numpy()) >= 0.95
    assert (fitted.W_dec != 0).sum(1).max() == 6
    torch.testing.assert_close(fitted.W_dec.norm(dim=1), torch.ones(K))


def test_the_passes_after_online_epochs_never_raise_the_objective():
    x, _ = planted(6000)
    memory = Memory()
    SemiNMF.fit(ArraySource(x), replace(CONFIG, online_epochs=1, passes=10), memory)
    rounding = 2e-7 * float(x.square().sum(1).mean())
    assert all(after <= before + rounding for before, after in pairwise(memory.losses))


def test_fewer_rows_than_a_batch_are_one_batch():
    x, _ = planted(400)
    assert SemiNMF.fit(ArraySource(x), replace(CONFIG, online_epochs=4)).fvu(x) < 0.2


# --------------------------------------------------------------------------------------------- the multiplicative updates


def test_the_multiplicative_updates_are_the_formula_of_the_paper():
    from interp.decomposers.semi_nmf.multiplicative import multiplicative_updates

    random = torch.Generator().manual_seed(0)
    x, g = torch.randn(40, 12, generator=random).double(), torch.rand(40, 4, generator=random).double()
    updates = multiplicative_updates(x, g, s=5)
    for _ in range(3):
        g = g / g.norm(dim=0)
        f = torch.linalg.inv(g.T @ g + 1e-6 * torch.eye(4)) @ g.T @ x
        f = torch.where(f.abs() >= f.abs().sort(dim=1).values[:, [-5]], f, 0)
        features, codes, error = next(updates)
        torch.testing.assert_close(features, f)
        torch.testing.assert_close(codes, g)
        assert error == pytest.approx(float((x - g @ f).square().sum()))
        p, q = x @ f.T, f @ f.T
        positive, negative = (lambda a: a * (a > 0)), (lambda a: -a * (a < 0))
        g = g * ((positive(p) + g @ negative(q)) / (negative(p) + g @ positive(q) + 1e-6)).sqrt()


def test_the_multiplicative_solver_fits_under_the_constraints_and_is_worse():
    x, features = planted(2000)
    config = replace(CONFIG, l1=0.0, passes=200)
    reference = SemiNMF.fit(ArraySource(x), replace(config, solver="multiplicative"))
    ours = SemiNMF.fit(ArraySource(x), config)
    torch.testing.assert_close(reference.W_dec.norm(dim=1), torch.ones(K))
    assert (reference.W_dec != 0).sum(1).max() == 6
    assert mean_max_cosine(features, reference.W_dec.numpy()) > 0.7
    assert ours.fvu(x) <= reference.fvu(x)


def test_options_the_multiplicative_updates_lack_are_refused():
    with pytest.raises(InputError, match="the multiplicative updates have neither l1 nor online epochs; add --l1 0"):
        SemiNMFConfig(solver="multiplicative")
