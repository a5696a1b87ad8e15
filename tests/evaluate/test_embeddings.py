"""Embeddings: plain NumPy on one text alone, whatever the batch; neighbours by brute force."""

import collections
import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from xformer.compiled import Compilations
from xformer.config import UserError, override
from xformer.evaluate.embeddings import (
    Embedder,
    clustered,
    most_frequent,
    nearest,
    neighbour_accuracy,
    pooled,
    purity,
    unit,
)
from xformer.evaluate.inputs import encode_outputs, encode_texts
from xformer.nn.masks import Packing

TEXTS = ['abc', 'hgfedcba hgfedcba abc', 'cab', 'abc', 'bad']
RNG = np.random.default_rng(0)


def embedded(one, texts, pool):
    rows = encode_texts(texts, one.config, one.tokenizers)
    begins = one.config.model.family == 'decoder'
    return Embedder(one.model, one.config, one.params, pool, Compilations(), first=begins)(rows)


def pooled_by_hand(x_LTD: np.ndarray, pool: str) -> np.ndarray:
    """The embedding of one text's tokens, all of which count."""
    if pool == 'cls':
        return x_LTD[-1, 0]
    if pool == 'last4':
        return np.concatenate([x_LTD[layer].mean(axis=0) for layer in (-4, -3, -2, -1)])
    return x_LTD[-1].mean(axis=0) if pool == 'mean' else x_LTD[-1].max(axis=0)


@pytest.mark.parametrize('pool', ['mean', 'cls', 'max', 'last4'])
def test_pools_are_as_by_hand(pool):
    x_LBTD = RNG.normal(size=(5, 2, 7, 4)).astype(np.float32)
    segments_BT = np.array([[1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 0, 0]])
    packing = Packing(segments_BT, np.array([[0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0, 0]]))
    for first in (0, 1) if pool != 'cls' else (0,):
        found_BGD = pooled(x_LBTD, packing, first, 3, pool)
        for row, text in ((0, 0), (0, 1), (1, 0)):
            own_LTD = x_LBTD[:, row, segments_BT[row] == text + 1]
            np.testing.assert_allclose(found_BGD[row, text],
                                       pooled_by_hand(own_LTD[:, first:], pool), atol=1e-6)


def features_by_hand(one, look, ids: list[int]) -> np.ndarray:
    """x_LTD of one text without batch or padding; the final norm in NumPy."""
    ids_1T, lengths_1 = np.array([ids]), np.array([len(ids)])
    inputs = {'encoder': (ids_1T, lengths_1), 'decoder': (ids_1T,),
              'seq2seq': (ids_1T, lengths_1, ids_1T)}[one.config.model.family]
    stack = 'decoder' if one.config.model.family == 'decoder' else 'encoder'
    looks = look({'params': one.params}, *inputs)[stack]
    x_LTD = np.asarray(looks['hidden'], np.float64)[:, 0]
    if one.config.model.norm_position == 'pre':
        norm = one.params[stack]['final_norm']
        x_LTD = (x_LTD - x_LTD.mean(-1, keepdims=True)) / np.sqrt(
            x_LTD.var(-1, keepdims=True) + one.config.model.norm_epsilon)
        x_LTD = x_LTD * norm['scale'] + norm['bias']
    return x_LTD[:, 1:] if stack == 'decoder' else x_LTD  # a decoder's BOS is not text


@pytest.mark.parametrize('family', ['encoder', 'decoder', 'seq2seq'])
def test_every_text_of_a_batch_is_as_alone_by_hand(family, small):
    one, done, compilations = small(family), [], Compilations()
    rows = encode_texts(TEXTS * 3, one.config, one.tokenizers)
    embed = Embedder(one.model, one.config, one.params, 'last4', compilations, batch_tokens=64,
                     first=family == 'decoder')
    embeddings_ND = embed(rows, done.append)
    assert done == sorted(done) and done[0] < done[-1] == 15 and len(compilations.rows) == 1
    look = jax.jit(functools.partial(one.model.apply, method='look'))
    np.testing.assert_allclose(embeddings_ND, [
        pooled_by_hand(features_by_hand(one, look, ids), 'last4') for ids in rows], atol=1e-5)
    assert len(np.unique(embeddings_ND.round(4), axis=0)) == len(set(TEXTS))


def test_texts_of_two_have_segments_wherever_they_lie(small):
    one = small('classifier')
    texts = ['abc\tcab', 'hgf', 'a\tb', 'abc\tcab']
    embeddings_ND = embedded(one, texts, 'mean')
    for text, found_D in zip(texts, embeddings_ND):
        np.testing.assert_allclose(embedded(one, [text], 'mean')[0], found_D, atol=1e-5)


def test_a_second_call_compiles_nothing(small):
    one, compilations = small('encoder'), Compilations()
    embed = Embedder(one.model, one.config, one.params, 'mean', compilations, batch_tokens=128)
    first, second = (encode_texts([''.join(RNG.choice(list('abcdefgh'), length))
                                   for length in RNG.integers(1, 22, 90)],
                                  one.config, one.tokenizers) for _ in range(2))
    embed(first)
    compiled = len(compilations.rows)
    assert 0 < compiled <= 2
    embed(second)
    embed(first)
    assert len(compilations.rows) <= compiled + 1  # the last batch may have a size of its own


