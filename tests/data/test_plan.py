import itertools
import subprocess
import sys

import numpy as np
import pytest

from xformer.config import DataConfig, UserError
from xformer.data import plan as plan_module
from xformer.data.plan import (
    Buckets,
    banded_buckets,
    bucket_chains,
    choose_shapes,
    histogram,
    make_plan,
    permuted,
    sequential_batches,
)
from xformer.data.sources import read_examples

DATA = DataConfig(batch_tokens=2048, batch_multiple=8, min_fill=0.85, max_buckets=8)


class Examples:
    """Lengths from an array, and how many of them were asked for at most."""

    def __init__(self, lengths_N2):
        self.lengths_N2, self.most = np.asarray(lengths_N2, np.int32), 0

    def __len__(self):
        return len(self.lengths_N2)

    def lengths(self, start, stop):
        self.most = max(self.most, stop - start)
        return self.lengths_N2[start:stop]


def natural_lengths(count=20_000, seed=0):
    """Correlated, skewed lengths, as translation and pronunciation have them."""
    rng = np.random.Generator(np.random.Philox(seed))
    source = 2 + rng.poisson(rng.gamma(6, 1.2, count))
    return np.stack([source, source + rng.integers(-1, 3, count)], 1).astype(np.int32)


def one_sided_lengths(count=5000, seed=0):
    """Texts: no target."""
    return natural_lengths(count, seed) * (1, 0)


def plan_of(lengths_N2, fingerprint='', data=DATA, seed=0):
    return make_plan(Examples(lengths_N2), fingerprint, data, seed)


def slots(chain, lengths_N2):
    """Padded slots when each example takes the first bucket that holds it: by the definition."""
    return sum(next(S + T for S, T in chain if s <= S and t <= T) for s, t in lengths_N2.tolist())


@pytest.mark.parametrize('chunk', [1, 7, 1000])
def test_the_histogram_counts_all_lengths_in_chunks(monkeypatch, chunk):
    monkeypatch.setattr(plan_module, 'CHUNK', chunk)
    examples = Examples(natural_lengths(1000))
    distinct_U2, counts_U = np.unique(examples.lengths_N2, axis=0, return_counts=True)
    counted = histogram(examples)
    assert np.array_equal(counted.lengths_U2, distinct_U2)
    assert np.array_equal(counted.counts_U, counts_U)
    assert examples.most == chunk


def test_chains_are_as_good_as_trying_all_of_them():
    rng = np.random.Generator(np.random.Philox(1))
    for trial in range(40):
        low = 1 if trial < 30 else (1, 0)  # the last ten are one-sided
        lengths_N2 = rng.integers(low, (6, 6 if trial < 30 else 1), (int(rng.integers(1, 12)), 2))
        last = tuple(lengths_N2.max(0).tolist())
        grid = list(itertools.product(range(1, last[0] + 1), range(min(1, last[1]), last[1] + 1)))
        for most, chain in enumerate(bucket_chains(histogram(Examples(lengths_N2)), 3), start=1):
            brute = min(
                slots([*inner, last], lengths_N2)
                for size in range(most) for inner in itertools.combinations(grid, size)
                if all(a[1] <= b[1] for a, b in itertools.pairwise(inner)))
            assert len(chain) <= most and tuple(chain[-1].tolist()) == last
            assert (np.diff(chain, axis=0) >= 0).all()
            assert slots(chain.tolist(), lengths_N2) == brute


def in_bands(lengths_N2, most, after=0):
    """The least slots by trying all bands of targets, and all sources to cut each at."""
    if not (lengths_N2[:, 1] > after).any():
        return 0
    least = float('inf')
    for end in set(lengths_N2[lengths_N2[:, 1] > after, 1].tolist()):
        band_S = lengths_N2[(lengths_N2[:, 1] > after) & (lengths_N2[:, 1] <= end), 0]
        distinct = np.unique(band_S)
        for size in range(1, min(most, len(distinct)) + 1):
            for cuts in itertools.combinations(distinct[:-1], size - 1):
                cuts = np.array([*cuts, distinct[-1]])
                own = int((cuts[np.searchsorted(cuts, band_S)] + end).sum())
                least = min(least, own + in_bands(lengths_N2, most - size, end))
    return least


def test_bands_are_as_good_as_trying_all_of_them():
    rng = np.random.Generator(np.random.Philox(3))
    for _ in range(20):
        lengths_N2 = rng.integers(1, 6, (int(rng.integers(1, 12)), 2))
        for most, buckets in enumerate(banded_buckets(histogram(Examples(lengths_N2)), 5), start=1):
            assert len(buckets) <= most
            assert slots(buckets.tolist(), lengths_N2) == in_bands(lengths_N2, most)


