"""Cross-entropy against its definition in float64; padding cannot be noticed."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from xformer.train.loss import cross_entropy, pair_sums, pair_weights

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


class Echo(nn.Module):
    """A model whose logits are parameters, one table for each row: made to be differentiated."""

    def __call__(self, source_BS, source_lengths_B, inputs_BT):
        return self.variables['params']['logits_BTV']


def batch_of(labels_BT, lengths):
    labels_BT = np.asarray(labels_BT, np.int32)
    return {'source_BS': labels_BT, 'source_lengths_B': np.asarray(lengths, np.int32),
            'inputs_BT': labels_BT, 'labels_BT': labels_BT,
            'target_lengths_B': np.asarray(lengths, np.int32)}


@pytest.fixture
def logits_BTV():
    return np.random.default_rng(1).normal(size=(3, 4, V)).astype(np.float32)


def test_sums_and_weights_count_real_tokens_only(logits_BTV):
    labels_BT, lengths = [[1, 2, 3, 4], [5, 6, 0, 0], [0, 0, 0, 0]], [4, 2, 0]
    batch = batch_of(labels_BT, lengths)
    sums, seen = pair_sums(Echo(), {'logits_BTV': logits_BTV}, batch, {}, 0.1)
    real = [(b, t) for b in range(3) for t in range(lengths[b])]
    expected = np.sum([by_definition(logits_BTV[b, t].tolist(), labels_BT[b][t], 0.1)
                       for b, t in real], axis=0)
    np.testing.assert_allclose((sums['loss'], seen['nll']), expected, rtol=1e-6)
    assert int(seen['correct']) == sum(
        int(logits_BTV[b, t].argmax()) == labels_BT[b][t] for b, t in real)
    assert float(pair_weights(batch)['loss']) == 6.0


@pytest.mark.parametrize('garbage', [0, 6, 99, -1])
def test_whatever_stands_in_the_padding_is_irrelevant(logits_BTV, garbage):
    """Also ids outside the vocabulary."""
    lengths = [3, 1, 4]
    clean = np.array([[1, 2, 3, 0], [5, 0, 0, 0], [1, 2, 3, 4]])
    dirty = np.where(np.arange(4) < np.array(lengths)[:, None], clean, garbage)

    def loss(logits_BTV, labels_BT):
        return pair_sums(Echo(), {'logits_BTV': logits_BTV}, batch_of(labels_BT, lengths), {}, 0.1
                         )[0]['loss']
    expected, expected_gradient = jax.value_and_grad(loss)(logits_BTV, clean)
    value, gradient = jax.value_and_grad(loss)(logits_BTV, dirty)
    assert value == expected
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert (gradient[0, 3] == 0).all() and (gradient[1, 1:] == 0).all()
    assert (gradient[2] != 0).all()
