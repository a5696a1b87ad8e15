"""How a token knows where it is.

Added to the embeddings: sinusoidal, or learned (a table, in `nn.embedding`). Added to attention's
scores: T5's relative bias, ALiBi. Turned into queries and keys: rotary.
"""

import math

import jax
import jax.numpy as jnp


def sinusoidal(positions: jax.Array, d_model: int, halves: bool = False) -> jax.Array:
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos of the same angle.

    positions: any shape [...] of integers. Returns [..., D] float32; with `halves` all sines
    before all cosines, as in Marian.
    Source: Vaswani et al. 2017, section 3.5.
    """
    angle = _angles(positions, d_model, 10_000.0)
    if halves:
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(
        *positions.shape, d_model)


def _angles(positions: jax.Array, width: int, base: float) -> jax.Array:
    """positions / base^(2i/width), float32 of shape [..., width / 2]."""
    frequency = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    return positions[..., None].astype(jnp.float32) * frequency.reshape(
        (1,) * positions.ndim + (-1,))


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, base: float) -> jax.Array:
    """Queries or keys turned by their positions, so that q·k depends on the distance alone.

    Pairs (i, i + H/2) turn by pos / base^(2i/H), the layout of GPT-NeoX and Llama.
    Source: Su et al. 2021 (RoFormer), section 3.4.2.
    """
    angle_BT1h = _angles(positions_BT, x_BTNH.shape[-1], base)[:, :, None]
    cos, sin = jnp.cos(angle_BT1h), jnp.sin(angle_BT1h)
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BTNH.dtype)


def distances(query_length: int, key_length: int, offset=0) -> jax.Array:
    """distance_R: all R = T + S - 1 distances, key position - query position, that there are,
    from the last query's to the first key up to the first query's (at `offset`) to the last key.
    """
    return jnp.arange(query_length + key_length - 1) - (query_length - 1) - offset


def by_distance(bias_NR: jax.Array, query_length: int, key_length: int) -> jax.Array:
    """bias_NTS of each query and key, of which bias_NR holds one value for each distance.

    bias[n, t, s] = bias_NR[n, s - t + T - 1]: each row is that of the query before, moved on by
    one. Rows of R + 1 values, cut into rows of R, are that; gathering would cost a slow scatter in
    the gradient.
    """
    T, S = query_length, key_length
    N, R = bias_NR.shape
    rows_NTr = jnp.broadcast_to(jnp.pad(bias_NR, ((0, 0), (0, 1)))[:, None], (N, T, R + 1))
    moved_NTR = rows_NTr.reshape(N, -1)[:, T - 1:T - 1 + T * R].reshape(N, T, R)
    return moved_NTR[:, :, :S]


def alibi_bias(distance_R: jax.Array, num_heads: int) -> jax.Array:
    """bias_NR = -slope_n · |distance| (Press et al. 2022, section 3).

    The slopes are 2^(-8n/N) for N a power of two; else those of the power below, filled up with
    every second slope of the power above, as in the authors' code.
    """
    def slopes(count):
        return [2.0 ** (-8.0 * (n + 1) / count) for n in range(count)]

    power = 2 ** math.floor(math.log2(num_heads))
    chosen = slopes(power) + slopes(2 * power)[::2][:num_heads - power]
    return -jnp.array(chosen)[:, None] * jnp.abs(distance_R)[None].astype(jnp.float32)


def relative_buckets(distance_R: jax.Array, bidirectional: bool, buckets: int,
                     max_distance: int) -> jax.Array:
    """T5's bucket of each distance, int32 [R] in 0 ... buckets - 1.

    Half of a direction's buckets are exact distances, the others grow in logarithmic steps up to
    `max_distance`, beyond which all are one. Keys after the query have buckets of their own, or if
    not `bidirectional` the bucket of distance 0. Source: Raffel et al. 2020, section 2.1.
    """
    first = 0
    if bidirectional:
        buckets //= 2
        first = jnp.where(distance_R > 0, buckets, 0)
        back_R = jnp.abs(distance_R)
    else:
        back_R = jnp.maximum(-distance_R, 0)
    exact = buckets // 2
    steps = jnp.log(jnp.maximum(back_R, 1) / exact) / math.log(max_distance / exact)
    far_R = exact + (steps * (buckets - exact)).astype(jnp.int32)
    return first + jnp.where(back_R < exact, back_R, jnp.minimum(far_R, buckets - 1))
