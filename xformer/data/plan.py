"""Which examples form batch i, and in what shape.

An example is padded to the shape (S, T) of its length bucket, the first that holds it: S source
and T target slots, T = 0 where there is no target. The buckets are found once, exactly, by dynamic
programming: a chain, or where many are allowed, bands of targets cut by their sources. The plan
is then a pure function of seed, data fingerprint and i, so that resuming needs nothing but the
step number. In memory it holds one byte an example.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np

from xformer.config import DataConfig, UserError

Shape = tuple[int, int, int]  # rows, source slots S, target slots T
CANDIDATES = 32  # lengths per side that a bucket of a chain may end at
BANDED = 16  # buckets from which on bands may waste less than a chain
BANDED_CANDIDATES = 64  # lengths per side that a bucket of a band may end at
CUTS = 12  # buckets of a band
CHUNK = 2**18  # examples whose lengths are looked at together
BLOCK = 512  # examples whose places within their buckets are counted together
ROUNDS = 8  # of the Feistel network
UNREACHED = np.iinfo(np.int64).max // 2  # slots of what cannot be


class Examples(Protocol):
    """What a plan needs to know of an objective."""

    def __len__(self) -> int: ...

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """int32 (stop - start, 2): source and target slots of these examples."""


class Histogram(NamedTuple):
    """The distinct lengths, int (U, 2), and how many examples have them, int64 (U,)."""

    lengths_U2: np.ndarray
    counts_U: np.ndarray


def histogram(examples: Examples) -> Histogram:
    """Counted some examples at a time."""
    codes_U, counts_U = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for _, lengths_N2 in _chunks(examples):
        new_U, count_U = np.unique(lengths_N2[:, 0] * 2**31 + lengths_N2[:, 1], return_counts=True)
        codes_U, place_U = np.unique(np.concatenate([codes_U, new_U]), return_inverse=True)
        total_U = np.zeros(len(codes_U), np.int64)
        np.add.at(total_U, place_U, np.concatenate([counts_U, count_U]))
        counts_U = total_U
    return Histogram(np.stack(np.divmod(codes_U, 2**31), axis=1), counts_U)


def bucket_chains(lengths: Histogram, max_buckets: int) -> Iterator[np.ndarray]:
    """For K = 1 ... max_buckets the best chain of at most K buckets, int (K, 2).

    A chain (S_1, T_1) <= (S_2, T_2) <= ... holds each example in the first bucket that is wide
    enough on both sides; the best one has the fewest slots S + T, summed over the examples.
    Exact when no side has more than CANDIDATES distinct lengths; else over that many quantiles.
    """
    *sides, held_ST = _candidates(lengths, CANDIDATES)
    shapes_C2 = np.stack(np.meshgrid(*sides, indexing='ij'), axis=-1).reshape(-1, 2)
    for _, places in _best_chains(shapes_C2, held_ST.ravel(), max_buckets):
        yield np.unique(shapes_C2[places], axis=0)


def banded_buckets(lengths: Histogram, max_buckets: int) -> Iterator[np.ndarray]:
    """For K = 1 ... max_buckets the best K buckets, or fewer, in bands of targets, int (K, 2).

    A band holds the examples whose targets are longer than T_i and no longer than T_j, in a chain
    of its own of buckets (S, T_j). With many buckets this wastes less than one chain, in which a
    target's length allows but one of the source. Exact, with at most CUTS buckets a band, when no
    side has more than BANDED_CANDIDATES distinct lengths; else over that many quantiles.
    """
    S, T, held_ST = _candidates(lengths, BANDED_CANDIDATES)
    held_ST = np.pad(held_ST, ((0, 0), (1, 0)))
    cost_KT = np.full((max_buckets + 1, len(T) + 1), UNREACHED)  # of K buckets for targets < T
    cost_KT[:, 0] = 0
    found = {}  # (K, T): the buckets of the last band, and the T where it begins
    for end in range(1, len(T) + 1):
        for start in range(end):
            shapes_C2 = np.stack([S, np.full_like(S, T[end - 1])], axis=1)
            held_C = held_ST[:, end] - held_ST[:, start]
            width = int(np.searchsorted(held_C, held_C[-1])) + 1  # as its longest source asks
            for M, (cost, places) in enumerate(_best_chains(
                    shapes_C2[:width], held_C[:width], min(max_buckets, width, CUTS)), start=1):
                total_K = cost_KT[:max_buckets + 1 - M, start] + cost
                for K in M + np.flatnonzero(total_K < cost_KT[M:, end]):
                    cost_KT[K, end] = total_K[K - M]
                    found[K, end] = shapes_C2[sorted(set(places))], start
    for K in range(1, max_buckets + 1):
        bands, left, end = [], K, len(T)
        while end:
            band_M2, end = found[left, end]
            bands.append(band_M2)
            left -= len(band_M2)
        yield np.concatenate(bands[::-1])


def _candidates(lengths: Histogram, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source lengths S and target lengths T that a bucket may end at, and held_ST: how many
    examples are no longer on either side."""
    S, T = (_candidate_lengths(lengths_U, lengths.counts_U, most)
            for lengths_U in lengths.lengths_U2.T)
    held_ST = np.zeros((len(S), len(T)), np.int64)
    source_U, target_U = lengths.lengths_U2.T
    np.add.at(held_ST, (np.searchsorted(S, source_U), np.searchsorted(T, target_U)),
              lengths.counts_U)
    return S, T, held_ST.cumsum(0).cumsum(1)


