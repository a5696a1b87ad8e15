"""Searches against brute force, and against a beam search in plain Python.

The model is a table of random logits for every prefix, so that every prefix matters; the cache is
the number of the prefix. Special tokens are a vocabulary's own, shared as in T5's and GPT-2's.
"""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import Config, DecodeConfig, ModelConfig
from xformer.decode.search import Beams, Prompts, Rows, largest, length_penalty

T, B = 4, 8
MOST = 5  # tokens in the largest vocabulary here
LIMITS_B = np.array([4, 4, 4, 4, 3, 2, 1, 0], np.int32)
TABLE = 2 * np.random.default_rng(0).normal(size=(B, (MOST + 1) ** T, MOST)).astype(np.float32)
PENALTIES = [('gnmt', 0.0), ('gnmt', 0.6), ('gnmt', 2.0), ('length', 0.5), ('length', 1.0)]


class Ids(NamedTuple):
    """The special tokens of a vocabulary that has two more."""

    pad: int
    bos: int
    eos: int

    @property
    def V(self) -> int:
        return len(set(self)) + 2

    @property
    def others(self) -> list[int]:
        return [token for token in range(self.V) if token not in self]

    @property
    def emitted(self) -> list[int]:
        return sorted({*self.others, self.eos})


OWN = Ids(0, 1, 2)
SHARED = {'T5, pad begins': Ids(0, 0, 1), 'GPT-2, one for all': Ids(2, 2, 2),
          'end is padding': Ids(1, 3, 1), 'end is begin': Ids(1, 0, 0)}
CASES = [pytest.param(OWN, *penalty, id=f'{penalty}') for penalty in PENALTIES] + [
    pytest.param(ids, 'gnmt', 0.6, id=name) for name, ids in SHARED.items()]
every_case = pytest.mark.parametrize(('ids', 'penalty', 'alpha'), CASES)


def extend(V, ids_R1, cache):
    number_R = cache['number'] * (MOST + 1) + ids_R1[:, 0] + 1
    return (jnp.asarray(TABLE)[cache['example'], number_R][:, None, :V],
            cache | {'number': number_R})


def reorder(cache, parents_BK):
    rows_BK = np.arange(B)[:, None] * parents_BK.shape[1] + parents_BK
    return {name: value[rows_BK.reshape(-1)] for name, value in cache.items()}


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 6))
def search(method: str, beam_size: int, ids: Ids, penalty: str, alpha, limits_B, stopping='true'):
    config = Config(ModelConfig(pad_id=ids.pad, bos_id=ids.bos, eos_id=ids.eos), decode=(
        DecodeConfig(beam_size=beam_size, length_penalty=penalty, alpha=alpha,
                     early_stopping=stopping)))
    cache = {'number': jnp.zeros(B * beam_size, jnp.int32),
             'example': jnp.repeat(jnp.arange(B), beam_size)}
    return run(method, functools.partial(extend, ids.V), reorder, cache, limits_B, T, config)


def run(method, extend, reorder, cache, limits_B, T, config):
    """(ids_BKT, lengths_BK, scores_BK) of outputs that continue the begin token."""
    ones_B = jnp.ones_like(limits_B)
    prompts = Prompts(config.model.bos_id * ones_B[:, None], ones_B,
                      config.decode.min_length * ones_B, limits_B)
    if method == 'beam':
        beams = Beams.start(prompts, T, cache, config)
        return beams.write(extend, reorder, T, config).outputs()
    rows = Rows.start(prompts, T, cache, config).write(extend, T, config)
    ids_BT, lengths_B, log_p_BT = rows.outputs()
    penalty_B = length_penalty(jnp.maximum(lengths_B, 1), config.decode)
    return ids_BT[:, None], lengths_B[:, None], (log_p_BT.sum(-1) / penalty_B)[:, None]


@functools.cache
def searched(method: str, beam_size: int, ids: Ids, penalty: str, alpha: float, stopping='true'):
    """[example][k] -> (tokens, score); outputs of length 0 are left out."""
    ids_BKT, lengths_BK, scores_BK = jax.device_get(
        search(method, beam_size, ids, penalty, alpha, LIMITS_B, stopping))
    assert ids_BKT.shape == (B, beam_size, T)
    for ids_T, length in zip(ids_BKT.reshape(-1, T), lengths_BK.ravel()):
        assert (ids_T[length:] == ids.pad).all() and np.isin(ids_T[:length], ids.emitted).all()
        assert not (ids_T[:max(length - 1, 0)] == ids.eos).any()
    return [[(tuple(ids_BKT[b, k, :length].tolist()), float(scores_BK[b, k]))
             for k, length in enumerate(lengths_BK[b]) if length] for b in range(B)]


