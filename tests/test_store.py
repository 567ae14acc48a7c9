"""The store on disk: what is read is what was written, by any route; what is damaged or unfinished is said to be so."""

from __future__ import annotations

import functools
import json
import re
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from msgspec import structs

from interp.corpora.packing import Sequences
from interp.distributed import World
from interp.errors import InputError
from interp.store import reader as reader_module
from interp.store import writer as writer_module
from interp.store.manifest import Manifest, Shard
from interp.store.moments import moments_of
from interp.store.reader import ActivationStore
from interp.store.shard import ShardContent
from interp.store.source import ArraySource, shuffled_batches
from interp.store.writer import StoreWriter

SITE, NARROW = "blocks.0.mlp.hook_post", "blocks.0.hook_resid_post"
N_CTX, D_IN, N_PER_SHARD = 9, 6, 4
MANIFEST = Manifest(
    model_id="m", model_fingerprint="f", tokenizer_fingerprint="t", corpus="made up", n_tokens=0, n_ctx=N_CTX, bos_id=0,
    sites={SITE: D_IN, NARROW: 2}, dtype="float32", label_sets={"kinds": ["odd", "line_depth"]},
    sequences_per_shard=N_PER_SHARD, versions={"torch": "2"},
    compressed=False, seconds=0.0, checks={}, shards=(), complete=False,
)  # fmt: skip


class Written:
    """The arrays of a store of three shards: 11 sequences, a separator in every second one, the last one cut short."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.tokens = rng.integers(1, 50, (11, N_CTX)).astype(np.int32)
        self.tokens[:, 0] = self.tokens[::2, 5] = 0
        self.is_row = self.tokens > 0
        self.is_row[-1, 4:] = False
        self.document = np.repeat(np.arange(11, dtype=np.int32) // 2, N_CTX).reshape(11, N_CTX)
        self.offset = rng.integers(0, 900, (11, N_CTX)).astype(np.int32)
        self.labels = rng.integers(0, 9, (11, N_CTX, 2)).astype(np.uint8)
        self.n_rows = int(self.is_row.sum())
        self.activations = {
            SITE: rng.normal(size=(self.n_rows, D_IN)).astype(np.float32),
            NARROW: rng.normal(size=(self.n_rows, 2)).astype(np.float32),
        }

    def shards(self) -> list[ShardContent]:
        found, row = [], 0
        for first in range(0, 11, N_PER_SHARD):
            part = slice(first, first + N_PER_SHARD)
            numbers = np.unique(self.document[part])
            sequences = Sequences(
                tokens=self.tokens[part],
                document=self.document[part],
                offset=self.offset[part],
                is_row=self.is_row[part],
                labels=self.labels[part],
                document_names={int(number): f"é{number}.py" for number in numbers},
            )
            n = int(self.is_row[part].sum())
            found.append(ShardContent(sequences, {k: v[row : row + n] for k, v in self.activations.items()}))
            row += n
        return found


def write(folder: Path, written: Written, **changed: Any) -> ActivationStore:
    manifest = structs.replace(MANIFEST, n_tokens=written.n_rows, **changed)
    with StoreWriter(folder, manifest) as writer:
        for shard in written.shards():
            writer.append(shard)
        writer.finish()
    return ActivationStore(folder)


@pytest.fixture(scope="module")
def written() -> Written:
    return Written()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, written: Written) -> ActivationStore:
    return write(tmp_path_factory.mktemp("activations") / "small", written)


@pytest.fixture
def copy(store: ActivationStore, tmp_path: Path) -> Path:
    """The store's folder, to be damaged."""
    return Path(shutil.copytree(store.path, tmp_path / "copy"))


def change_manifest(folder: Path, **changed: Any) -> None:
    record = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps(record | changed))


# ------------------------------------------------------------------------------------------------------------- reading


def test_arrays_come_back_as_they_were_written(store: ActivationStore, written: Written) -> None:
    assert (store.n_rows, store.n_sequences, store.n_ctx) == (written.n_rows, 11, N_CTX)
    assert store.name == "small"
    assert store.sites == {SITE: D_IN, NARROW: 2}
    np.testing.assert_array_equal(store.tokens(), written.tokens)
    np.testing.assert_array_equal(store.positions(), np.argwhere(written.is_row))
    np.testing.assert_array_equal(store.labels("kinds"), written.labels[written.is_row])
    names, document = store.documents()
    assert names == [f"é{number}.py" for number in range(6)]
    np.testing.assert_array_equal(document, written.document)