def _best_chains(shapes_C2: np.ndarray, held_C: np.ndarray,
                 most: int) -> Iterator[tuple[int, list[int]]]:
    """For K = 1 ... most (slots, candidates last to first) of the best chain of at most K, where
    candidate c holds held_C examples; the last holds all."""
    slots_C = shapes_C2.sum(1, dtype=np.int64)
    # cost of making candidate j the next bucket after i: what j holds and i does not
    nested_CC = (shapes_C2[:, None] <= shapes_C2[None]).all(-1)
    step_CC = np.where(nested_CC, (held_C[None] - held_C[:, None]) * slots_C[None], UNREACHED)
    cost_C, previous = held_C * slots_C, []
    for _ in range(most):
        places = [len(shapes_C2) - 1]
        for before_C in reversed(previous):
            places.append(int(before_C[places[-1]]))
        yield int(cost_C[-1]), places
        total_CC = cost_C[:, None] + step_CC
        previous.append(total_CC.argmin(0))
        cost_C = total_CC.min(0)


def choose_shapes(lengths: Histogram, data: DataConfig, max_buckets: int) -> list[Shape]:
    """The fewest batch shapes, at most `max_buckets`, that reach data.min_fill: those of a chain,
    or if none does and BANDED or more are allowed, in bands.

    Fill counts all padding, empty rows too. If no number reaches it, the fullest is taken.
    Raises UserError when data.batch_tokens cannot hold the longest examples.
    """
    longest, least = lengths.lengths_U2.max(0), _least_tokens(lengths, data)
    if data.batch_tokens < least:
        tokens = (f'{longest[0]} source and {longest[1]} target tokens' if longest[1] else
                  f'{longest[0]} tokens')
        raise UserError(
            f'data.batch_tokens={data.batch_tokens} cannot hold data.batch_multiple='
            f'{data.batch_multiple} rows of the longest examples ({tokens}); '
            f'set --config.data.batch_tokens={least} or more')
    best, best_fill = [], 0.0
    banded = banded_buckets(lengths, max_buckets) if max_buckets >= BANDED else ()
    for buckets_K2 in chain(bucket_chains(lengths, max_buckets), banded):
        shapes = _with_rows(buckets_K2, lengths, data)
        fill = fill_of(shapes, lengths)
        if fill > best_fill:
            best, best_fill = shapes, fill
        if best_fill >= data.min_fill:
            break
    return best


def _least_tokens(lengths: Histogram, data: DataConfig) -> int:
    """What data.batch_tokens has to be for the longest examples."""
    return data.batch_multiple * int(lengths.lengths_U2.max(0).sum())