@pytest.mark.parametrize('family', ['encoder', 'decoder', 'seq2seq'])
def test_what_padding_holds_never_counts(family, small):
    one = small(family)
    letters = SimpleNamespace(**vars(one) | {'config': override(one.config, {'model.pad_id': 6})})
    for pool in ('max', 'mean'):
        np.testing.assert_allclose(embedded(one, TEXTS[:1], pool),
                                   embedded(letters, TEXTS[:1], pool), atol=1e-6)


def test_a_token_that_the_model_has_no_place_for_is_named(small):
    """As <mask> of BART's summarisers."""
    one = small('encoder')
    last = one.tokenizers.source.encode('h')[0]
    short = override(one.config, {'model.vocab_size': last})
    with pytest.raises(UserError, match="input 2 has 'h', of which the model has no embedding"):
        encode_texts(['ab', 'ah'], short, one.tokenizers)
    one = small('seq2seq')
    last = max(one.tokenizers.target.encode('A B C D'))
    [word] = one.tokenizers.target.tokens([last])
    short = override(one.config, {'model.vocab_size': last})
    with pytest.raises(UserError, match=f'input 2 has {word!r}, of which the model has no embedd'):
        encode_outputs(['A', 'A B C D'], [[4], [4]], short, one.tokenizers)


def test_a_text_too_long_is_named_or_cut(small):
    one = small('encoder')
    cut = override(one.config, {'data.too_long': 'cut'})
    [ids] = encode_texts(['abcd' * 9], cut, one.tokenizers)
    special = one.tokenizers.special
    assert ids == [special.bos, *one.tokenizers.source.encode('abcd' * 9)[:22], special.eos]
    with pytest.raises(UserError, match='input 2 .*27 tokens.*takes 24'):
        embedded(one, ['a', 'a' * 25], 'mean')
    with pytest.raises(UserError, match='input 1 is empty'):
        embedded(one, [''], 'mean')


def test_neighbours_are_those_of_brute_force():
    points_ND = RNG.normal(size=(60, 5)) * RNG.uniform(0.1, 9, (60, 1))
    labels = RNG.choice(list('xyz'), 60)

    def cosine(a_D, b_D):
        return a_D @ b_D / np.sqrt((a_D @ a_D) * (b_D @ b_D))
    right = 0
    for i, point in enumerate(points_ND):
        best = max((j for j in range(60) if j != i), key=lambda j: cosine(point, points_ND[j]))
        right += labels[best] == labels[i]
    assert 0 < right < 60
    assert neighbour_accuracy(points_ND, labels) == pytest.approx(right / 60)

    found = nearest(points_ND[3], points_ND, 4)
    wanted = sorted(((cosine(points_ND[3], point), -i) for i, point in enumerate(points_ND)),
                    reverse=True)[:4]
    assert found[0] == (3, pytest.approx(1))
    assert found == [(-i, pytest.approx(value)) for value, i in wanted]
    assert nearest(np.ones(2), np.array([[0, 0], [1, 1], [2, 2]]), 9) == [
        (1, pytest.approx(1)), (2, pytest.approx(1)), (0, 0)]
    with pytest.raises(ValueError, match='one row'):
        neighbour_accuracy(points_ND[:1], labels[:1])


def test_purity_is_the_share_of_each_clusters_most_frequent_label():
    random = np.random.default_rng(0)  # its own, whichever tests ran before
    clusters, labels = random.integers(0, 4, 80), random.choice(['a', 'bb', 'c'], 80)
    members = collections.defaultdict(collections.Counter)
    for cluster, label in zip(clusters, labels):
        members[cluster][label] += 1
    wanted = sum(counter.most_common(1)[0][1] for counter in members.values()) / 80
    assert purity(clusters, labels) == pytest.approx(wanted)
    assert most_frequent(labels) == collections.Counter(labels).most_common(1)[0][1] / 80
    assert purity([0] * 80, labels) == most_frequent(labels) < wanted
    assert purity(range(80), labels) == 1


def test_clusters_find_directions_and_repeat_themselves():
    pytest.importorskip('sklearn')
    centres_KD = np.eye(3, 6)
    truth = np.repeat([2, 0, 1], 10)
    points_ND = (centres_KD[truth] + RNG.normal(0, 0.05, (30, 6))) * RNG.uniform(0.1, 9, (30, 1))
    clusters = clustered(points_ND, 3, seed=0)
    assert set(clusters) == {0, 1, 2} and purity(clusters, truth) == 1
    np.testing.assert_array_equal(clusters, clustered(points_ND, 3, seed=0))
    with pytest.raises(UserError, match='5 clusters .* has 2'):
        clustered(np.array([[1., 0], [2, 0], [0, 1]] * 3), 5, seed=0)


def test_a_row_of_zeros_has_no_direction():
    np.testing.assert_array_equal(unit(np.array([[0., 0], [3, 4]])), [[0, 0], [0.6, 0.8]])
