"""Generation by decoders: prompts of any lengths in one batch give what each gives alone."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.compiled import Compilations
from xformer.config import Config, UserError, override
from xformer.decode.generate import Draft, Generator, output_limits
from xformer.decode.search import length_penalty
from xformer.models import build, init_params

V, NEW = 14, 6
CONFIG = override(Config(), {
    'model.family': 'decoder', 'model.num_encoder_layers': 0, 'model.num_decoder_layers': 1,
    'model.d_model': 16, 'model.num_heads': 2, 'model.d_ff': 24, 'model.vocab_size': V,
    'model.max_length': 40, 'model.norm_position': 'pre', 'model.layers': 'unroll',
    'model.tie_embeddings': 'none', 'model.pad_id': 0, 'model.bos_id': 1, 'model.eos_id': 2,
    'data.objective': 'lm', 'decode.beam_size': 1, 'decode.max_new_tokens': NEW})
SCHEMES = {
    **{scheme: {'model.positions': scheme} for scheme in (
        'learned', 'sinusoidal', 'rotary', 'alibi', 'relative', 'none')},
    'rotary, window, grouped': {'model.positions': 'rotary', 'model.window': 3,
                                'model.num_kv_heads': 1},
    'relative, window, one special token': {'model.positions': 'relative', 'model.window': 4,
                                            'model.pad_id': 2, 'model.bos_id': 2}}


def random_params(model, seed: int):
    """Large enough for every token of the text to matter; biases would drown them."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        values = {'bias': np.zeros, 'scale': np.ones}.get(
            path[-1].key, lambda size: rng.normal(0, 0.7, size))(shape.shape)
        return jnp.asarray(values, jnp.float32)
    return jax.tree_util.tree_map_with_path(
        leaf, jax.eval_shape(lambda: init_params(model, jax.random.key(0))))


def random_prompts(number: int, longest: int, seed: int = 0) -> list[list[int]]:
    choose = random.Random(seed)
    return [choose.choices(range(3, V), k=choose.randint(1, longest)) for _ in range(number)]


PROMPTS = random_prompts(12, 15)


class Setting:
    """A model with random parameters, and generators that count their compilations."""

    def __init__(self, changes: dict):
        self.config = override(CONFIG, changes)
        self.model = build(self.config)
        self.params = random_params(self.model, seed=1)
        self.compilations = Compilations()

    def generator(self, changes=None, **options) -> Generator:
        return Generator(self.model, override(self.config, changes or {}), self.params,
                         self.compilations, **options)

    @functools.cached_property
    def greedy(self) -> Generator:
        return self.generator()

    @functools.cached_property
    def together(self) -> list:
        return self.greedy(PROMPTS)

    @functools.cached_property
    def logits(self):
        """logits_TV after BOS and each of the ids, without any cache."""
        apply = jax.jit(self.model.apply)

        def logits(ids):
            row = [self.config.model.bos_id, *ids]
            inputs_1T = np.array([row + [0] * (48 - len(row))], np.int32)
            return np.array(apply({'params': self.params}, inputs_1T)[0, :len(row)])
        return logits


@pytest.fixture(scope='module', params=SCHEMES.values(), ids=SCHEMES)
def setting(request):
    return Setting(request.param)


@pytest.fixture(scope='module')
def rotary():
    return Setting({'model.positions': 'rotary', 'model.num_decoder_layers': 2})


@pytest.mark.parametrize('changes', [{}, {'decode.beam_size': 3}, {'decode.strategy': 'sample'}],
                         ids=['greedy', 'beam', 'sample'])
def test_outputs_do_not_depend_on_whether_caches_grow(setting, changes, monkeypatch):
    expected = setting.generator(changes)(PROMPTS[:4])
    monkeypatch.setattr('xformer.decode.generate.GROWS', 4)
    assert_same(setting.generator(changes)(PROMPTS[:4]), expected)


def log_softmax(logits):
    return logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))


def assert_same(found, expected):
    assert [[output.ids for output in best] for best in found] == [
        [output.ids for output in best] for best in expected]
    np.testing.assert_allclose([output.score for best in found for output in best],
                               [output.score for best in expected for output in best],
                               rtol=1e-5, atol=1e-5)