def test_many_buckets_lie_in_bands_where_a_chain_wastes_more():
    rng = np.random.Generator(np.random.Philox(4))
    source = 3 + rng.poisson(12, 20_000)
    lengths_N2 = np.stack([source, 3 + rng.poisson(source)], 1)
    data = DataConfig(batch_tokens=4096, batch_multiple=1, min_fill=0.93, max_buckets=48)
    plan = plan_of(lengths_N2, data=data)
    *_, chain = bucket_chains(histogram(Examples(lengths_N2)), 48)
    assert lengths_N2.sum() / slots(chain.tolist(), lengths_N2) < 0.93
    assert plan.fill >= 0.93 and 16 < len(plan.shapes) <= 48
    assert all(rows * (S + T) <= 4096 for rows, S, T in plan.shapes)
    batches = [plan.batch(i) for i in range(plan.num_batches)]
    assert np.array_equal(np.sort(np.concatenate([i for _, i in batches])), np.arange(20_000))
    assert all((lengths_N2[i] <= plan.shapes[k][1:]).all() for k, i in batches)


def test_many_distinct_lengths_still_give_a_chain_that_holds_all():
    lengths_N2 = np.random.Generator(np.random.Philox(2)).geometric(0.01, (2000, 2))
    assert len(np.unique(lengths_N2[:, 0])) > 100
    costs = [slots(chain.tolist(), lengths_N2)  # a StopIteration if one is not held
             for chain in bucket_chains(histogram(Examples(lengths_N2)), 4)]
    assert sorted(costs, reverse=True) == costs and costs[-1] < 0.7 * costs[0]


@pytest.mark.parametrize('lengths_N2', [natural_lengths(), one_sided_lengths()])
def test_fewest_shapes_that_reach_the_fill(lengths_N2):
    shapes = choose_shapes(histogram(Examples(lengths_N2)), DATA, 8)
    assert plan_of(lengths_N2).fill >= 0.85
    assert len(shapes) > 2
    fewer = sequential_batches(Examples(lengths_N2), DATA, len(shapes) - 1)
    assert measured_fill(lengths_N2, fewer) < 0.85
    for rows, S, T in shapes:
        assert rows % 8 == 0 and rows * (S + T) <= DATA.batch_tokens


def measured_fill(lengths_N2, batches):
    batches = list(batches)
    return lengths_N2.sum() / sum(rows * (S + T) for (rows, S, T), _ in batches)


@pytest.mark.parametrize('count', [1, 7, 8, 9, 100, 5000])
@pytest.mark.parametrize('make_lengths', [natural_lengths, one_sided_lengths])
def test_every_example_once_an_epoch_and_it_fits(make_lengths, count):
    lengths_N2 = make_lengths(count)
    plan = plan_of(lengths_N2, 'f', seed=3)
    for epoch in range(3):
        batches = [plan.batch(epoch * plan.num_batches + i) for i in range(plan.num_batches)]
        indices = np.concatenate([indices for _, indices in batches])
        assert np.array_equal(np.sort(indices), np.arange(count))
        for k, indices in batches:
            rows, S, T = plan.shapes[k]
            assert 0 < len(indices) <= rows
            assert (lengths_N2[indices] <= (S, T)).all()
            if k:  # the narrowest bucket that holds it
                assert (lengths_N2[indices] > plan.shapes[k - 1][1:]).any(1).all()
        measured = measured_fill(lengths_N2, ((plan.shapes[k], i) for k, i in batches))
        assert plan.fill == pytest.approx(measured)


def batches_of(plan, steps):
    return [(k, indices.tolist()) for k, indices in map(plan.batch, steps)]


def test_batch_i_depends_on_seed_fingerprint_and_i_alone():
    lengths_N2 = natural_lengths(2000)
    plan = plan_of(lengths_N2, 'f', seed=0)
    steps = list(range(3 * plan.num_batches))
    forwards = batches_of(plan, steps)
    assert batches_of(plan_of(lengths_N2, 'f', seed=0), steps[::-1]) == forwards[::-1]
    assert batches_of(plan_of(lengths_N2, 'f', seed=1), steps) != forwards
    assert batches_of(plan_of(lengths_N2, 'g', seed=0), steps) != forwards
    epochs = [forwards[e * plan.num_batches:][:plan.num_batches] for e in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert [k for k, _ in epochs[0]] != [k for k, _ in epochs[1]]  # batches move, not rows alone


def test_random_numbers_depend_on_seed_fingerprint_and_i_alone():
    def drawn(i, fingerprint='f', seed=0):
        return plan_of([[3, 3]], fingerprint, seed=seed).random(i).random(4).tolist()
    assert drawn(5) == drawn(5)
    others = [drawn(4), drawn(6), drawn(5, fingerprint='g'), drawn(5, seed=1)]
    assert all(other != drawn(5) for other in others)


def test_another_process_makes_known_batches():
    """The numbers hold every platform and every version of NumPy to the same order."""
    code = ('import numpy as np\nfrom xformer.config import DataConfig\n'
            'from xformer.data.plan import make_plan\n'
            'class Examples:\n'
            '    __len__ = lambda self: 200\n'
            '    def lengths(self, start, stop):\n'
            '        return np.stack([np.arange(200) % 13 + 2, np.arange(200) % 7 + 2], 1)\n'
            'plan = make_plan(Examples(), "f", DataConfig(batch_tokens=512), 5)\n'
            'print(plan.shapes, *(int(x) for x in plan.batch(1000)[1][:8]),\n'
            '      plan.random(7).random())')
    done = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True,
                          check=True, env={'PYTHONPATH': ':'.join(filter(None, sys.path))})
    assert done.stdout == (
        '[(16, 4, 3), (24, 5, 5), (24, 6, 6), (24, 7, 7), (32, 8, 8), (16, 10, 8), (16, 12, 8), '
        '(16, 14, 8)] 124 73 21 189 150 20 99 33 0.5850794236494558\n')


