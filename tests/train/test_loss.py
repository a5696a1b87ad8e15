"""Losses against their definitions in float64; packing and padding cannot be noticed."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import ModelConfig
from xformer.models.decoder import Decoder
from xformer.models.encoder import MaskedLM
from xformer.train.loss import FAMILIES, cross_entropy, summary

V = 7


def by_definition(logits, label: int, smoothing: float) -> tuple[float, float]:
    """Cross-entropy of the smoothed and the plain distribution, -Σ q log p, in Python floats."""
    highest = max(logits)
    log_total = highest + math.log(sum(math.exp(x - highest) for x in logits))
    log_p = [x - log_total for x in logits]
    q = [smoothing / V + (1 - smoothing) * (v == label) for v in range(V)]
    return -sum(a * b for a, b in zip(q, log_p)), -log_p[label]


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 0.5])
@pytest.mark.parametrize('scale', [1.0, 100.0])
def test_the_definition(smoothing, scale):
    rng = np.random.default_rng(0)
    logits = (scale * rng.normal(size=(3, 4, V))).astype(np.float32)
    labels = rng.integers(0, V, (3, 4))
    smoothed, plain = cross_entropy(logits, labels, smoothing)
    assert smoothed.shape == plain.shape == (3, 4)
    for index in np.ndindex(3, 4):
        expected = by_definition(logits[index].tolist(), labels[index], smoothing)
        np.testing.assert_allclose((smoothed[index], plain[index]), expected, atol=1e-6 * scale,
                                   rtol=1e-6)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_uniform_logits_cost_log_of_the_vocabulary(smoothing):
    for value in (0.0, -50.0, 1e4):
        smoothed, plain = cross_entropy(jnp.full((2, V), value), jnp.array([0, 3]), smoothing)
        np.testing.assert_allclose(smoothed, math.log(V), atol=2e-3 if value == 1e4 else 1e-5)
        np.testing.assert_allclose(plain, math.log(V), atol=2e-3 if value == 1e4 else 1e-5)


def test_smoothing_is_least_at_the_smoothed_distribution_itself():
    """There it is the entropy of that distribution, and the gradient is zero."""
    smoothing = 0.2
    q = np.full(V, smoothing / V) + (1 - smoothing) * (np.arange(V) == 2)
    loss, gradient = jax.value_and_grad(
        lambda logits: cross_entropy(logits, jnp.array(2), smoothing)[0])(
            jnp.log(jnp.asarray(q, jnp.float32)))
    assert loss == pytest.approx(-(q * np.log(q)).sum(), abs=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


def batch_of(labels_BT, lengths):
    """What the loss of pairs reads of a batch."""
    return {'labels_BT': np.asarray(labels_BT, np.int32),
            'target_lengths_B': np.asarray(lengths, np.int32)}


@pytest.fixture
def logits_BTV():
    return np.random.default_rng(1).normal(size=(3, 4, V)).astype(np.float32)


def test_sums_and_weights_count_real_tokens_only(logits_BTV):
    labels_BT, lengths = [[1, 2, 3, 4], [5, 6, 0, 0], [0, 0, 0, 0]], [4, 2, 0]
    batch = batch_of(labels_BT, lengths)
    sums = FAMILIES['seq2seq'].sums(logits_BTV, batch, 0.1)['tokens']
    real = [(b, t) for b in range(3) for t in range(lengths[b])]
    expected = np.sum([by_definition(logits_BTV[b, t].tolist(), labels_BT[b][t], 0.1)
                       for b, t in real], axis=0)
    np.testing.assert_allclose((sums['loss'], sums['nll']), expected, rtol=1e-6)
    assert int(sums['correct']) == sum(
        int(logits_BTV[b, t].argmax()) == labels_BT[b][t] for b, t in real)
    assert FAMILIES['seq2seq'].weights(batch) == {
        'tokens': sum(lengths), 'sequence': sum(length > 0 for length in lengths)}


def test_a_row_is_right_when_every_label_of_it_is():
    labels_BT = np.array([[1, 2, 3, 4], [5, 6, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    said_BT = np.array([[1, 2, 3, 4], [5, 6, 3, 3], [1, 2, 1, 0], [0, 0, 0, 0]])
    sums = FAMILIES['seq2seq'].sums(jax.nn.one_hot(said_BT, V), batch_of(labels_BT, [4, 2, 3, 0]),
                                    0.0)
    assert float(sums['sequence']['correct']) == 2  # the third has a wrong one, the last has none


def test_of_a_pair_in_a_decoder_the_target_alone_is_learnt(logits_BTV):
    scored_BT = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]], np.int32)
    labels_BT = np.array([[1, 2, 3, 4], [5, 6, 2, 0], [0, 0, 0, 0]], np.int32)
    batch = {'labels_BT': labels_BT, 'scored_BT': scored_BT,
             'segments_BT': np.array([[1] * 4, [1, 1, 1, 0], [0] * 4], np.int32)}
    decoder = FAMILIES['decoder']
    loss, gradient = jax.value_and_grad(
        lambda logits: decoder.sums(logits, batch, 0.0)['tokens']['loss'])(logits_BTV)
    assert (np.abs(gradient).sum(-1) > 0).astype(int).tolist() == scored_BT.tolist()
    assert loss == pytest.approx(sum(by_definition(logits_BTV[b, t].tolist(), labels_BT[b, t], 0)[1]
                                     for b, t in zip(*np.nonzero(scored_BT))), rel=1e-6)
    assert decoder.weights(batch) == {'tokens': 4, 'sequence': 2}


@pytest.mark.parametrize('garbage', [0, 6, 99, -1])
def test_whatever_stands_in_the_padding_is_irrelevant(logits_BTV, garbage):
    """Also ids outside the vocabulary."""
    lengths = [3, 1, 4]
    clean = np.array([[1, 2, 3, 0], [5, 0, 0, 0], [1, 2, 3, 4]])
    dirty = np.where(np.arange(4) < np.array(lengths)[:, None], clean, garbage)

    def loss(logits_BTV, labels_BT):
        return FAMILIES['seq2seq'].sums(
            logits_BTV, batch_of(labels_BT, lengths), 0.1)['tokens']['loss']
    expected, expected_gradient = jax.value_and_grad(loss)(logits_BTV, clean)
    value, gradient = jax.value_and_grad(loss)(logits_BTV, dirty)
    assert value == expected
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert (gradient[0, 3] == 0).all() and (gradient[1, 1:] == 0).all()
    assert (gradient[2] != 0).all()


# ---- documents packed into one row, and the heads of an encoder ----

TINY = {'d_model': 16, 'num_heads': 2, 'd_ff': 24, 'vocab_size': V, 'dropout': 0.0,
        'max_length': 12, 'layers': 'unroll'}


def random_params(model, *inputs):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32),
                        shapes)


def said(model, params, task, batch):
    return model.apply({'params': params}, *task.inputs(batch))


def language_batch(documents, slots: int):
    """One row that holds the documents one after the other."""
    segments = np.concatenate([np.full(len(each), 1 + i) for i, each in enumerate(documents)])
    positions = np.concatenate([np.arange(len(each)) for each in documents])
    labels = np.concatenate(documents)
    inputs = np.concatenate([np.roll(each, 1) for each in documents])
    return {name: np.pad(values, (0, slots - len(values)))[None] for name, values in (
        ('inputs_BT', inputs), ('labels_BT', labels), ('segments_BT', segments),
        ('positions_BT', positions))}


@pytest.mark.parametrize('positions', ['sinusoidal', 'learned', 'rotary', 'relative', 'alibi',
                                       'none'])
def test_packed_documents_have_the_loss_they_have_alone(positions):
    model = Decoder(ModelConfig(family='decoder', num_encoder_layers=0, num_decoder_layers=1,
                                positions=positions, **TINY))
    rng, task = np.random.default_rng(2), FAMILIES['decoder']
    documents = [rng.integers(0, V, length) for length in (5, 4, 2)]
    params = random_params(model, documents[0][None])

    def seen(documents):
        batch = language_batch(documents, 12)
        return (task.sums(said(model, params, task, batch), batch, 0.1)['tokens'],
                float(task.weights(batch)['tokens']))
    together, tokens = seen(documents)
    alone = [seen([document]) for document in documents]
    assert tokens == sum(weight for _, weight in alone) == 11
    for name, value in together.items():
        assert float(value) == pytest.approx(sum(float(sums[name]) for sums, _ in alone), rel=1e-5)


@pytest.fixture(scope='module')
def masked():
    """(model, parameters, batch) of three rows, the last of which is empty."""
    model = MaskedLM(ModelConfig(family='encoder', num_encoder_layers=1, num_decoder_layers=0,
                                 num_segments=2, pooler=True, **TINY), next_sentence=True)
    rng = np.random.default_rng(3)
    batch = {'inputs_BS': rng.integers(0, V, (3, 6)), 'lengths_B': np.array([6, 4, 0]),
             'types_BS': rng.integers(0, 2, (3, 6)),
             'masked_BP': np.array([[1, 3], [2, 0], [0, 0]]),
             'masked_labels_BP': np.array([[2, 5], [6, 0], [0, 0]]),
             'masked_lengths_B': np.array([2, 1, 0]), 'nsp_labels_B': np.array([1, 0, 0])}
    inputs = [batch[name] for name in ('inputs_BS', 'lengths_B', 'types_BS', 'masked_BP')]
    return model, random_params(model, *inputs), batch


def test_masked_tokens_and_next_sentences_are_two_terms_of_one_loss(masked):
    model, params, batch = masked
    task = FAMILIES['encoder']
    sums = task.sums(said(model, params, task, batch), batch, 0.1)
    weights = task.weights(batch)
    assert weights == {'tokens': 3.0, 'nsp': 2.0}
    logits_BPV, logits_B2 = model.apply(
        {'params': params}, batch['inputs_BS'], batch['lengths_B'], batch['types_BS'],
        batch['masked_BP'])
    words = np.sum([by_definition(logits_BPV[b, p].tolist(), batch['masked_labels_BP'][b, p], 0.1)
                    for b, p in ((0, 0), (0, 1), (1, 0))], axis=0)
    pairs = sum(math.log(np.exp(logits_B2[b]).sum()) - float(logits_B2[b, label])
                for b, label in ((0, 1), (1, 0)))  # never smoothed
    np.testing.assert_allclose((sums['tokens']['loss'], sums['tokens']['nll']), words, rtol=1e-5)
    np.testing.assert_allclose((sums['nsp']['loss'], sums['nsp']['nll']), pairs, rtol=1e-5)
    seen = summary(sums, weights)
    assert float(seen['loss']) == pytest.approx(words[0] / 3 + pairs / 2, rel=1e-5)
    assert float(seen['nll']) == pytest.approx(words[1] / 3, rel=1e-5)
    assert float(seen['nsp_nll']) == pytest.approx(pairs / 2, rel=1e-5)


def test_each_row_alone_has_its_part_of_the_sums(masked):
    model, params, batch = masked
    task = FAMILIES['encoder']

    def sums(batch):
        return task.sums(said(model, params, task, batch), batch, 0.0)
    whole = sums(batch)
    rows = [sums({name: values[b:b + 1] for name, values in batch.items()}) for b in range(3)]
    for term, names in whole.items():
        for name, value in names.items():
            assert float(value) == pytest.approx(sum(float(row[term][name]) for row in rows),
                                                 rel=1e-5)
    assert all(float(value) == 0 for names in rows[2].values() for value in names.values())


def test_nothing_to_count_is_a_loss_of_zero():
    zero = {'tokens': dict.fromkeys(('loss', 'nll', 'correct'), 0.0)}
    seen = summary(zero, {'tokens': np.float64(0)})
    assert {name: float(value) for name, value in seen.items()} == {
        'loss': 0.0, 'nll': 0.0, 'accuracy': 0.0}