def fill_of(shapes: list[Shape], lengths: Histogram) -> float:
    """Real tokens ÷ slots over one epoch of batches in these shapes."""
    slots = sum(-(-count // rows) * rows * (S + T)
                for (rows, S, T), count in zip(shapes, _held(shapes, lengths)))
    return int((lengths.lengths_U2.sum(1) * lengths.counts_U).sum()) / slots


class Buckets:
    """The examples of each shape: which are they, and in which bucket is a batch?"""

    def __init__(self, examples: Examples, shapes: list[Shape]):
        self.shapes = shapes
        bucket_N = np.full(-(-len(examples) // BLOCK) * BLOCK, 255, np.uint8)  # 255: no example
        for start, lengths_N2 in _chunks(examples):
            bucket_N[start:start + len(lengths_N2)] = _bucket_of(shapes, lengths_N2)
        self._bucket_BN = bucket_N.reshape(-1, BLOCK)  # B blocks of N examples
        self._before_KB = np.array([np.cumsum([0, *(self._bucket_BN == k).sum(1)])
                                    for k in range(len(shapes))])
        self.counts = self._before_KB[:, -1].tolist()
        batches = [-(-count // rows) for count, (rows, _, _) in zip(self.counts, shapes)]
        self.first_batch = np.cumsum([0, *batches])

    @property
    def num_batches(self) -> int:
        """Batches that hold every example once."""
        return int(self.first_batch[-1])

    def batch(self, j: int) -> tuple[int, np.ndarray]:
        """Batch j of them: (bucket k, ordinals of its examples within the bucket)."""
        k = int(np.searchsorted(self.first_batch, j, side='right')) - 1
        rows = self.shapes[k][0]
        start = (j - int(self.first_batch[k])) * rows
        return k, np.arange(start, min(start + rows, self.counts[k]))

    def examples(self, k: int, ordinals: np.ndarray) -> np.ndarray:
        """The examples with these ordinals, from 0, within bucket k; int64."""
        blocks = np.searchsorted(self._before_KB[k], ordinals, side='right') - 1
        seen = (self._bucket_BN[blocks] == k).cumsum(1, dtype=np.int16)
        wanted = ordinals - self._before_KB[k][blocks] + 1
        return blocks * BLOCK + (seen == wanted[:, None]).argmax(1)


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Every example once an epoch, in an order that depends on (seed, fingerprint, i) alone."""

    seed: int
    fingerprint: str
    buckets: Buckets
    fill: float

    @property
    def shapes(self) -> list[Shape]:
        """The shape of every bucket."""
        return self.buckets.shapes

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return self.buckets.num_batches

    def batch(self, i: int) -> tuple[int, np.ndarray]:
        """Batch i >= 0, counted over all epochs: (bucket k, indices of at most rows examples)."""
        epoch, place = divmod(i, self.num_batches)
        j = permuted(np.array([place]), self.num_batches, self._stream('batches', epoch))
        k, ordinals = self.buckets.batch(int(j[0]))
        ordinals = permuted(ordinals, self.buckets.counts[k], self._stream('examples', epoch, k))
        return k, self.buckets.examples(k, ordinals)

    def random(self, i: int) -> np.random.Generator:
        """The random numbers of batch i: what its objective hides, cuts and shuffles."""
        return random_numbers(self.seed, self.fingerprint, i)

    def _stream(self, *purpose) -> np.random.Philox:
        return _stream(self.seed, self.fingerprint, *purpose)


def random_numbers(seed: int, fingerprint: str, i: int | str) -> np.random.Generator:
    """What batch i's objective draws from, as a function of these arguments alone."""
    return np.random.Generator(_stream(seed, fingerprint, 'objective', i))


def _stream(*purpose) -> np.random.Philox:
    name = ' '.join(map(str, purpose)).encode()
    return np.random.Philox(key=int.from_bytes(hashlib.sha256(name).digest()[:16], 'little'))


def make_plan(examples: Examples, fingerprint: str, data: DataConfig, seed: int) -> BatchPlan:
    """The plan of an objective on data with this fingerprint. Errors: `choose_shapes`."""
    lengths = histogram(examples)
    shapes = choose_shapes(lengths, data, data.max_buckets)
    return BatchPlan(seed, fingerprint, Buckets(examples, shapes), fill_of(shapes, lengths))


def sequential_batches(examples: Examples, data: DataConfig,
                       max_buckets: int = 2) -> Iterator[tuple[Shape, np.ndarray]]:
    """Every example once in a fixed order, in few shapes, for evaluation: (shape, indices).

    As nothing is trained, data.batch_tokens grows where it cannot hold the longest examples.
    """
    lengths = histogram(examples)
    data = replace(data, batch_tokens=max(data.batch_tokens, _least_tokens(lengths, data)))
    buckets = Buckets(examples, choose_shapes(lengths, data, max_buckets))
    for j in range(buckets.num_batches):
        k, ordinals = buckets.batch(j)
        yield buckets.shapes[k], buckets.examples(k, ordinals)


def permuted(places: np.ndarray, count: int, stream: np.random.Philox) -> np.ndarray:
    """Where a pseudo-random permutation of 0 ... count - 1 takes `places`, without its table.

    A Feistel network permutes the least power of 4 that holds them all; a value beyond `count`
    goes through again until it is within ("cycle walking", Black and Rogaway, 2002).
    The keys are raw Philox words, which NumPy fixes for good.
    """
    half = np.uint64(max(1, (int(count - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    keys = stream.random_raw(ROUNDS)
    result = places.astype(np.uint64)
    beyond = np.ones(len(places), bool)
    while beyond.any():
        left, right = result[beyond] >> half, result[beyond] & low
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & low)
        result[beyond] = left << half | right
        beyond = result >= count
    return result.astype(np.int64)


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al., 2014): every bit depends on every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
    return x ^ (x >> np.uint64(31))


def _chunks(examples: Examples) -> Iterator[tuple[int, np.ndarray]]:
    """(start, int64 lengths (n, 2)) of CHUNK examples at a time."""
    for start in range(0, len(examples), CHUNK):
        stop = min(start + CHUNK, len(examples))
        yield start, examples.lengths(start, stop).astype(np.int64)


def _candidate_lengths(lengths_U: np.ndarray, counts_U: np.ndarray, most: int) -> np.ndarray:
    distinct, place_U = np.unique(lengths_U, return_inverse=True)
    if len(distinct) <= most:
        return distinct
    upto = np.cumsum(np.bincount(place_U, counts_U)).astype(np.int64)  # examples of such lengths
    last = np.arange(1, most + 1) * upto[-1] // most
    return np.unique(distinct[np.searchsorted(upto, last)])


def _with_rows(buckets_K2: np.ndarray, lengths: Histogram, data: DataConfig) -> list[Shape]:
    """The buckets that hold examples, with rows such that a bucket's batches are equally full."""
    buckets = [(0, int(S), int(T)) for S, T in buckets_K2]
    shapes = []
    for (_, S, T), count in zip(buckets, _held(buckets, lengths)):
        if count:
            most = data.batch_tokens // (S + T) // data.batch_multiple * data.batch_multiple
            batches = -(-count // most)
            rows = -(-count // (batches * data.batch_multiple)) * data.batch_multiple
            shapes.append((rows, S, T))
    return shapes


def _held(shapes: list[Shape], lengths: Histogram) -> list[int]:
    """How many examples each bucket holds."""
    counts = np.zeros(len(shapes), np.int64)
    np.add.at(counts, _bucket_of(shapes, lengths.lengths_U2), lengths.counts_U)
    return counts.tolist()


def _bucket_of(shapes: list[Shape], lengths_N2: np.ndarray) -> np.ndarray:
    """The first bucket that is wide enough, for each example."""
    bucket_N = np.empty(len(lengths_N2), np.int64)
    for k, (_, *slots) in reversed(list(enumerate(shapes))):
        bucket_N[(lengths_N2 <= slots).all(1)] = k
    return bucket_N