@pytest.mark.parametrize("size", [1, 7, 26, 1000])
def test_rows_and_chunks_equal_the_arrays_across_shards(store: ActivationStore, written: Written, size: int) -> None:
    source, expected = store.site(SITE), torch.from_numpy(written.activations[SITE])
    assert (len(source), source.d_in) == tuple(expected.shape)
    chunks = list(source.chunks(size))
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert torch.equal(torch.cat(chunks), expected)
    indices = np.random.default_rng(1).integers(0, len(source), 50)
    assert torch.equal(source.rows(indices), expected[indices])
    assert source.rows(np.zeros(0, np.int64)).shape == (0, D_IN)
    with pytest.raises(IndexError):
        source.rows(np.asarray([len(source)]))
    with pytest.raises(IndexError):
        source.rows(np.asarray([-1]))


def test_a_site_is_read_like_an_array(store: ActivationStore, written: Written) -> None:
    source, expected = store.site(SITE), torch.from_numpy(written.activations[SITE])
    for which in (3, -1, slice(5), slice(None, None, 7), [4, 0, 4], np.arange(len(source)) % 3 == 0):
        assert torch.equal(source[which], expected[which])
    np.testing.assert_array_equal(np.asarray(source), expected.numpy())
    assert np.asarray(source, dtype=np.float16).dtype == np.float16
    assert len(list(source)) == len(expected)
    with pytest.raises(IndexError):
        source[len(source)]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells what is mapped")
@pytest.mark.parametrize("is_compressed", [False, True])
def test_what_is_read_beyond_the_limit_is_not_kept_in_memory(
    tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch, is_compressed: bool
) -> None:
    expected, row_bytes = torch.from_numpy(written.activations[SITE]), 4 * D_IN
    first = written.shards()[0].activations[SITE]
    monkeypatch.setattr(reader_module, "MAPPED", len(first) * row_bytes)
    source = write(tmp_path / "s", written, compressed=is_compressed).site(SITE)
    order = np.random.default_rng(1).permutation(len(source))
    for _ in range(2):
        assert torch.equal(source.rows(order), expected[order])
        assert torch.equal(torch.cat(list(source.chunks(7))), expected)
    addresses = [mapped.rows.ctypes.data for mapped in source._maps]
    assert [resident_bytes(address) > 0 for address in addresses] == [True, False, False]


def resident_bytes(address: int) -> int:
    """Of the mapping that ``address`` lies in."""
    is_in = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            is_in = int(found[1], 16) <= address < int(found[2], 16)
        elif is_in and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"nothing is mapped at {address:x}")


def test_float16_values_are_the_rounded_ones_and_come_as_float32(tmp_path: Path, written: Written) -> None:
    chunk = next(write(tmp_path / "half", written, dtype="float16").site(SITE).chunks())
    assert chunk.dtype == torch.float32
    np.testing.assert_array_equal(chunk.numpy(), written.activations[SITE].astype(np.float16).astype(np.float32))


def test_a_compressed_store_is_smaller_and_reads_the_same(tmp_path: Path, written: Written) -> None:
    smooth = Written()
    smooth.activations[SITE] = np.repeat(smooth.activations[SITE][:1], written.n_rows, axis=0)
    plain, small = write(tmp_path / "plain", smooth), write(tmp_path / "small", smooth, compressed=True)
    for site in plain.sites:
        assert torch.equal(torch.cat(list(small.site(site).chunks(7))), torch.cat(list(plain.site(site).chunks(7))))
    with h5py.File(small.path / "shards" / "000000.h5", "r") as file:
        assert file[f"sites/{SITE}"].id.get_storage_size() < file[f"sites/{SITE}"].nbytes
    with h5py.File(small.path / "store.h5", "r") as file:
        np.testing.assert_array_equal(file[f"sites/{SITE}"][()], smooth.activations[SITE])


