"""Layers against NumPy's 64-bit floats; dropout against the statistics it promises."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from xformer.nn.layers import (
    ACTIVATIONS,
    Dropout,
    FeedForward,
    Linear,
    MultiHeadAttention,
    dropout_factors,
    layer_norm,
    linear,
)
from xformer.nn.masks import Mask

DROPOUT = {'dropout': jax.random.key(3)}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('leading', [(3,), (2, 5), (2, 3, 4)])
def test_linear_is_a_matrix_product(leading):
    x, kernel, bias = normal(0, *leading, 6), normal(1, 6, 4), normal(2, 4)
    expected = np.einsum('...i,io->...o', x.astype(np.float64), kernel.astype(np.float64)) + bias
    np.testing.assert_allclose(linear(x, kernel, bias), expected, atol=2e-6)


@pytest.mark.parametrize('widths', [(6, 4), (4, 6), (5, 5)])
def test_gradients_of_linear_are_those_of_a_matrix_product(widths):
    x, kernel, bias = normal(0, 2, 5, widths[0]), normal(1, *widths), normal(2, widths[1])
    cotangent = normal(3, 2, 5, widths[1])
    out, pull_back = jax.vjp(linear, x, kernel, bias)
    assert out.shape == cotangent.shape
    for gradient, expected in zip(pull_back(cotangent), (
            np.einsum('bto,io->bti', cotangent, kernel), np.einsum('bti,bto->io', x, cotangent),
            cotangent.sum((0, 1)))):
        np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_a_linear_module_computes_in_the_type_of_its_input_from_float32_parameters():
    x = jnp.ones((2, 3, 8), jnp.bfloat16)
    params = Linear(4).init(jax.random.key(0), x)['params']
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert Linear(4).apply({'params': params}, x).dtype == jnp.bfloat16


@pytest.mark.parametrize('leading', [(3,), (2, 5), (2, 3, 4)])
@pytest.mark.parametrize('centre', [0.0, 1000.0])
def test_layer_norm_is_the_formula_also_far_from_zero(leading, centre):
    x, scale, bias = normal(0, *leading, 16) + np.float32(centre), normal(1, 16), normal(2, 16)
    x64 = x.astype(np.float64)
    deviation = np.sqrt(x64.var(-1, keepdims=True) + 1e-6)
    expected = (x64 - x64.mean(-1, keepdims=True)) / deviation * scale + bias
    np.testing.assert_allclose(layer_norm(x, scale, bias), expected, atol=5e-6 + 1e-6 * centre)


def test_layer_norm_of_bfloat16_has_float32_statistics():
    """A mean of 256 values near 1: adding them up in bfloat16 would stop at 256."""
    x = jnp.asarray(normal(0, 4, 1024) * 0.1 + 1, jnp.bfloat16)
    result = layer_norm(x, jnp.ones(1024), jnp.zeros(1024))
    assert result.dtype == jnp.bfloat16
    x64 = np.asarray(x, np.float64)
    expected = (x64 - x64.mean(-1, keepdims=True)) / x64.std(-1, keepdims=True)
    np.testing.assert_allclose(np.asarray(result, np.float64), expected, rtol=2**-8, atol=2e-3)


FORMULAS = {
    'relu': lambda x: max(x, 0.0),
    'gelu': lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    'gelu_tanh': lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi)
                                                    * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_activations_are_their_formulas(name):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    expected = [FORMULAS[name](value) for value in x.tolist()]
    np.testing.assert_allclose(ACTIVATIONS[name](x), expected, atol=1e-6)


def test_feed_forward_is_its_formula_at_every_position():
    module = FeedForward(12, 'relu', 0.0)
    x = normal(0, 2, 3, 8)
    params = jax.tree.map(lambda leaf: normal(1, *leaf.shape),
                          module.init(jax.random.key(0), x)['params'])
    out = module.apply({'params': params}, x)
    for b, t in np.ndindex(2, 3):
        hidden = np.maximum(x[b, t] @ params['up']['kernel'] + params['up']['bias'], 0)
        expected = hidden @ params['down']['kernel'] + params['down']['bias']
        np.testing.assert_allclose(out[b, t], expected, atol=1e-5)


def test_hypotheses_of_one_example_share_its_keys():
    """Row b·G + g of the queries attends to keys b: as if the keys were repeated."""
    groups, batch, T, S = 3, 2, 4, 5
    module = MultiHeadAttention(d_model=8, num_heads=2, dropout=0.0, backend='xla')
    x, k, v = normal(0, batch * groups, T, 8), normal(1, batch, S, 2, 4), normal(2, batch, S, 2, 4)
    params = module.init(jax.random.key(0), x[:batch], method=lambda module, x_BTD: module(
        x_BTD, *module.keys_values(x_BTD), Mask()))
    lengths = np.array([5, 2])
    for causal in (False, True):
        shared = module.apply(params, x, k, v, Mask(causal=causal, key_lengths_B=lengths))
        repeated = module.apply(params, x, *(np.repeat(part, groups, axis=0) for part in (k, v)),
                                Mask(causal=causal, key_lengths_B=np.repeat(lengths, groups)))
        np.testing.assert_allclose(shared, repeated, atol=1e-6)


MILLION = (100, 10_000)
FIVE_SIGMA = 5 / 1000  # of a correlation of a million independent pairs


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.9])
def test_dropout_factors_have_mean_one_and_the_variance_of_their_rate(rate):
    factors = np.asarray(dropout_factors(jax.random.key(1), rate, MILLION), np.float64)
    kept = np.float32(1 / (1 - rate))
    assert set(np.unique(factors)) == {0.0, kept}
    deviation = math.sqrt(rate / (1 - rate))
    assert factors.mean() == pytest.approx(1, abs=deviation * FIVE_SIGMA)
    assert factors.var() == pytest.approx(deviation**2, rel=0.05)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_neighbouring_factors_are_independent(rate):
    factors = np.asarray(dropout_factors(jax.random.key(2), rate, MILLION))
    for rows, columns in ((0, 1), (0, 2), (0, 64), (1, 0), (1, 1), (50, 0)):
        a = factors[:MILLION[0] - rows, :MILLION[1] - columns]
        b = factors[rows:, columns:]
        assert abs(correlation(a, b)) < 5 / math.sqrt(a.size)


@pytest.mark.parametrize('rate', [0.1, 0.5])
def test_factors_of_different_keys_are_independent(rate):
    """Keys derived as training derives them, and plain keys of neighbouring seeds."""
    keys = [*jax.random.split(jax.random.key(0), 3),
            *(jax.random.fold_in(jax.random.key(1), step) for step in (0, 1, 2)),
            *(jax.random.key(seed) for seed in (0, 1, 2, 3))]
    masks = [np.asarray(dropout_factors(key, rate, MILLION)) for key in keys]
    for (i, a), (j, b) in itertools.combinations(enumerate(masks), 2):
        assert abs(correlation(a, b)) < FIVE_SIGMA, (i, j)


def test_factors_do_not_depend_on_jit_or_on_where_they_are_computed():
    key, shape = jax.random.key(5), (8, 3, 4)
    plain = np.asarray(dropout_factors(key, 0.3, shape))
    mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
    for spec in (PartitionSpec('data'), PartitionSpec(None, None, 'data'), PartitionSpec()):
        spread = jax.jit(dropout_factors, static_argnums=(1, 2),
                         out_shardings=NamedSharding(mesh, spec))(key, 0.3, shape)
        np.testing.assert_array_equal(spread, plain)


def test_the_shape_only_folds_the_factors():
    key = jax.random.key(6)
    flat = np.asarray(dropout_factors(key, 0.5, (24,)))
    np.testing.assert_array_equal(dropout_factors(key, 0.5, (2, 3, 4)), flat.reshape(2, 3, 4))


def test_dropout_needs_its_random_stream():
    x = normal(0, 50, 50)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, rngs=DROPOUT), x)
    dropped = np.asarray(Dropout(0.5).apply({}, x, rngs=DROPOUT))
    assert 0.4 < (dropped == 0).mean() < 0.6
    np.testing.assert_allclose(dropped[dropped != 0], 2 * x[dropped != 0])


def test_dropout_keeps_the_type_of_its_input():
    x = jnp.ones((4, 4), jnp.bfloat16)
    assert Dropout(0.5).apply({}, x, rngs=DROPOUT).dtype == jnp.bfloat16
