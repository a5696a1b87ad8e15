"""The causal language model: packing, positions, decoding; PyTorch's numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import ModelConfig
from xformer.models.decoder import Decoder
from xformer.nn.masks import Packing

CONFIG = ModelConfig(family='decoder', num_encoder_layers=0, num_decoder_layers=2, d_model=16,
                     num_heads=2, d_ff=24, vocab_size=13, max_length=12, dropout=0.0,
                     layers='unroll')
SCHEMES = {
    **{scheme: {'positions': scheme} for scheme in (
        'sinusoidal', 'learned', 'rotary', 'relative', 'alibi', 'none')},
    'rotary, window, grouped': {'positions': 'rotary', 'window': 3, 'num_kv_heads': 1},
    'relative, window, pre, rms': {'positions': 'relative', 'window': 2, 'norm': 'rms',
                                   'norm_position': 'pre', 'biases': False},
}
EVERY_SCHEME = pytest.mark.parametrize('scheme', SCHEMES)
RNG = np.random.default_rng(0)
LENGTHS = (5, 4, 2)  # of the documents in the packed row; one slot stays empty
SEGMENTS = np.repeat([1, 2, 3, 0], [*LENGTHS, 1])
PACKING = Packing(SEGMENTS[None], np.concatenate([*map(np.arange, LENGTHS), [0]])[None])
DISTINCT_1T = np.arange(1, 13)[None]  # a gradient to embedding i is a gradient to position i - 1
INPUTS_BT = RNG.integers(1, 13, (3, 6))


def setting(random_params, **fields):
    config = dataclasses.replace(CONFIG, **fields)
    return Decoder(config), random_params(Decoder(config), INPUTS_BT)


def seen(model: Decoder, params, inputs_1T, packing=None):
    """seen_TS: whether the logits of t have a gradient to what is embedded at s."""
    def one_number_each(table_VD):
        logits_TV = model.apply({'params': params | {'embedding': table_VD}}, inputs_1T, packing)[0]
        return logits_TV @ jnp.asarray(np.random.default_rng(1).normal(size=13), jnp.float32)
    gradient_TVD = jax.jacrev(one_number_each)(params['embedding'])
    return np.asarray((gradient_TVD != 0).any(-1))[:, np.asarray(inputs_1T[0])]


@EVERY_SCHEME
def test_every_token_sees_those_before_it_in_its_document_by_gradients(random_params, scheme):
    model, params = setting(random_params, tie_embeddings='none', **SCHEMES[scheme])
    distance_TS = np.arange(12)[:, None] - np.arange(12)[None]
    window = SCHEMES[scheme].get('window', 12)
    expected_TS = (distance_TS >= 0) & (distance_TS <= 2 * (window - 1))  # two layers
    expected_TS &= SEGMENTS[:, None] == SEGMENTS[None]
    np.testing.assert_array_equal(seen(model, params, DISTINCT_1T, PACKING), expected_TS)


def test_without_packing_a_row_is_one_text(random_params):
    model, params = setting(random_params, tie_embeddings='none')
    np.testing.assert_array_equal(seen(model, params, DISTINCT_1T), np.tri(12, dtype=bool))


@EVERY_SCHEME
def test_a_packed_document_has_the_logits_it_has_alone(random_params, scheme):
    model, params = setting(random_params, **SCHEMES[scheme])
    ids_1T = RNG.integers(1, 13, (1, 12))
    packed_TV = model.apply({'params': params}, ids_1T, PACKING)[0]
    alone_DT = np.stack([np.resize(ids_1T[0, SEGMENTS == d + 1], 5) for d in range(3)])
    alone_DTV = model.apply({'params': params}, alone_DT)  # nothing sees what fills up the rows
    for document, length in enumerate(LENGTHS):
        np.testing.assert_allclose(packed_TV[SEGMENTS == document + 1],
                                   alone_DTV[document, :length], atol=1e-5)


@EVERY_SCHEME
def test_cached_is_uncached_after_a_prefix_and_step_by_step(random_params, scheme):
    model, params = setting(random_params, **SCHEMES[scheme])
    expected_BTV = model.apply({'params': params}, INPUTS_BT)
    extend = functools.partial(model.apply, {'params': params}, method='extend')
    cache = model.apply({'params': params}, 3, 8, method='start')  # room to spare
    parts = []
    for ids_BT in np.split(INPUTS_BT, [5], axis=1):
        part, cache = extend(ids_BT, cache)
        parts.append(part)
    assert int(cache.position) == 6
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected_BTV, atol=1e-5)


@pytest.mark.parametrize('tied', ['all', 'none'])
def test_looking_shows_what_the_logits_are_made_of(random_params, tied):
    model, params = setting(random_params, tie_embeddings=tied)
    seen = model.apply({'params': params}, INPUTS_BT, method='look')['decoder']
    assert seen['self'].shape == (2, 3, 2, 6, 6) and seen['hidden'].shape == (2, 3, 6, 16)
    np.testing.assert_allclose(seen['self'].sum(-1), 1, atol=1e-6)
    assert (np.triu(seen['self'], 1) == 0).all() and set(seen) == {'self', 'hidden'}
    output_DV = params['embedding'].T if tied == 'all' else params['output']['kernel']
    np.testing.assert_allclose(model.apply({'params': params}, INPUTS_BT),
                               np.asarray(seen['hidden'][-1]) @ np.asarray(output_DV), atol=1e-5)


def test_bfloat16_computes_near_float32_from_float32_parameters(random_params):
    model, params = setting(random_params)
    exact_BTV = model.apply({'params': params}, INPUTS_BT)
    half = Decoder(dataclasses.replace(CONFIG, dtype='bfloat16'))
    logits_BTV = half.apply({'params': params}, INPUTS_BT)
    assert logits_BTV.dtype == jnp.float32
    assert 0 < np.abs(logits_BTV - exact_BTV).max() < 0.05 * np.abs(exact_BTV).max()


def test_dropout_repeats_with_its_key_and_only_with_it(random_params):
    model, params = setting(random_params, dropout=0.3, attention_dropout=0.3)
    plain, _ = setting(random_params)
    np.testing.assert_array_equal(model.apply({'params': params}, INPUTS_BT),
                                  plain.apply({'params': params}, INPUTS_BT))
    keys = jax.random.split(jax.random.key(0))
    first, again, other = (
        np.asarray(model.apply({'params': params}, INPUTS_BT, rngs={'dropout': key}))
        for key in (keys[0], keys[0], keys[1]))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(-1).all()


# ---- PyTorch with the same weights: GPT-2 in a few lines ----

def torch_gpt2(p, ids_BT, config: ModelConfig, torch, layers):
    """logits_BTV. Norms before sub-layers, learned positions, GELU's tanh form, tied output."""
    functional, (linear, norm) = torch.nn.functional, layers
    x = p['embedding'][ids_BT] + p['input_embedding']['position_embedding'][:ids_BT.shape[1]]
    for index in range(config.num_decoder_layers):
        layer = jax.tree.map(lambda leaf, index=index: leaf[index], p['decoder']['layers'])
        attention, h = layer['self_attention'], norm(x, layer['self_attention_norm'])
        q, k, v = (linear(h, attention[name]).unflatten(-1, (config.num_heads, -1)).transpose(1, 2)
                   for name in ('query', 'key', 'value'))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(mixed.transpose(1, 2).flatten(2), attention['out'])
        h = linear(norm(x, layer['feed_forward_norm']), layer['feed_forward']['up'])
        x = x + linear(functional.gelu(h, approximate='tanh'), layer['feed_forward']['down'])
    return norm(x, p['decoder']['final_norm']) @ p['embedding'].T