def log_p(b: int, ids: Ids, prefix: tuple, token: int) -> float:
    """log p(token | prefix): of all V tokens, although some are never chosen."""
    number = functools.reduce(lambda number, token: number * (MOST + 1) + token + 1,
                              (ids.bos, *prefix), 0)
    logits = TABLE[b, number, :ids.V].astype(np.float64)
    return logits[token] - math.log(np.exp(logits).sum())


def penalised(tokens: tuple, total: float, penalty: str, alpha: float) -> float:
    n = len(tokens)
    return total / ((5 + n) / 6) ** alpha if penalty == 'gnmt' else total / n**alpha


def score(b: int, ids: Ids, tokens: tuple, penalty: str, alpha: float) -> float:
    total = sum(log_p(b, ids, tokens[:t], token) for t, token in enumerate(tokens))
    return penalised(tokens, total, penalty, alpha)


def all_outputs(b: int, ids: Ids):
    """Every sequence that ends in EOS within the limit, or has as many tokens without it."""
    for length in range(1, LIMITS_B[b] + 1):
        for prefix in itertools.product(ids.others, repeat=length - 1):
            yield (*prefix, ids.eos)
            if length == LIMITS_B[b]:
                yield from ((*prefix, token) for token in ids.others)


def plain_beam_search(b: int, beam_size: int, ids: Ids, penalty: str, alpha: float,
                      patient: bool = False, more_ends: tuple = ()):
    """From the docstring of `Beams`, for one example."""
    alive, complete, ends = [((), 0.0)], [], (ids.eos, *more_ends)
    for length in range(1, LIMITS_B[b] + 1):
        best = sorted((((*prefix, token), total + log_p(b, ids, prefix, token))
                       for prefix, total in alive for token in ids.emitted),
                      key=lambda pair: -pair[1])
        complete += [pair for pair in best[:beam_size] if pair[0][-1] in ends]
        alive = [pair for pair in best if pair[0][-1] not in ends][:beam_size]
        if length == LIMITS_B[b]:
            complete += alive
        complete.sort(key=lambda pair: -penalised(*pair, penalty, alpha))
        del complete[beam_size:]
        hope = patient and alive and complete and penalised(
            ' ' * length, alive[0][1], penalty, alpha) > penalised(*complete[-1], penalty, alpha)
        if len(complete) == beam_size and not hope:
            break
    return [(tokens, penalised(tokens, total, penalty, alpha)) for tokens, total in complete]


def assert_same(found, expected):
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected],
                               rtol=1e-5, atol=1e-6)


@every_case
def test_a_wide_beam_finds_every_output_in_order(ids, penalty, alpha):
    beams = searched('beam', 40, ids, penalty, alpha)
    assert len(beams[0]) == 2**0 + 2**1 + 2**2 + 2**3 + 2**4 and not beams[-1]
    for b, found in enumerate(beams):
        expected = sorted(((tokens, score(b, ids, tokens, penalty, alpha))
                           for tokens in all_outputs(b, ids)), key=lambda pair: -pair[1])
        assert_same(found, expected)


@pytest.mark.parametrize('beam_size', [1, 2, 3])
@every_case
def test_a_narrow_beam_is_the_plain_one(beam_size, ids, penalty, alpha):
    for b, found in enumerate(searched('beam', beam_size, ids, penalty, alpha)):
        assert_same(found, plain_beam_search(b, beam_size, ids, penalty, alpha))


@every_case
def test_a_patient_beam_goes_on_while_a_prefix_is_better_than_an_output(ids, penalty, alpha):
    found = searched('beam', 3, ids, penalty, alpha, 'false')
    for b, outputs in enumerate(found):
        assert_same(outputs, plain_beam_search(b, 3, ids, penalty, alpha, patient=True))
    assert ids != OWN or found != searched('beam', 3, ids, penalty, alpha)


