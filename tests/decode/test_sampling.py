"""What may come next against plain NumPy, one token and one filter at a time; draws by chi-square.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import Config, override
from xformer.decode.sampling import (
    NEVER,
    filtered,
    forced,
    log_probabilities,
    most_probable,
)
from xformer.decode.search import Prompts, Rows

V, M, END = 9, 12, 2
SPECIAL = {'model.pad_id': 0, 'model.bos_id': 1, 'model.eos_id': END}
LOGITS_V = np.array([3.0, 2.5, 0.0, -0.3, 0.7, 1.6, -1.2, 0.4, -2.0], np.float32)
TEXT = [1, 4, 6, 5, 4, 6]  # after padding of unlike tokens that must not count
IDS_M = np.array([7, 8, 7, *TEXT, 7, 8, 3], np.int32)


def config(**decode) -> Config:
    sample = {'decode.strategy': 'sample'}
    return override(Config(), SPECIAL | sample | {
        f'decode.{name}': value for name, value in decode.items()})


def found(ending=True, **decode):
    return np.asarray(log_probabilities(
        jnp.asarray(LOGITS_V), jnp.asarray(IDS_M), 3, 3 + len(TEXT), ending, config(**decode)))


def log_softmax(logits_V):
    logits_V = np.asarray(logits_V, np.float64)
    return logits_V - np.log(np.exp(logits_V).sum())


def with_never(log_p_V, tokens):
    return [NEVER if token in tokens else value for token, value in enumerate(log_p_V)]


def test_padding_and_begin_are_ruled_out_the_others_keep_their_probability():
    np.testing.assert_allclose(found(), with_never(log_softmax(LOGITS_V), {0, 1}), rtol=1e-5)


def test_repetition_penalty_divides_what_is_above_zero_and_multiplies_what_is_below():
    logits = [value if token not in TEXT else value * 1.5 if value < 0 else value / 1.5
              for token, value in enumerate(LOGITS_V)]
    np.testing.assert_allclose(found(repetition_penalty=1.5),
                               with_never(log_softmax(logits), {0, 1}), rtol=1e-5)


@pytest.mark.parametrize('n', [1, 2, 3, 6, 7, 13])
def test_no_ngram_comes_twice(n):
    seen = {tuple(TEXT[i:i + n]) for i in range(len(TEXT) - n + 1)}
    last = tuple(TEXT[len(TEXT) - n + 1:]) if n <= len(TEXT) + 1 else None
    banned = {token for token in range(V) if last is not None and (*last, token) in seen}
    assert bool(banned) == (n <= 3)
    np.testing.assert_allclose(found(no_repeat_ngram=n),
                               with_never(log_softmax(LOGITS_V), banned | {0, 1}), rtol=1e-5)


def test_the_end_waits_for_the_minimum_length_and_may_repeat():
    never = with_never(log_softmax(LOGITS_V), {0, 1, END})
    np.testing.assert_allclose(found(ending=False, min_length=9), never, rtol=1e-5)
    assert found(ending=True, min_length=9)[END] > NEVER
    ends_M = jnp.array([END, 4] * 6)
    assert log_probabilities(jnp.asarray(LOGITS_V), ends_M, 0, 12, True,
                             config(no_repeat_ngram=1))[END] > NEVER


def test_a_text_that_could_only_repeat_itself_may_end_early():
    every_M = jnp.array([token for token in range(V) if token != END])
    given = log_probabilities(jnp.asarray(LOGITS_V), every_M, 0, V - 1, False,
                              config(min_length=99, no_repeat_ngram=1))
    np.testing.assert_allclose(given, with_never(log_softmax(LOGITS_V), set(range(V)) - {END}),
                               rtol=1e-5)


def test_what_is_not_allowed_may_leave_its_probability_to_the_rest():
    allowed = [token for token in range(V) if token not in (0, 1)]
    np.testing.assert_allclose(np.exp(found(renormalise=True)[allowed]).sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(found(renormalise=True)[allowed],
                               log_softmax(LOGITS_V[allowed]), rtol=1e-5)
    assert (found(renormalise=True)[:2] < NEVER / 2).all()


@pytest.mark.parametrize('t, first, end, certain', [
    (0, 5, False, 5), (1, 5, False, None), (3, 5, True, END), (2, -1, True, None),
    (3, -1, False, None)])
def test_the_first_token_and_the_end_at_the_limit_may_be_certain(t, first, end, certain):
    log_p_V = jnp.asarray(log_softmax(LOGITS_V), jnp.float32)
    given = forced(log_p_V, t, 4, config(first_token=first, end_at_limit=end))
    expected = log_p_V if certain is None else with_never(np.zeros(V), set(range(V)) - {certain})
    np.testing.assert_allclose(given, expected, rtol=1e-5)


def plainly_filtered(log_p_V, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Probabilities of a draw, token by token, from the papers' definitions."""
    p = np.exp(np.asarray(log_p_V, np.float64) / temperature)
    order = sorted(range(len(p)), key=lambda token: -p[token])
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    kept, held = [], 0.0
    for token in order:
        if held < top_p:
            kept.append(token)
        held += p[token]
    p = np.where(np.isin(np.arange(len(p)), kept), p, 0)
    p[p < min_p * p.max()] = 0
    return p / p.sum()