def test_store_h5_shows_whole_arrays_to_h5py_alone(
    store: ActivationStore, written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = shutil.copytree(store.path, tmp_path / "moved")  # links are relative: a store may be moved
    monkeypatch.chdir(tmp_path)
    with h5py.File(moved / "store.h5", "r") as file:
        for site, values in written.activations.items():
            np.testing.assert_array_equal(file[f"sites/{site}"][()], values)
        np.testing.assert_array_equal(file["tokens"][()], written.tokens)
        np.testing.assert_array_equal(file["token_offset"][()], written.offset)
        np.testing.assert_array_equal(file["token_document"][()], written.document)
        np.testing.assert_array_equal(file["labels/kinds"][()], written.labels[written.is_row])
        np.testing.assert_array_equal(file["rows"][()], np.argwhere(written.is_row))


def test_equal_content_is_equal_bytes_and_other_content_another_identity(
    store: ActivationStore, written: Written, tmp_path: Path
) -> None:
    again = write(tmp_path / "again", Written())
    assert again.identity == store.identity
    for shard in store.manifest.shards:
        assert (again.path / "shards" / shard.file).read_bytes() == (store.path / "shards" / shard.file).read_bytes()
    other = Written()
    other.activations[NARROW][0, 0] += 1
    assert write(tmp_path / "other", other).identity != store.identity


# ------------------------------------------------------------------------------------------------------------- batches


@pytest.fixture(params=["store", "array"])
def source(request: pytest.FixtureRequest, store: ActivationStore, written: Written) -> Any:
    return store.site(SITE) if request.param == "store" else ArraySource(written.activations[SITE])


def row_numbers(batch: torch.Tensor, written: Written) -> list[int]:
    """Which rows a batch holds; every row of the fixture is different."""
    matches = (batch[:, None] == torch.from_numpy(written.activations[SITE])[None]).all(2)
    assert (matches.sum(1) == 1).all()
    return matches.int().argmax(1).tolist()


def test_every_epoch_is_another_permutation_without_repeats(source: Any, written: Written) -> None:
    n, size = written.n_rows, 8
    per_epoch = n // size
    batches = shuffled_batches(source, size, range(3 * per_epoch), seed=3)
    epochs = [[i for batch in islice(batches, per_epoch) for i in row_numbers(batch, written)] for _ in range(3)]
    assert list(batches) == []
    for epoch in epochs:
        assert len(set(epoch)) == per_epoch * size
    assert epochs[0] != epochs[1] != epochs[2]
    whole = [i for batch in shuffled_batches(source, 1, range(n), seed=3) for i in row_numbers(batch, written)]
    assert sorted(whole) == list(range(n))


@pytest.mark.parametrize("start", [0, 1, 8, 9, 10, 25])
def test_batches_go_on_exactly_where_they_were_left(source: Any, start: int) -> None:
    expected = list(shuffled_batches(source, 8, range(start + 5), seed=1))[start:]
    found = list(shuffled_batches(source, 8, range(start, start + 5), seed=1))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_processes_share_each_batch_and_rows_held_out_are_in_none(source: Any, written: Written) -> None:
    held_out = np.asarray([0, 3, 4, 5, 30, 31, 40, written.n_rows - 1])
    n = written.n_rows - len(held_out)
    ones = shuffled_batches(source, 1, range(n), seed=1, held_out=held_out)
    epoch = [i for batch in ones for i in row_numbers(batch, written)]
    assert sorted(epoch) == sorted(set(range(written.n_rows)) - set(held_out.tolist()))
    steps = range(5)
    batches = list(shuffled_batches(source, 9, steps, seed=1, held_out=held_out))
    shares = [
        list(shuffled_batches(source, 9, steps, seed=1, held_out=held_out, share=slice(i, None, 2))) for i in range(2)
    ]
    for batch, even, odd in zip(batches, *shares, strict=True):
        assert torch.equal(batch[::2], even)
        assert torch.equal(batch[1::2], odd)


def test_the_order_depends_on_the_seed_alone_and_a_batch_fits_the_source(source: Any, written: Written) -> None:
    first, again, other = (next(shuffled_batches(source, 8, range(1), seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(InputError, match=rf"a batch of 999 rows .* the source holds {written.n_rows}; use a smaller"):
        next(shuffled_batches(source, 999, range(1), seed=0))


def test_an_array_without_rows_is_refused() -> None:
    with pytest.raises(InputError, match=r"activations are a matrix of rows, but this one has shape \(0, 3\)"):
        ArraySource(np.zeros((0, 3), np.float32))


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (300, 300, [0, 1, 3]),
        (300, 88, [0, 1, 3]),
        (300, 87, [0, 1]),  # the third shard is missing: its rows are not known, and the fourth may hold the end
        (300, 51, [0, 1]),
        (300, 50, [0]),
        (300, 30, []),
        (70, 300, [0, 1]),
        (None, 51, [0, 1]),
        (300, None, [0, 1, 3]),
        (84, None, [0, 1]),
    ],
)
def test_of_a_capture_of_another_number_of_tokens_the_shards_before_both_ends_are_kept(
    before: int | None, after: int | None, kept: list[int]
) -> None:
    sizes = {0: 30, 1: 20, 3: 5}  # and at most 4 * 8 rows in the one that is missing
    shards = tuple(Shard(f"{number:06d}.h5", n_rows, N_PER_SHARD, 1, "") for number, n_rows in sizes.items())
    manifest = structs.replace(MANIFEST, n_tokens=before, shards=shards).with_n_tokens(after)
    assert manifest.n_tokens == after
    assert [shard.number for shard in manifest.shards] == kept


# ------------------------------------------------------------------------------------------------------------- moments


def test_moments_are_kept_and_thrown_away_with_the_content(
    copy: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_computed = 0

    def counted(chunks: Any) -> Any:
        nonlocal n_computed
        n_computed += 1
        return moments_of(chunks)

    monkeypatch.setattr(reader_module, "moments_of", counted)
    source = ActivationStore(copy).site(SITE)
    first, x = source.moments(), written.activations[SITE].astype(np.float64)
    np.testing.assert_allclose(first.covariance, np.cov(x, rowvar=False, bias=True), atol=1e-12)
    kept = ActivationStore(copy).site(SITE).moments()
    assert n_computed == 1
    np.testing.assert_array_equal(kept.mean, first.mean)
    np.testing.assert_array_equal(kept.covariance, first.covariance)
    assert (kept.n, kept.mean_norm) == (first.n, first.mean_norm)
    shards = json.loads((copy / "store.json").read_text())["shards"]
    change_manifest(copy, shards=[{**shard, "sha256": "0" * 64} for shard in shards])
    ActivationStore(copy).site(SITE).moments()
    assert n_computed == 2


# -------------------------------------------------------------------------------------------------- damaged and unknown


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": 1}, r"is interp-activation-store version 1, this program reads interp-activation-store version 2"),
        ({"schema": "other"}, r"is other version 2, this program reads interp-activation-store"),
        ({"surprise": 1}, r"store.json' is damaged: object contains unknown field surprise; make it again"),
        (
            {"shards": [{"name": "000000.h5"}]},
            r"is damaged: object contains unknown field name at shards\[0\]; make it again",
        ),
        (
            {"complete": False, "n_tokens": 5000},
            r"was interrupted after 78 of 5,000 tokens; run the same interp capture",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copy: Path, changed: dict[str, Any], message: str) -> None:
    change_manifest(copy, **changed)
    with pytest.raises(InputError, match=message):
        ActivationStore(copy)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_manifest_that_is_no_json_is_refused(copy: Path, content: bytes) -> None:
    (copy / "store.json").write_bytes(content)
    with pytest.raises(InputError, match=r"store.json' is damaged: it is not valid JSON; make it again"):
        ActivationStore(copy)


def test_what_is_no_store_is_refused(copy: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", copy / "store.json"):
        with pytest.raises(InputError, match=r"is no activation store; make one with interp capture"):
            ActivationStore(path)


def test_a_missing_or_truncated_shard_is_named(copy: Path) -> None:
    shard = copy / "shards" / "000001.h5"
    content = shard.read_bytes()
    advice = (
        r"000001.h5' is missing or cut short; delete it if it is there and run the same interp capture command again"
    )
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=advice):
        ActivationStore(copy)
    shard.unlink()
    with pytest.raises(InputError, match=advice):
        ActivationStore(copy)


def test_a_damaged_shard_is_named_by_whoever_reads_it(copy: Path) -> None:
    shard = copy / "shards" / "000001.h5"
    shard.write_bytes(bytes(shard.stat().st_size))
    store = ActivationStore(copy)
    for read in (store.tokens, lambda: next(store.site(SITE).chunks())):
        with pytest.raises(
            InputError, match=r"000001.h5' cannot be read \(.*run the same interp capture command again"
        ):
            read()


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.99])
def test_one_flipped_bit_anywhere_is_found(copy: Path, at: float) -> None:
    assert ActivationStore(copy).verify() == []
    shard = copy / "shards" / "000002.h5"
    content = bytearray(shard.read_bytes())
    content[int(at * len(content))] ^= 16
    shard.write_bytes(content)
    assert ActivationStore(copy).verify() == ["000002.h5"]


def test_what_is_missing_or_damaged_is_written_again_by_the_same_request(
    copy: Path, store: ActivationStore, written: Written
) -> None:
    (copy / "shards" / "000000.h5").unlink()
    (copy / "shards" / "000002.h5").write_bytes(b"short")
    manifest = structs.replace(MANIFEST, n_tokens=written.n_rows)
    with StoreWriter(copy, manifest) as writer:
        assert not writer.is_complete
        shards = written.shards()
        for number, block in writer.missing(iter([shard.sequences for shard in shards])):
            assert number in (0, 2)
            assert block is shards[number].sequences
            writer.append(shards[number], number)
        writer.finish()
    assert ActivationStore(copy).verify() == []
    assert ActivationStore(copy).identity == store.identity


def test_a_shard_of_another_store_is_noticed(copy: Path) -> None:
    shutil.copy(copy / "shards" / "000002.h5", copy / "shards" / "000001.h5")
    shards = json.loads((copy / "store.json").read_text())["shards"]
    change_manifest(copy, shards=[shards[0], {**shards[1], "n_bytes": shards[2]["n_bytes"]}, shards[2]])
    with pytest.raises(InputError, match=r"000001.h5' holds \(18, 6\) values at .* not 30 rows"):
        next(ActivationStore(copy).site(SITE).chunks())


def test_unknown_names_are_refused_with_the_near_ones(store: ActivationStore) -> None:
    with pytest.raises(
        InputError, match=r"no hook point 'blocks.0.mlp.hook_pst' in the store .*did you mean 'blocks.0"
    ):
        store.site("blocks.0.mlp.hook_pst")
    with pytest.raises(InputError, match=r"no label set 'kind' in the store .*did you mean 'kinds'"):
        store.labels("kind")


# ------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            70000.0,
            "the value 70000 at sequence 5, position 3, does not fit float16, whose largest .* use --dtype float32",
        ),
        (float("nan"), "the value nan at sequence 5, position 3, is not a finite number; look at what the model makes"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_site_sequence_and_position(
    tmp_path: Path, value: float, message: str
) -> None:
    odd = Written()
    row = np.flatnonzero((np.argwhere(odd.is_row) == [5, 3]).all(1))[0]
    odd.activations[SITE][row, 2] = value
    with pytest.raises(InputError, match=f"{SITE}: {message}"):
        write(tmp_path / "odd", odd, dtype="float16")
    assert "000000.h5" in [shard.file for shard in Manifest.read(tmp_path / "odd").shards]  # what was whole is kept
    odd.activations[SITE][0, 0] = value
    with pytest.raises(InputError, match="at sequence 0, position 1"):
        write(tmp_path / "at once", odd, dtype="float16")
    assert not (tmp_path / "at once").exists()  # nothing half-written is left behind


def test_whole_shards_are_kept_when_a_later_one_is_refused(tmp_path: Path) -> None:
    odd = Written()
    odd.activations[SITE][-1] = float("inf")
    with pytest.raises(InputError, match="the value inf at sequence 10, position 3, is not a finite number"):
        write(tmp_path / "odd", odd)
    assert Manifest.read(tmp_path / "odd").n_sequences == 2 * N_PER_SHARD
    with pytest.raises(InputError, match=r"was interrupted after 60 of 78 tokens"):
        ActivationStore(tmp_path / "odd")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, written: Written) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(InputError, match="is not empty and holds no store; choose another --out"):
            write(folder, written)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_a_store_of_another_request_is_refused_and_left_alone(copy: Path, written: Written) -> None:
    with pytest.raises(InputError, match=r"holds another capture \(dtype: float32 there, float16 asked\)"):
        write(copy, written, dtype="float16")
    assert ActivationStore(copy).n_rows == written.n_rows


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path: Path, written: Written) -> None:
    manifest = structs.replace(MANIFEST, n_tokens=written.n_rows)
    with StoreWriter(tmp_path / "store", manifest) as writer:
        writer.append(written.shards()[0])
        with pytest.raises(
            InputError, match=r"another process is writing the store '.*store'; wait until it has ended"
        ):
            StoreWriter(tmp_path / "store", manifest)
    with StoreWriter(tmp_path / "store", manifest) as writer:
        for shard in written.shards()[1:]:
            writer.append(shard)
        writer.finish()
    assert ActivationStore(tmp_path / "store").n_rows == written.n_rows


