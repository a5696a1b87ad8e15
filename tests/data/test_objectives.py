import numpy as np
import objective_stores as stores
import pytest

from xformer.config import UserError
from xformer.data.objectives.pairs import Continuations
from xformer.data.store import Column, TokenStore
from xformer.data.tokenizers import Special

SPECIAL = Special(pad=5, bos=1, eos=2, unk=3, mask=4, sentinels=tuple(range(6, 26)))
FIRST = 26  # lowest ordinary id
TEXT_OBJECTIVES = ('lm', 'mlm', 'mlm_nsp', 'spans', 'denoise')
DOCUMENTS = [[3, 4, 2], [9], [30, 1, 25], [1], [5, 5, 5, 5], [2, 17]]


def text_store(documents):
    return stores.text_store(documents, FIRST, SPECIAL)


def build(name, store, special=SPECIAL, **options):
    return stores.objective_of(name, store, special, np.ones(2000, bool), **options)


PAIRS = stores.pair_store(
    [([30, 31, 32], [40]), ([33], [41, 42]), ([34, 35], [43, 44, 45])], SPECIAL)


def objectives():
    return [build('pairs', PAIRS),
            *(build(name, text_store(DOCUMENTS), max_length=64) for name in TEXT_OBJECTIVES)]


def key(number):
    return np.random.Generator(np.random.Philox(key=number))


def all_rows(objective):
    """(indices, the smallest shape) that hold every example."""
    return np.arange(len(objective)), (len(objective), *objective.lengths(
        0, len(objective)).max(0).tolist())


@pytest.mark.parametrize('objective', objectives(), ids=lambda o: type(o).__name__)
class TestEveryObjective:
    def test_a_batch_depends_on_its_arguments_alone(self, objective):
        indices, shape = all_rows(objective)
        first, again, other = (objective.batch(indices, shape, key(k)) for k in (1, 1, 2))
        unsigned = objective.batch(indices.astype(np.uint64), shape, key(1))
        for name, array in first.items():
            assert array.dtype == np.int32 and len(array) == len(indices)
            np.testing.assert_array_equal(array, again[name])
            np.testing.assert_array_equal(array, unsigned[name])
        same = all((array == other[name]).all() for name, array in first.items())
        assert same == (type(objective).__name__ in ('Pairs', 'NextToken'))

    def test_rows_beyond_the_examples_are_empty(self, objective):
        _, (_, S, T) = all_rows(objective)
        for count in (0, 2):
            batch = objective.batch(np.arange(count), (7, S + 3, T + 3), key(0))
            for name, array in batch.items():
                ids = name in ('source_BS', 'inputs_BS', 'inputs_BT', 'labels_BT',
                               'masked_labels_BP')
                assert len(array) == 7
                assert (array[count:] == (SPECIAL.pad if ids else 0)).all(), name

    def test_lengths_are_those_of_the_rows(self, objective):
        indices, shape = all_rows(objective)
        lengths_N2 = objective.lengths(0, len(objective))
        assert lengths_N2.dtype == np.int32 and lengths_N2.shape == (len(objective), 2)
        np.testing.assert_array_equal(objective.lengths(1, 2), lengths_N2[1:2])
        batch = objective.batch(indices, shape, key(0))
        for column, name in enumerate(('source_lengths_B', 'target_lengths_B')):
            used = batch.get(name, batch.get('lengths_B') if not column else None)
            if used is not None:
                assert (used <= lengths_N2[:, column]).all()
                if type(objective).__name__ not in ('NextSentence', 'Denoising'):
                    np.testing.assert_array_equal(used, lengths_N2[:, column])

    def test_nothing_is_cut_to_fit(self, objective):
        indices, (rows, S, T) = all_rows(objective)
        for shape in [(rows - 1, S, T), (rows, S - 1, T), (rows, S, T - 1)]:
            with pytest.raises(ValueError, match='do not fit'):
                objective.batch(indices, shape, key(0))


@pytest.mark.parametrize('name', TEXT_OBJECTIVES)
def test_memory_mapped_stores_of_small_ids_give_the_same(name, tmp_path):
    plain = text_store(DOCUMENTS)
    mapped = []
    for i, array in enumerate((plain.columns['text'].ids.astype('<u2'),
                               plain.columns['text'].offsets, plain.documents)):
        np.save(tmp_path / f'{i}.npy', array)
        mapped.append(np.load(tmp_path / f'{i}.npy', mmap_mode='r'))
    of_disk = TokenStore({'text': Column(*mapped[:2])}, mapped[2], manifest={})
    objectives = [build(name, store, max_length=16) for store in (plain, of_disk)]
    batches = [o.batch(*all_rows(o), key(3)) for o in objectives]
    for field, array in batches[0].items():
        np.testing.assert_array_equal(array, batches[1][field])


