"""Embeddings and tied logits against NumPy, one token at a time."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import ModelConfig
from xformer.nn.embedding import Embedding, tied_logits

B, T, D, V = 2, 5, 8, 11
CONFIG = ModelConfig(d_model=D, num_heads=2, d_ff=12, vocab_size=V, max_length=9, dropout=0.0,
                     embedding_scale='none', positions='none', norm_epsilon=0.1)
RNG = np.random.default_rng(0)
IDS_BT, TYPES_BT = RNG.integers(0, V, (B, T)), RNG.integers(0, 2, (B, T))
ONE_ROW, EACH = np.arange(T)[None], np.array([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]])
VARIANTS = {
    'plain': {},
    'sinusoidal, scaled': {'positions': 'sinusoidal', 'embedding_scale': 'input'},
    'scaled at the output only': {'embedding_scale': 'output'},
    'learned': {'positions': 'learned'},
    'segments': {'positions': 'learned', 'num_segments': 2},
    'bert': {'positions': 'learned', 'num_segments': 2, 'embedding_norm': True},
    'albert': {'positions': 'learned', 'num_segments': 2, 'embedding_norm': True,
               'embedding_size': 4},
    'narrow, without biases': {'embedding_size': 4, 'embedding_norm': True, 'biases': False},
    'rms': {'norm': 'rms', 'embedding_norm': True},
    'rotary adds nothing': {'positions': 'rotary'},
    'relative adds nothing': {'positions': 'relative'},
    'alibi adds nothing': {'positions': 'alibi'},
}


def setting(variant: str):
    """(config, token table, random parameters of the embedding)."""
    config = dataclasses.replace(CONFIG, **VARIANTS[variant])
    rng = np.random.default_rng(1)
    table_VE = rng.normal(size=(V, config.embedding_size or D)).astype(np.float32)
    shapes = jax.eval_shape(Embedding(config).init, jax.random.key(0), table_VE, IDS_BT, EACH)
    return config, table_VE, jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes.get('params', {}))


def by_hand(config, table_VE, p, token: int, position: int, segment: int):
    """x_D of one token."""
    E = table_VE.shape[1]
    x_E = table_VE[token].astype(np.float64)
    if config.embedding_scale == 'input':
        x_E = x_E * math.sqrt(E)
    if config.positions == 'sinusoidal':
        for i in range(E):
            angle = position / 10_000 ** (2 * (i // 2) / E)
            x_E[i] += math.cos(angle) if i % 2 else math.sin(angle)
    if config.positions == 'learned':
        x_E = x_E + p['position_embedding'][position]
    if config.num_segments:
        x_E = x_E + p['segment_embedding'][segment]
    if config.embedding_norm:
        x_E = x_E - (x_E.mean() if config.norm == 'layer' else 0)
        x_E = x_E / math.sqrt((x_E**2).mean() + config.norm_epsilon) * p['norm']['scale']
        x_E = x_E + p['norm'].get('bias', 0)
    if 'project' in p:
        return x_E @ p['project']['kernel'] + p['project'].get('bias', 0)
    return x_E


@pytest.mark.parametrize('positions_BT', [ONE_ROW, EACH], ids=['one row', 'each its own'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_embeddings_are_those_of_plain_numpy(variant, positions_BT):
    config, table_VE, p = setting(variant)
    x_BTD = Embedding(config).apply({'params': p}, table_VE, IDS_BT, positions_BT, TYPES_BT)
    assert x_BTD.shape == (B, T, D) and x_BTD.dtype == jnp.float32
    places_BT = np.broadcast_to(positions_BT, (B, T))
    for b, t in np.ndindex(B, T):
        expected = by_hand(config, table_VE, p, IDS_BT[b, t], places_BT[b, t], TYPES_BT[b, t])
        np.testing.assert_allclose(x_BTD[b, t], expected, atol=1e-5)


@pytest.mark.parametrize(('variant', 'names'), [
    ('plain', set()), ('learned', {'position_embedding'}),
    ('bert', {'position_embedding', 'segment_embedding', 'norm'}),
    ('albert', {'position_embedding', 'segment_embedding', 'norm', 'project'}),
    ('rotary adds nothing', set())])
def test_only_what_is_asked_for_has_parameters(variant, names):
    config, table_VE, p = setting(variant)
    assert set(p) == names
    assert all(p[name].shape == (rows, table_VE.shape[1]) for name, rows in (
        ('position_embedding', config.max_length), ('segment_embedding', 2)) if name in p)


def test_without_biases_there_are_none():
    _, _, p = setting('narrow, without biases')
    assert {name: set(part) for name, part in p.items()} == {
        'norm': {'scale'}, 'project': {'kernel'}}


def test_without_types_every_token_is_of_sentence_a():
    config, table_VE, p = setting('bert')
    module = Embedding(config)
    np.testing.assert_array_equal(
        module.apply({'params': p}, table_VE, IDS_BT, ONE_ROW),
        module.apply({'params': p}, table_VE, IDS_BT, ONE_ROW, np.zeros_like(IDS_BT)))


def test_dropout_only_with_a_random_stream_and_after_the_norm():
    """What is kept is scaled by two: the norm has been before."""
    config, table_VE, p = setting('bert')
    inputs = {'params': p}, table_VE, IDS_BT, ONE_ROW, TYPES_BT
    whole = Embedding(config).apply(*inputs)
    module = Embedding(dataclasses.replace(config, dropout=0.5))
    np.testing.assert_array_equal(module.apply(*inputs), whole)
    dropped = np.asarray(module.apply(*inputs, rngs={'dropout': jax.random.key(0)}))
    assert 0.2 < (dropped == 0).mean() < 0.8
    np.testing.assert_allclose(dropped[dropped != 0], 2 * whole[dropped != 0], rtol=1e-6)


def test_bfloat16_begins_after_the_sum():
    """Parts that cancel: in bfloat16 throughout, their small difference would be lost."""
    config = dataclasses.replace(CONFIG, positions='learned', dtype='bfloat16')
    table_VE = np.full((V, D), 256.5, np.float32)
    p = {'position_embedding': np.full((9, D), -256.25, np.float32)}
    x_BTD = Embedding(config).apply({'params': p}, table_VE, IDS_BT, ONE_ROW)
    assert x_BTD.dtype == jnp.bfloat16
    np.testing.assert_array_equal(x_BTD.astype(jnp.float32), 0.25)


@pytest.mark.parametrize(('scale', 'factor'), [
    ('input', 1.0), ('none', 1.0), ('output', D**-0.5)])
def test_tied_logits_are_products_with_the_embeddings(scale, factor):
    config = dataclasses.replace(CONFIG, embedding_scale=scale)
    x_BTD, table_VD = RNG.normal(size=(B, T, D)), RNG.normal(size=(V, D))
    logits_BTV = tied_logits(x_BTD.astype(np.float32), table_VD.astype(np.float32), config)
    np.testing.assert_allclose(logits_BTV, factor * np.einsum('btd,vd->btv', x_BTD, table_VD),
                               atol=1e-5)
    half = tied_logits(jnp.asarray(x_BTD, jnp.bfloat16), table_VD.astype(np.float32), config)
    assert half.dtype == jnp.float32
    assert (half != half.astype(jnp.bfloat16).astype(jnp.float32)).any()
