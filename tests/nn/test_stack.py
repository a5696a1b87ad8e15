"""A stack of blocks: how it is compiled changes nothing; what sees what, by zero gradients."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import ModelConfig
from xformer.nn.masks import Mask, row_positions
from xformer.nn.positions import relative_buckets
from xformer.nn.stack import Block, Stack, View

L, B, T, S, D = 2, 3, 6, 5, 16
CONFIG = ModelConfig(d_model=D, num_heads=2, d_ff=24, dropout=0.0, positions='none',
                     layers='unroll')  # not compiled as a whole, which would take longer
SCHEMES = ('none', 'rotary', 'relative', 'alibi')  # the others act before the stack
FORMS = {'unroll': {}, 'unroll, remat': {'remat': True}, 'scan': {'layers': 'scan'},
         'scan, remat': {'layers': 'scan', 'remat': True}}


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


X_BTD, MEMORY_BSD = normal(0, B, T, D), normal(1, B, S, D)
POSITIONS_1T = jnp.arange(T)[None]
CAUSAL, MEMORY_MASK = Mask(causal=True), Mask(key_lengths_B=jnp.array([5, 2, 1]))


def run(config: ModelConfig, params, x_BTD=X_BTD, mask=CAUSAL, memory_BSD=None, rngs=None,
        look=False):
    """(x_BTD, looks) of a stack, with cross-attention if there is a memory."""
    cross = memory_BSD is not None
    return Stack(config, L, cross).apply(
        {'params': params}, x_BTD, mask, POSITIONS_1T, memory_BSD, MEMORY_MASK if cross else None,
        look, rngs=rngs)


def random_params(config: ModelConfig, cross: bool = False):
    """Parameters none of which is at its initial zero or one."""
    inputs = (X_BTD, CAUSAL, POSITIONS_1T) + ((MEMORY_BSD, MEMORY_MASK) if cross else ())
    shapes = jax.eval_shape(Stack(config, L, cross).init, jax.random.key(0), *inputs)['params']
    rng = np.random.default_rng(2)
    return jax.tree_util.tree_map_with_path(lambda path, leaf: jnp.asarray(
        rng.normal(0, 0.3, leaf.shape) + (path[-1].key == 'scale'), jnp.float32), shapes)


@functools.cache
def results(form: str):
    """(output, gradients) with dropout everywhere."""
    config = dataclasses.replace(CONFIG, dropout=0.3, attention_dropout=0.3, activation_dropout=0.3,
                                 positions='relative', **FORMS[form])

    def total(params):
        out_BTD, _ = run(config, params, rngs={'dropout': jax.random.key(4)})
        return (out_BTD * normal(3, B, T, D)).sum(), out_BTD
    gradients, out_BTD = jax.grad(total, has_aux=True)(random_params(config))
    return out_BTD, gradients


@pytest.mark.parametrize('form', FORMS)
def test_scan_unroll_and_remat_are_the_same_function(form):
    """Dropout included: the same layer drops the same entries, forwards and when recomputed."""
    out_BTD, gradients = results(form)
    expected_BTD, expected_gradients = results('unroll')
    np.testing.assert_allclose(out_BTD, expected_BTD, atol=1e-5)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected_gradients))
    assert largest > 1
    for gradient, expected in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients)):
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * largest)


@pytest.mark.parametrize('fields', [
    *({'positions': positions} for positions in SCHEMES), {'share_layers': True}], ids=str)
def test_scan_and_unroll_give_the_same_values_in_every_scheme(fields):
    config = dataclasses.replace(CONFIG, **fields)
    params = random_params(config)
    np.testing.assert_allclose(run(dataclasses.replace(config, layers='scan'), params)[0],
                               run(config, params)[0], atol=1e-5)


def test_dropout_differs_between_layers():
    """Layer 0 adds 1 everywhere and layer 1 adds 16: dropout can make four sums, if it differs."""
    config = dataclasses.replace(CONFIG, norm_position='pre', dropout=0.5)
    params = jax.tree.map(jnp.zeros_like, random_params(config))
    params['layers']['feed_forward']['down']['bias'] = jnp.array([[1.0], [16.0]]) * jnp.ones((L, D))
    params['final_norm']['scale'] = jnp.ones(D)
    out_BTD, _ = run(config, params, jnp.zeros((B, T, D)), rngs={'dropout': jax.random.key(0)})
    sums = [len(np.unique(row.round(4))) for row in np.asarray(out_BTD).reshape(-1, D)]
    assert max(sums) == 4


def test_shared_layers_are_one_set_of_parameters_used_again():
    shared = dataclasses.replace(CONFIG, share_layers=True)
    params = random_params(shared)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(params['layers'])} == {1}
    copied = params | {'layers': jax.tree.map(lambda leaf: jnp.repeat(leaf, L, 0),
                                              params['layers'])}

    def gradients(config, params):
        return jax.value_and_grad(
            lambda params: (run(config, params)[0] * normal(3, B, T, D)).sum())(params)
    value, gradient = gradients(shared, params)
    expected, each = gradients(CONFIG, copied)
    assert value == pytest.approx(float(expected), rel=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradient['layers']), jax.tree.leaves(each['layers'])):
        assert theirs.shape[0] == L  # the gradient of what is used twice is the sum
        np.testing.assert_allclose(ours, theirs.sum(0, keepdims=True), atol=1e-3)


# ---- who sees whom ----

def seen(config: ModelConfig, mask: Mask):
    """seen_TS: whether output t has a gradient to input s."""
    params = random_params(config)

    def outputs(x_TD):
        return run(config, params, x_TD[None], mask)[0][0, :, 0]
    return (jax.jacrev(outputs)(X_BTD[0]) != 0).any(axis=-1)


@pytest.mark.parametrize('positions', SCHEMES)
def test_an_encoder_sees_both_ways_and_a_decoder_only_back(positions):
    config = dataclasses.replace(CONFIG, positions=positions)
    assert seen(config, Mask()).all()
    np.testing.assert_array_equal(seen(config, CAUSAL), np.tri(T, dtype=bool))


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('window', [1, 2])
def test_beyond_the_windows_of_all_layers_nothing_is_seen(window, causal):
    """Two layers reach twice as far as one."""
    distance_TS = np.arange(T)[None] - np.arange(T)[:, None]
    expected = np.abs(distance_TS) <= L * (window - 1)
    if causal:
        expected &= distance_TS <= 0
    config = dataclasses.replace(CONFIG, window=window)
    np.testing.assert_array_equal(seen(config, Mask(causal=causal)), expected)


def test_a_decoder_sees_all_of_its_memory_but_the_padding():
    """Lengths 5, 2 and 1; no example sees the memory of another. A window does not matter."""
    config = dataclasses.replace(CONFIG, window=1)
    params = random_params(config, cross=True)

    def one_number_each(memory_BSD):
        return (run(config, params, memory_BSD=memory_BSD)[0] * normal(5, 1, T, D)).sum((1, 2))
    seen_BBSD = np.asarray(jax.jacrev(one_number_each)(MEMORY_BSD)) != 0
    for example, length in enumerate(MEMORY_MASK.key_lengths_B):
        visible_BS = (np.arange(B)[:, None] == example) & (np.arange(S)[None] < length)
        np.testing.assert_array_equal(seen_BBSD[example].all(-1), visible_BS)
        np.testing.assert_array_equal(seen_BBSD[example].any(-1), visible_BS)


def test_the_place_of_the_norms():
    """Post-norm: the output is normalised. Pre-norm: with silent sub-layers, the identity."""
    x_BTD, view = 3 * X_BTD + 1, View(Mask())
    post = Block(CONFIG, cross=False)
    params = post.init(jax.random.key(0), x_BTD, view)
    out_BTD, _ = post.apply(params, x_BTD, view)
    np.testing.assert_allclose(out_BTD.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(out_BTD.std(-1), 1, atol=1e-4)

    pre = Block(dataclasses.replace(CONFIG, norm_position='pre'), cross=False)
    for part, last in (('self_attention', 'out'), ('feed_forward', 'down')):
        params['params'][part][last] = jax.tree.map(jnp.zeros_like, params['params'][part][last])
    np.testing.assert_array_equal(pre.apply(params, x_BTD, view)[0], x_BTD)


def test_heads_may_have_an_odd_width_where_nothing_is_rotated():
    config = dataclasses.replace(CONFIG, d_model=D - 1, num_heads=5)
    params = jax.eval_shape(Stack(config, L).init, jax.random.key(0), X_BTD[..., 1:], CAUSAL,
                            POSITIONS_1T)['params']
    assert params['layers']['self_attention']['query']['kernel'].shape == (L, D - 1, D - 1)


# ---- hidden states and attention maps ----

def turned(x_TH, positions: str):
    """Rotary as complex numbers, or as it was."""
    if positions != 'rotary':
        return x_TH
    half = x_TH.shape[1] // 2
    theta = 10_000.0 ** (-np.arange(half) / half)
    z = (x_TH[:, :half] + 1j * x_TH[:, half:]) * np.exp(1j * np.arange(T)[:, None] * theta)
    return np.concatenate([z.real, z.imag], axis=1)


def maps_by_hand(config: ModelConfig, params, x_TD, causal: bool):
    """maps_NTS of the first layer's self-attention, one head at a time in NumPy."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64),
                     params['layers']['self_attention'])
    H = D // config.num_heads
    q_TD, k_TD = (x_TD @ p[name]['kernel'] + p[name]['bias'] for name in ('query', 'key'))
    distance_TS = np.arange(T)[None] - np.arange(T)[:, None]
    maps = []
    for n in range(config.num_heads):
        served = n * (config.num_kv_heads or config.num_heads) // config.num_heads
        q_TH, k_SH = (turned(x[:, at * H:(at + 1) * H], config.positions)
                      for x, at in ((q_TD, n), (k_TD, served)))
        scores_TS = q_TH @ k_SH.T / math.sqrt(H)
        if config.positions == 'alibi':
            scores_TS -= 2.0 ** (-8 * (n + 1) / config.num_heads) * np.abs(distance_TS)
        if config.positions == 'relative':
            bucket_TS = relative_buckets(distance_TS, not causal, config.relative_buckets,
                                         config.relative_distance)
            scores_TS += np.asarray(params['relative_bias'])[np.asarray(bucket_TS), n]
        hidden_TS = np.zeros((T, T), bool) if not causal else distance_TS > 0
        weights_TS = np.where(hidden_TS, 0, np.exp(scores_TS))
        maps.append(weights_TS / weights_TS.sum(1, keepdims=True))
    return np.stack(maps)


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('positions', SCHEMES)
def test_the_first_maps_are_those_of_plain_numpy(positions, causal):
    """Four heads that share two heads of keys, where a position scheme acts."""
    config = dataclasses.replace(CONFIG, positions=positions, num_heads=4, num_kv_heads=2)
    params = random_params(config)
    _, looks = run(config, params, mask=Mask(causal=causal), look=True)
    assert looks['self'].shape == (L, B, 4, T, T)
    for b in range(B):
        expected = maps_by_hand(config, params, np.asarray(X_BTD[b], np.float64), causal)
        np.testing.assert_allclose(looks['self'][0, b], expected, atol=1e-5)


