"""How a token knows where it is."""

import jax
import jax.numpy as jnp


def sinusoidal(positions: jax.Array, d_model: int) -> jax.Array:
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos of the same angle.

    positions: any shape [...] of integers. Returns [..., D] float32.
    Source: Vaswani et al. 2017, section 3.5.
    """
    frequency = 10_000.0 ** (-jnp.arange(0, d_model, 2, dtype=jnp.float32) / d_model)
    angle = positions[..., None].astype(jnp.float32) * frequency.reshape(
        (1,) * positions.ndim + (-1,))
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(
        *positions.shape, d_model)
