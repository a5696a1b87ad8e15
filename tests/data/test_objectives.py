import numpy as np
import pytest

from xformer.config import DataConfig
from xformer.data.objectives import pair_batch
from xformer.data.store import build_store
from xformer.data.tokenizers import BOS, EOS, PAD, train_tokenizers

PAIRS = [('abc', 'x y'), ('c', 'y'), ('ab', 'z z z'), ('bca', 'x')]


@pytest.fixture
def store(tmp_path):
    tokenizers = train_tokenizers(DataConfig(train='x', target_tokenizer='word'), PAIRS)
    return build_store(tmp_path / 's', PAIRS, tokenizers, split='train', max_length=9)


def test_rows_are_the_examples_padded_and_shifted(store):
    indices, (rows, S, T) = np.array([2, 0, 1]), (5, 6, 4)
    batch = pair_batch(store, indices, (rows, S, T))
    for row, i in enumerate(indices.tolist()):
        source, target = store.source(i).tolist(), store.target(i).tolist()
        assert source[-1] == target[-1] == EOS
        assert batch['source_BS'][row].tolist() == source + [PAD] * (S - len(source))
        assert batch['labels_BT'][row].tolist() == target + [PAD] * (T - len(target))
        assert batch['inputs_BT'][row].tolist() == (
            [BOS] + target[:-1] + [PAD] * (T - len(target)))
        assert batch['source_lengths_B'][row] == len(source)
        assert batch['target_lengths_B'][row] == len(target)
    for name, array in batch.items():
        assert array.dtype == np.int32 and len(array) == rows
        assert not array[len(indices):].any(), name  # empty rows: PAD and length 0 are 0


def test_no_examples_make_an_empty_batch(store):
    batch = pair_batch(store, np.array([], np.int64), (8, 4, 4))
    assert all(not array.any() for array in batch.values())


@pytest.mark.parametrize('shape', [(1, 9, 9), (2, 3, 9), (2, 9, 2)])
def test_nothing_is_cut_to_fit(store, shape):
    with pytest.raises(ValueError, match='do not fit'):
        pair_batch(store, np.array([0, 2]), shape)
