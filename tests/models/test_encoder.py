"""The bidirectional encoder and its heads: who sees whom, packing, padding; PyTorch's numbers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import ModelConfig
from xformer.models.encoder import Encoder, MaskedLM
from xformer.nn.masks import Packing

CONFIG = ModelConfig(family='encoder', num_encoder_layers=2, num_decoder_layers=0, d_model=16,
                     num_heads=2, d_ff=24, vocab_size=13, max_length=12, dropout=0.0,
                     layers='unroll')
BERT = dataclasses.replace(CONFIG, positions='learned', embedding_scale='none', activation='gelu',
                           embedding_norm=True, num_segments=2, pooler=True, norm_epsilon=1e-12)
SCHEMES = {
    **{scheme: {'positions': scheme} for scheme in (
        'sinusoidal', 'learned', 'rotary', 'relative', 'alibi', 'none')},
    'alibi, window, pre': {'positions': 'alibi', 'window': 2, 'norm_position': 'pre'},
}
EVERY_SCHEME = pytest.mark.parametrize('scheme', SCHEMES)
RNG = np.random.default_rng(0)
LENGTHS = (5, 4, 2)  # of the documents in the packed row; one slot stays empty
SEGMENTS = np.repeat([1, 2, 3, 0], [*LENGTHS, 1])
PACKING = Packing(SEGMENTS[None], np.concatenate([*map(np.arange, LENGTHS), [0]])[None])
DISTINCT_1T = np.arange(1, 13)[None]  # a gradient to embedding i is a gradient to position i - 1

IDS_BT, TYPES_BT = RNG.integers(1, 13, (3, 6)), RNG.integers(0, 2, (3, 6))
LENGTHS_B = np.array([6, 4, 1])
MASKED_BP = np.array([[0, 5, 2], [3, 3, 0], [0, 0, 0]])
BATCH = IDS_BT, LENGTHS_B, TYPES_BT, MASKED_BP


def seen(model: Encoder, params, *inputs):
    """seen_TS: whether output t has a gradient to what is embedded at s."""
    def one_number_each(table_VD):
        return model.apply({'params': params | {'embedding': table_VD}}, *inputs)[0, :, 0]
    gradient_TVD = jax.jacrev(one_number_each)(params['embedding'])
    return np.asarray((gradient_TVD != 0).any(-1))[:, np.asarray(inputs[0][0])]


@EVERY_SCHEME
def test_every_token_sees_all_of_its_document_by_gradients(random_params, scheme):
    model = Encoder(dataclasses.replace(CONFIG, **SCHEMES[scheme]))
    params = random_params(model, DISTINCT_1T)
    distance_TS = np.abs(np.arange(12)[:, None] - np.arange(12)[None])
    expected_TS = distance_TS <= 2 * (SCHEMES[scheme].get('window', 12) - 1)  # two layers
    expected_TS &= SEGMENTS[:, None] == SEGMENTS[None]
    np.testing.assert_array_equal(seen(model, params, DISTINCT_1T, None, None, PACKING),
                                  expected_TS)


def test_every_token_sees_all_but_padding_by_gradients(random_params):
    model = Encoder(CONFIG)
    params = random_params(model, DISTINCT_1T)
    assert seen(model, params, DISTINCT_1T).all()
    seen_TS = seen(model, params, DISTINCT_1T, np.array([7]))
    assert seen_TS[:, :7].all() and not seen_TS[:7, 7:].any()


@EVERY_SCHEME
def test_a_packed_document_has_the_output_it_has_alone(random_params, scheme):
    model = Encoder(dataclasses.replace(CONFIG, **SCHEMES[scheme]))
    params = random_params(model, DISTINCT_1T)
    ids_1T = RNG.integers(1, 13, (1, 12))
    packed_TD = model.apply({'params': params}, ids_1T, None, None, PACKING)[0]
    alone_DT = np.stack([np.resize(ids_1T[0, SEGMENTS == d + 1], 5) for d in range(3)])
    alone_DTD = model.apply({'params': params}, alone_DT, np.array(LENGTHS))
    for document, length in enumerate(LENGTHS):
        np.testing.assert_allclose(packed_TD[SEGMENTS == document + 1],
                                   alone_DTD[document, :length], atol=1e-5)


# ---- the heads ----

def np_norm(x, part, epsilon):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * part['scale'] + part['bias']


@pytest.mark.parametrize('fields', [{}, {'embedding_size': 6, 'share_layers': True}], ids=str)
def test_logits_of_masked_tokens_and_next_sentences_by_hand(random_params, fields):
    """From the encoder's output, in NumPy: all positions, of which the masked are gathered."""
    config = dataclasses.replace(BERT, **fields)
    model = MaskedLM(config, next_sentence=True)
    params = random_params(model, *BATCH)
    logits_BPV, logits_B2 = model.apply({'params': params}, *BATCH)
    assert logits_BPV.dtype == logits_B2.dtype == np.float32

    x_BTD = np.asarray(Encoder(config).apply({'params': params['encoder']}, *BATCH[:3]), np.float64)
    p = jax.tree.map(np.asarray, params)
    h = x_BTD @ p['transform']['kernel'] + p['transform']['bias']
    h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    logits_BTV = np_norm(h, p['transform_norm'], 1e-12) @ p['encoder']['embedding'].T
    logits_BTV = logits_BTV + p['output_bias']
    for b, k in np.ndindex(MASKED_BP.shape):
        np.testing.assert_allclose(logits_BPV[b, k], logits_BTV[b, MASKED_BP[b, k]], atol=2e-5)

    pooled_BD = np.tanh(x_BTD[:, 0] @ p['encoder']['pooler']['kernel']
                        + p['encoder']['pooler']['bias'])
    expected_B2 = pooled_BD @ p['next_sentence_head']['kernel'] + p['next_sentence_head']['bias']
    np.testing.assert_allclose(logits_B2, expected_B2, atol=1e-5)


