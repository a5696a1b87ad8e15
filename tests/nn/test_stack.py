"""A stack of blocks: how it is compiled changes nothing; what sees what, by zero gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import ModelConfig
from xformer.nn.masks import Mask
from xformer.nn.stack import Block, Stack

L, B, T, S, D = 2, 2, 5, 4, 16
CONFIG = ModelConfig(d_model=D, num_heads=2, d_ff=24, dropout=0.0)
FORMS = {'scan': {}, 'scan, remat': {'remat': True}, 'unroll': {'layers': 'unroll'},
         'unroll, remat': {'layers': 'unroll', 'remat': True}}


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


X_BTD, MEMORY_BSD = normal(0, B, T, D), normal(1, B, S, D)
MASKS = {'mask': Mask(causal=True), 'memory_mask': Mask(key_lengths_B=jnp.array([4, 2]))}


def run(config: ModelConfig, params, x_BTD=X_BTD, memory_BSD=MEMORY_BSD, rngs=None):
    return Stack(config, L, cross=True).apply(
        {'params': params}, x_BTD, MASKS['mask'], memory_BSD, MASKS['memory_mask'], rngs=rngs)[0]


def random_params(config: ModelConfig, cross: bool = True):
    """Parameters none of which is at its initial zero or one."""
    inputs = X_BTD, MASKS['mask'], MEMORY_BSD, MASKS['memory_mask']
    shapes = jax.eval_shape(Stack(config, L, cross).init, jax.random.key(0), *inputs)['params']
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: jnp.asarray(
        rng.normal(0.5, 0.3, leaf.shape) if leaf.shape == (L, D) else
        rng.normal(0, 0.3, leaf.shape), jnp.float32), shapes)


@functools.cache
def results(form: str):
    """(output, gradients) with dropout everywhere."""
    config = dataclasses.replace(CONFIG, dropout=0.3, attention_dropout=0.3,
                                 activation_dropout=0.3, **FORMS[form])
    cotangent = normal(3, B, T, D)

    def total(params):
        out_BTD, _ = Stack(config, L).apply({'params': params}, X_BTD, Mask(causal=True),
                                            rngs={'dropout': jax.random.key(4)})
        return (out_BTD * cotangent).sum(), out_BTD
    gradients, out_BTD = jax.jit(jax.grad(total, has_aux=True))(random_params(config, cross=False))
    return out_BTD, gradients


@pytest.mark.parametrize('form', FORMS)
def test_scan_unroll_and_remat_are_the_same_function(form):
    """Dropout included: the same layer drops the same entries, forwards and when recomputed."""
    out_BTD, gradients = results(form)
    expected_BTD, expected_gradients = results('scan')
    np.testing.assert_allclose(out_BTD, expected_BTD, atol=1e-5)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected_gradients))
    assert largest > 1
    for gradient, expected in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients)):
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * largest)


def test_dropout_differs_between_layers():
    """Layer 0 adds 1 everywhere and layer 1 adds 16: dropout can make four sums, if it differs."""
    config = dataclasses.replace(CONFIG, norm_position='pre', dropout=0.5)
    params = jax.tree.map(jnp.zeros_like, random_params(config))
    params['layers']['feed_forward']['down']['bias'] = jnp.array([[1.0], [16.0]]) * jnp.ones((L, D))
    params['final_norm']['scale'] = jnp.ones(D)
    out_BTD = run(config, params, jnp.zeros((B, T, D)), rngs={'dropout': jax.random.key(0)})
    sums = [len(np.unique(row.round(4))) for row in np.asarray(out_BTD).reshape(-1, D)]
    assert max(sums) == 4


def test_an_encoder_sees_both_ways_and_a_decoder_only_back():
    """moved_TS: whether output t of an example has a gradient to its input s."""
    params, stack = random_params(CONFIG, cross=False), Stack(CONFIG, L)

    @jax.jit
    def moved(mask):
        def outputs(x_TD):
            return stack.apply({'params': params}, x_TD[None], mask)[0][0, :, 0]
        return (jax.jacrev(outputs)(X_BTD[0]) != 0).any(axis=-1)
    assert moved(Mask()).all()
    np.testing.assert_array_equal(moved(Mask(causal=True)), np.tri(T, dtype=bool))


def test_a_decoder_sees_all_of_its_memory_but_the_padding():
    """Lengths 4 and 2; and no example sees the memory of the other."""
    params = random_params(CONFIG)

    @jax.jit
    def gradient(memory_BSD, weight_B):
        return jax.grad(lambda memory_BSD: (
            run(CONFIG, params, X_BTD, memory_BSD) * normal(5, T, D)[None] * weight_B[:, None, None]
        ).sum())(memory_BSD)
    for example, seen in enumerate([[[1, 1, 1, 1], [0, 0, 0, 0]], [[0, 0, 0, 0], [1, 1, 0, 0]]]):
        gradient_BSD = gradient(MEMORY_BSD, jnp.zeros(B).at[example].set(1.0))
        np.testing.assert_array_equal((gradient_BSD != 0).all(axis=-1), seen)
        np.testing.assert_array_equal((gradient_BSD != 0).any(axis=-1), seen)


def test_the_place_of_the_norms():
    """Post-norm: the output is normalised. Pre-norm: with silent sub-layers, the identity."""
    x_BTD = 3 * X_BTD + 1
    post = Block(CONFIG, cross=False)
    params = post.init(jax.random.key(0), x_BTD, Mask())
    out_BTD, _ = post.apply(params, x_BTD, Mask())
    np.testing.assert_allclose(out_BTD.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(out_BTD.std(-1), 1, atol=1e-4)

    pre = Block(dataclasses.replace(CONFIG, norm_position='pre'), cross=False)
    params['params']['self_attention']['out'] = jax.tree.map(
        jnp.zeros_like, params['params']['self_attention']['out'])
    params['params']['feed_forward']['down'] = jax.tree.map(
        jnp.zeros_like, params['params']['feed_forward']['down'])
    np.testing.assert_array_equal(pre.apply(params, x_BTD, Mask())[0], x_BTD)
