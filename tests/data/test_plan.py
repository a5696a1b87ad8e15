import itertools
import subprocess
import sys

import numpy as np
import pytest

from xformer.config import DataConfig, UserError
from xformer.data.plan import bucket_chains, choose_shapes, make_plan, sequential_batches
from xformer.data.sources import read_pairs

DATA = DataConfig(batch_tokens=2048, batch_multiple=8, min_fill=0.85, max_buckets=8)


def natural_lengths(count=20_000, seed=0):
    """Correlated, skewed lengths, as translation and pronunciation have them."""
    rng = np.random.Generator(np.random.Philox(seed))
    source = 2 + rng.poisson(rng.gamma(6, 1.2, count))
    return np.stack([source, source + rng.integers(-1, 3, count)], 1).astype(np.int32)


def slots(chain, lengths_N2):
    """Padded slots when each example takes the first bucket that holds it: by the definition."""
    return sum(next(S + T for S, T in chain if s <= S and t <= T) for s, t in lengths_N2.tolist())


def test_chains_are_as_good_as_trying_all_of_them():
    rng = np.random.Generator(np.random.Philox(1))
    for _ in range(30):
        lengths_N2 = rng.integers(1, 6, (int(rng.integers(1, 12)), 2))
        last = tuple(lengths_N2.max(0).tolist())
        grid = list(itertools.product(range(1, last[0] + 1), range(1, last[1] + 1)))
        for most, chain in enumerate(bucket_chains(lengths_N2, 3), start=1):
            brute = min(
                slots([*inner, last], lengths_N2)
                for size in range(most) for inner in itertools.combinations(grid, size)
                if all(a[1] <= b[1] for a, b in itertools.pairwise(inner)))
            assert len(chain) <= most and tuple(chain[-1].tolist()) == last
            assert (np.diff(chain, axis=0) >= 0).all()
            assert slots(chain.tolist(), lengths_N2) == brute


def test_many_distinct_lengths_still_give_a_chain_that_holds_all():
    lengths_N2 = np.random.Generator(np.random.Philox(2)).geometric(0.01, (2000, 2))
    assert len(np.unique(lengths_N2[:, 0])) > 100
    costs = [slots(chain.tolist(), lengths_N2)  # a StopIteration if one is not held
             for chain in bucket_chains(lengths_N2, 4)]
    assert sorted(costs, reverse=True) == costs and costs[-1] < 0.7 * costs[0]


def test_fewest_shapes_that_reach_the_fill():
    lengths_N2 = natural_lengths()
    shapes = choose_shapes(lengths_N2, DATA, 8)
    assert make_plan(lengths_N2, '', DATA, 0).fill >= 0.85
    assert len(shapes) > 2
    fewer = sequential_batches(lengths_N2, DATA, len(shapes) - 1)
    assert measured_fill(lengths_N2, fewer) < 0.85
    for rows, S, T in shapes:
        assert rows % 8 == 0 and rows * (S + T) <= DATA.batch_tokens


def measured_fill(lengths_N2, batches):
    batches = list(batches)
    return lengths_N2.sum() / sum(rows * (S + T) for (rows, S, T), _ in batches)


@pytest.mark.parametrize('count', [1, 7, 8, 9, 100, 5000])
def test_every_example_once_an_epoch_and_it_fits(count):
    lengths_N2 = natural_lengths(count)
    plan = make_plan(lengths_N2, 'f', DATA, seed=3)
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

    def make(fingerprint, seed):
        return make_plan(lengths_N2, fingerprint, DATA, seed)
    plan = make('f', 0)
    steps = list(range(3 * plan.num_batches))
    forwards = batches_of(plan, steps)
    assert batches_of(make('f', 0), steps[::-1]) == forwards[::-1]
    assert batches_of(make('f', 1), steps) != forwards
    assert batches_of(make('g', 0), steps) != forwards
    epochs = [forwards[e * plan.num_batches:][:plan.num_batches] for e in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert [k for k, _ in epochs[0]] != [k for k, _ in epochs[1]]  # batches move, not rows alone


def test_another_process_makes_known_batches():
    """The numbers hold every platform and every version of NumPy to the same order."""
    code = ('import numpy as np\nfrom xformer.config import DataConfig\n'
            'from xformer.data.plan import make_plan\n'
            'lengths = np.stack([np.arange(200) % 13 + 2, np.arange(200) % 7 + 2], 1)\n'
            'plan = make_plan(lengths, "f", DataConfig(batch_tokens=512), 5)\n'
            'print(plan.shapes, *(int(x) for x in plan.batch(1000)[1][:8]))')
    done = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True,
                          check=True, env={'PYTHONPATH': ':'.join(filter(None, sys.path))})
    assert done.stdout == (
        '[(16, 4, 3), (24, 5, 5), (24, 6, 6), (24, 7, 7), (32, 8, 8), (16, 10, 8), (16, 12, 8), '
        '(16, 14, 8)] 42 94 2 120 198 143 133 156\n')


def test_shuffling_is_uniform_enough():
    """First places of 2,000 epochs over 8 examples: a chi-squared test with 7 degrees."""
    plan = make_plan(np.full((8, 2), 3), 'f', DATA, seed=0)
    firsts = np.bincount([plan.batch(i)[1][0] for i in range(2000)], minlength=8)
    assert ((firsts - 250) ** 2 / 250).sum() < 24.3  # p = 0.001


def test_a_batch_too_small_for_the_longest_says_what_would_do():
    lengths_N2 = np.array([[5, 5], [60, 4], [3, 70]])
    with pytest.raises(UserError, match=r'batch_tokens=1000 .*60 source and 70 .*=1040 or more'):
        make_plan(lengths_N2, '', DataConfig(batch_tokens=1000), 0)
    assert make_plan(lengths_N2, '', DataConfig(batch_tokens=1040), 0).num_batches > 0


def test_sequential_batches_hold_every_example_once_in_a_fixed_order():
    lengths_N2 = natural_lengths(999)
    batches = list(sequential_batches(lengths_N2, DATA))
    every = np.concatenate([indices for _, indices in batches])
    assert np.array_equal(np.sort(every), np.arange(999))
    assert len({shape for shape, _ in batches}) <= 2
    for (rows, S, T), indices in batches:
        assert len(indices) <= rows and (lengths_N2[indices] <= (S, T)).all()
    again = np.concatenate([again for _, again in sequential_batches(lengths_N2, DATA)])
    assert np.array_equal(every, again)


def test_cmudict_is_filled(shared_cmudict):
    lengths_N2 = np.array([(len(word) + 1, len(phones.split()) + 1) for word, phones
                           in read_pairs(DataConfig(dataset='cmudict'), 'train')])
    data = DataConfig(batch_tokens=8192, batch_multiple=8, min_fill=0.85)
    plan = make_plan(lengths_N2, 'cmudict', data, 0)
    batches = [(plan.shapes[k], i) for k, i in map(plan.batch, range(plan.num_batches))]
    assert measured_fill(lengths_N2, batches) >= 0.85
    assert len(plan.shapes) <= 8
