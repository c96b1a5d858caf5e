"""Training and validation batches from token shards: pure functions of (seed, step), nothing remembered.

Their order is a seekable pseudo-random order of 0..n-1 from integer arithmetic alone: it depends on no library's random
stream, so the order of the training data is the same under every version of every library.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mor_core.data.cache_files import MEND, check_size
from mor_core.data.spec import DataError
from mor_core.files import file_sha256

OPEN_SHARDS = 256
"""Shards mapped at a time: each mapping holds a file descriptor, and a large corpus has more shards than a process may
have files open."""

READ_AHEAD_TOKENS = 2**16
"""Tokens of the training steps that are read together: half a megabyte. A larger batch is read alone."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of token ids."""

    path: Path
    sha256: str
    num_tokens: int
    dtype: str
    """unsigned, little-endian"""

    def __hash__(self) -> int:
        return hash(self.sha256)  # Python keeps it; hundreds of shards are looked up by it at every step

    @property
    def tokens(self) -> NDArray[Any]:
        """The token ids, mapped into memory; [tokens]."""
        return _mapped(self)

    @property
    def num_bytes(self) -> int:
        return self.num_tokens * np.dtype(self.dtype).itemsize


@lru_cache(OPEN_SHARDS)
def _mapped(shard: Shard) -> NDArray[Any]:
    try:
        # A plain view of the mapping: a slice of a memmap costs several times that of an array.
        return np.memmap(shard.path, dtype=shard.dtype, mode="r", shape=(shard.num_tokens,)).view(np.ndarray)
    except (OSError, ValueError) as error:
        raise DataError(f"The token shard {shard.path} is missing or cut off ({error}); {MEND}") from error


