"""The encoder-decoder: against a plain NumPy forward pass, PyTorch, and its own promises."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import ModelConfig
from xformer.models.seq2seq import Seq2Seq

TINY = ModelConfig(num_encoder_layers=2, num_decoder_layers=2, d_model=16, num_heads=2, d_ff=24,
                   vocab_size=13, dropout=0.0)
CONFIGS = {
    'post, tied': TINY,
    'pre, untied': dataclasses.replace(TINY, norm_position='pre', tie_embeddings='none',
                                       activation='gelu', layers='unroll',
                                       num_encoder_layers=1, num_decoder_layers=1),
}
VARIANTS = pytest.mark.parametrize('variant', CONFIGS)
SCHEMES = {scheme: dataclasses.replace(TINY, positions=scheme)
           for scheme in ('learned', 'rotary', 'relative', 'alibi', 'none')}
RNG = np.random.default_rng(0)
SOURCE_BS = RNG.integers(4, 13, (3, 6)).astype(np.int32)
LENGTHS_B = np.array([6, 4, 1], np.int32)
INPUTS_BT = RNG.integers(1, 13, (3, 5)).astype(np.int32)
BATCH = SOURCE_BS, LENGTHS_B, INPUTS_BT


def random_params(config: ModelConfig):
    """Parameters none of which is at its initial zero or one."""
    rng = np.random.default_rng(1)

    def leaf(path, shape):
        values = rng.normal(0, 0.3, shape.shape) + (path[-1].key == 'scale')
        return jnp.asarray(values, jnp.float32)
    shapes = jax.eval_shape(Seq2Seq(config).init, jax.random.key(0), *BATCH)['params']
    return jax.tree_util.tree_map_with_path(leaf, shapes)


@functools.cache
def compiled(variant: str, method: str = '__call__', static=()):
    """(parameters, jitted method of them and further arguments) of one variant."""
    config = (CONFIGS | SCHEMES)[variant]
    params, model = random_params(config), Seq2Seq(config)
    return params, jax.jit(functools.partial(model.apply, method=method), static_argnums=static)


def logits_of(variant: str, *batch) -> np.ndarray:
    params, apply = compiled(variant)
    return np.asarray(apply({'params': params}, *batch))


# ---- the whole model in NumPy, one example at a time, in float64 ----

def np_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p['scale'] + p['bias']


def np_linear(x, p):
    return x @ p['kernel'] + p['bias']


def np_attention(x_TD, memory_SD, p, num_heads, causal, maps):
    q, k, v = (np_linear(x, p[name]) for name, x in
               (('query', x_TD), ('key', memory_SD), ('value', memory_SD)))
    heads, seen = [], []
    for q_TH, k_SH, v_SH in zip(*(np.split(x, num_heads, axis=1) for x in (q, k, v))):
        scores_TS = q_TH @ k_SH.T / math.sqrt(q_TH.shape[1])
        if causal:
            scores_TS = np.where(np.tri(len(x_TD), dtype=bool), scores_TS, -np.inf)
        weights_TS = np.exp(scores_TS - scores_TS.max(1, keepdims=True))
        weights_TS /= weights_TS.sum(1, keepdims=True)
        seen.append(weights_TS)
        heads.append(weights_TS @ v_SH)
    maps.append(np.stack(seen))
    return np_linear(np.concatenate(heads, 1), p['out'])


def np_block(x_TD, p, config, memory_SD, maps):
    """A block of the decoder if there is a memory, else of the encoder."""
    def residual(x, norm, sublayer):
        if config.norm_position == 'pre':
            return x + sublayer(np_norm(x, norm))
        return np_norm(x + sublayer(x), norm)

    def feed_forward(x):
        h = np_linear(x, p['feed_forward']['up'])
        h = np.maximum(h, 0) if config.activation == 'relu' else \
            0.5 * h * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
        return np_linear(h, p['feed_forward']['down'])

    x_TD = residual(x_TD, p['self_attention_norm'], lambda x: np_attention(
        x, x, p['self_attention'], config.num_heads, memory_SD is not None, maps['self']))
    if memory_SD is not None:
        x_TD = residual(x_TD, p['cross_attention_norm'], lambda x: np_attention(
            x, memory_SD, p['cross_attention'], config.num_heads, False, maps['cross']))
    return residual(x_TD, p['feed_forward_norm'], feed_forward)


def np_stack(x_TD, p, config, memory_SD, maps):
    for index in range(len(p['layers']['self_attention_norm']['scale'])):
        x_TD = np_block(x_TD, layer_of(p, index), config, memory_SD, maps)
    return np_norm(x_TD, p['final_norm']) if config.norm_position == 'pre' else x_TD


def layer_of(p, index: int):
    return jax.tree.map(lambda leaf: leaf[index], p['layers'])


def np_embed(table_VD, ids):
    d_model = table_VD.shape[1]
    x_TD = table_VD[ids] * math.sqrt(d_model)
    for t, i in np.ndindex(len(ids), d_model):
        angle = t / 10_000 ** (2 * (i // 2) / d_model)
        x_TD[t, i] += math.cos(angle) if i % 2 else math.sin(angle)
    return x_TD


@functools.cache
def np_forward(variant: str, example: int):
    """(logits_TV, attention maps) of one example of the batch, its source unpadded."""
    config = CONFIGS[variant]
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), random_params(config))
    maps = {'encoder': {'self': []}, 'decoder': {'self': [], 'cross': []}}
    source, inputs = SOURCE_BS[example, :LENGTHS_B[example]], INPUTS_BT[example]
    memory_SD = np_stack(np_embed(p['embedding'], source), p['encoder'], config, None,
                         maps['encoder'])
    table_VD = p['embedding'] if config.tie_embeddings == 'all' else p['target_embedding']
    x_TD = np_stack(np_embed(table_VD, inputs), p['decoder'], config, memory_SD, maps['decoder'])
    logits_TV = x_TD @ table_VD.T if config.tie_embeddings == 'all' else \
        np_linear(x_TD, p['output'])
    return logits_TV, maps


@VARIANTS
def test_logits_are_those_of_plain_numpy(variant):
    """One padded batch against each of its examples alone: masks and batching are exact too."""
    logits_BTV = logits_of(variant, *BATCH)
    assert logits_BTV.dtype == np.float32
    for example in range(3):
        np.testing.assert_allclose(logits_BTV[example], np_forward(variant, example)[0], atol=1e-5)


@VARIANTS
def test_attention_maps_are_those_of_plain_numpy(variant):
    params, look = compiled(variant, 'look')
    maps = look({'params': params}, *BATCH)
    assert {part: set(names) for part, names in maps.items()} == {
        'encoder': {'self', 'hidden'}, 'decoder': {'self', 'cross', 'hidden'}}
    assert maps['encoder']['hidden'].shape[1:] == (3, 6, 16)
    assert maps['decoder']['hidden'].shape[1:] == (3, 5, 16)
    for example, length in enumerate(LENGTHS_B):
        _, expected = np_forward(variant, example)
        for part, name in (('encoder', 'self'), ('decoder', 'self'), ('decoder', 'cross')):
            weights_LNTS = np.asarray(maps[part][name])[:, example]
            np.testing.assert_allclose(weights_LNTS.sum(-1), 1, atol=1e-6)
            if name == 'cross' or part == 'encoder':
                assert (weights_LNTS[..., length:] == 0).all()
                weights_LNTS = weights_LNTS[..., :length]
            else:
                assert (np.triu(weights_LNTS, 1) == 0).all()
            if part == 'encoder':
                weights_LNTS = weights_LNTS[:, :, :length]
            np.testing.assert_allclose(weights_LNTS, expected[part][name], atol=1e-6)


@VARIANTS
def test_padding_of_the_source_changes_nothing(variant):
    longer_BS = np.concatenate([SOURCE_BS, np.full((3, 7), 12, np.int32)], axis=1)
    for example, length in enumerate(LENGTHS_B):
        longer_BS[example, length:] = RNG.integers(0, 13, 13 - length)
    np.testing.assert_allclose(logits_of(variant, longer_BS, LENGTHS_B, INPUTS_BT),
                               logits_of(variant, *BATCH), atol=2e-6)
    same_shape_BS = np.where(np.arange(6) < LENGTHS_B[:, None], SOURCE_BS, 12)
    np.testing.assert_array_equal(logits_of(variant, same_shape_BS, LENGTHS_B, INPUTS_BT),
                                  logits_of(variant, *BATCH))


@VARIANTS
def test_the_decoder_cannot_see_ahead_and_the_encoder_can(variant):
    logits_BTV = logits_of(variant, *BATCH)
    for t in range(5):
        changed_BT = INPUTS_BT.copy()
        changed_BT[:, t] = changed_BT[:, t] % 12 + 1
        moved_BT = (logits_of(variant, SOURCE_BS, LENGTHS_B, changed_BT) != logits_BTV).any(-1)
        assert not moved_BT[:, :t].any() and moved_BT[:, t:].all()
    for s in range(6):
        changed_BS = SOURCE_BS.copy()
        changed_BS[:, s] = (changed_BS[:, s] - 3) % 9 + 4
        moved_BT = (logits_of(variant, changed_BS, LENGTHS_B, INPUTS_BT) != logits_BTV).any(-1)
        np.testing.assert_array_equal(moved_BT, np.tile(s < LENGTHS_B[:, None], (1, 5)))


@pytest.mark.parametrize('variant', [*CONFIGS, *SCHEMES])
def test_cached_is_uncached_for_any_split_of_the_prefix(variant):
    params, start = compiled(variant, 'start', static=(3, 4))
    _, extend = compiled(variant, 'extend')
    logits_BTV = logits_of(variant, *BATCH)
    for split in ([1, 1, 1, 1, 1], [3, 1, 1], [1, 3, 1], [1, 1, 3]):
        cache = start({'params': params}, SOURCE_BS, LENGTHS_B, 1, 7)  # room to spare
        parts = []
        for ids_BT in np.split(INPUTS_BT, np.cumsum(split)[:-1], axis=1):
            part, cache = extend({'params': params}, ids_BT, cache)
            parts.append(part)
        assert int(cache.position) == 5
        np.testing.assert_allclose(np.concatenate(parts, axis=1), logits_BTV, atol=1e-5)


def test_hypotheses_that_share_a_memory_are_as_if_it_were_repeated():
    rows, variant = 3, 'post, tied'
    params, start = compiled(variant, 'start', static=(3, 4))
    _, extend = compiled(variant, 'extend')
    inputs_RT = RNG.integers(1, 13, (3 * rows, 4)).astype(np.int32)
    cache = start({'params': params}, SOURCE_BS, LENGTHS_B, rows, 5)
    layer = cache.layers[0]
    assert len(layer.v_XMH) == rows * len(layer.cross_v_YSH)  # kept once for each example
    parts = []
    for ids_RT in np.split(inputs_RT, 2, axis=1):
        part, cache = extend({'params': params}, ids_RT, cache)
        parts.append(part)
    repeated = logits_of(variant, np.repeat(SOURCE_BS, rows, 0), np.repeat(LENGTHS_B, rows),
                         inputs_RT)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), repeated, atol=1e-5)


def test_an_example_without_a_source_does_no_harm():
    """As in the rows that fill up the last batch: finite numbers, and the others as before."""
    variant = 'pre, untied'
    params, _ = compiled(variant)
    lengths_B = np.array([6, 0, 1], np.int32)
    model = Seq2Seq(CONFIGS[variant])

    @jax.jit
    def loss_and_gradients(params):
        return jax.value_and_grad(lambda params: (model.apply(
            {'params': params}, SOURCE_BS, lengths_B, INPUTS_BT) ** 2).sum())(params)
    loss, gradients = loss_and_gradients(params)
    assert np.isfinite(loss) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    np.testing.assert_array_equal(logits_of(variant, SOURCE_BS, lengths_B, INPUTS_BT)[[0, 2]],
                                  logits_of(variant, *BATCH)[[0, 2]])


@pytest.mark.parametrize('tied', ['all', 'inputs', 'none'])
@pytest.mark.parametrize('position', ['post', 'pre'])
def test_number_of_parameters_by_hand(position, tied):
    D, F, V, encoders, decoders = 12, 20, 11, 3, 2
    config = ModelConfig(num_encoder_layers=encoders, num_decoder_layers=decoders, d_model=D,
                         num_heads=4, d_ff=F, vocab_size=V, norm_position=position,
                         tie_embeddings=tied)
    attention, feed_forward, norm = 4 * (D * D + D), D * F + F + F * D + D, 2 * D
    expected = (encoders * (attention + feed_forward + 2 * norm)
                + decoders * (2 * attention + feed_forward + 3 * norm)
                + (2 * norm if position == 'pre' else 0)
                + {'all': V * D, 'inputs': V * D + D * V + V,
                   'none': 2 * V * D + D * V + V}[tied])
    shapes = jax.eval_shape(Seq2Seq(config).init, jax.random.key(0), *BATCH)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


@VARIANTS
def test_bfloat16_computes_near_float32_from_float32_parameters(variant):
    config = dataclasses.replace(CONFIGS[variant], dtype='bfloat16')
    params = random_params(config)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    logits_BTV = jax.jit(Seq2Seq(config).apply)({'params': params}, *BATCH)
    exact_BTV = logits_of(variant, *BATCH)
    error_BTV = np.abs(logits_BTV - exact_BTV)
    assert logits_BTV.dtype == jnp.float32
    assert 0 < error_BTV.max() < 0.05 * np.abs(exact_BTV).max()

    # Sums of products of bfloat16 numbers stay in float32: the loss needs the digits.
    rounded_BTV = logits_BTV.astype(jnp.bfloat16).astype(jnp.float32)
    assert (logits_BTV != rounded_BTV).mean() > 0.9


def test_initial_parameters():
    """Embeddings have deviation D^-½, kernels Glorot's bound √(6 / (in + out)); layers differ."""
    D, F, V = 64, 128, 300
    config = dataclasses.replace(CONFIGS['pre, untied'], d_model=D, d_ff=F, vocab_size=V)
    params = jax.jit(Seq2Seq(config).init)(jax.random.key(0), *BATCH)['params']
    for name in ('embedding', 'target_embedding'):
        table_VD = np.asarray(params[name], np.float64)
        assert table_VD.std() == pytest.approx(D**-0.5, rel=0.03)
        assert abs(table_VD.mean()) < 5 * D**-0.5 / math.sqrt(V * D)
    assert not np.array_equal(params['embedding'], params['target_embedding'])
    kernels = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        values = np.asarray(leaf, np.float64)
        if path[-1].key == 'kernel':
            bound = math.sqrt(6 / sum(values.shape[-2:]))
            assert 0.95 * bound < np.abs(values).max() <= bound
            assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
            if values.ndim == 3 and len(values) > 1:
                assert abs(np.corrcoef(values[0].ravel(), values[1].ravel())[0, 1]) < 0.1
            kernels += 1
        elif path[-1].key == 'bias':
            assert (values == 0).all()
        elif path[-1].key == 'scale':
            assert (values == 1).all()
    assert kernels == 6 + 10 + 1  # an encoder layer, a decoder layer, the output


