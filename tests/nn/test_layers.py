"""Layers against NumPy's 64-bit floats; random numbers against the statistics they promise."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from xformer.config import ModelConfig
from xformer.nn.attention import by_head
from xformer.nn.layers import (
    ACTIVATIONS,
    GATES,
    Dropout,
    FeedForward,
    Linear,
    MultiHeadAttention,
    Norm,
    dropout_factors,
    initial,
    linear,
    normalise,
)
from xformer.nn.masks import Mask

TINY = ModelConfig(d_model=8, num_heads=2, d_ff=12, dropout=0.0)
DROPOUT = {'dropout': jax.random.key(3)}
X_BTD = np.random.default_rng(9).normal(size=(2, 5, 8)).astype(np.float32)


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
    module = Linear(4, initial(TINY).kernel)
    params = module.init(jax.random.key(0), x)['params']
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert module.apply({'params': params}, x).dtype == jnp.bfloat16


def norm_by_definition(x, scale, bias, epsilon: float, centre: bool):
    """Every row in float64, to unit variance (or, not centred, unit mean square)."""
    x = x.astype(np.float64)
    rest = x - x.mean(-1, keepdims=True) if centre else x
    y = rest / np.sqrt((rest**2).mean(-1, keepdims=True) + epsilon) * scale
    return y if bias is None else y + bias


NORMS = pytest.mark.parametrize(('centre', 'biased'), [(True, True), (True, False), (False, False)])


@NORMS
@pytest.mark.parametrize('epsilon', [1e-6, 0.5])
@pytest.mark.parametrize('shift', [0.0, 1000.0])
def test_normalise_is_the_formula_also_far_from_zero(centre, biased, epsilon, shift):
    x, scale = normal(0, 5, 16) + np.float32(shift), normal(1, 16)
    bias = normal(2, 16) if biased else None
    np.testing.assert_allclose(normalise(x, scale, bias, epsilon, centre),
                               norm_by_definition(x, scale, bias, epsilon, centre),
                               atol=5e-6 + 1e-6 * shift)


def slopes(function, value: np.ndarray) -> np.ndarray:
    """d function / d value by central differences in float64, one element at a time."""
    step, gradient = 1e-5, np.zeros(value.shape)
    for index in np.ndindex(value.shape):
        ahead, behind = value.astype(np.float64), value.astype(np.float64)
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (2 * step)
    return gradient


@NORMS
def test_gradients_of_normalise_are_those_of_its_formula(centre, biased):
    inputs = {'x': normal(0, 5, 6) + 2, 'scale': normal(1, 6)}
    if biased:
        inputs['bias'] = normal(2, 6)
    cotangent = normal(3, 5, 6)

    def ours(inputs):
        return normalise(inputs['x'], inputs['scale'], inputs.get('bias'), 0.1, centre)
    gradients = jax.vjp(ours, inputs)[1](cotangent)[0]
    for name, value in inputs.items():
        def total(value, name=name):
            changed = {**inputs, name: value}
            return (norm_by_definition(changed['x'], changed['scale'], changed.get('bias'), 0.1,
                                       centre) * cotangent).sum()
        np.testing.assert_allclose(gradients[name], slopes(total, value), atol=5e-6, err_msg=name)


@pytest.mark.parametrize('centre', [True, False])
def test_normalise_of_bfloat16_has_float32_statistics_and_gradients_of_its_parameters(centre):
    """A mean of 1024 values near 1: adding them up in bfloat16 would stop at 256."""
    x = jnp.asarray(normal(0, 4, 1024) * 0.1 + 1, jnp.bfloat16)
    scale, cotangent = jnp.ones(1024), jnp.asarray(normal(1, 4, 1024), jnp.bfloat16)
    out, pull_back = jax.vjp(lambda x, scale: normalise(x, scale, None, 1e-6, centre), x, scale)
    x_gradient, scale_gradient = pull_back(cotangent)
    assert out.dtype == x_gradient.dtype == jnp.bfloat16 and scale_gradient.dtype == jnp.float32
    expected = norm_by_definition(np.asarray(x, np.float32), 1.0, None, 1e-6, centre)
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=2**-8, atol=2e-3)
    np.testing.assert_allclose(
        scale_gradient, (expected * np.asarray(cotangent, np.float64)).sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('norm', 'biases', 'names'), [
    ('layer', True, {'scale', 'bias'}), ('layer', False, {'scale'}),
    ('rms', True, {'scale'}), ('rms', False, {'scale'})])
def test_the_norm_of_a_configuration(norm, biases, names):
    module = Norm(dataclasses.replace(TINY, norm=norm, biases=biases, norm_epsilon=0.1))
    x = normal(0, 2, 3, 8)
    params = module.init(jax.random.key(0), x)['params']
    assert set(params) == names
    params = {name: normal(1 + index, 8) for index, name in enumerate(sorted(names))}
    expected = norm_by_definition(x, params['scale'], params.get('bias'), 0.1, norm == 'layer')
    np.testing.assert_allclose(module.apply({'params': params}, x), expected, atol=5e-6)


FORMULAS = {
    'relu': lambda x: max(x, 0.0),
    'gelu': lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    'gelu_tanh': lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi)
                                                    * (x + 0.044715 * x**3))),
    'silu': lambda x: x / (1 + math.exp(-x)),
}
GATED = {'geglu': 'gelu', 'geglu_tanh': 'gelu_tanh', 'swiglu': 'silu'}  # Shazeer 2020, section 2


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_activations_are_their_formulas(name):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    expected = [FORMULAS[name](value) for value in x.tolist()]
    np.testing.assert_allclose(ACTIVATIONS[name](x), expected, atol=1e-6)


def test_every_allowed_activation_has_a_formula_here():
    choices = ModelConfig.__dataclass_fields__['activation'].metadata['choices']
    assert set(FORMULAS) == set(ACTIVATIONS) and set(GATED) == set(GATES)
    assert set(choices) == {*FORMULAS, *GATED}


@pytest.mark.parametrize('biases', [True, False])
@pytest.mark.parametrize('activation', [*FORMULAS, *GATED])
def test_feed_forward_is_its_formula_at_every_position(activation, biases):
    module = FeedForward(dataclasses.replace(TINY, activation=activation, biases=biases))
    x = normal(0, 2, 3, 8)
    params = jax.tree.map(lambda leaf: normal(leaf.size, *leaf.shape),
                          module.init(jax.random.key(0), x)['params'])
    assert all(('bias' in part) == biases for part in params.values())
    out = module.apply({'params': params}, x)

    def mapped(name, x_D):
        return x_D @ params[name]['kernel'] + params[name].get('bias', 0.0)
    bend = np.vectorize(FORMULAS[GATED.get(activation, activation)])
    for b, t in np.ndindex(2, 3):
        hidden = mapped('up', x[b, t])
        hidden = bend(mapped('gate', x[b, t])) * hidden if activation in GATED else bend(hidden)
        np.testing.assert_allclose(out[b, t], mapped('down', hidden), rtol=1e-4, atol=1e-4)


def attend_to_oneself(config: ModelConfig, x_BTD, positions_BT=None):
    """(module, its initial parameters) on self-attention."""
    module = MultiHeadAttention(config)
    return module, module.init(jax.random.key(0), x_BTD, method=lambda module, x_BTD: module(
        x_BTD, *module.keys_values(x_BTD, positions_BT), Mask(), None, positions_BT))


@pytest.mark.parametrize(('fields', 'shapes'), [
    ({}, {'query': (8, 8), 'key': (8, 8), 'value': (8, 8), 'out': (8, 8)}),
    ({'num_heads': 4, 'num_kv_heads': 2},
     {'query': (8, 8), 'key': (8, 4), 'value': (8, 4), 'out': (8, 8)}),
    ({'num_heads': 3, 'head_width': 5},
     {'query': (8, 15), 'key': (8, 15), 'value': (8, 15), 'out': (15, 8)})])
@pytest.mark.parametrize('biases', [True, False])
def test_shapes_of_attention(fields, shapes, biases):
    config = dataclasses.replace(TINY, biases=biases, **fields)
    variables = jax.eval_shape(lambda x_BTD: attend_to_oneself(config, x_BTD)[1], X_BTD)
    assert {name: part['kernel'].shape for name, part in variables['params'].items()} == shapes
    for part in variables['params'].values():
        assert set(part) == ({'kernel', 'bias'} if biases else {'kernel'})


def test_rotary_attention_depends_on_distances_alone():
    module, params = attend_to_oneself(TINY, X_BTD)

    def attend(positions_BT):
        return module.apply(params, X_BTD, method=lambda module, x: module(
            x, *module.keys_values(x, positions_BT), Mask(causal=True), None, positions_BT))
    places = jnp.arange(5)[None]
    np.testing.assert_allclose(attend(places), attend(places + 100), atol=1e-5)
    assert np.abs(attend(places) - attend(2 * places)).max() > 1e-3


def test_hypotheses_of_one_example_share_its_keys():
    """Row b·G + g of the queries attends to keys b: as if the keys were repeated."""
    groups, batch, T, S = 3, 2, 4, 5
    x, k, v = normal(0, batch * groups, T, 8), normal(1, batch, S, 2, 4), normal(2, batch, S, 2, 4)
    module, params = attend_to_oneself(TINY, x)
    lengths = np.array([5, 2])
    read = functools.partial(module.apply, params, x, by_head(k).swapaxes(1, 2),
                             by_head(v), method='read')
    shared = read(Mask(key_lengths_B=lengths))
    repeated = module.apply(params, x, *(np.repeat(part, groups, axis=0) for part in (k, v)),
                            Mask(key_lengths_B=np.repeat(lengths, groups)))
    np.testing.assert_allclose(shared, repeated, atol=1e-6)
    with pytest.raises(ValueError, match='a mask of lengths alone'):
        read(Mask(causal=True))


NORMAL_CUT_AT_2 = 0.87962566  # the deviation of a standard normal without its tails beyond 2
DEPTH = 6  # of the configuration below
STARTS = {  # init: deviations of (kernel of 200 by 300, residual kernel, embeddings), all of D = 64
    'glorot': (math.sqrt(2 / 500), math.sqrt(2 / 500), 64**-0.5),
    'bert': (*[0.02 * NORMAL_CUT_AT_2] * 3,),
    'gpt2': (0.02, 0.02 / math.sqrt(2 * DEPTH), 0.02),
    't5': (200**-0.5, 200**-0.5, 1.0),
}


@pytest.mark.parametrize('init', STARTS)
def test_initialisations_have_the_deviations_of_their_papers(init):
    config = ModelConfig(init=init, d_model=64, num_encoder_layers=2, num_decoder_layers=4)
    largest = {'glorot': math.sqrt(6 / 500), 'bert': 0.04}
    for start, deviation in zip(initial(config), STARTS[init]):
        values = np.asarray(start(jax.random.key(0), (200, 300)), np.float64)
        assert values.std() == pytest.approx(deviation, rel=0.02)
        assert abs(values.mean()) < 5 * deviation / math.sqrt(values.size)
    if init in largest:
        values = np.abs(initial(config).kernel(jax.random.key(1), (200, 300)))
        assert 0.99 * largest[init] < values.max() <= largest[init] * (1 + 1e-6)


def test_kernels_into_the_residual_stream_begin_as_such():
    """GPT-2's are smaller by √(2L): attention's last, the feed-forward's last, and no others."""
    config = dataclasses.replace(TINY, init='gpt2', num_encoder_layers=0, num_decoder_layers=50,
                                 d_model=64, num_heads=2, d_ff=96, activation='swiglu')
    x = normal(0, 1, 1, 64)
    kernels = attend_to_oneself(config, x)[1]['params'] | FeedForward(config).init(
        jax.random.key(1), x)['params']
    deviations = {name: float(part['kernel'].std()) for name, part in kernels.items()}
    for name, deviation in deviations.items():
        expected = 0.002 if name in ('out', 'down') else 0.02
        assert deviation == pytest.approx(expected, rel=0.05), name
    assert set(deviations) == {'query', 'key', 'value', 'out', 'up', 'gate', 'down'}


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


def test_factors_are_counted_beyond_what_32_bits_hold():
    shape = jax.eval_shape(lambda key: dropout_factors(key, 0.1, (2, 16, 2**14, 2**14)),
                           jax.random.key(0))
    assert shape.shape == (2, 16, 2**14, 2**14)


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
