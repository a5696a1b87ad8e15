"""Positions against the formulas of their papers, in Python's 64-bit floats."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.nn.positions import (
    alibi_bias,
    by_distance,
    distances,
    relative_buckets,
    rotate,
    sinusoidal,
)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def formula(position: int, d_model: int) -> list[float]:
    """Vaswani et al. 2017, section 3.5, one number at a time."""
    values = []
    for i in range(d_model // 2):
        angle = position / 10_000 ** (2 * i / d_model)
        values += [math.sin(angle), math.cos(angle)]
    return values


@pytest.mark.parametrize('d_model', [2, 16, 512])
def test_the_formula(d_model):
    positions = [0, 1, 2, 31, 100, 511]
    expected = np.array([formula(position, d_model) for position in positions])
    np.testing.assert_allclose(sinusoidal(jnp.array(positions), d_model), expected, atol=5e-5)


def test_far_positions_lose_no_more_than_float32_must():
    """An angle is known to about its own size times 2^-24; nothing wraps or saturates."""
    for position in (10_000, 12_345, 100_001):
        encoded = sinusoidal(jnp.array([position]), 64)[0]
        np.testing.assert_allclose(encoded, formula(position, 64), atol=2 * position * 2**-24)


@pytest.mark.parametrize('shape', [(), (5,), (2, 3), (2, 1, 4)])
def test_positions_of_any_shape(shape):
    positions = np.arange(math.prod(shape)).reshape(shape)
    encoded = jax.jit(sinusoidal, static_argnums=1)(positions, 8)
    assert encoded.shape == (*shape, 8) and encoded.dtype == jnp.float32
    expected = np.array([formula(position, 8) for position in positions.ravel().tolist()])
    np.testing.assert_allclose(encoded.reshape(-1, 8), expected, atol=1e-5)


def test_a_shift_is_the_same_rotation_everywhere():
    """PE(pos + k) is a linear function of PE(pos), the reason the paper gives for sinusoids."""
    d_model, shift = 8, 5
    encoded = np.asarray(sinusoidal(jnp.arange(40), d_model), np.float64)
    for i in range(d_model // 2):
        angle = shift / 10_000 ** (2 * i / d_model)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        pair = encoded[:, 2 * i:2 * i + 2]
        np.testing.assert_allclose(pair[shift:], pair[:-shift] @ turn.T, atol=1e-5)


# ---- rotary ----

def complex_turn(x_BTNH, positions_BT):
    """Pair (i, i + H/2) as one complex number, times e^(i·pos·θ), in 64-bit floats."""
    half = x_BTNH.shape[-1] // 2
    z = x_BTNH[..., :half].astype(np.float64) + 1j * x_BTNH[..., half:]
    theta = np.array([10_000 ** (-2 * i / (2 * half)) for i in range(half)])
    z = z * np.exp(1j * np.asarray(positions_BT)[:, :, None, None] * theta)
    return np.concatenate([z.real, z.imag], axis=-1)


@pytest.mark.parametrize('positions', [[[0, 1, 2, 7]], [[5, 5, 0, 300], [0, 1, 0, 1]]])
def test_rotary_is_a_product_of_complex_numbers(positions):
    """One row of positions for all examples, or each its own."""
    x_BTNH = normal(0, 2, 4, 3, 8)
    turned = rotate(x_BTNH, jnp.array(positions), 10_000.0)
    np.testing.assert_allclose(turned, complex_turn(x_BTNH, positions), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x_BTNH, axis=-1),
                               rtol=1e-5)


def test_rotated_products_depend_on_the_distance_alone():
    q_H, k_H = normal(1, 8), normal(2, 8)

    def products(query, key):
        q, k = (rotate(jnp.asarray(x)[None, None, None], jnp.array([[place]]), 10_000.0)[0, 0, 0]
                for x, place in ((q_H, query), (k_H, key)))
        return float(q @ k)
    by_distance = {distance: products(20, 20 + distance) for distance in (-20, -3, 0, 1, 15)}
    for distance, expected in by_distance.items():
        for query in (20 - distance, 41, 200):
            assert products(query, query + distance) == pytest.approx(expected, abs=1e-4)
    assert len({round(value, 3) for value in by_distance.values()}) == len(by_distance)
    assert by_distance[0] == pytest.approx(float(q_H @ k_H), abs=1e-5)


def test_rotary_keeps_bfloat16_but_turns_in_float32():
    """At position 300, which bfloat16 would round to 300 ± 1."""
    x = jnp.asarray(normal(3, 1, 1, 1, 8), jnp.bfloat16)
    turned = rotate(x, jnp.array([[301]]), 10_000.0)
    assert turned.dtype == jnp.bfloat16
    expected = complex_turn(np.asarray(x, np.float32), [[301]])
    np.testing.assert_allclose(np.asarray(turned, np.float64), expected, atol=2**-8 * 4)


# ---- ALiBi ----

PUBLISHED_SLOPES = {  # Press et al. 2022: section 3, and get_slopes of the authors' code
    1: [1 / 256],
    4: [1 / 4, 1 / 16, 1 / 64, 1 / 256],
    8: [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256],
    12: [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256,
         2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5],
}


@pytest.mark.parametrize('num_heads', PUBLISHED_SLOPES)
def test_alibi_slopes_are_the_published_ones(num_heads):
    bias_N1 = alibi_bias(jnp.array([-1]), num_heads)
    np.testing.assert_allclose(-bias_N1[:, 0], PUBLISHED_SLOPES[num_heads], rtol=1e-6)


@pytest.mark.parametrize('offset', [0, 3])
def test_alibi_bias_by_brute_force(offset):
    T, S, N = 4, 7, 8
    bias_NTS = by_distance(alibi_bias(distances(T, S, offset), N), T, S)
    assert bias_NTS.shape == (N, T, S) and bias_NTS.dtype == jnp.float32
    for n, t, s in np.ndindex(N, T, S):
        assert bias_NTS[n, t, s] == pytest.approx(-2.0 ** -(n + 1) * abs(offset + t - s))


# ---- T5's relative buckets ----

def bucket(distance: int, bidirectional: bool) -> int:
    """Raffel et al. 2020, section 2.1, in whole numbers: 32 buckets, logarithmic up to 128."""
    buckets = 16 if bidirectional else 32
    first = buckets if bidirectional and distance > 0 else 0
    back = abs(distance) if bidirectional else max(-distance, 0)
    exact = buckets // 2
    if back < exact:
        return first + back
    step = 0  # the last k with exact · (128 / exact)^(k / steps) <= back
    while (step + 1 < buckets - exact and
           (128 // exact)**(step + 1) * exact**(buckets - exact) <= back**(buckets - exact)):
        step += 1
    return first + exact + step


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('bidirectional', [False, True])
def test_buckets_of_all_distances(bidirectional, compiled):
    function = relative_buckets
    if compiled:
        function = jax.jit(relative_buckets, static_argnums=(1, 2, 3))
    distance_TS = np.arange(-300, 301)[None]
    bucket_TS = function(jnp.array(distance_TS), bidirectional, 32, 128)
    expected = [[bucket(int(distance), bidirectional) for distance in distance_TS[0]]]
    np.testing.assert_array_equal(bucket_TS, expected)
    assert set(np.unique(bucket_TS)) == set(range(32)) - ({16} if bidirectional else set())


@pytest.mark.parametrize(('bidirectional', 'expected'), [
    (True, {0: 0, -1: 1, 1: 17, -7: 7, 7: 23, -8: 8, 8: 24, -127: 15, 127: 31, -128: 15, 128: 31,
            -90: 14, -91: 15, 10**6: 31, -10**6: 15}),
    (False, {0: 0, -1: 1, 1: 0, -7: 7, 7: 0, -8: 8, -15: 15, -16: 16, -112: 30, -113: 31,
             -127: 31, -128: 31, 128: 0, -10**6: 31})])
def test_buckets_at_their_boundaries(bidirectional, expected):
    """Computed by hand: 16 · 8^(15/16) = 112.4 and 8 · 16^(7/8) = 90.5 begin the last ones."""
    bucket_TS = relative_buckets(jnp.array([list(expected)]), bidirectional, 32, 128)
    np.testing.assert_array_equal(bucket_TS, [list(expected.values())])


@pytest.mark.parametrize('offset', [0, 2])
@pytest.mark.parametrize(('T', 'S'), [(3, 5), (5, 3), (1, 4), (4, 1), (1, 1)])
def test_distances_are_key_minus_query(T, S, offset):
    distance_NTS = by_distance(jnp.stack([distances(T, S, offset)] * 2), T, S)
    for n, t, s in np.ndindex(2, T, S):
        assert distance_NTS[n, t, s] == s - (offset + t)