def test_dropout_repeats_with_its_key_and_only_with_it():
    config = dataclasses.replace(TINY, dropout=0.3)
    params, model = random_params(config), Seq2Seq(config)

    @jax.jit
    def dropped(key):
        return model.apply({'params': params}, *BATCH, rngs={'dropout': key})
    keys = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(dropped(keys[0]), dropped(keys[0]))
    assert (dropped(keys[0]) != dropped(keys[1])).all(axis=-1).any()


def test_without_biases_there_is_none_anywhere():
    config = dataclasses.replace(TINY, biases=False, tie_embeddings='none', norm_position='pre',
                                 activation='geglu')
    names = {'/'.join(part.key for part in path)
             for path, _ in jax.tree_util.tree_leaves_with_path(random_params(config))}
    assert not [name for name in names if 'bias' in name]


# ---- PyTorch's own layers with the same weights ----

def torch_attention(module, p, torch):
    """PyTorch stacks query, key and value, and stores kernels transposed."""
    parts = [p['query'], p['key'], p['value']]
    module.in_proj_weight.data = torch.tensor(np.concatenate([x['kernel'].T for x in parts]))
    module.in_proj_bias.data = torch.tensor(np.concatenate([x['bias'] for x in parts]))
    torch_linear(module.out_proj, p['out'], torch)