def test_pairs_are_padded_and_shifted():
    batch = build('pairs', PAIRS).batch(np.array([2, 0]), (3, 5, 4), key(0))
    pad, bos, eos = SPECIAL.pad, SPECIAL.bos, SPECIAL.eos
    assert batch['source_BS'].tolist() == [
        [34, 35, eos, pad, pad], [30, 31, 32, eos, pad], [pad] * 5]
    assert batch['inputs_BT'].tolist() == [[bos, 43, 44, 45], [bos, 40, pad, pad], [pad] * 4]
    assert batch['labels_BT'].tolist() == [[43, 44, 45, eos], [40, eos, pad, pad], [pad] * 4]
    assert batch['source_lengths_B'].tolist() == [3, 4, 0]
    assert batch['target_lengths_B'].tolist() == [4, 2, 0]


def test_a_decoder_reads_pairs_as_one_text_of_which_the_target_counts():
    objective = Continuations(build('pairs', PAIRS))
    assert objective.lengths(0, 3).tolist() == [[6, 0], [5, 0], [7, 0]]
    batch = objective.batch(np.array([2, 0]), (3, 8, 0), key(0))
    pad, bos, eos = SPECIAL.pad, SPECIAL.bos, SPECIAL.eos
    assert batch['inputs_BT'].tolist() == [
        [bos, 34, 35, eos, 43, 44, 45, pad], [bos, 30, 31, 32, eos, 40, pad, pad], [pad] * 8]
    assert batch['labels_BT'].tolist() == [
        [34, 35, eos, 43, 44, 45, eos, pad], [30, 31, 32, eos, 40, eos, pad, pad], [pad] * 8]
    assert batch['scored_BT'].tolist() == [
        [0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 0, 0], [0] * 8]
    assert batch['segments_BT'].tolist() == [[1] * 7 + [0], [1] * 6 + [0, 0], [0] * 8]
    assert batch['positions_BT'].tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 0], [0, 1, 2, 3, 4, 5, 0, 0], [0] * 8]


@pytest.mark.parametrize('length', [1, 2, 7, 16, 1000])
@pytest.mark.parametrize('gpt2', [False, True])
def test_lm_predicts_every_token_once_from_its_own_document(length, gpt2):
    special = SPECIAL._replace(pad=2, bos=2, mask=None, sentinels=()) if gpt2 else SPECIAL
    store = text_store(DOCUMENTS)
    stream = store.columns['text'].ids.tolist()
    objective = build('lm', store, special, sequence_length=length)
    indices, shape = all_rows(objective)
    batch = objective.batch(indices, (shape[0], shape[1] + 1, 0), key(0))
    inside = batch['segments_BT'] > 0
    assert batch['labels_BT'][inside].tolist() == stream

    before, document, numbers = special.bos, 0, [0]  # walked token by token
    for token in stream:
        numbers.append(document)
        document += token == special.eos
    inputs = batch['inputs_BT'][inside].tolist()
    for i, token in enumerate(stream):
        assert inputs[i] == before
        before = special.bos if token == special.eos else token
    for r, row in enumerate(indices.tolist()):
        here = numbers[1:][row * length:(row + 1) * length]
        distinct = sorted(set(here))
        count = len(here)
        assert batch['segments_BT'][r, :count].tolist() == [distinct.index(d) + 1 for d in here]
        assert batch['positions_BT'][r, :count].tolist() == [
            i - here.index(d) for i, d in enumerate(here)]
        for name, empty in (('segments_BT', 0), ('positions_BT', 0),
                            ('labels_BT', special.pad), ('inputs_BT', special.pad)):
            assert (batch[name][r, count:] == empty).all()


@pytest.mark.parametrize('name, documents, special, options, message', [
    ('mlm', [[3]], SPECIAL._replace(mask=None), {}, 'mask token'),
    ('denoise', [[3]], SPECIAL._replace(mask=None), {}, 'mask token'),
    ('spans', [[3]], SPECIAL._replace(sentinels=(6,)), {}, 'two sentinel tokens'),
    ('spans', [[1], [1]], SPECIAL, {}, 'no text of 2 or more'),
    ('spans', [[9]], SPECIAL, {'max_length': 3}, 'no room'),
    ('mlm', [[9]], SPECIAL, {'max_length': 2}, 'no room'),
    ('mlm', [[0], [0]], SPECIAL, {}, 'no text of 1 or more'),
    ('mlm_nsp', [[9], [4]], SPECIAL, {}, 'no two sentences'),
    ('mlm_nsp', [[9, 9], [9, 9]], SPECIAL, {'max_length': 4}, 'no two sentences'),
    ('mlm_nsp', [[9, 4]], SPECIAL, {}, 'two documents'),
    ('mlm_nsp', [[9, 4], [0]], SPECIAL, {}, 'two documents'),
])
def test_what_cannot_serve_is_refused(name, documents, special, options, message):
    with pytest.raises(UserError, match=message):
        build(name, text_store(documents), special, **options)