@dataclass(frozen=True)
class Beside(World):
    """One of several processes, in a test that runs them one after the other."""

    def wait(self) -> None:
        pass


def test_processes_share_the_shards_the_same_way_however_fast_each_is(
    tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, shards = structs.replace(MANIFEST, n_tokens=written.n_rows), written.shards()
    writers = []
    for rank in range(2):
        monkeypatch.setattr(writer_module, "world", functools.partial(Beside, rank, 2))
        writers.append(StoreWriter(tmp_path / "store", manifest))
    slow, fast = writers
    blocks = [shard.sequences for shard in shards]
    with slow:
        with fast:
            for number, _ in fast.missing(iter(blocks)):
                fast.append(shards[number], number)
        assert Manifest.read(tmp_path / "store").n_rows == len(shards[1].activations[SITE])  # the fast one has ended
        slow.note_checks({})
        with pytest.raises(InputError, match=r"holds 30 of 78 tokens although every process has finished"):
            slow.finish()
        missing = [number for number, _ in slow.missing(iter(blocks))]
        assert missing == [0, 2]
        for number in missing:
            slow.append(shards[number], number)
        slow.finish()
    np.testing.assert_array_equal(ActivationStore(tmp_path / "store").tokens(), written.tokens)


def test_what_is_whole_can_be_read_while_a_writer_appends(tmp_path: Path, written: Written) -> None:
    folder, shards = tmp_path / "store", written.shards()
    with StoreWriter(folder, structs.replace(MANIFEST, n_tokens=written.n_rows)) as writer:
        writer.append(shards[0])
        writer.append(shards[2], 2)  # as when another process is still busy with the second
        while Manifest.read(folder).n_sequences < 7:
            pass
        with pytest.raises(InputError, match=r"was interrupted after 48 of 78 tokens"):
            ActivationStore(folder)
        early = ActivationStore(folder, allow_unfinished=True)
        whole = np.delete(np.arange(11), np.arange(4, 8))
        np.testing.assert_array_equal(early.tokens(), written.tokens[whole])
        np.testing.assert_array_equal(early.positions(), np.argwhere(written.is_row[whole]))
        rows = torch.cat(list(early.site(SITE).chunks()))
        expected = np.concatenate([shards[0].activations[SITE], shards[2].activations[SITE]])
        np.testing.assert_array_equal(rows.numpy(), expected)


def test_a_writer_killed_before_its_first_manifest_does_not_block_the_folder(tmp_path: Path, written: Written) -> None:
    folder = tmp_path / "store"
    (folder / "shards").mkdir(parents=True)
    (folder / "store.json.partial").write_text("{")
    (folder / "writer.lock").touch()
    assert write(folder, written).n_rows == written.n_rows


def test_a_shard_without_any_row_is_a_shard(tmp_path: Path, written: Written) -> None:
    empty = Written()
    empty.is_row[4:8] = False
    empty.n_rows = int(empty.is_row.sum())
    empty.activations = {site: values[: empty.n_rows] for site, values in empty.activations.items()}
    store = write(tmp_path / "store", empty)
    assert [shard.n_rows for shard in store.manifest.shards] == [30, 0, 18]
    assert torch.equal(torch.cat(list(store.site(SITE).chunks(9))), torch.from_numpy(empty.activations[SITE]))
