"""Generation: whatever is decoded together, each source gets the outputs it gets alone."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.compiled import Compilations
from xformer.config import Config, override
from xformer.decode.generate import Draft, Generator, output_limits
from xformer.decode.search import length_penalty
from xformer.models import build, init_params

V = 12
CONFIG = override(Config(), {
    'model.num_encoder_layers': 1, 'model.num_decoder_layers': 1, 'model.d_model': 16,
    'model.num_heads': 2, 'model.d_ff': 24, 'model.vocab_size': V, 'model.max_length': 40,
    'model.tie_embeddings': 'none', 'model.pad_id': 0, 'model.bos_id': 1, 'model.eos_id': 2,
    'decode.beam_size': 3, 'decode.max_length': 6})
VARIANTS = {
    'original': {}, 'greedy': {'decode.beam_size': 1},
    'grouped heads, rotary, window, one token is pad, begin and end': {
        'model.num_kv_heads': 1, 'model.positions': 'rotary', 'model.window': 3,
        'model.pad_id': 2, 'model.bos_id': 2},
    'relative positions, unrolled, shared layers': {
        'model.positions': 'relative', 'model.layers': 'unroll', 'model.share_layers': True,
        'model.num_decoder_layers': 2},
    **{f'{scheme}, pre': {'model.positions': scheme, 'model.norm_position': 'pre'}
       for scheme in ('learned', 'alibi', 'none')}}


def random_params(model):
    """Large enough for the outputs to depend on the sources; biases would drown them."""
    rng = np.random.default_rng(2)

    def leaf(path, shape):
        kind = path[-1].key
        values = {'bias': np.zeros, 'scale': np.ones}.get(
            kind, lambda size: rng.normal(0, 1.2, size))(shape.shape)
        return jnp.asarray(values, jnp.float32)
    return jax.tree_util.tree_map_with_path(leaf, shapes_of(model))


def shapes_of(model):
    return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))


def random_sources(number: int, longest: int, seed: int = 0) -> list[list[int]]:
    choose = random.Random(seed)
    return [choose.choices(range(3, V), k=choose.randint(1, longest)) for _ in range(number)]


SOURCES = random_sources(40, 16) + random_sources(10, 30, seed=1)


class Decoder:
    """A generator, and the compilations it caused."""

    def __init__(self, changes: dict):
        self.config = override(CONFIG, changes)
        self.compilations = Compilations()
        self.model = build(self.config)
        self.params = random_params(self.model)
        self.generate = Generator(self.model, self.config, self.params, self.compilations,
                                  num_outputs=self.config.decode.beam_size)


@pytest.fixture(scope='module', params=[1, 3], ids=['greedy', 'beam'])
def decoder(request):
    return Decoder({'decode.beam_size': request.param})


@pytest.fixture(scope='module')
def together(decoder):
    return decoder.generate(SOURCES)


def assert_same(found, expected):
    assert [[output.ids for output in best] for best in found] == [
        [output.ids for output in best] for best in expected]
    for best, others in zip(found, expected):
        np.testing.assert_allclose([output.score for output in best],
                                   [output.score for output in others], atol=1e-4)


def test_outputs_do_not_depend_on_whether_caches_grow(decoder, together, monkeypatch):
    monkeypatch.setattr('xformer.decode.generate.GROWS', 4)
    growing = Decoder({'decode.beam_size': decoder.config.decode.beam_size})
    assert_same(growing.generate(SOURCES), together)


@pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)
def test_outputs_vary_keep_their_promises_and_score_what_the_model_itself_says(changes):
    """Teacher-forced, without any cache: proves that beams are reordered as they should be."""
    decoder = Decoder(changes)
    model, beam_size = decoder.config.model, decoder.config.decode.beam_size
    together = decoder.generate(SOURCES)
    assert all(len(best) == beam_size for best in together)
    outputs = [(ids, output) for ids, best in zip(SOURCES, together) for output in best]
    assert len({tuple(output.ids) for _, output in outputs}) > 10
    assert len({len(output.ids) for _, output in outputs}) >= 3
    source_BS, inputs_BT = (np.full((len(outputs), n), model.pad_id, np.int32) for n in (32, 6))
    for row, (ids, output) in enumerate(outputs):
        assert 1 <= len(output.ids) <= 6
        assert not {model.pad_id, model.bos_id, model.eos_id} & set(output.ids[:-1])
        assert output.ids[-1] == model.eos_id or len(output.ids) == 6
        source_BS[row, :len(ids)] = ids
        inputs_BT[row, :len(output.ids)] = [model.bos_id, *output.ids[:-1]]
    lengths_B = np.array([len(ids) for ids, _ in outputs], np.int32)
    logits_BTV = jax.jit(decoder.model.apply)(
        {'params': decoder.params}, source_BS, lengths_B, inputs_BT)
    log_p_BTV = np.asarray(jax.nn.log_softmax(logits_BTV))
    for row, (_, output) in enumerate(outputs):
        total = sum(log_p_BTV[row, t, token] for t, token in enumerate(output.ids))
        n = len(output.ids)
        assert output.score == pytest.approx(
            total / length_penalty(n, decoder.config.decode), abs=1e-4)


def test_one_by_one_is_the_same_and_compiles_once_for_each_bucket(decoder, together):
    first = len(decoder.compilations.rows)
    assert_same([decoder.generate([ids])[0] for ids in SOURCES], together)
    assert len(decoder.compilations.rows) - first == 2  # 50 sources: lengths to 16, to 32


def test_the_order_of_the_sources_is_irrelevant_and_nothing_compiles_again(decoder, together):
    first = len(decoder.compilations.rows)
    order = random.Random(2).sample(range(len(SOURCES)), len(SOURCES))
    shuffled = decoder.generate([SOURCES[i] for i in order])
    assert_same(shuffled, [together[i] for i in order])
    assert len(decoder.compilations.rows) == first


def test_no_sources_give_no_outputs_and_progress_counts_all(decoder):
    assert decoder.generate([]) == []
    seen = []
    decoder.generate(SOURCES, seen.append)
    assert seen == sorted(seen) and seen[-1] == len(SOURCES)


def test_output_limits():
    free = override(CONFIG, {'decode.max_length': 0, 'model.max_length': 70})
    assert [output_limits(free, n) for n in (1, 10, 20, 21, 70)] == [
        (0, most) for most in (51, 60, 70, 70, 70)]
    assert [output_limits(CONFIG, n) for n in (1, 39)] == [(0, 6), (0, 6)]
    long = override(free, {'decode.min_length': 60})
    assert [output_limits(long, n) for n in (1, 20)] == [(60, 60), (60, 70)]


def test_an_output_is_limited_by_its_own_source_not_by_the_longest_beside_it():
    """Sources of 1 and 16 tokens with at most 50 more, cut short by a model that never ends."""
    config = override(CONFIG, {
        'decode.beam_size': 1, 'decode.max_length': 0, 'model.max_length': 60})
    model = build(config)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes_of(model))
    params['output']['bias'] = jnp.zeros(V).at[5].set(1.0)
    outputs = Generator(model, config, params, Compilations())([[7], [7] * 4, [7] * 16])
    assert [output.ids for [output] in outputs] == [[5] * 51, [5] * 54, [5] * 60]


@pytest.mark.parametrize('changes', [
    *({'model.positions': scheme} for scheme in (
        'sinusoidal', 'learned', 'rotary', 'alibi', 'relative', 'none')),
    {'decode.first_token': 5}, {'decode.end_at_limit': True, 'decode.max_new_tokens': 3}], ids=str)
def test_drafted_and_one_by_one_are_greedy(changes):
    decoder = Decoder({'decode.beam_size': 1} | changes)
    other = jax.tree.map(lambda leaf: 1.2 * leaf, decoder.params)
    generate = Generator(decoder.model, decoder.config, decoder.params, decoder.compilations,
                         draft=Draft(decoder.model, other, 2))
    together = decoder.generate(SOURCES[:8])
    assert_same(generate(SOURCES[:8]), together)
    assert_same([decoder.generate([ids])[0] for ids in SOURCES[:8]], together)
    assert 0 < generate.kept < generate.drafted


def test_batching_changes_no_sample():
    decoder = Decoder({'decode.beam_size': 1, 'decode.strategy': 'sample', 'decode.top_k': 5})
    found = decoder.generate(SOURCES[:8])
    halves = Generator(decoder.model, decoder.config, decoder.params, decoder.compilations,
                       batch_tokens=64)
    assert_same(halves(SOURCES[:8]), found)
    greedy = Decoder({'decode.beam_size': 1}).generate(SOURCES[:8])
    assert [best[0].ids for best in found] != [best[0].ids for best in greedy]
