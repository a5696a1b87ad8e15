"""The pieces of a block: linear maps, norms, dropout, attention with heads, feed-forward.

Parameters are float32; a layer computes in the type of its input, except for softmax and the
statistics of norms, which are float32.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from xformer.config import ModelConfig
from xformer.nn.attention import attention_weights
from xformer.nn.backends import attend, attend_to_cache
from xformer.nn.masks import Mask
from xformer.nn.positions import rotate

_gelu = functools.partial(jax.nn.gelu, approximate=False)
_gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)
ACTIVATIONS = {'relu': jax.nn.relu, 'gelu': _gelu, 'gelu_tanh': _gelu_tanh, 'silu': jax.nn.silu}
GATES = {'geglu': _gelu, 'geglu_tanh': _gelu_tanh, 'swiglu': jax.nn.silu}  # Shazeer 2020


class Initial(NamedTuple):
    """How parameters begin: any kernel, kernels that write to the residual stream, embeddings."""

    kernel: nn.initializers.Initializer
    residual: nn.initializers.Initializer
    embedding: nn.initializers.Initializer


def initial(config: ModelConfig) -> Initial:
    """As in the paper that config.init names.

    glorot  uniform kernels; embeddings of variance 1/D (Vaswani et al. 2017's own code)
    bert    all normal of deviation 0.02, cut at two deviations (Devlin et al. 2019)
    gpt2    all normal of deviation 0.02, into the residual stream ÷ √(2L) (Radford et al. 2019)
    t5      kernels of variance 1/fan-in, embeddings of variance 1 (Raffel et al. 2020)
    Where scores are not divided by √H, queries begin that much smaller (T5's own code).
    """
    normal = nn.initializers.normal
    if config.init == 'glorot':
        kernel = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')
        return Initial(kernel, kernel, normal(config.d_model ** -0.5))
    if config.init == 't5':
        kernel = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
        return Initial(kernel, kernel, normal(1.0))
    if config.init == 'gpt2':
        depth = config.num_encoder_layers + config.num_decoder_layers
        return Initial(normal(0.02), normal(0.02 * (2 * depth) ** -0.5), normal(0.02))
    kernel = nn.initializers.truncated_normal(0.02)
    return Initial(kernel, kernel, kernel)


def _smaller(start: nn.initializers.Initializer, times: float) -> nn.initializers.Initializer:
    return lambda key, shape: start(key, shape) / times


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x_NI, kernel_IO, out_type):
    """x kernel: the plain matrix product, with its own gradient only for the sake of speed."""
    return jnp.matmul(x_NI, kernel_IO, preferred_element_type=out_type)


def _product_gradient(out_type, saved, g_NO):
    """(g kernelᵀ, xᵀ g). XLA's CPU backend is nearly twice as fast at xᵀ g when its longer side
    comes last: a kernel that narrows gets (gᵀ x)ᵀ, behind a barrier lest XLA simplify it back.
    """
    x_NI, kernel_IO = saved
    g_NO = g_NO.astype(x_NI.dtype)
    if x_NI.shape[1] > g_NO.shape[1]:
        kernel_gradient = jax.lax.optimization_barrier(g_NO.T @ x_NI).T
    else:
        kernel_gradient = x_NI.T @ g_NO
    return g_NO @ kernel_IO.T, kernel_gradient


_product.defvjp(lambda x_NI, kernel_IO, out_type: (_product(x_NI, kernel_IO, out_type),
                                                   (x_NI, kernel_IO)), _product_gradient)


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, out_type=None) -> jax.Array:
    """x [..., I] @ kernel [I, O] + bias [O], in the type of x; summed and returned in `out_type`.

    The leading axes are flattened to one axis of tokens first: XLA's CPU backend takes twice as
    long for the kernel's gradient when it has to contract two axes.
    """
    y = _product(x.reshape(-1, x.shape[-1]), kernel.astype(x.dtype), out_type)
    if bias is not None:
        y = y + bias.astype(y.dtype)[None]
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class Linear(nn.Module):
    """A linear map to `features`, with a bias that begins at zero."""

    features: int
    initial: nn.initializers.Initializer
    use_bias: bool = True
    out_type: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', self.initial, (x.shape[-1], self.features))
        bias = None
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,))
        return linear(x, kernel, bias, self.out_type)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise(x_XD, scale_D, bias_D, epsilon: float, centre: bool) -> jax.Array:
    """LayerNorm (`centre`; Ba et al. 2016) or RMSNorm (Zhang & Sennrich 2019) of every row:
    unit variance or mean square, of the rows minus their mean if centred; then scale and bias.

    Its own gradient needs fewer passes over memory than the derived one; same values.
    """
    return _normalise(x_XD, scale_D, bias_D, epsilon, centre)[0]


def _normalise(x_XD, scale_D, bias_D, epsilon, centre):
    x32 = x_XD.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True) if centre else 0.0
    inverse = jax.lax.rsqrt(jnp.square(x32 - mean).mean(-1, keepdims=True) + epsilon)
    y_XD = (x32 - mean) * inverse * scale_D[None]
    if bias_D is not None:
        y_XD = y_XD + bias_D[None]
    return y_XD.astype(x_XD.dtype), (x_XD, mean, inverse, scale_D, bias_D)


def _normalise_gradient(epsilon, centre, saved, g_XD):
    x_XD, mean, inverse, scale_D, bias_D = saved
    g32 = g_XD.astype(jnp.float32)
    normal = (x_XD.astype(jnp.float32) - mean) * inverse
    g_normal = g32 * scale_D[None]
    along = g_normal - normal * (g_normal * normal).mean(-1, keepdims=True)
    if centre:
        along = along - g_normal.mean(-1, keepdims=True)

    def over_rows(each_XD):  # as a product: XLA's CPU backend sums columns slowly
        ones = jnp.ones((1, len(each_XD)))
        return jnp.matmul(ones, each_XD, precision=jax.lax.Precision.HIGHEST)[0]
    return ((along * inverse).astype(x_XD.dtype), over_rows(g32 * normal),
            None if bias_D is None else over_rows(g32))


normalise.defvjp(_normalise, _normalise_gradient)


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis, by the configuration; scale 1 and bias 0 at first.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, shape, bias = self.config, (x.shape[-1],), None
        scale = self.param('scale', nn.initializers.ones, shape)
        centre = c.norm == 'layer'
        if centre and c.biases:
            bias = self.param('bias', nn.initializers.zeros, shape)
        y = normalise(x.reshape(-1, x.shape[-1]), scale, bias, c.norm_epsilon, centre)
        return y.reshape(x.shape)


def dropout_factors(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Independent factors, 0 with probability `rate`, else 1/(1-rate): float32 of `shape`.

    Element i, counted modulo 2^32, hashes (key, i) with a 32-bit integer finaliser (the
    `lowbias32` constants of C. Wellons' hash-prospector). Counters make the factors independent
    of device layout, and the few integer operations fuse with whatever uses them; threefry costs
    more than the matrix products it would regularise on a CPU.
    """
    key0, key1 = jax.random.key_data(key).astype(jnp.uint32)
    bits = jnp.zeros((1,) * len(shape), jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        bits = bits + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    bits = _hash(_hash(bits * jnp.uint32(0x9E3779B9) ^ _hash(key0 ^ _hash(key1))) + key1)
    return jnp.where(bits >= jnp.uint32(round(rate * 2**32)), 1.0 / (1.0 - rate), 0.0)


def _hash(bits: jax.Array) -> jax.Array:
    """A bijection of 32-bit integers in which every bit depends on every bit."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


class Dropout(nn.Module):
    """Dropout while the 'dropout' random stream is given (training), else the identity."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        factors = self.factors(x.shape)
        return x if factors is None else x * factors.astype(x.dtype)

    def factors(self, shape: tuple[int, ...]) -> jax.Array | None:
        if self.rate == 0.0 or not self.has_rng('dropout'):
            return None
        return dropout_factors(self.make_rng('dropout'), self.rate, shape)


class MultiHeadAttention(nn.Module):
    """Project to heads, attend, concatenate, project (Vaswani et al. 2017, section 3.2.2).

    Keys and values are computed by a call of their own, so that decoding can keep them. With
    positions, queries and keys are turned by them (rotary).
    """

    config: ModelConfig

    def setup(self):
        c, start = self.config, initial(self.config)
        query = start.kernel if c.scale_scores else _smaller(start.kernel, c.H ** 0.5)
        self.query = Linear(c.num_heads * c.H, query, c.biases)
        self.key = Linear(c.K * c.H, start.kernel, c.biases)
        self.value = Linear(c.K * c.H, start.kernel, c.biases)
        self.out = Linear(c.d_model, start.residual, c.biases)
        self.drop = Dropout(c.attention_dropout)

    def _heads(self, x_BTD: jax.Array, positions_BT=None) -> jax.Array:
        c = self.config
        x_BTNH = x_BTD.reshape(*x_BTD.shape[:2], -1, c.H)
        return x_BTNH if positions_BT is None else rotate(x_BTNH, positions_BT, c.rotary_base)

    def _queries(self, x_BTD, positions_BT) -> jax.Array:
        q_BTD = self.query(x_BTD)
        if not self.config.scale_scores:  # undoes the division of every form of attention
            q_BTD = q_BTD * self.config.H ** 0.5
        return self._heads(q_BTD, positions_BT)

    def keys_values(self, source_BSD, positions_BS=None) -> tuple[jax.Array, jax.Array]:
        """k_BSKH and v_BSKH of what is attended to."""
        return self._heads(self.key(source_BSD), positions_BS), self._heads(self.value(source_BSD))

    def weights(self, x_BTD, k_BSKH, mask: Mask, bias_NR=None, positions_BT=None) -> jax.Array:
        """The attention map weights_BNTS, for looking at."""
        q_BTNH = self._queries(x_BTD, positions_BT)
        return attention_weights(q_BTNH, k_BSKH, mask, bias_NR)

    def __call__(self, x_BTD, k_BSKH, v_BSKH, mask: Mask, bias_NR=None,
                 positions_BT=None) -> jax.Array:
        """out_BTD."""
        q_BTNH = self._queries(x_BTD, positions_BT)
        drop_BNTS = self.drop.factors((*q_BTNH.shape[::2], q_BTNH.shape[1], k_BSKH.shape[1]))
        out_BTNH = attend(self.config.attention, q_BTNH, k_BSKH, v_BSKH, mask, bias_NR, drop_BNTS)
        return self.out(out_BTNH.reshape(*x_BTD.shape[:2], -1))

    def read(self, x_BTD, k_XHS, v_XSH, mask: Mask, bias_NR=None, positions_BT=None,
             lines_BGM=None) -> jax.Array:
        """out_BTD of queries to a cache, which has the heads of all examples in one axis.

        The batch of x may be a multiple G of the cache's: the G hypotheses of one example share
        its keys, and are attended for as G·T queries of that example. These see the same, or with
        `lines_BGM`, and T = 1, each its own line.
        """
        q_BTNH = self._queries(x_BTD, positions_BT)
        B = len(v_XSH) // self.config.K
        if (len(x_BTD) > B and lines_BGM is None
                and mask.replace(key_starts_B=None, key_lengths_B=None) != Mask()):
            raise ValueError('hypotheses that share keys need a mask of lengths alone')
        q_BTNH = q_BTNH.reshape(B, -1, *q_BTNH.shape[2:])
        out_BTNH = attend_to_cache(q_BTNH, k_XHS, v_XSH, mask, bias_NR, lines_BGM)
        return self.out(out_BTNH.reshape(*x_BTD.shape[:2], -1))


class FeedForward(nn.Module):
    """Position-wise: linear, activation, linear (Vaswani et al. 2017, section 3.3).

    Gated kinds (Shazeer 2020) multiply the activation of one linear map with another.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c, start = self.config, initial(self.config)
        h_BTF = Linear(c.d_ff, start.kernel, c.biases, name='up')(x_BTD)
        if c.activation in GATES:
            gate_BTF = Linear(c.d_ff, start.kernel, c.biases, name='gate')(x_BTD)
            h_BTF = GATES[c.activation](gate_BTF) * h_BTF
        else:
            h_BTF = ACTIVATIONS[c.activation](h_BTF)
        h_BTF = Dropout(c.activation_dropout)(h_BTF)
        return Linear(c.d_model, start.residual, c.biases, name='down')(h_BTF)