@pytest.mark.parametrize('beam_size', [2, 3])
@every_case
def test_outputs_are_sorted_distinct_and_scored_by_their_own_tokens(beam_size, ids, penalty, alpha):
    for b, found in enumerate(searched('beam', beam_size, ids, penalty, alpha)):
        scores = [each for _, each in found]
        assert scores == sorted(scores, reverse=True)
        assert len({tokens for tokens, _ in found}) == len(found)
        for tokens, each in found:
            assert tokens in set(all_outputs(b, ids))
            assert each == pytest.approx(score(b, ids, tokens, penalty, alpha), rel=1e-5)


@every_case
def test_greedy_takes_the_most_probable_token_and_is_a_beam_of_one(ids, penalty, alpha):
    found = searched('greedy', 1, ids, penalty, alpha)
    for b, beam in enumerate(searched('beam', 1, ids, penalty, alpha)):
        assert_same(found[b], beam)
        tokens = ()
        while len(tokens) < LIMITS_B[b] and ids.eos not in tokens:
            tokens += (max(ids.emitted, key=lambda token: log_p(b, ids, tokens, token)),)
        assert_same(found[b], [(tokens, score(b, ids, tokens, penalty, alpha))] if tokens else [])


@pytest.mark.parametrize('ids', [OWN, *SHARED.values()])
@pytest.mark.parametrize(('method', 'beam_size'), [('greedy', 1), ('beam', 2)])
def test_the_end_token_is_emitted_whatever_else_it_stands_for(method, beam_size, ids):
    """Its log-probability is the highest, so it is the best output of all, alone."""
    def certain(ids_R1, cache):
        logits_V = jnp.where(jnp.arange(ids.V) == ids.eos, 5.0, 0.0)
        return jnp.broadcast_to(logits_V, (len(ids_R1), 1, ids.V)), cache

    config = Config(ModelConfig(pad_id=ids.pad, bos_id=ids.bos, eos_id=ids.eos),
                    decode=DecodeConfig(beam_size=beam_size, alpha=0.0))
    limits_B = jnp.array([3, 1])
    found = run(method, certain, lambda cache, rows_R: cache, None, limits_B, 3, config)
    for ids_KT, lengths_K, scores_K in zip(*jax.device_get(found)):
        assert lengths_K[0] == 1 and ids_KT[0].tolist() == [ids.eos, ids.pad, ids.pad]
        assert scores_K[0] == pytest.approx(5 - math.log(math.exp(5) + ids.V - 1), rel=1e-5)


def test_each_example_has_a_limit_of_its_own():
    for name, beam_size in (('greedy', 1), ('beam', 3)):
        found = searched(name, beam_size, OWN, 'gnmt', 0.6)
        for outputs, limit in zip(found, LIMITS_B):
            assert bool(outputs) == (limit > 0)
            assert all(len(tokens) <= limit for tokens, _ in outputs)


# ---- beams with changed probabilities, and in groups ----

def beams_of(ids: Ids, beam_size: int, **decode):
    """[example][k] -> (tokens, score), with any other options of decoding."""
    @jax.jit
    def searched(limits_B):
        config = Config(ModelConfig(pad_id=ids.pad, bos_id=ids.bos, eos_id=ids.eos),
                        decode=DecodeConfig(beam_size=beam_size, **decode))
        cache = {'number': jnp.zeros(B * beam_size, jnp.int32),
                 'example': jnp.repeat(jnp.arange(B), beam_size)}
        return run('beam', functools.partial(extend, ids.V), reorder, cache, limits_B, T, config)
    ids_BKT, lengths_BK, scores_BK = jax.device_get(searched(LIMITS_B))
    return [[(tuple(ids_BKT[b, k, :length].tolist()), float(scores_BK[b, k]))
             for k, length in enumerate(lengths_BK[b]) if length] for b in range(B)]


@pytest.mark.parametrize('options', [{'min_length': 3}, {'no_repeat_ngram': 2},
                                     {'no_repeat_ngram': 1, 'min_length': 2}])
