"""Which examples form batch i, and in what shape.

An example is padded to the shape (S, T) of its length bucket: S source and T target slots.
The buckets are found once, exactly, by dynamic programming; the plan is then a pure function
of seed, data fingerprint and i, so that resuming needs nothing but the step number.
"""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xformer.config import DataConfig, UserError

Shape = tuple[int, int, int]  # rows, source slots S, target slots T
CANDIDATES = 32  # lengths per side that a bucket may end at


def bucket_chains(lengths_N2: np.ndarray, max_buckets: int) -> Iterator[np.ndarray]:
    """For K = 1 ... max_buckets the best chain of at most K buckets, int (K, 2).

    A chain (S_1, T_1) <= (S_2, T_2) <= ... holds each example in the first bucket that is wide
    enough on both sides; the best one has the fewest slots S + T, summed over the examples.
    Exact when no side has more than CANDIDATES distinct lengths; else over that many quantiles.
    """
    sides = [_candidate_lengths(lengths_N) for lengths_N in lengths_N2.T]
    held = np.zeros([len(side) for side in sides], np.int64)
    np.add.at(held, tuple(np.searchsorted(*pair) for pair in zip(sides, lengths_N2.T)), 1)
    held_C = held.cumsum(0).cumsum(1).ravel()  # examples that fit in each candidate bucket
    shapes_C2 = np.stack(np.meshgrid(*sides, indexing='ij'), axis=-1).reshape(-1, 2)
    slots_C = shapes_C2.sum(1, dtype=np.int64)

    # cost of making candidate j the next bucket after i: what j holds and i does not
    nested_CC = (shapes_C2[:, None] <= shapes_C2[None]).all(-1)
    step_CC = np.where(nested_CC, (held_C[None] - held_C[:, None]) * slots_C[None],
                       np.iinfo(np.int64).max // 2)
    cost_C, previous = held_C * slots_C, []
    for _ in range(max_buckets):
        chain = [len(shapes_C2) - 1]
        for before_C in reversed(previous):
            chain.append(before_C[chain[-1]])
        yield np.unique(shapes_C2[chain], axis=0)
        total_CC = cost_C[:, None] + step_CC
        previous.append(total_CC.argmin(0))
        cost_C = total_CC.min(0)


def choose_shapes(lengths_N2: np.ndarray, data: DataConfig, max_buckets: int) -> list[Shape]:
    """The fewest batch shapes, at most `max_buckets`, that reach data.min_fill.

    Fill counts all padding, empty rows too. If no number reaches it, the fullest is taken.
    Raises UserError when data.batch_tokens cannot hold the longest examples.
    """
    longest = lengths_N2.max(0)
    least = data.batch_multiple * int(longest.sum())
    if data.batch_tokens < least:
        raise UserError(
            f'data.batch_tokens={data.batch_tokens} cannot hold data.batch_multiple='
            f'{data.batch_multiple} rows of the longest examples ({longest[0]} source and '
            f'{longest[1]} target tokens); set --config.data.batch_tokens={least} or more')
    best, best_fill = [], 0.0
    for chain_K2 in bucket_chains(lengths_N2, max_buckets):
        shapes = _with_rows(chain_K2, lengths_N2, data)
        fill = fill_of(shapes, lengths_N2)
        if fill > best_fill:
            best, best_fill = shapes, fill
        if best_fill >= data.min_fill:
            break
    return best


def fill_of(shapes: list[Shape], lengths_N2: np.ndarray) -> float:
    """Real tokens ÷ slots over one epoch of batches in these shapes."""
    spans = _spans(shapes, _bucket_of(shapes, lengths_N2))
    slots = sum(rows * (S + T) for rows, S, T in (shapes[k] for k, _, _ in spans))
    return int(lengths_N2.sum(dtype=np.int64)) / slots


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Every example once an epoch, in an order that depends on (seed, fingerprint, i) alone."""

    seed: int
    fingerprint: str
    shapes: list[Shape]
    bucket_N: np.ndarray
    spans: list[tuple[int, int, int]]  # of each batch: bucket k, start and stop in epoch order
    fill: float

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return len(self.spans)

    def batch(self, i: int) -> tuple[int, np.ndarray]:
        """Batch i >= 0, counted over all epochs: (bucket k, indices of at most rows examples)."""
        epoch, position = divmod(i, self.num_batches)
        examples_N, batches = _epoch_order(self, epoch)
        k, start, stop = self.spans[batches[position]]
        return k, examples_N[start:stop]


def make_plan(lengths_N2: np.ndarray, fingerprint: str, data: DataConfig, seed: int) -> BatchPlan:
    """The plan of a store with these lengths and this fingerprint. Errors: `choose_shapes`."""
    shapes = choose_shapes(lengths_N2, data, data.max_buckets)
    bucket_N = _bucket_of(shapes, lengths_N2)
    return BatchPlan(seed, fingerprint, shapes, bucket_N, _spans(shapes, bucket_N),
                     fill_of(shapes, lengths_N2))


def sequential_batches(lengths_N2: np.ndarray, data: DataConfig,
                       max_buckets: int = 2) -> Iterator[tuple[Shape, np.ndarray]]:
    """Every example once in a fixed order, in few shapes, for evaluation: (shape, indices)."""
    shapes = choose_shapes(lengths_N2, data, max_buckets)
    bucket_N = _bucket_of(shapes, lengths_N2)
    examples_N = np.argsort(bucket_N, kind='stable')
    for k, start, stop in _spans(shapes, bucket_N):
        yield shapes[k], examples_N[start:stop]


@functools.lru_cache(maxsize=1)
def _epoch_order(plan: BatchPlan, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples shuffled within their buckets, and batches shuffled.

    Sorting raw Philox words keeps the order the same everywhere: NumPy fixes the raw stream for
    good, but not what `Generator.permutation` makes of it.
    """
    name = f'{plan.seed} {plan.fingerprint} {epoch}'.encode()
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], 'little')
    stream = np.random.Philox(key=key)
    examples_N = np.lexsort((stream.random_raw(len(plan.bucket_N)), plan.bucket_N))
    return examples_N, np.argsort(stream.random_raw(plan.num_batches), kind='stable')


