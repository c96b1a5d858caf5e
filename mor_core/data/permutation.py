"""A seekable pseudo-random order of 0..n-1, from integer arithmetic alone.

It depends on no library's random stream, so the order of the training data is the same under every version of
every library. A Feistel network permutes the numbers of 2k bits; walking along its cycle until a number below n
appears turns that into a permutation of 0..n-1 (Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains).
"""

import numpy as np
from numpy.typing import NDArray

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