@pytest.mark.parametrize('fields', [
    {'layers': 'scan'}, {'norm_position': 'pre', 'window': 2}], ids=str)
def test_looking_shows_maps_and_hidden_states_and_changes_nothing(fields):
    config = dataclasses.replace(CONFIG, **fields)
    params = random_params(config, cross=True)
    out_BTD, looks = run(config, params, memory_BSD=MEMORY_BSD, look=True)
    plain_BTD, nothing = run(config, params, memory_BSD=MEMORY_BSD)
    assert not jax.tree.leaves(nothing)
    np.testing.assert_allclose(out_BTD, plain_BTD, atol=1e-6)

    allowed = {'self': CAUSAL.replace(window=config.window or None).to_bool(T, T),
               'cross': MEMORY_MASK.to_bool(T, S)}
    for name, allowed_BTS in allowed.items():
        maps = np.asarray(looks[name])
        assert maps.shape == (L, B, 2, T, allowed_BTS.shape[-1])
        np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-6)
        np.testing.assert_array_equal(
            maps > 0, np.broadcast_to(np.asarray(allowed_BTS)[None, :, None], maps.shape))

    hidden_LBTD = np.asarray(looks['hidden'], np.float64)
    assert hidden_LBTD.shape == (L, B, T, D)
    last_BTD = hidden_LBTD[-1]
    if config.norm_position == 'pre':
        last_BTD = last_BTD - last_BTD.mean(-1, keepdims=True)
        last_BTD = last_BTD / np.sqrt((last_BTD**2).mean(-1, keepdims=True) + config.norm_epsilon)
        scale_D, bias_D = (np.asarray(params['final_norm'][name]) for name in ('scale', 'bias'))
        last_BTD = last_BTD * scale_D + bias_D
    np.testing.assert_allclose(out_BTD, last_BTD, atol=1e-5)