def assert_scored(setting, prompts, found):
    """Each output's score is that of its own tokens, by the model without a cache."""
    for prompt, best in zip(prompts, found):
        for ids, score in best:
            log_p_TV = log_softmax(setting.logits([*prompt, *ids]))
            total = sum(log_p_TV[len(prompt) + t, token] for t, token in enumerate(ids))
            penalty = length_penalty(len(ids), setting.config.decode)
            assert score == pytest.approx(total / penalty, rel=1e-5, abs=1e-5)


def test_a_prompt_without_bos_is_all_that_is_read(rotary):
    bos = rotary.config.model.bos_id
    found = rotary.generator(after_bos=False)([[bos, *prompt] for prompt in PROMPTS])
    assert_same(found, rotary.together)
    without = rotary.generator(after_bos=False)(PROMPTS)
    rows = [[*prompt, *best[0].ids] for prompt, best in zip(PROMPTS, without)]
    for prompt, row in zip(PROMPTS, rows):
        inputs_1T = np.array([row + [0] * (48 - len(row))], np.int32)
        logits_TV = np.array(rotary.model.apply({'params': rotary.params}, inputs_1T))[0]
        logits_TV[:, [0, 1]] = -np.inf  # padding and BOS are never written
        for at in range(len(prompt), len(row)):
            assert logits_TV[at - 1].argmax() == row[at]


def test_each_token_is_the_most_probable_one_without_cache_or_batch(setting):
    model = setting.config.model
    never = list({model.pad_id, model.bos_id} - {model.eos_id})
    assert len({tuple(output.ids) for [output] in setting.together}) > 4
    assert_scored(setting, PROMPTS, setting.together)
    for prompt, [output] in zip(PROMPTS, setting.together):
        logits_TV = setting.logits([*prompt, *output.ids])
        logits_TV[:, never] = -np.inf
        best = logits_TV[len(prompt):-1].argmax(-1).tolist()
        assert output.ids == best
        assert len(best) == NEW or best[-1] == model.eos_id


def test_one_by_one_is_the_same(setting):
    assert_same([setting.greedy([prompt])[0] for prompt in PROMPTS], setting.together)


def test_drafted_is_greedy_whatever_the_draft(setting):
    """A draft of other parameters, some of whose tokens are kept."""
    other = jax.tree.map(lambda own, strange: own + 0.3 * strange, setting.params,
                         random_params(setting.model, seed=2))
    drafted = setting.generator(draft=Draft(setting.model, other, 3))
    assert_same(drafted(PROMPTS[:6]), setting.together[:6])
    assert 0 < drafted.kept < drafted.drafted


@pytest.mark.parametrize('option', [
    {'decode.repetition_penalty': 3.0}, {'decode.no_repeat_ngram': 1}, {'decode.min_length': 13}],
    ids=str)
def test_drafted_is_greedy_with_all_that_rules_tokens_out(rotary, option):
    changes = {'decode.max_new_tokens': 12} | option
    plain = rotary.generator({'decode.max_new_tokens': 12})(PROMPTS[:6])
    expected = rotary.generator(changes)(PROMPTS[:6])
    assert [best[0].ids for best in expected] != [best[0].ids for best in plain]
    other = jax.tree.map(lambda own, strange: own + 0.3 * strange, rotary.params,
                         random_params(rotary.model, seed=2))
    drafted = rotary.generator(changes, draft=Draft(rotary.model, other, 3))
    assert_same(drafted(PROMPTS[:6]), expected)
    assert 0 < drafted.kept < drafted.drafted


def test_prompts_too_long_for_the_products_of_short_ones_give_the_same(rotary, monkeypatch):
    expected = rotary.together[:4]
    monkeypatch.setattr('xformer.nn.backends.FEW_SCORES', 0)
    assert_same(rotary.generator()(PROMPTS[:4]), expected)


@pytest.mark.parametrize('changes', [{}, {'decode.beam_size': 3}], ids=['greedy', 'beam'])
def test_a_text_from_its_beginning_may_take_all_that_the_model_does(rotary, changes):
    """The prompt is BOS alone; outputs that do not end are max_length long."""
    endless = {'decode.max_new_tokens': 0, 'decode.min_length': 40} | changes
    [[output, *_]] = rotary.generator(endless)([[]])
    assert len(output.ids) == 40
    assert_scored(rotary, [[]], [[output]])


def test_fifty_prompts_of_a_bucket_compile_nothing_after_the_first(rotary):
    generate = rotary.generator()
    first = len(rotary.compilations.rows)
    prompts = random_prompts(50, 15, seed=3)
    alone = [generate([prompts[0]])[0]]
    assert len(rotary.compilations.rows) == first + 1
    alone += [generate([prompt])[0] for prompt in prompts[1:]]
    assert len(rotary.compilations.rows) == first + 1
    assert_same(generate(prompts), alone)


