"""The Transformer block and a stack of them.

A stack keeps the parameters of its L blocks in one tree with a leading layer axis, initialised
by `vmap` over layers. The forward pass is a `lax.scan` over that axis (compiled once whatever L
is) or a Python loop (`layers=unroll`, faster on a CPU, and plain to debug): same parameters, same
values.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from xformer.config import ModelConfig
from xformer.nn.layers import Dropout, FeedForward, LayerNorm, MultiHeadAttention
from xformer.nn.masks import Mask


@struct.dataclass
class LayerCache:
    """What one block remembers while decoding: its own keys and values, and the memory's.

    k_BMNH, v_BMNH: room for M positions, filled up to the cache's position. B may be a multiple
        of C, the batch of the memory: hypotheses of one example share cross_k and cross_v.
    """

    k_BMNH: jax.Array
    v_BMNH: jax.Array
    cross_k_CSNH: jax.Array
    cross_v_CSNH: jax.Array

    def append(self, k_BTNH, v_BTNH, position) -> 'LayerCache':
        """With T more keys and values from `position` on; room is checked by the caller."""
        at = (0, position, 0, 0)
        return self.replace(k_BMNH=jax.lax.dynamic_update_slice(self.k_BMNH, k_BTNH, at),
                            v_BMNH=jax.lax.dynamic_update_slice(self.v_BMNH, v_BTNH, at))


class Block(nn.Module):
    """Self-attention, cross-attention where there is a memory, feed-forward; each residual.

    LayerNorm comes after each sub-layer, LayerNorm(x + f(x)), as in Vaswani et al. 2017, or
    before, x + f(LayerNorm(x)), as in Xiong et al. 2020.
    """

    config: ModelConfig
    cross: bool

    def setup(self):
        c = self.config
        attention = (c.d_model, c.num_heads, c.attention_dropout, c.attention)
        self.self_attention = MultiHeadAttention(*attention)
        self.self_attention_norm = LayerNorm()
        if self.cross:
            self.cross_attention = MultiHeadAttention(*attention)
            self.cross_attention_norm = LayerNorm()
        self.feed_forward = FeedForward(c.d_ff, c.activation, c.activation_dropout)
        self.feed_forward_norm = LayerNorm()
        self.drop = Dropout(c.dropout)

    def _residual(self, norm, sublayer, x_BTD):
        if self.config.norm_position == 'pre':
            return x_BTD + self.drop(sublayer(norm(x_BTD)))
        return norm(x_BTD + self.drop(sublayer(x_BTD)))

    def _sublayers(self, x_BTD, self_attention, cross_attention):
        x_BTD = self._residual(self.self_attention_norm, self_attention, x_BTD)
        if self.cross:
            x_BTD = self._residual(self.cross_attention_norm, cross_attention, x_BTD)
        return self._residual(self.feed_forward_norm, self.feed_forward, x_BTD)

    def memory(self, memory_CSD):
        """cross_k_CSNH, cross_v_CSNH: this block's keys and values of the encoder's output."""
        return self.cross_attention.keys_values(memory_CSD)

    def __call__(self, x_BTD, mask: Mask, memory_BSD=None, memory_mask: Mask | None = None,
                 look: bool = False):
        """x_BTD after the block and, with `look`, its attention maps {'self', 'cross'}: BNTS."""
        maps = {}

        def self_attention(h_BTD):
            k, v = self.self_attention.keys_values(h_BTD)
            if look:
                maps['self'] = self.self_attention.weights(h_BTD, k, mask)
            return self.self_attention(h_BTD, k, v, mask)

        def cross_attention(h_BTD):
            k, v = self.memory(memory_BSD)
            if look:
                maps['cross'] = self.cross_attention.weights(h_BTD, k, memory_mask)
            return self.cross_attention(h_BTD, k, v, memory_mask)

        return self._sublayers(x_BTD, self_attention, cross_attention), maps

    def extend(self, x_BTD, cache: LayerCache, position, memory_mask: Mask):
        """The block on T tokens that follow the cached ones: (x_BTD, longer cache)."""
        def self_attention(h_BTD):
            nonlocal cache
            cache = cache.append(*self.self_attention.keys_values(h_BTD), position)
            return self.self_attention(h_BTD, cache.k_BMNH, cache.v_BMNH,
                                       Mask(causal=True, offset=position))

        def cross_attention(h_BTD):
            return self.cross_attention(h_BTD, cache.cross_k_CSNH, cache.cross_v_CSNH,
                                        memory_mask)

        return self._sublayers(x_BTD, self_attention, cross_attention), cache


class Stack(nn.Module):
    """L blocks, and a last LayerNorm where norms come before sub-layers."""

    config: ModelConfig
    num_layers: int
    cross: bool = False

    def setup(self):
        self.layers = self.param('layers', self._init_layers)
        if self.config.norm_position == 'pre':
            self.final_norm = LayerNorm()

    def _block(self) -> Block:
        return Block(self.config, self.cross, parent=None)  # pure: its parameters are passed in

    def _init_layers(self, key):
        x_BTD = jnp.zeros((1, 1, self.config.d_model))
        inputs = (x_BTD, Mask()) + ((x_BTD, Mask()) if self.cross else ())
        keys = jax.random.split(key, self.num_layers)
        return jax.vmap(lambda key: self._block().init(key, *inputs)['params'])(keys)

    def _finish(self, x_BTD):
        return self.final_norm(x_BTD) if self.config.norm_position == 'pre' else x_BTD

    def __call__(self, x_BTD, mask: Mask, memory_BSD=None, memory_mask: Mask | None = None,
                 look: bool = False):
        """x_BTD after all blocks and, with `look`, their attention maps: LBNTS."""
        def block(x_BTD, layer):
            params, key = layer
            rngs = {} if key is None else {'dropout': key}
            return self._block().apply({'params': params}, x_BTD, mask, memory_BSD, memory_mask,
                                       look, rngs=rngs)

        if self.config.remat:
            block = jax.checkpoint(block, prevent_cse=self.config.layers == 'unroll')
        keys = None
        if self.has_rng('dropout'):
            keys = jax.random.split(self.make_rng('dropout'), self.num_layers)
        if self.config.layers == 'scan':
            x_BTD, maps = jax.lax.scan(block, x_BTD, (self.layers, keys))
        else:
            maps = []
            for index in range(self.num_layers):
                x_BTD, seen = block(x_BTD, _layer((self.layers, keys), index))
                maps.append(seen)
            maps = jax.tree.map(lambda *each: jnp.stack(each), *maps)
        return self._finish(x_BTD), maps

    def start(self, memory_CSD, batch: int, max_length: int) -> list[LayerCache]:
        """Empty caches with room for `max_length` tokens of `batch` hypotheses, one per block."""
        empty = jnp.zeros((batch, max_length, self.config.num_heads,
                           self.config.d_model // self.config.num_heads), memory_CSD.dtype)
        return [LayerCache(empty, empty, *self._block().apply(
                    {'params': _layer(self.layers, index)}, memory_CSD, method='memory'))
                for index in range(self.num_layers)]

    def extend(self, x_BTD, caches: list[LayerCache], position, memory_mask: Mask):
        """The stack on T tokens that follow the cached ones: (x_BTD, longer caches)."""
        longer = []
        for index, cache in enumerate(caches):
            x_BTD, cache = self._block().apply({'params': _layer(self.layers, index)}, x_BTD,
                                               cache, position, memory_mask, method='extend')
            longer.append(cache)
        return self._finish(x_BTD), longer


def _layer(stacked, index: int):
    """One layer's part of a tree with a leading layer axis."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)