def _candidate_lengths(lengths_N: np.ndarray) -> np.ndarray:
    distinct = np.unique(lengths_N)
    if len(distinct) <= CANDIDATES:
        return distinct
    last = np.arange(1, CANDIDATES + 1) * len(lengths_N) // CANDIDATES - 1
    return np.unique(np.sort(lengths_N)[last])


def _with_rows(chain_K2: np.ndarray, lengths_N2: np.ndarray, data: DataConfig) -> list[Shape]:
    """The buckets that hold examples, with rows such that a bucket's batches are equally full."""
    buckets = [(0, int(S), int(T)) for S, T in chain_K2]
    counts = np.bincount(_bucket_of(buckets, lengths_N2), minlength=len(buckets))
    shapes = []
    for (_, S, T), count in zip(buckets, counts.tolist()):
        if count:
            most = data.batch_tokens // (S + T) // data.batch_multiple * data.batch_multiple
            batches = -(-count // most)
            rows = -(-count // (batches * data.batch_multiple)) * data.batch_multiple
            shapes.append((rows, S, T))
    return shapes


def _bucket_of(shapes: list[Shape], lengths_N2: np.ndarray) -> np.ndarray:
    """The first bucket of the chain that is wide enough, for each example."""
    _, S, T = zip(*shapes)
    return np.maximum(np.searchsorted(S, lengths_N2[:, 0]), np.searchsorted(T, lengths_N2[:, 1]))


def _spans(shapes: list[Shape], bucket_N: np.ndarray) -> list[tuple[int, int, int]]:
    """(bucket, start, stop) of every batch, where examples are ordered by bucket."""
    stops = np.bincount(bucket_N, minlength=len(shapes)).cumsum().tolist()
    return [(k, start, min(start + rows, stop))
            for k, ((rows, _, _), first, stop) in enumerate(zip(shapes, [0, *stops], stops))
            for start in range(first, stop, rows)]
