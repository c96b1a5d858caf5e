import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mor_core.data.batches import READ_AHEAD_TOKENS
from mor_core.data.prepare import open_tokens
from mor_core.data.snapshot import DataSnapshot, load_snapshot
from mor_core.data.spec import DataError
from mor_core.data.text.frozen_corpus import CorpusSnapshot, read_texts
from mor_core.data.tokens.tokenizer import END_OF_TEXT_ID, load_tokenizer
from mor_core.data.tokens.write_shards import dtype_for, write_tokens
from mor_core.training.distributed import World

T = 64


def all_tokens(snapshot: DataSnapshot, split: str) -> np.ndarray:
    return np.concatenate([np.fromfile(path, "<u2") for path in sorted(snapshot.folder.glob(f"{split}-*.bin"))])


def test_one_epoch_covers_every_window_of_the_training_part_once(snapshot: DataSnapshot) -> None:
    reader = open_tokens(snapshot)
    n = reader.num_train_sequences(T)
    tokens = all_tokens(snapshot, "train")
    windows = sorted(tuple(tokens[i * T : (i + 1) * T + 1].tolist()) for i in range(n))
    orders = [[tuple(reader.train_batch(5, epoch * n + i, 1, T)[0].tolist()) for i in range(n)] for epoch in (0, 1, 7)]
    assert all(sorted(order) == windows for order in orders)
    assert orders[0] != orders[1] != orders[2], "every epoch has an order of its own"
    assert len(tokens) - 1 < (n + 1) * T, "no whole window is left unused"


@given(seed=st.integers(0, 2**63), step=st.integers(0, 10**9), batch=st.integers(1, 9), length=st.integers(1, 90))
def test_a_batch_is_a_function_of_seed_and_step_alone(
    snapshot: DataSnapshot, seed: int, step: int, batch: int, length: int
) -> None:
    fresh, used = open_tokens(snapshot), open_tokens(snapshot)
    used.train_batch(seed, step + 1, batch, length)
    expected = fresh.train_batch(seed, step, batch, length)
    assert expected.shape == (batch, length + 1)
    assert expected.dtype == np.int64
    np.testing.assert_array_equal(used.train_batch(seed, step, batch, length), expected)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**63),
    batch=st.integers(1, 9),
    length=st.integers(1, 90),
    steps=st.lists(st.integers(0, 10**4), max_size=4),
)
def test_steps_read_together_are_the_steps_read_alone_in_any_order(
    snapshot: DataSnapshot, seed: int, batch: int, length: int, steps: list[int]
) -> None:
    reader = open_tokens(snapshot)
    ahead = reader.read_ahead(seed, batch, length)
    together = READ_AHEAD_TOKENS // (batch * (length + 1))
    for step in [together - 1, together, together + 1, 0, *steps]:
        np.testing.assert_array_equal(ahead(step), reader.train_batch(seed, step, batch, length))


@given(step=st.integers(0, 1000), batch=st.integers(1, 6))
def test_the_batch_size_does_not_change_the_order_of_samples(snapshot: DataSnapshot, step: int, batch: int) -> None:
    reader = open_tokens(snapshot)
    singles = [reader.train_batch(3, step * batch + i, 1, T)[0] for i in range(batch)]
    np.testing.assert_array_equal(reader.train_batch(3, step, batch, T), singles)