def test_beams_are_scored_by_their_own_tokens(rotary):
    found = rotary.generator({'decode.beam_size': 3}, num_outputs=3)(PROMPTS)
    assert_scored(rotary, PROMPTS, found)
    better = 0
    for best, [greedy] in zip(found, rotary.together):
        scores = [output.score for output in best]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(output.ids) for output in best}) == 3
        better += scores[0] > greedy.score + 1e-5
    assert better


def test_batching_changes_no_sample(rotary):
    changes = {'decode.strategy': 'sample', 'decode.seed': 5}
    sample = rotary.generator(changes, num_outputs=2)
    found = sample(PROMPTS)
    assert_scored(rotary, PROMPTS, found)
    assert_same(rotary.generator(changes, num_outputs=2, batch_tokens=100)(PROMPTS), found)
    assert all(best[0].score >= best[1].score for best in found)
    assert sum(best[0].ids != best[1].ids for best in found) > 6
    other = rotary.generator(changes | {'decode.seed': 6}, num_outputs=2)(PROMPTS)
    assert sum(best[0].ids != rest[0].ids for best, rest in zip(found, other)) > 6


def test_streams_grow_to_the_same_output(rotary):
    for number, prompt in enumerate(PROMPTS[:3]):
        grown = list(rotary.greedy.stream(prompt))
        assert [len(output.ids) for output in grown] == list(range(1, len(grown) + 1))
        assert_same([[grown[-1]]], [rotary.together[number]])


@pytest.mark.parametrize('draft', [False, True])
def test_an_output_ends_where_it_is_complete(rotary, draft):
    """Complete at its third token, or with the same token twice in a row."""
    def complete(number, ids):
        return len(ids) >= 3 if number % 2 else any(a == b for a, b in zip(ids, ids[1:]))

    options = {'draft': Draft(rotary.model, rotary.params, 3)} if draft else {}
    generate = rotary.generator(complete=complete, **options)
    found = generate(PROMPTS)
    cut = []
    for number, [whole] in enumerate(rotary.together):
        lengths = [n for n in range(1, len(whole.ids) + 1) if complete(number, whole.ids[:n])]
        cut.append(whole.ids[:min(lengths, default=NEW)])
    assert [output.ids for [output] in found] == cut and min(map(len, cut)) < NEW
    if draft:  # the model itself: all is kept but what is beyond the ends
        assert generate.kept > 0.6 * generate.drafted
    assert_scored(rotary, PROMPTS, found)


def test_lengths_count_the_prompt_or_not():
    def limits(length, **decode):
        return output_limits(override(CONFIG, {'decode.max_new_tokens': 0} | {
            f'decode.{name}': value for name, value in decode.items()}), length)
    assert limits(10) == (0, 30) and limits(10, max_length=15) == (0, 5)
    assert limits(10, max_new_tokens=15) == (0, 15) and limits(10, min_length=12) == (2, 30)
    assert limits(10, min_length=4) == (0, 30)


def test_every_slot_of_the_model_is_used_and_none_beyond():
    """A model that never ends, with a table of 40 positions."""
    setting = Setting({'model.positions': 'learned', 'decode.max_new_tokens': 0,
                       'decode.repetition_penalty': 1.2, 'decode.min_length': 40})
    prompts = [[3] * 39, [4] * 32, [5, 6]]
    found = setting.greedy(prompts)
    assert [len(output.ids) for [output] in found] == [1, 8, 38]
    assert_same([setting.greedy([prompt])[0] for prompt in prompts[1:]], found[1:])


@pytest.mark.parametrize(('changes', 'length', 'words'), [
    ({}, 35, ('35 tokens', 'decode.max_new_tokens=6', 'model.max_length=40')),
    ({'decode.max_new_tokens': 0}, 40, ('40 tokens', 'model.max_length=40')),
    ({'decode.max_new_tokens': 0, 'decode.max_length': 9}, 9, ('9 tokens', 'decode.max_length=9')),
])
def test_what_does_not_fit_is_refused_before_anything_is_computed(changes, length, words):
    setting = Setting(changes)
    with pytest.raises(UserError) as error:
        setting.greedy([[3], [3] * length])
    assert all(word in str(error.value) for word in ('input 2', *words))
    assert not setting.compilations.rows
