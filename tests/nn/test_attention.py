"""Attention: every backend against the definition in loops, in values and in gradients."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import UserError
from xformer.nn.attention import (
    attention_weights,
    by_head,
    cached_attention,
    masked_softmax,
    xla_attention,
)
from xformer.nn.backends import (
    BACKENDS,
    attend,
    cudnn_attention,
    splash_attention,
    suitable,
)
from xformer.nn.blockwise import blockwise_attention
from xformer.nn.layers import dropout_factors
from xformer.nn.masks import Mask

B, T, S, N, H = 3, 5, 7, 4, 2


# Every form as it can run on a CPU: what is handed to cuDNN, by JAX's own products; the TPU's
# kernel, interpreted.
FORMS = {'reference': BACKENDS['reference'], 'xla': BACKENDS['xla'],
         'xla, in parts': functools.partial(xla_attention, long=2),
         'blockwise': blockwise_attention,
         'blockwise, blocks of 2': functools.partial(blockwise_attention, block=2),
         'cudnn': functools.partial(cudnn_attention, implementation='xla'),
         'splash': functools.partial(splash_attention, interpret=True),
         'cache': lambda q_BTNH, k_BSKH, v_BSKH, mask, bias_NR=None: cached_attention(
             q_BTNH, by_head(k_BSKH).swapaxes(1, 2), by_head(v_BSKH), mask, bias_NR)}


def weights_by_loops(q_BTNH, k_BSKH, mask: Mask, bias_NR=None):
    """weights_BNTS in float64: equation 1, one number at a time; neighbouring heads share keys."""
    b_, t_, n_, h_ = q_BTNH.shape
    s_, k_ = k_BSKH.shape[1:3]
    weights_BNTS = np.zeros((b_, n_, t_, s_))
    q64, k64 = q_BTNH.astype(np.float64), k_BSKH.astype(np.float64)
    mask_BTS = mask.to_bool(t_, s_)
    mask_BTS = None if mask_BTS is None else np.asarray(mask_BTS)
    for b, n, t in np.ndindex(b_, n_, t_):
        scores = {}
        for s in range(s_):
            if mask_BTS is None or mask_BTS[b % len(mask_BTS), t, s]:
                scores[s] = float(q64[b, t, n] @ k64[b, s, n * k_ // n_]) / math.sqrt(h_)
                scores[s] += 0.0 if bias_NR is None else float(bias_NR[n, s - t + t_ - 1])
        highest = max(scores.values(), default=0.0)
        total = sum(math.exp(score - highest) for score in scores.values())
        for s, score in scores.items():
            weights_BNTS[b, n, t, s] = math.exp(score - highest) / total
    return weights_BNTS


def by_loops(q_BTNH, k_BSKH, v_BSKH, mask: Mask, bias_NR=None, drop_BNTS=None):
    weights_BNTS = weights_by_loops(q_BTNH, k_BSKH, mask, bias_NR)
    v_BSNH = np.repeat(v_BSKH.astype(np.float64), N // v_BSKH.shape[2], axis=2)
    if drop_BNTS is not None:
        weights_BNTS = weights_BNTS * np.asarray(drop_BNTS, np.float64)
    out_BTNH = np.zeros(q_BTNH.shape)
    for b, n, t, s in np.ndindex(weights_BNTS.shape):
        out_BTNH[b, t, n] += weights_BNTS[b, n, t, s] * v_BSNH[b, s, n]
    return out_BTNH


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tensors(query_length=T, key_heads=N):
    return (normal(0, B, query_length, N, H), normal(1, B, S, key_heads, H),
            normal(2, B, S, key_heads, H))


def packed_mask():
    segments = jnp.array([[1, 1, 1, 2, 2, 3, 0], [1, 2, 2, 2, 2, 2, 2], [1, 1, 0, 0, 0, 0, 0]])
    return Mask(causal=True, query_segments_BT=segments, key_segments_BS=segments)


LENGTHS = jnp.array([7, 3, 1])
MASKED_ROWS = jnp.array([0, 7, 2])


class Case(NamedTuple):
    """Queries, what they see, and what else acts on the weights."""

    query_length: int = S
    mask: Mask = Mask()
    biased: bool = False
    dropped: bool = False
    key_heads: int = N


CASES = {
    'everywhere': Case(),
    'causal': Case(mask=Mask(causal=True)),
    'padded': Case(mask=Mask(key_lengths_B=LENGTHS)),
    'packed': Case(mask=packed_mask()),
    'cross': Case(T, Mask(key_lengths_B=LENGTHS)),
    'windowed': Case(mask=Mask(causal=True, window=2)),
    'windowed both ways': Case(mask=Mask(window=3, key_lengths_B=LENGTHS)),
    'biased': Case(mask=Mask(causal=True), biased=True),
    'dropout': Case(T, Mask(key_lengths_B=LENGTHS), dropped=True),
    'decoding': Case(2, Mask(causal=True, offset=jnp.array([0, 3, 5]))),
    'masked rows': Case(T, Mask(key_lengths_B=MASKED_ROWS)),
    'all at once': Case(S, Mask(causal=True, window=3, key_lengths_B=MASKED_ROWS), True, True),
    'grouped': Case(key_heads=2),
    'grouped, packed': Case(mask=packed_mask(), key_heads=2),
    'grouped, masked rows': Case(T, Mask(key_lengths_B=MASKED_ROWS), key_heads=2),
    'grouped, all at once': Case(S, Mask(causal=True, window=3, key_lengths_B=MASKED_ROWS), True,
                                 True, key_heads=2),
    'one key head': Case(T, Mask(key_lengths_B=LENGTHS), True, True, key_heads=1),
}


@functools.cache
def arguments(name: str) -> tuple[dict, dict]:
    """What gradients are taken of, and the rest."""
    case = CASES[name]
    floats = dict(zip(('q_BTNH', 'k_BSKH', 'v_BSKH'), tensors(case.query_length, case.key_heads)))
    if case.biased:
        floats['bias_NR'] = normal(3, N, case.query_length + S - 1)
    fixed = {'mask': case.mask}
    if case.dropped:
        fixed['drop_BNTS'] = dropout_factors(jax.random.key(4), 0.5, (B, N, case.query_length, S))
    return floats, fixed


def lacking(form: str) -> set[str]:
    """The cases that a form is not made for."""
    if form == 'reference' or form.startswith('xla'):
        return set()
    beyond = {name for name, case in CASES.items() if case.dropped}
    if form in ('cudnn', 'splash'):
        beyond |= {name for name, case in CASES.items() if case.biased} | {'decoding'}
    return beyond | ({'windowed both ways'} if form == 'cudnn' else set())


def forms_and_cases():
    return [(form, case) for form in FORMS for case in CASES if case not in lacking(form)]


@functools.cache
def results(form: str, case: str):
    """(output, gradients of its sum weighted by `cotangent`)."""
    floats, fixed = arguments(case)
    out, pull_back = jax.vjp(lambda floats: FORMS[form](**floats, **fixed), floats)
    return out, pull_back(jnp.asarray(cotangent(case)))[0]


def cotangent(case: str) -> np.ndarray:
    return normal(5, *arguments(case)[0]['q_BTNH'].shape)


@pytest.mark.parametrize(('form', 'case'), forms_and_cases())
def test_every_form_is_the_reference_in_values_and_gradients(form, case):
    out, gradients = results(form, case)
    expected, expected_gradients = results('reference', case)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    assert gradients.keys() == arguments(case)[0].keys()
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(gradient, expected_gradients[name], atol=5e-6, err_msg=name)


@pytest.mark.parametrize(('backend', 'case', 'sentence'), [
    ('blockwise', 'dropout', 'has no model.attention_dropout; set that to 0, or use .*=xla'),
    ('cudnn', 'dropout', 'does not do model.attention_dropout; use model.attention=xla'),
    ('cudnn', 'biased', 'does not do relative and ALiBi positions; use model.attention=blockwise'),
    ('cudnn', 'decoding', 'does not do reading a cache'),
    ('cudnn', 'windowed both ways', 'does not do windows that look ahead'),
    ('cudnn', 'causal', 'does not do model.dtype=float32'),
    ('splash', 'biased', 'does not do relative and ALiBi positions; use model.attention=blockwise'),
    ('splash', 'causal', 'needs a TPU, and JAX shows cpu; use model.attention=blockwise'),
])
def test_what_a_form_cannot_do_it_refuses_and_names_one_that_can(backend, case, sentence):
    floats, fixed = arguments(case)
    with pytest.raises(UserError, match=sentence):
        attend(backend, **floats, **fixed)


def test_auto_on_a_gpu_takes_cudnn_unless_documents_need_a_large_mask(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')

    def taken(length, dtype, **mask):
        x_BTNH = jax.ShapeDtypeStruct((B, length, N, 64), dtype)
        return suitable(x_BTNH, x_BTNH, Mask(causal=True, **mask), None, None)

    documents = {'query_segments_BT': LENGTHS, 'key_segments_BS': LENGTHS}
    assert taken(1024, jnp.bfloat16) == taken(65_536, jnp.bfloat16) == 'cudnn'
    assert taken(1024, jnp.bfloat16, **documents) == 'cudnn'
    assert taken(65_536, jnp.bfloat16, **documents) == 'blockwise'
    assert taken(1023, jnp.bfloat16) == 'cudnn'
    assert taken(1023, jnp.bfloat16, **documents) == 'xla'  # it has no gradients for that
    assert taken(1024, jnp.float32) == 'xla'


@pytest.mark.parametrize('length', [64, 2048])
def test_auto_takes_xla_for_few_scores_and_linear_memory_for_many(length):
    """Memory as the compiler plans it; xla's grows with the square."""
    def memory(backend, length):
        x = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
        gradient = jax.grad(lambda q, k, v: attend(backend, q, k, v, Mask(causal=True)).sum(),
                            argnums=(0, 1, 2))
        compiled = jax.jit(gradient).lower(x, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    named = {backend: memory(backend, length) for backend in ('xla', 'blockwise')}
    assert memory('auto', length) == named['xla' if length == 64 else 'blockwise']
    if length == 2048:
        assert named['xla'] > 4 * named['blockwise']
        assert memory('blockwise', 2 * length) < 1.5 * named['blockwise']


@pytest.mark.parametrize('case', CASES)
def test_the_reference_is_the_definition(case):
    floats, fixed = arguments(case)
    out, gradients = results('reference', case)
    np.testing.assert_allclose(out, by_loops(**floats, **fixed), atol=2e-6)

    # its gradients, along one random direction for each input, against finite differences
    step = 1e-5
    for name, value in floats.items():
        direction = normal(6, *value.shape).astype(np.float64)
        ahead, behind = (
            (by_loops(**{**floats, name: value + sign * step * direction}, **fixed)
             * cotangent(case)).sum() for sign in (1, -1))
        assert (gradients[name] * direction).sum() == pytest.approx(
            (ahead - behind) / (2 * step), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize('case', ['masked rows', 'grouped, masked rows'])
@pytest.mark.parametrize('form', FORMS)
def test_a_query_that_sees_nothing_gets_zeros_and_gives_no_gradient(form, case):
    out, gradients = results(form, case)
    assert (out[0] == 0).all() and (out[1:] != 0).all()
    for gradient in gradients.values():
        assert (gradient[0] == 0).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize('form', FORMS)
def test_a_masked_key_and_value_cannot_be_noticed(form):
    q, k, v = tensors()
    mask = Mask(key_lengths_B=LENGTHS)
    hidden = (np.arange(S) >= np.asarray(LENGTHS)[:, None])[..., None, None]
    attention = jax.jit(FORMS[form])
    np.testing.assert_array_equal(
        attention(q, k, v, mask),
        attention(q, np.where(hidden, 1e4, k), np.where(hidden, -1e30, v), mask))


@pytest.mark.parametrize('key_heads', [N, 2, 1])
def test_weights_are_the_definition_and_masked_ones_exactly_zero(key_heads):
    q, k, _ = tensors(key_heads=key_heads)
    bias_NR = normal(3, N, T + S - 1)
    for mask in (Mask(causal=True), Mask(key_lengths_B=MASKED_ROWS)):
        mask_BTS = np.asarray(mask.to_bool(T, S))
        weights_BNTS = np.asarray(attention_weights(q, k, mask, bias_NR))
        np.testing.assert_allclose(
            weights_BNTS, weights_by_loops(q, k, mask, bias_NR), atol=1e-6)
        hidden_BNTS = np.broadcast_to(~mask_BTS[:, None], weights_BNTS.shape)
        assert (weights_BNTS[hidden_BNTS] == 0).all() and (weights_BNTS[~hidden_BNTS] > 0).all()


def test_softmax_of_huge_scores_is_finite():
    scores = jnp.array([[1e30, 1e30, -1e30], [3e38, -3e38, 0.0]])
    mask = jnp.array([[True, True, False], [False, True, True]])
    np.testing.assert_array_equal(masked_softmax(scores, mask), [[0.5, 0.5, 0], [0, 0, 1]])
    np.testing.assert_array_equal(masked_softmax(scores, None), [[0.5, 0.5, 0], [1, 0, 0]])


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('form', FORMS)
def test_scores_and_softmax_of_bfloat16_inputs_are_float32(form, compiled):
    """Scores near 40, where bfloat16 is 0.25 apart: rounding them would move weights by 10 %."""
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in tensors())
    q = q + 8
    k = k + 2
    attention = jax.jit(FORMS[form]) if compiled else FORMS[form]
    out = attention(q, k, v, Mask())
    assert out.dtype == jnp.bfloat16
    expected = by_loops(*(np.asarray(x, np.float32) for x in (q, k, v)), Mask())
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, atol=0.02)


@pytest.mark.parametrize('form', FORMS)
def test_the_worked_example_of_the_course_notes_recomputed(form):
    """The notes print weights 0.417, 0.349, 0.234 and [28.8, 38.8]; their own numbers give these.

    softmax([1.25, 1, 0.3] ÷ √2), by hand.
    """
    q = np.array([1.0, 0.5], np.float32).reshape(1, 1, 1, 2)
    k = np.array([[1.0, 0.5], [0.5, 1.0], [0.2, 0.2]], np.float32).reshape(1, 3, 1, 2)
    v = np.array([[10, 20], [30, 40], [50, 60]], np.float32).reshape(1, 3, 1, 2)
    weights = attention_weights(q, k, Mask())[0, 0, 0]
    np.testing.assert_allclose(weights, [0.42575, 0.35677, 0.21748], atol=5e-6)
    out = FORMS[form](q, k, v, Mask())[0, 0, 0]
    np.testing.assert_allclose(out, [25.83453, 35.83453], atol=1e-4)