@given(
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10**9),
    size=st.integers(1, 8),
    rows=st.integers(1, 4),
    data=st.data(),
)
def test_ranks_read_the_rows_of_one_global_batch_each_row_once(
    snapshot: DataSnapshot, seed: int, step: int, size: int, rows: int, data: st.DataObject
) -> None:
    reader = open_tokens(snapshot)
    whole = reader.train_batch(seed, step, size * rows, T)
    shares = [World(rank=rank, size=size).rows(reader.train_batch(seed, step, size * rows, T)) for rank in range(size)]
    assert {len(share) for share in shares} == {rows}
    np.testing.assert_array_equal(np.concatenate(shares), whole)
    row = data.draw(st.integers(0, size * rows - 1))
    sample = reader.train_batch(seed, step * size * rows + row, 1, T)[0]
    np.testing.assert_array_equal(shares[row // rows][row % rows], sample, "whatever the world, sample i is sample i")


def test_different_seeds_give_different_orders(snapshot: DataSnapshot) -> None:
    reader = open_tokens(snapshot)
    assert not np.array_equal(reader.train_batch(0, 0, 8, T), reader.train_batch(1, 0, 8, T))


def test_validation_windows_are_spread_evenly_and_distinct(snapshot: DataSnapshot) -> None:
    reader = open_tokens(snapshot)
    tokens = all_tokens(snapshot, "valid")
    n = reader.num_valid_sequences(T)
    few = np.concatenate(list(reader.valid_batches(5, T, 2)))
    assert [batch.shape for batch in reader.valid_batches(5, T, 2)] == [(2, T + 1), (2, T + 1), (1, T + 1)]
    starts = [i * n // 5 * T for i in range(5)]
    np.testing.assert_array_equal(few, [tokens[start : start + T + 1] for start in starts])
    every = np.concatenate(list(reader.valid_batches(n, T, 7)))
    np.testing.assert_array_equal(every[:, :-1].ravel(), tokens[: n * T])


def test_too_little_validation_text_is_refused_at_once_with_both_numbers(snapshot: DataSnapshot) -> None:
    reader = open_tokens(snapshot)
    with pytest.raises(DataError, match=f"validation part has {snapshot.valid_tokens} tokens, but 9999 sequence"):
        reader.valid_batches(9999, T, 8)
    with pytest.raises(DataError, match="training part"):
        reader.train_batch(0, 0, 1, snapshot.train_tokens)


def test_shards_hold_the_documents_in_order_each_with_an_end_of_text(
    snapshot: DataSnapshot, corpus: CorpusSnapshot
) -> None:
    tokenizer = load_tokenizer(snapshot.folder / "tokenizer.json")
    for split in ("train", "valid"):
        tokens = all_tokens(snapshot, split)
        ends = np.flatnonzero(tokens == END_OF_TEXT_ID)
        parts = np.split(tokens, ends + 1)[:-1]
        assert [tokenizer.decode(part[:-1].tolist()) for part in parts] == read_texts(corpus, split)
        assert tokens[-1] == END_OF_TEXT_ID


def test_token_bytes_add_up_to_the_bytes_of_the_text(snapshot: DataSnapshot) -> None:
    reader = open_tokens(snapshot)
    assert reader.token_bytes.shape == (snapshot.vocab_size,)
    assert reader.token_bytes[all_tokens(snapshot, "train")].sum() == snapshot.train_bytes
    assert reader.token_bytes[all_tokens(snapshot, "valid")].sum() == snapshot.valid_bytes


@pytest.mark.parametrize("shard_tokens", [1000, 7777])
def test_several_shards_read_like_one(
    snapshot: DataSnapshot, corpus: CorpusSnapshot, tmp_path: Path, shard_tokens: int
) -> None:
    write_tokens(corpus, snapshot.vocab_size, tmp_path / "tokens", shard_tokens)
    whole, parts = open_tokens(snapshot), open_tokens(load_snapshot(tmp_path / "tokens"))
    assert len(parts.train) == -(-snapshot.train_tokens // shard_tokens)
    for step in range(20):
        np.testing.assert_array_equal(parts.train_batch(1, step, 4, 300), whole.train_batch(1, step, 4, 300))
    parts.verify()


def test_ids_are_stored_in_16_bits_where_they_fit() -> None:
    assert [dtype_for(size) for size in (65_536, 65_537)] == ["<u2", "<u4"]
    assert np.array([65_535]).astype(dtype_for(65_536)) == 65_535


def test_a_missing_shard_is_named(copied: DataSnapshot) -> None:
    (copied.folder / "train-00000.bin").unlink()
    with pytest.raises(DataError, match=r"train-00000\.bin is missing"):
        open_tokens(copied)


def test_a_truncated_shard_is_named_with_both_sizes(copied: DataSnapshot) -> None:
    shard = copied.folder / "valid-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    expected = 2 * copied.valid_tokens
    with pytest.raises(DataError, match=rf"valid-00000\.bin has {expected - 2} bytes, expected {expected}"):
        open_tokens(copied)


def test_one_changed_bit_is_found_by_verify(copied: DataSnapshot) -> None:
    shard = copied.folder / "train-00000.bin"
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    reader = open_tokens(copied)
    with pytest.raises(DataError, match=r"train-00000\.bin is not the one that was prepared"):
        reader.verify()


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_a_lost_or_changed_tokenizer_is_named(copied: DataSnapshot, harm: str) -> None:
    file = copied.folder / "tokenizer.json"
    file.unlink() if harm == "missing" else file.write_text(file.read_text() + " ")
    with pytest.raises(DataError, match=r"tokenizer\.json is missing or not the tokenizer"):
        open_tokens(copied)


def test_a_snapshot_that_was_replaced_is_not_opened(copied: DataSnapshot) -> None:
    with pytest.raises(DataError, match="expected 000000000000"):
        open_tokens(replace(copied, fingerprint="0" * 64))


@pytest.fixture
def copied(snapshot: DataSnapshot, tmp_path: Path) -> DataSnapshot:
    folder = tmp_path / "copy"
    shutil.copytree(snapshot.folder, folder)
    return load_snapshot(folder)