def test_a_wide_beam_finds_every_output_that_is_allowed(options):
    def allowed(tokens):
        n = options.get('no_repeat_ngram', 9)
        text = [token for token in (OWN.bos, *tokens) if token != OWN.eos]
        grams = list(zip(*(text[i:] for i in range(n))))
        early = OWN.eos in tokens and len(tokens) < options.get('min_length', 0)
        return len(set(grams)) == len(grams) and not early
    for b, found in enumerate(beams_of(OWN, 40, **options)):
        every = [tokens for tokens in all_outputs(b, OWN) if allowed(tokens)]
        assert 0 < len(every) < 31 or LIMITS_B[b] < 3
        assert_same(found, sorted(((tokens, score(b, OWN, tokens, 'gnmt', 0.6))
                                   for tokens in every), key=lambda pair: -pair[1]))


@pytest.mark.parametrize('beam_size', [1, 2, 3])
@pytest.mark.parametrize('ids', [OWN, SHARED['T5, pad begins']])
def test_an_output_ends_with_any_of_several_tokens(beam_size, ids):
    more = ids.others[:1]
    found = beams_of(ids, beam_size, more_ends=str(more[0]))
    assert any(tokens[-1] in more for outputs in found for tokens, _ in outputs)
    for b in range(B):
        assert_same(found[b], plain_beam_search(b, beam_size, ids, 'gnmt', 0.6, more_ends=more))


def plain_diverse_beam_search(b: int, k: int, groups: int, diversity: float, ids: Ids):
    """From the docstring of `Beams`, for one example: `groups` beams of k hypotheses."""
    alive = [[((), 0.0)] for _ in range(groups)]
    complete = [[] for _ in range(groups)]
    for length in range(1, LIMITS_B[b] + 1):
        taken = []
        for g in range(groups):
            if len(complete[g]) == k:
                continue
            best = sorted((((*prefix, token), total + log_p(b, ids, prefix, token))
                           for prefix, total in alive[g] for token in ids.emitted),
                          key=lambda pair: diversity * taken.count(pair[0][-1]) - pair[1])
            complete[g] += [pair for pair in best[:k] if pair[0][-1] == ids.eos]
            alive[g] = [pair for pair in best if pair[0][-1] != ids.eos][:k]
            taken = taken + [prefix[-1] for prefix, _ in alive[g]]
            if length == LIMITS_B[b]:
                complete[g] += alive[g]
            complete[g].sort(key=lambda pair: -penalised(*pair, 'gnmt', 0.6))
            del complete[g][k:]
    return sorted(((tokens, penalised(tokens, total, 'gnmt', 0.6))
                   for group in complete for tokens, total in group), key=lambda pair: -pair[1])


@pytest.mark.parametrize(('k', 'groups', 'diversity'), [(1, 2, 0.7), (2, 2, 1.5), (1, 4, 5.0)])
@pytest.mark.parametrize('ids', [OWN, SHARED['T5, pad begins']])
def test_a_diverse_beam_is_the_plain_one(k, groups, diversity, ids):
    found = beams_of(ids, k * groups, beam_groups=groups, diversity=diversity)
    for b in range(B):
        assert_same(found[b], plain_diverse_beam_search(b, k, groups, diversity, ids))
    assert found != beams_of(ids, k * groups)


def test_length_penalties_by_hand():
    assert length_penalty(1, DecodeConfig(alpha=0.6)) == pytest.approx(1.0)
    assert length_penalty(7, DecodeConfig(alpha=0.5)) == pytest.approx(math.sqrt(2))
    assert length_penalty(9, DecodeConfig(length_penalty='length', alpha=0.5)) == pytest.approx(3)
    assert length_penalty(9, DecodeConfig(length_penalty='length', alpha=0.0)) == 1


@pytest.mark.parametrize('size', [7, 300, 2048, 5001])
@pytest.mark.parametrize('kinds', [3, 10**6], ids=['ties', 'distinct'])
def test_the_largest_values_are_found_the_first_of_equals_first(size, kinds):
    values_BN = np.random.default_rng(size).integers(-kinds, 1, (3, size)).astype(np.float32)
    found_BC, index_BC = largest(jnp.asarray(values_BN), 5)
    expected_BC = np.argsort(-values_BN, axis=1, kind='stable')[:, :5]
    np.testing.assert_array_equal(index_BC, expected_BC)
    np.testing.assert_array_equal(found_BC, np.take_along_axis(values_BN, expected_BC, axis=1))