@dataclass(frozen=True, kw_only=True)
class TokenReader:
    """The tokens of a snapshot. B is the batch size, T the context length."""

    train: tuple[Shard, ...]
    valid: tuple[Shard, ...]

    token_bytes: NDArray[np.int64]
    """Bytes of text that each id stands for; [vocabulary]."""

    unique_tokens: int | None = None
    """Training reads the first so many tokens of the training part and no other; None reads all."""

    def num_train_sequences(self, context_length: int) -> int:
        """Windows of T tokens, each with a next token, in the training part: the sequences of one epoch."""
        whole = num_windows(self.train, context_length)
        return whole if self.unique_tokens is None else min(whole, max(self.unique_tokens - 1, 0) // context_length)

    def num_valid_sequences(self, context_length: int) -> int:
        """Windows of T tokens, each with a next token, in the validation part."""
        return num_windows(self.valid, context_length)

    def train_batch(self, seed: int, step: int, batch_size: int, context_length: int) -> NDArray[np.int64]:
        """The batch of one step: inputs [:, :-1] and targets [:, 1:]; [B, T+1].

        Sequence i of step s is sample s * B + i. Every epoch visits each window once, in an order of its own
        that depends on the seed; a batch may straddle two epochs.
        """
        return self._train_batches(seed, range(step, step + 1), batch_size, context_length)[0]

    def read_ahead(self, seed: int, batch_size: int, context_length: int) -> Callable[[int], NDArray[np.int64]]:
        """step -> `train_batch` of that step, where neighbouring steps of small batches are read together.

        Steps may be asked for in any order; in rising order the fixed cost of a read, which is that of a step of a
        tiny model, is shared by all steps of `READ_AHEAD_TOKENS` tokens.
        """
        together = max(1, READ_AHEAD_TOKENS // (batch_size * (context_length + 1)))

        @lru_cache(1)
        def read(number: int) -> NDArray[np.int64]:
            steps = range(number * together, (number + 1) * together)
            return self._train_batches(seed, steps, batch_size, context_length)

        return lambda step: read(step // together)[step % together]

    def _train_batches(self, seed: int, steps: range, batch_size: int, context_length: int) -> NDArray[np.int64]:
        """The batches of `steps`, which follow one another; [S, B, T+1]."""
        n = self.num_train_sequences(context_length)
        if n == 0:
            raise DataError(_too_short("training", self.train, 1, context_length))
        samples = np.arange(steps.start * batch_size, steps.stop * batch_size, dtype=np.int64)
        windows = permuted(samples % n, epoch_keys(seed, samples // n), n)
        return _windows(self.train, windows, context_length).reshape(len(steps), batch_size, context_length + 1)

    def valid_batches(self, num_sequences: int, context_length: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
        """`num_sequences` validation windows, evenly spread, the same every time; [<=B, T+1] each.

        Raises `DataError` at once where the validation part has fewer windows.
        """
        n = self.num_valid_sequences(context_length)
        if n < num_sequences:
            raise DataError(_too_short("validation", self.valid, num_sequences, context_length))
        windows = np.arange(num_sequences, dtype=np.int64) * n // max(num_sequences, 1)
        starts = range(0, num_sequences, batch_size)
        return (_windows(self.valid, windows[i : i + batch_size], context_length) for i in starts)

    def verify(self) -> None:
        """Read every shard and compare its sha256; `DataError` names the first that was changed."""
        for shard in (*self.train, *self.valid):
            if file_sha256(shard.path) != shard.sha256:
                raise DataError(f"The token shard {shard.path} is not the one that was prepared; {MEND}")


def open_shard(folder: Path, entry: dict[str, Any], dtype: str) -> Shard:
    """Map one shard of the manifest; `DataError` names it where it is missing or of the wrong size."""
    path = folder / entry["file"]
    check_size(path, entry["tokens"] * np.dtype(dtype).itemsize)
    return Shard(path=path, sha256=entry["sha256"], num_tokens=entry["tokens"], dtype=dtype)


def num_windows(shards: Sequence[Shard], context_length: int) -> int:
    """Windows of T tokens with stride T that are followed by at least one more token."""
    return max(int(_starts(tuple(shards))[-1]) - 1, 0) // context_length


def _windows(shards: Sequence[Shard], windows: NDArray[np.int64], context_length: int) -> NDArray[np.int64]:
    batch_BxT1 = np.empty((len(windows), context_length + 1), dtype=np.int64)
    starts = _starts(tuple(shards))
    first_tokens = windows * context_length
    numbers = np.searchsorted(starts, first_tokens, side="right") - 1
    places = zip(numbers.tolist(), (first_tokens - starts[numbers]).tolist(), strict=True)
    for row_T1, (number, offset) in zip(batch_BxT1, places, strict=True):
        filled = 0
        while filled <= context_length:  # A window rarely reaches into a second shard.
            tokens = shards[number].tokens[offset : offset + context_length + 1 - filled]
            row_T1[filled : filled + len(tokens)] = tokens
            number, offset, filled = number + 1, 0, filled + len(tokens)
    return batch_BxT1


@lru_cache(8)
def _starts(shards: tuple[Shard, ...]) -> NDArray[np.int64]:
    """Where each shard begins, the end of the last included."""
    return np.cumsum([0, *(shard.num_tokens for shard in shards)], dtype=np.int64)


def _too_short(part: str, shards: Sequence[Shard], num_sequences: int, context_length: int) -> str:
    available = sum(shard.num_tokens for shard in shards)
    return (
        f"The {part} part has {available} tokens, but {num_sequences} sequence(s) of {context_length} tokens need "
        f"{num_sequences * context_length + 1}; ask for fewer or shorter sequences, or prepare more text."
    )


U64 = NDArray[np.uint64]

ROUNDS = 6
MASK_64 = 2**64 - 1


def splitmix64(x: U64) -> U64:
    """The output function of SplitMix64 (Steele, Lea, Flood 2014): a bijection on 64 bits that mixes well."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def epoch_keys(seed: int, epochs: NDArray[np.int64]) -> U64:
    """One 64-bit key for each epoch number; [B] -> [B]."""
    seeds = np.full(epochs.shape, seed & MASK_64, dtype=np.uint64)
    return splitmix64(splitmix64(seeds) ^ epochs.astype(np.uint64))


def permuted(index: NDArray[np.int64], keys: U64, n: int) -> NDArray[np.int64]:
    """The places of `index` (each in 0..n-1) in the permutations of 0..n-1 chosen by `keys`; [B], [B] -> [B]."""
    half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
    place = _feistel(index.astype(np.uint64), keys, half_bits)
    while (outside := place >= n).any():
        place[outside] = _feistel(place[outside], keys[outside], half_bits)
    return place.astype(np.int64)


def _feistel(x: U64, keys: U64, half_bits: int) -> U64:
    mask = np.uint64((1 << half_bits) - 1)
    shift = np.uint64(half_bits)
    left, right = x >> shift, x & mask
    for number in range(ROUNDS):
        mixed = splitmix64(splitmix64(keys + np.uint64(number)) ^ right)
        left, right = right, left ^ (mixed & mask)
    return (left << shift) | right