FILTERS = {'plain': {}, 'cold': {'temperature': 0.5}, 'hot': {'temperature': 2.0},
           'top_k': {'top_k': 3}, 'top_p': {'top_p': 0.7}, 'min_p': {'min_p': 0.2},
           'all': {'temperature': 1.3, 'top_k': 5, 'top_p': 0.85, 'min_p': 0.3},
           'one': {'top_p': 1e-6}, 'more than there are': {'top_k': 50}}


@pytest.mark.parametrize('options', FILTERS.values(), ids=FILTERS)
def test_filters_leave_what_their_papers_say(options):
    for seed in range(20):
        log_p_V = log_softmax(2 * np.random.default_rng(seed).normal(size=V))
        p_V = jax.nn.softmax(filtered(jnp.asarray(log_p_V, jnp.float32), config(**options).decode))
        np.testing.assert_allclose(p_V, plainly_filtered(log_p_V, **options), atol=1e-6)


NEXT_VV = 1.5 * np.random.default_rng(3).normal(size=(V, V)).astype(np.float32)


@functools.cache
def drawn(names: tuple, numbers: tuple = tuple(range(4000))):
    """Two tokens a row of a model whose next token depends on the last one."""
    options = config(**dict(names), min_length=9)

    @jax.jit
    def draw(numbers_R):
        ones_R = jnp.ones_like(numbers_R)
        keys_R = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(7)))(numbers_R)
        prompts = Prompts(ones_R[:, None], ones_R, 9 * ones_R, 2 * ones_R)
        rows = Rows.start(prompts, 2, None, options, keys_R)
        return rows.write(lambda ids_R1, _: (jnp.asarray(NEXT_VV)[ids_R1], None), 2,
                          options).outputs()[0]
    return np.asarray(draw(np.array(numbers, np.int32)))


@pytest.mark.parametrize('options', list(FILTERS.values())[:7], ids=list(FILTERS)[:7])
def test_samples_have_the_distribution_that_they_claim(options):
    """χ² of 4,000 first tokens and of the second ones after each; 1 in 1,000 such tests fails."""
    def expected(token):
        return plainly_filtered(with_never(log_softmax(NEXT_VV[token]), {0, 1, END}), **options)
    ids_R2 = drawn(tuple(options.items()))
    statistic, freedom = 0.0, 0
    for first in (None, *np.unique(ids_R2[:, 0])):
        chosen = ids_R2[:, 0] if first is None else ids_R2[ids_R2[:, 0] == first, 1]
        counts_V = np.bincount(chosen, minlength=V)
        p_V = expected(1 if first is None else first)
        assert not counts_V[p_V == 0].any()
        often = p_V * len(chosen) >= 5  # the approximation needs as many
        expected_C = p_V[often] * len(chosen)
        statistic += ((counts_V[often] - expected_C) ** 2 / expected_C).sum()
        freedom += len(expected_C) - 1
    # Wilson and Hilferty 1931: (χ²/f)^(1/3) is near normal; 3.09 leaves 0.1 % above
    critical = freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert freedom > 4 and statistic < critical


def test_the_most_probable_token_is_the_first_of_equals():
    log_p_RV = np.random.default_rng(0).integers(0, 9, (50, 31)).astype(np.float32)
    log_p_RV[0], log_p_RV[1] = NEVER, -np.inf
    assert most_probable(jnp.asarray(log_p_RV)).tolist() == log_p_RV.argmax(-1).tolist()


def test_a_draw_depends_on_the_number_of_its_input_alone():
    all_R2 = drawn(())
    np.testing.assert_array_equal(drawn((), (17, 3999, 5)), all_R2[[17, 3999, 5]])
    assert len(np.unique(all_R2, axis=0)) > 10