def test_the_next_sentence_has_a_head_only_if_asked_for(random_params):
    model = MaskedLM(dataclasses.replace(BERT, pooler=False))
    params = random_params(model, *BATCH)
    assert set(params) == {'encoder', 'transform', 'transform_norm', 'output_bias'}
    assert 'pooler' not in params['encoder']
    assert model.apply({'params': params}, *BATCH)[1] is None
    asked = random_params(MaskedLM(BERT, next_sentence=True), *BATCH)
    assert set(asked) - set(params) == {'next_sentence_head'} and 'pooler' in asked['encoder']


def test_without_biases_there_is_none_anywhere(random_params):
    config = dataclasses.replace(BERT, biases=False, embedding_size=6, norm_position='pre',
                                 positions='relative')
    model = MaskedLM(config, next_sentence=True)
    params = random_params(model, *BATCH)
    names = {'/'.join(part.key for part in path)
             for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert {name for name in names if 'bias' in name} == {'encoder/encoder/relative_bias'}
    assert all(np.isfinite(logits).all() for logits in model.apply({'params': params}, *BATCH))


def test_an_empty_row_is_finite_and_has_no_gradient(random_params):
    """As in the rows that fill up the last batch: the others lose and learn as without it."""
    model = MaskedLM(BERT, next_sentence=True)
    params = random_params(model, *BATCH)

    def total(params, lengths_B, rows):
        logits_BPV, logits_B2 = model.apply({'params': params}, IDS_BT, lengths_B, TYPES_BT,
                                            MASKED_BP)
        assert np.isfinite(jax.lax.stop_gradient(logits_BPV)).all()
        return (logits_BPV[rows] ** 2).sum() + (logits_B2[rows] ** 2).sum()
    rows, empty = np.array([0, 2]), np.array([6, 0, 1])
    loss, gradients = jax.value_and_grad(total)(params, empty, rows)
    expected, expected_gradients = jax.value_and_grad(total)(params, LENGTHS_B, rows)
    assert loss == expected
    jax.tree.map(np.testing.assert_array_equal, gradients, expected_gradients)
    of_empty_row = jax.grad(total)(params, empty, np.array([1]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(of_empty_row))


def test_whatever_stands_in_the_padding_is_irrelevant(random_params):
    model = MaskedLM(BERT, next_sentence=True)
    params = random_params(model, *BATCH)
    real_BT = np.arange(6) < LENGTHS_B[:, None]
    other = np.where(real_BT, IDS_BT, 12), LENGTHS_B, np.where(real_BT, TYPES_BT, 1), MASKED_BP
    jax.tree.map(np.testing.assert_array_equal, model.apply({'params': params}, *BATCH),
                 model.apply({'params': params}, *other))


@pytest.mark.parametrize('fields', [
    {}, {'positions': 'learned', 'norm_position': 'pre'}, {'positions': 'rotary'}, {'window': 2},
    {'layers': 'scan'}, {'share_layers': True}], ids=str)
def test_some_columns_are_those_of_all_with_their_gradients(random_params, fields):
    model = Encoder(dataclasses.replace(CONFIG, num_segments=2, **fields))
    params = random_params(model, IDS_BT)
    weights_BPD = RNG.normal(size=(*MASKED_BP.shape, CONFIG.d_model))

    def of_all(params):
        x_BTD = model.apply({'params': params}, IDS_BT, LENGTHS_B, TYPES_BT)
        return x_BTD[np.arange(len(x_BTD))[:, None], MASKED_BP]

    def of_some(params):
        return model.apply({'params': params}, MASKED_BP, IDS_BT, LENGTHS_B, TYPES_BT, method='at')

    (some_BPD, some), (all_BPD, all_) = (
        (form(params), jax.grad(lambda params, form=form: (form(params) * weights_BPD).sum())(
            params)) for form in (of_some, of_all))
    np.testing.assert_allclose(some_BPD, all_BPD, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), some, all_)


def test_some_columns_are_less_work():
    model = MaskedLM(dataclasses.replace(BERT, num_encoder_layers=1, max_length=64), True)
    ids_BT, few_BP, all_BP = np.ones((2, 64), int), np.ones((2, 1), int), np.ones((2, 64), int)
    params = jax.eval_shape(model.init, jax.random.key(0), ids_BT, LENGTHS_B[:2], ids_BT, few_BP)
    few, many = (jax.jit(model.apply).lower(params, ids_BT, LENGTHS_B[:2], ids_BT, masked_BP)
                 .cost_analysis()['flops'] for masked_BP in (few_BP, all_BP))
    block = 2 * 128 * 16 * (2 * 16 + 2 * 24)  # queries, output and feed-forward of all columns
    assert many - few > 0.9 * block


def test_looking_shows_maps_and_hidden_states(random_params):
    model = Encoder(CONFIG)
    params = random_params(model, IDS_BT)
    seen = model.apply({'params': params}, IDS_BT, LENGTHS_B, method='look')
    assert set(seen) == {'encoder'} and set(seen['encoder']) == {'self', 'hidden'}
    maps_LBNTS, hidden_LBTD = seen['encoder']['self'], seen['encoder']['hidden']
    np.testing.assert_allclose(maps_LBNTS.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(maps_LBNTS > 0, np.broadcast_to(
        (np.arange(6) < LENGTHS_B[:, None])[None, :, None, None], (2, 3, 2, 6, 6)))
    np.testing.assert_allclose(model.apply({'params': params}, IDS_BT, LENGTHS_B),
                               hidden_LBTD[-1], atol=1e-6)


def test_dropout_and_bfloat16(random_params):
    """Dropout only with a random stream; bfloat16 near float32."""
    model = MaskedLM(dataclasses.replace(BERT, dropout=0.3))
    params = random_params(model, *BATCH)
    exact, _ = MaskedLM(BERT).apply({'params': params}, *BATCH)
    np.testing.assert_array_equal(model.apply({'params': params}, *BATCH)[0], exact)
    dropped, _ = model.apply({'params': params}, *BATCH, rngs={'dropout': jax.random.key(0)})
    assert (dropped != exact).any(-1).all()
    half, _ = MaskedLM(dataclasses.replace(BERT, dtype='bfloat16')).apply({'params': params},
                                                                         *BATCH)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - exact).max() < 0.05 * np.abs(exact).max()


# ---- PyTorch with the same weights: BERT in a few lines ----

def torch_bert(p, config: ModelConfig, torch, layers):
    """(logits_BPV, logits_B2) of BATCH. Norms after sub-layers, GELU, learned positions."""
    functional, (linear, norm) = torch.nn.functional, layers
    encoder = p['encoder']
    tables = encoder['input_embedding']
    x = norm(encoder['embedding'][IDS_BT] + tables['position_embedding'][:6]
             + tables['segment_embedding'][TYPES_BT], tables['norm'])
    real = torch.tensor(np.arange(6) < LENGTHS_B[:, None])[:, None, None]
    for index in range(config.num_encoder_layers):
        layer = jax.tree.map(lambda leaf, index=index: leaf[index], encoder['encoder']['layers'])
        attention = layer['self_attention']
        q, k, v = (linear(x, attention[name]).unflatten(-1, (config.num_heads, -1)).transpose(1, 2)
                   for name in ('query', 'key', 'value'))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=real)
        x = norm(x + linear(mixed.transpose(1, 2).flatten(2), attention['out']),
                 layer['self_attention_norm'])
        h = functional.gelu(linear(x, layer['feed_forward']['up']))
        x = norm(x + linear(h, layer['feed_forward']['down']), layer['feed_forward_norm'])
    masked = x[np.arange(3)[:, None], MASKED_BP]
    h = norm(functional.gelu(linear(masked, p['transform'])), p['transform_norm'])
    pooled = torch.tanh(linear(x[:, 0], encoder['pooler']))
    return (h @ encoder['embedding'].T + p['output_bias'],
            linear(pooled, p['next_sentence_head']))


