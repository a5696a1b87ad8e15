"""Rows hold every text once and whole, are full, and have few shapes."""

import random

import numpy as np
import pytest

from xformer.data.objectives.rows import padded
from xformer.data.packing import batches_by_length, best_fit, packed_batches, places, rounded

LONG = np.random.default_rng(0).integers(1, 600, 300).tolist()


def sentences(count: int, most: int = 120) -> list[int]:
    """Log-normal lengths, median 20."""
    random = np.random.default_rng(count)
    return np.rint(np.exp(random.normal(3.0, 0.6, count))).clip(3, most).astype(int).tolist()


@pytest.mark.parametrize('lengths', [
    [1], [3] * 200, [70] * 30, sentences(50), sentences(3000), sentences(500, 20),
    LONG])
@pytest.mark.parametrize('batch_tokens', [1, 256, 4096])
def test_every_text_once_and_none_over_another(lengths, batch_tokens):
    seen = []
    for batch in packed_batches(lengths, batch_tokens):
        assert batch.rows * batch.width <= batch_tokens or batch.rows == 1
        texts = [np.full(lengths[text], text + 1) for text in batch.texts_N]
        ids_NS, lengths_N = padded(texts, (len(texts), max(map(len, texts))), 0)
        array_BT = batch.laid_out(ids_NS, lengths_N, 0)
        assert array_BT.shape == (batch.rows, batch.width)
        assert (array_BT > 0).sum() == lengths_N.sum()  # nothing lies over anything else
        for text, row, start in zip(batch.texts_N, batch.row_N, batch.start_N):
            assert (array_BT[row, start:start + lengths[text]] == text + 1).all()
        order = np.lexsort([batch.start_N, batch.row_N])
        rows, numbers = batch.row_N[order], batch.place_N[order]
        for row in set(rows.tolist()):
            count = (rows == row).sum()
            assert numbers[rows == row].tolist() == list(range(count)) and count <= places(
                batch.width)
        seen += batch.texts_N.tolist()
    assert sorted(seen) == list(range(len(lengths)))


def test_the_longest_come_first():
    widths = [batch.width for batch in packed_batches(LONG, 1024)]
    assert widths == sorted(widths, reverse=True) and widths[0] == 768


@pytest.mark.parametrize('count', [2000, 5000, 50_000])
def test_sentences_fill_rows_in_few_shapes(count):
    lengths = sentences(count)
    batches = list(packed_batches(lengths, 4096))
    slots = sum(batch.rows * batch.width for batch in batches)
    assert sum(lengths) / slots > 0.97
    assert len({(batch.rows, batch.width) for batch in batches}) <= 6


def test_rows_take_the_text_that_leaves_least_room():
    rows = best_fit([40, 50, 20, 14, 24, 64])
    assert rows == [(64, [5]), (64, [1, 3]), (64, [0, 4]), (64, [2])]


def test_little_text_takes_little_room():
    [batch] = packed_batches([5], 4096)
    assert (batch.rows, batch.width) == (1, 16)
    [batch] = packed_batches([9, 10, 11], 4096)
    assert (batch.rows, batch.width) == (1, 32)


@pytest.mark.parametrize('batch_tokens', [1, 64, 1000])
def test_batches_by_length_hold_every_text_once_in_shapes_of_powers_of_two(batch_tokens):
    choose = random.Random(3)
    for _ in range(50):
        lengths = [choose.randint(1, 100) for _ in range(choose.randint(0, 40))]
        batches = list(batches_by_length(lengths, batch_tokens))
        assert sorted(i for indices, _ in batches for i in indices) == list(range(len(lengths)))
        longest = [lengths[i] for indices, _ in batches for i in indices]
        assert longest == sorted(lengths, reverse=True)
        for indices, (rows, S) in batches:
            assert rows & (rows - 1) == 0 and S & (S - 1) == 0
            assert 1 <= len(indices) <= rows and max(lengths[i] for i in indices) <= S
            assert S == 16 or min(lengths[i] for i in indices) > S / 2
            assert rows == 1 or rows * S <= batch_tokens


def test_sizes_are_powers_of_two_and_half_as_much_again():
    sizes = [rounded(value) for value in range(1, 1000)]
    assert sorted(set(sizes))[:12] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert all(value <= size <= 1.5 * value for value, size in enumerate(sizes, start=1))
    assert places(64) == 16
