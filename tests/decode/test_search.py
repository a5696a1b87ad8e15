"""Searches against brute force, and against a beam search in plain Python.

The model is a table of random logits for every prefix, so that every prefix matters; the cache is
the number of the prefix.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import DecodeConfig
from xformer.data import tokenizers
from xformer.decode.search import BOS, EOS, PAD, beam_search, greedy, length_penalty

V, T, B = 5, 4, 8
LIMITS_B = np.array([4, 4, 4, 4, 3, 2, 1, 0], np.int32)
TABLE = 2 * np.random.default_rng(0).normal(size=(B, (V + 1) ** T, V)).astype(np.float32)
PENALTIES = [('gnmt', 0.0), ('gnmt', 0.6), ('gnmt', 2.0), ('length', 0.5), ('length', 1.0)]


def extend(ids_R1, cache):
    number_R = cache['number'] * (V + 1) + ids_R1[:, 0] + 1
    return jnp.asarray(TABLE)[cache['example'], number_R][:, None], cache | {'number': number_R}


def reorder(cache, rows_R):
    return {name: value[rows_R] for name, value in cache.items()}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def search(method: str, beam_size: int, penalty: str, alpha, limits_B):
    config = DecodeConfig(beam_size=beam_size, length_penalty=penalty, alpha=alpha)
    cache = {'number': jnp.zeros(B * beam_size, jnp.int32),
             'example': jnp.repeat(jnp.arange(B), beam_size)}
    if method == 'greedy':
        return greedy(extend, cache, limits_B, T, config)
    return beam_search(extend, reorder, cache, limits_B, T, config)


@functools.cache
def searched(method: str, beam_size: int, penalty: str, alpha: float):
    """[example][k] -> (tokens, score); outputs of length 0 are left out."""
    ids_BKT, lengths_BK, scores_BK = jax.device_get(
        search(method, beam_size, penalty, alpha, LIMITS_B))
    assert ids_BKT.shape == (B, beam_size, T)
    for ids_T, length in zip(ids_BKT.reshape(-1, T), lengths_BK.ravel()):
        assert (ids_T[length:] == PAD).all() and not np.isin(ids_T[:length], (PAD, BOS)).any()
        assert not (ids_T[:max(length - 1, 0)] == EOS).any()
    return [[(tuple(ids_BKT[b, k, :length].tolist()), float(scores_BK[b, k]))
             for k, length in enumerate(lengths_BK[b]) if length] for b in range(B)]


def log_p(b: int, prefix: tuple, token: int) -> float:
    """log p(token | prefix): of all V tokens, although PAD and BOS are never chosen."""
    number = functools.reduce(lambda number, token: number * (V + 1) + token + 1, (BOS, *prefix), 0)
    logits = TABLE[b, number].astype(np.float64)
    return logits[token] - math.log(np.exp(logits).sum())


def penalised(tokens: tuple, total: float, penalty: str, alpha: float) -> float:
    n = len(tokens)
    return total / ((5 + n) / 6) ** alpha if penalty == 'gnmt' else total / n**alpha


def score(b: int, tokens: tuple, penalty: str, alpha: float) -> float:
    total = sum(log_p(b, tokens[:t], token) for t, token in enumerate(tokens))
    return penalised(tokens, total, penalty, alpha)


def all_outputs(b: int):
    """Every sequence that ends in EOS within the limit, or has as many tokens without it."""
    others = [token for token in range(V) if token not in (PAD, BOS, EOS)]
    for length in range(1, LIMITS_B[b] + 1):
        for prefix in itertools.product(others, repeat=length - 1):
            yield (*prefix, EOS)
            if length == LIMITS_B[b]:
                yield from ((*prefix, token) for token in others)


def plain_beam_search(b: int, beam_size: int, penalty: str, alpha: float):
    """From the docstring of `beam_search`, for one example."""
    alive, complete = [((), 0.0)], []
    for length in range(1, LIMITS_B[b] + 1):
        best = sorted((((*prefix, token), total + log_p(b, prefix, token))
                       for prefix, total in alive for token in range(V)
                       if token not in (PAD, BOS)), key=lambda pair: -pair[1])
        complete += [pair for pair in best[:beam_size] if pair[0][-1] == EOS]
        alive = [pair for pair in best if pair[0][-1] != EOS][:beam_size]
        if length == LIMITS_B[b]:
            complete += alive
        complete.sort(key=lambda pair: -penalised(*pair, penalty, alpha))
        del complete[beam_size:]
        if len(complete) == beam_size:
            break
    return [(tokens, penalised(tokens, total, penalty, alpha)) for tokens, total in complete]


def assert_same(found, expected):
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected],
                               rtol=1e-5, atol=1e-6)


def test_special_tokens_are_the_tokenizers():
    assert (PAD, BOS, EOS) == (tokenizers.PAD, tokenizers.BOS, tokenizers.EOS)


@pytest.mark.parametrize(('penalty', 'alpha'), PENALTIES)
def test_a_wide_beam_finds_every_output_in_order(penalty, alpha):
    beams = searched('beam', 40, penalty, alpha)
    assert len(beams[0]) == 2**0 + 2**1 + 2**2 + 2**3 + 2**4 and not beams[-1]
    for b, found in enumerate(beams):
        expected = sorted(((tokens, score(b, tokens, penalty, alpha)) for tokens in all_outputs(b)),
                          key=lambda pair: -pair[1])
        assert_same(found, expected)


@pytest.mark.parametrize('beam_size', [1, 2, 3])
@pytest.mark.parametrize(('penalty', 'alpha'), PENALTIES)
def test_a_narrow_beam_is_the_plain_one(beam_size, penalty, alpha):
    for b, found in enumerate(searched('beam', beam_size, penalty, alpha)):
        assert_same(found, plain_beam_search(b, beam_size, penalty, alpha))


@pytest.mark.parametrize('beam_size', [2, 3])
@pytest.mark.parametrize(('penalty', 'alpha'), PENALTIES)
def test_outputs_are_sorted_distinct_and_scored_by_their_own_tokens(beam_size, penalty, alpha):
    for b, found in enumerate(searched('beam', beam_size, penalty, alpha)):
        scores = [each for _, each in found]
        assert scores == sorted(scores, reverse=True)
        assert len({tokens for tokens, _ in found}) == len(found)
        for tokens, each in found:
            assert tokens in set(all_outputs(b))
            assert each == pytest.approx(score(b, tokens, penalty, alpha), rel=1e-5)


@pytest.mark.parametrize(('penalty', 'alpha'), PENALTIES)
def test_greedy_takes_the_most_probable_token_and_is_a_beam_of_one(penalty, alpha):
    found = searched('greedy', 1, penalty, alpha)
    for b, beam in enumerate(searched('beam', 1, penalty, alpha)):
        assert_same(found[b], beam)
        tokens = ()
        while len(tokens) < LIMITS_B[b] and EOS not in tokens:
            tokens += (max((t for t in range(V) if t not in (PAD, BOS)),
                           key=lambda token: log_p(b, tokens, token)),)
        assert_same(found[b], [(tokens, score(b, tokens, penalty, alpha))] if tokens else [])


def test_each_example_has_a_limit_of_its_own():
    for name, beam_size in (('greedy', 1), ('beam', 3)):
        found = searched(name, beam_size, 'gnmt', 0.6)
        for outputs, limit in zip(found, LIMITS_B):
            assert bool(outputs) == (limit > 0)
            assert all(len(tokens) <= limit for tokens, _ in outputs)


def test_length_penalties_by_hand():
    assert length_penalty(1, DecodeConfig(alpha=0.6)) == pytest.approx(1.0)
    assert length_penalty(7, DecodeConfig(alpha=0.5)) == pytest.approx(math.sqrt(2))
    assert length_penalty(9, DecodeConfig(length_penalty='length', alpha=0.5)) == pytest.approx(3)
    assert length_penalty(9, DecodeConfig(length_penalty='length', alpha=0.0)) == 1