def test_gpt2_is_that_of_pytorch_in_logits_and_gradients(random_params, torch_layers):
    torch = pytest.importorskip('torch')
    model, params = setting(random_params, positions='learned', norm_position='pre',
                            activation='gelu_tanh', embedding_scale='none', norm_epsilon=1e-5)
    cotangent_BTV = RNG.normal(size=(3, 6, 13)).astype(np.float32)
    logits_BTV, pull_back = jax.vjp(
        lambda params: model.apply({'params': params}, INPUTS_BT), params)
    gradients = pull_back(jnp.asarray(cotangent_BTV))[0]

    theirs = jax.tree.map(lambda leaf: torch.tensor(
        np.asarray(leaf), dtype=torch.float64, requires_grad=True), params)
    expected_BTV = torch_gpt2(theirs, torch.tensor(INPUTS_BT), model.config, torch,
                              torch_layers(model.config.norm_epsilon))
    expected_BTV.backward(torch.tensor(cotangent_BTV, dtype=torch.float64))
    largest = expected_BTV.abs().max().item()
    np.testing.assert_allclose(logits_BTV, expected_BTV.detach().numpy(), atol=1e-4 * largest)
    expected = jax.tree.map(lambda leaf: leaf.grad.numpy(), theirs)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for ours, leaf in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected)):
        assert np.abs(leaf).max() > 0  # but the keys' biases have no effect: rounding alone
        np.testing.assert_allclose(ours, leaf, atol=1e-4 * max(np.abs(leaf).max(), largest / 100))