def torch_linear(module, p, torch):
    module.weight.data, module.bias.data = torch.tensor(p['kernel'].T), torch.tensor(p['bias'])


def torch_layer(module, p, torch):
    decoder = 'cross_attention' in p
    torch_attention(module.self_attn, p['self_attention'], torch)
    norms = [module.norm1, module.norm2]
    names = ['self_attention_norm', 'feed_forward_norm']
    if decoder:
        torch_attention(module.multihead_attn, p['cross_attention'], torch)
        norms.append(module.norm3)
        names.insert(1, 'cross_attention_norm')
    for norm, name in zip(norms, names):
        norm.weight.data, norm.bias.data = (
            torch.tensor(p[name][part]) for part in ('scale', 'bias'))
    torch_linear(module.linear1, p['feed_forward']['up'], torch)
    torch_linear(module.linear2, p['feed_forward']['down'], torch)
    return module


@VARIANTS
def test_layers_are_those_of_pytorch(variant):
    torch = pytest.importorskip('torch')
    config = CONFIGS[variant]
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), random_params(config))
    settings = {'d_model': 16, 'nhead': 2, 'dim_feedforward': 24, 'dropout': 0.0,
                'activation': config.activation, 'layer_norm_eps': 1e-6, 'batch_first': True,
                'norm_first': config.norm_position == 'pre', 'dtype': torch.float64}

    def layers(make, part, number):
        for index in range(number):
            yield torch_layer(make(**settings), layer_of(p[part], index), torch)

    def finish(x, part):
        return torch.tensor(np_norm(x.detach().numpy(), p[part]['final_norm'])) \
            if config.norm_position == 'pre' else x

    padding = torch.tensor(np.arange(6) >= LENGTHS_B[:, None])
    x = torch.tensor(np.stack([np_embed(p['embedding'], ids) for ids in SOURCE_BS]))
    for layer in layers(torch.nn.TransformerEncoderLayer, 'encoder', config.num_encoder_layers):
        x = layer(x, src_key_padding_mask=padding)
    memory = finish(x, 'encoder')
    table_VD = p['embedding'] if config.tie_embeddings == 'all' else p['target_embedding']
    y = torch.tensor(np.stack([np_embed(table_VD, ids) for ids in INPUTS_BT]))
    ahead = torch.tensor(~np.tri(5, dtype=bool))
    for layer in layers(torch.nn.TransformerDecoderLayer, 'decoder', config.num_decoder_layers):
        y = layer(y, memory, tgt_mask=ahead, memory_key_padding_mask=padding)
    y = finish(y, 'decoder').detach().numpy()
    logits_BTV = y @ table_VD.T if config.tie_embeddings == 'all' else np_linear(y, p['output'])
    np.testing.assert_allclose(logits_of(variant, *BATCH), logits_BTV, atol=1e-5)