@pytest.mark.parametrize('count', [1, 2, 3, 4, 5, 17, 64, 65, 1000, 4097])
def test_permuted_is_a_permutation_and_needs_no_other_places(count):
    def stream():
        return np.random.Philox(key=count)
    taken = permuted(np.arange(count), count, stream())
    assert np.array_equal(np.sort(taken), np.arange(count))
    some = np.arange(count)[::-3]
    assert np.array_equal(permuted(some, count, stream()), taken[some])


def test_permutations_are_uniform():
    """All 24 orders of 4, the places of 100 in pairs: chi-squared tests, p = 0.001."""
    orders = [tuple(permuted(np.arange(4), 4, np.random.Philox(key=key)).tolist())
              for key in range(2400)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and ((counts - 100) ** 2 / 100).sum() < 49.7
    taken = np.array([permuted(np.arange(100), 100, np.random.Philox(key=key))
                      for key in range(2000)])
    for place, other in ((0, 1), (3, 50), (98, 99)):  # neighbours do not stay neighbours
        table = np.histogram2d(taken[:, place], taken[:, other], 5)[0]
        assert ((table - 80) ** 2 / 80).sum() < 51.2


def test_shuffling_is_uniform_enough():
    """First places of 2,000 epochs over 8 examples: a chi-squared test with 7 degrees."""
    plan = plan_of(np.full((8, 2), 3), 'f')
    firsts = np.bincount([plan.batch(i)[1][0] for i in range(2000)], minlength=8)
    assert ((firsts - 250) ** 2 / 250).sum() < 24.3  # p = 0.001


@pytest.mark.parametrize('count', [1, 511, 512, 513, 5000])
def test_buckets_find_their_examples(count):
    lengths_N2 = natural_lengths(count, seed=4)
    shapes = [(8, 6, 6), (8, 9, 9), (8, 12, 99), (8, 99, 99)]
    buckets = Buckets(Examples(lengths_N2), shapes)
    held = [next(k for k, (_, S, T) in enumerate(shapes) if s <= S and t <= T)
            for s, t in lengths_N2.tolist()]
    for k in range(len(shapes)):
        mine = np.flatnonzero(np.array(held) == k)
        assert buckets.counts[k] == len(mine)
        back = np.arange(len(mine))[::-1]
        assert np.array_equal(buckets.examples(k, back), mine[::-1])


def test_a_batch_too_small_for_the_longest_says_what_would_do():
    lengths_N2 = np.array([[5, 5], [60, 4], [3, 70]])
    with pytest.raises(UserError, match=r'batch_tokens=1000 .*60 source and 70 .*=1040 or more'):
        plan_of(lengths_N2, data=DataConfig(batch_tokens=1000))
    assert plan_of(lengths_N2, data=DataConfig(batch_tokens=1040)).num_batches > 0
    with pytest.raises(UserError, match=r'\(60 tokens\); .*=480 or more'):
        plan_of(lengths_N2 * (1, 0), data=DataConfig(batch_tokens=479))


def test_what_is_only_measured_has_room_for_the_longest():
    data = DataConfig(batch_tokens=64, batch_multiple=4)
    batches = list(sequential_batches(Examples([[30, 0], [3, 0]]), data))
    assert sorted(i for _, indices in batches for i in indices) == [0, 1]
    assert max(shape[1] for shape, _ in batches) == 30


@pytest.mark.parametrize('make_lengths', [natural_lengths, one_sided_lengths])
def test_sequential_batches_hold_every_example_once_in_a_fixed_order(make_lengths):
    examples = Examples(make_lengths(999))
    batches = list(sequential_batches(examples, DATA))
    every = np.concatenate([indices for _, indices in batches])
    assert np.array_equal(np.sort(every), np.arange(999))
    assert len({shape for shape, _ in batches}) <= 2
    for (rows, S, T), indices in batches:
        assert len(indices) <= rows and (examples.lengths_N2[indices] <= (S, T)).all()
    again = np.concatenate([again for _, again in sequential_batches(examples, DATA)])
    assert np.array_equal(every, again)


def test_cmudict_is_filled(shared_data):
    lengths_N2 = np.array([(len(word) + 1, len(phones.split()) + 1) for word, phones
                           in read_examples(DataConfig(dataset='cmudict'), 'train')])
    data = DataConfig(batch_tokens=8192, batch_multiple=8, min_fill=0.85)
    plan = plan_of(lengths_N2, 'cmudict', data)
    batches = [(plan.shapes[k], i) for k, i in map(plan.batch, range(plan.num_batches))]
    assert measured_fill(lengths_N2, batches) >= 0.85
    assert len(plan.shapes) <= 8
