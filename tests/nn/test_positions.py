"""Positions against the formula of the paper, in Python's 64-bit floats."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.nn.positions import sinusoidal


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