def test_bert_is_that_of_pytorch_in_logits_and_gradients(random_params, torch_layers):
    torch = pytest.importorskip('torch')
    model = MaskedLM(BERT, next_sentence=True)
    params = random_params(model, *BATCH)
    cotangents = [RNG.normal(size=shape).astype(np.float32) for shape in ((3, 3, 13), (3, 2))]
    logits, pull_back = jax.vjp(lambda params: model.apply({'params': params}, *BATCH), params)
    gradients = pull_back(tuple(map(jnp.asarray, cotangents)))[0]

    theirs = jax.tree.map(lambda leaf: torch.tensor(
        np.asarray(leaf), dtype=torch.float64, requires_grad=True), params)
    expected = torch_bert(theirs, BERT, torch, torch_layers(BERT.norm_epsilon))
    sum((each * torch.tensor(cotangent)).sum()
        for each, cotangent in zip(expected, cotangents)).backward()
    for ours, each in zip(logits, expected):
        np.testing.assert_allclose(ours, each.detach().numpy(),
                                   atol=1e-4 * each.abs().max().item())
    expected = jax.tree.map(lambda leaf: leaf.grad.numpy(), theirs)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for ours, leaf in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected)):
        assert np.abs(leaf).max() > 0  # but the keys' biases have no effect: rounding alone
        np.testing.assert_allclose(ours, leaf, atol=1e-4 * max(np.abs(leaf).max(), largest / 100))