# ---- decoding ----

CACHED = {  # without a memory: in the tests of the decoder
    'rotary': {'positions': 'rotary'},
    'relative': {'positions': 'relative', 'norm_position': 'pre'},
    'alibi': {'positions': 'alibi'},
    'grouped, window, shared': {'positions': 'relative', 'num_kv_heads': 1, 'window': 3,
                                'share_layers': True},
}


@pytest.mark.parametrize('case', CACHED)
def test_cached_is_uncached_after_a_prefix_and_step_by_step(case):
    config = dataclasses.replace(CONFIG, **CACHED[case])
    params, stack = random_params(config, cross=True), Stack(config, L, cross=True)
    expected_BTD, _ = run(config, params, memory_BSD=MEMORY_BSD)
    start = functools.partial(stack.apply, {'params': params}, method='start')
    extend = jax.jit(functools.partial(stack.apply, {'params': params}, method='extend'))
    for split in ([1] * T, [T - 1, 1]):
        caches, parts, position = start(B, T + 2, MEMORY_BSD), [], 0  # room to spare
        assert len(caches) == L
        assert caches[0].v_XMH.shape == (B * (config.num_kv_heads or config.num_heads), T + 2,
                                         D // config.num_heads)
        for x_BTD in jnp.split(X_BTD, np.cumsum(split)[:-1], axis=1):
            positions_1T = row_positions(x_BTD.shape[1], position)
            part, caches = extend(x_BTD, caches, position, positions_1T, MEMORY_MASK)
            parts.append(part)
            position += x_BTD.shape[1]
        np.testing.assert_allclose(jnp.concatenate(parts, axis=1), expected_BTD, atol=1e-5)
