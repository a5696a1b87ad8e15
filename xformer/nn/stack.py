"""The Transformer block and a stack of them.

A stack keeps the parameters of its L blocks in one tree with a leading layer axis (of length 1 if
all layers share them), initialised by `vmap` over layers. The forward pass is a `lax.scan` over
that axis (compiled once whatever L is) or a Python loop (`layers=unroll`, faster on a CPU, and
plain to debug): same parameters, same values.
"""

from operator import itemgetter

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from xformer.config import ModelConfig
from xformer.nn.attention import by_head
from xformer.nn.layers import Dropout, FeedForward, MultiHeadAttention, Norm
from xformer.nn.masks import Mask
from xformer.nn.positions import alibi_bias, distances, relative_buckets


@struct.dataclass
class View:
    """How the tokens of self-attention see each other: who sees whom, and where they are."""

    mask: Mask
    bias_NR: jax.Array | None = None  # relative or ALiBi positions, by distance
    positions_BT: jax.Array | None = None  # rotary positions
    lines_BGM: jax.Array | None = None  # of hypotheses side by side, see `cached_attention`


@struct.dataclass
class LayerCache:
    """What one block remembers while decoding: its own keys and values, and the memory's.

    X counts the K heads of all B examples, laid out as the products of `cached_attention` take
    them: any other shape makes XLA's CPU backend copy the whole cache for every token.

    k_XHM, v_XMH: room for M positions, filled up to the cache's position. Of G hypotheses that
        are `side_by_side`, M·G slots: those of all of them for each position.
    cross_k_YHS, cross_v_YSH: of the memory; hypotheses of one example share them, so that X may be
        a multiple of Y. None in a decoder without a memory.
    """

    num_kv_heads: int = struct.field(pytree_node=False)
    k_XHM: jax.Array
    v_XMH: jax.Array
    cross_k_YHS: jax.Array | None = None
    cross_v_YSH: jax.Array | None = None

    def append(self, k_BTKH, v_BTKH, position) -> 'LayerCache':
        """With T more keys and values from `position` on, of hypotheses side by side one of each;
        room is checked by the caller."""
        examples = len(self.v_XMH) // self.num_kv_heads
        hypotheses, shape = len(k_BTKH) // examples, (examples, -1, *k_BTKH.shape[2:])
        k_XTH, v_XTH = (by_head(new_BTKH.reshape(shape)) for new_BTKH in (k_BTKH, v_BTKH))
        put, slot = jax.lax.dynamic_update_slice_in_dim, position * hypotheses
        return self.replace(k_XHM=put(self.k_XHM, k_XTH.swapaxes(1, 2), slot, 2),
                            v_XMH=put(self.v_XMH, v_XTH, slot, 1))

    def with_room(self, slots: int) -> 'LayerCache':
        """With that many slots more."""
        return self.replace(k_XHM=jnp.pad(self.k_XHM, ((0, 0), (0, 0), (0, slots))),
                            v_XMH=jnp.pad(self.v_XMH, ((0, 0), (0, slots), (0, 0))))

    def repeated(self, times: int) -> 'LayerCache':
        """With that many copies of each example, one below the other, but for the memory's."""
        def copies(cache):
            by_example = cache.reshape(-1, self.num_kv_heads, *cache.shape[1:])
            return jnp.repeat(by_example, times, axis=0).reshape(-1, *cache.shape[1:])
        return self.replace(k_XHM=copies(self.k_XHM), v_XMH=copies(self.v_XMH))

    def side_by_side(self, hypotheses: int) -> 'LayerCache':
        """With room for that many hypotheses of each example; what is there belongs to the first.
        """
        def apart(cache, axis):
            cache = jnp.expand_dims(cache, axis + 1)
            others = [(0, (hypotheses - 1) * (i == axis + 1)) for i in range(cache.ndim)]
            shape = *cache.shape[:axis], -1, *cache.shape[axis + 2:]
            return jnp.pad(cache, others).reshape(shape)
        return self.replace(k_XHM=apart(self.k_XHM, 2), v_XMH=apart(self.v_XMH, 1))


def chosen(x_BTD: jax.Array, at_BP: jax.Array | None) -> jax.Array:
    """x_BPD, the columns at_BP of each row, or without them x itself."""
    return x_BTD if at_BP is None else jnp.take_along_axis(x_BTD, at_BP[..., None], axis=1)


class Block(nn.Module):
    """Self-attention, cross-attention where there is a memory, feed-forward; each residual.

    The norm comes after each sub-layer, Norm(x + f(x)), as in Vaswani et al. 2017, or before,
    x + f(Norm(x)), as in Xiong et al. 2020.
    """

    config: ModelConfig
    cross: bool

    def setup(self):
        c = self.config
        self.self_attention = MultiHeadAttention(c)
        self.self_attention_norm = Norm(c)
        if self.cross:
            self.cross_attention = MultiHeadAttention(c)
            self.cross_attention_norm = Norm(c)
        self.feed_forward = FeedForward(c)
        self.feed_forward_norm = Norm(c)
        self.drop = Dropout(c.dropout)

    def _residual(self, norm, sublayer, x_BTD, at_BP=None):
        if self.config.norm_position == 'pre':
            return chosen(x_BTD, at_BP) + self.drop(sublayer(norm(x_BTD)))
        return norm(chosen(x_BTD, at_BP) + self.drop(sublayer(x_BTD)))

    def _sublayers(self, x_BTD, self_attention, cross_attention, at_BP=None):
        x_BTD = self._residual(self.self_attention_norm, self_attention, x_BTD, at_BP)
        if self.cross:
            x_BTD = self._residual(self.cross_attention_norm, cross_attention, x_BTD)
        return self._residual(self.feed_forward_norm, self.feed_forward, x_BTD)

    def memory(self, memory_BSD):
        """cross_k_BSKH, cross_v_BSKH: this block's keys and values of the encoder's output."""
        return self.cross_attention.keys_values(memory_BSD)

    def __call__(self, x_BTD, view: View, memory_BSD=None, memory_mask: Mask | None = None,
                 look: bool = False, at_BP=None):
        """x_BTD after the block and, with `look`, {'hidden': x_BTD, 'self', 'cross': maps_BNTS}.
        With `at_BP`, x_BPD of these columns alone, which see all others."""
        looks = {}

        def self_attention(h_BTD):
            k, v = self.self_attention.keys_values(h_BTD, view.positions_BT)
            how = (view.mask, view.bias_NR, view.positions_BT)
            if look:
                looks['self'] = self.self_attention.weights(h_BTD, k, *how)
            return self.self_attention(chosen(h_BTD, at_BP), k, v, *how)

        def cross_attention(h_BTD):
            k, v = self.memory(memory_BSD)
            if look:
                looks['cross'] = self.cross_attention.weights(h_BTD, k, memory_mask)
            return self.cross_attention(h_BTD, k, v, memory_mask)

        x_BTD = self._sublayers(x_BTD, self_attention, cross_attention, at_BP)
        if look:
            looks['hidden'] = x_BTD
        return x_BTD, looks

    def extend(self, x_BTD, cache: LayerCache, position, view: View, memory_mask: Mask | None):
        """The block on T tokens that follow the cached ones: (x_BTD, longer cache)."""
        def self_attention(h_BTD):
            nonlocal cache
            cache = cache.append(*self.self_attention.keys_values(h_BTD, view.positions_BT),
                                 position)
            return self.self_attention.read(h_BTD, cache.k_XHM, cache.v_XMH, view.mask,
                                            view.bias_NR, view.positions_BT, view.lines_BGM)

        def cross_attention(h_BTD):
            return self.cross_attention.read(h_BTD, cache.cross_k_YHS, cache.cross_v_YSH,
                                             memory_mask)

        return self._sublayers(x_BTD, self_attention, cross_attention), cache


def unstacked(params: dict) -> dict:
    """A stack's parameters with a tuple of layers, for loops that extend caches: in those, a
    layer's part of an array would be copied for every token."""
    layers = params['layers']
    [num_layers] = {len(leaf) for leaf in jax.tree.leaves(layers)}
    return params | {'layers': tuple(jax.tree.map(itemgetter(index), layers)
                                     for index in range(num_layers))}


class Stack(nn.Module):
    """L blocks, and a last norm where norms come before sub-layers."""

    config: ModelConfig
    num_layers: int
    cross: bool = False

    def setup(self):
        given = self.get_variable('params', 'layers')
        # stacked, or a tuple as `unstacked` makes it; asked for by flax's param, those that are
        # there would be checked against initial ones, which takes as long as tracing the model
        self.layers = self.param('layers', self._init_layers) if given is None else given
        if self.config.positions == 'relative':  # one table for all layers, as in T5
            self.relative_bias = self.param(
                'relative_bias', nn.initializers.normal(self.config.d_model ** -0.5),
                (self.config.relative_buckets, self.config.num_heads))
        if self.config.norm_position == 'pre':
            self.final_norm = Norm(self.config)

    def _block(self) -> Block:
        return Block(self.config, self.cross, parent=None)  # pure: its parameters are passed in

    def _init_layers(self, key):
        x_BTD = jnp.zeros((1, 1, self.config.d_model))
        inputs = (x_BTD, View(Mask()), *((x_BTD, Mask()) if self.cross else ()))
        keys = jax.random.split(key, 1 if self.config.share_layers else self.num_layers)
        return jax.vmap(lambda key: self._block().init(key, *inputs)['params'])(keys)

    def _layer(self, index: int) -> dict:
        """The parameters of one layer."""
        index = 0 if self.config.share_layers else index
        if isinstance(self.layers, tuple):
            return self.layers[index]
        return jax.tree.map(lambda leaf: leaf[index], self.layers)

    def _view(self, mask: Mask, positions_BT, key_length: int) -> View:
        """The view of queries at positions_BT, in the configuration's position scheme.

        Biases depend on distances within a row, which in a packed row are those within each
        document, where they matter.
        """
        c = self.config
        mask = mask.replace(window=c.window or None)
        if c.positions == 'rotary':
            return View(mask, positions_BT=positions_BT)
        if c.positions not in ('relative', 'alibi'):
            return View(mask)
        distance_R = distances(positions_BT.shape[1], key_length, mask.offset)
        if c.positions == 'alibi':
            return View(mask, alibi_bias(distance_R, c.num_heads))
        bucket_R = relative_buckets(distance_R, not mask.causal, c.relative_buckets,
                                    c.relative_distance)
        return View(mask, self.relative_bias[bucket_R].T)

    def finish(self, x_BTD) -> jax.Array:
        """The last norm, where norms come before sub-layers; any leading axes."""
        return self.final_norm(x_BTD) if self.config.norm_position == 'pre' else x_BTD

    def __call__(self, x_BTD, mask: Mask, positions_BT, memory_BSD=None,
                 memory_mask: Mask | None = None, look: bool = False, at_BP=None):
        """x_BTD after all blocks and, with `look`, what each saw and made (see `Block`), stacked
        over layers: maps_LBNTS, hidden_LBTD. With `at_BP`, x_BPD of these columns alone, which the
        last block computes alone where that is a matter of one line (`_ends_early`).
        """
        if self.is_initializing():  # the blocks have made their parameters without being run
            return self.finish(chosen(x_BTD, at_BP)), {}
        view = self._view(mask, positions_BT, x_BTD.shape[1])

        def block(x_BTD, layer, at_BP=None):
            params, key = layer
            rngs = {} if key is None else {'dropout': key}
            return self._block().apply({'params': params}, x_BTD, view, memory_BSD, memory_mask,
                                       look, at_BP, rngs=rngs)

        if self.config.remat:
            block = jax.checkpoint(block, prevent_cse=self.config.layers == 'unroll')
        keys_L = None
        if self.has_rng('dropout'):
            keys_L = jax.random.split(self.make_rng('dropout'), self.num_layers)
        if self.config.layers == 'unroll':
            looks = []
            for index in range(self.num_layers):
                key = None if keys_L is None else keys_L[index]
                ends = index == self.num_layers - 1 and self._ends_early
                x_BTD, seen = block(x_BTD, (self._layer(index), key), at_BP if ends else None)
                looks.append(seen)
            looks = jax.tree.map(lambda *each: jnp.stack(each), *looks)
        elif self.config.share_layers:
            x_BTD, looks = jax.lax.scan(lambda x_BTD, key: block(x_BTD, (self._layer(0), key)),
                                        x_BTD, keys_L, self.num_layers)
        else:
            x_BTD, looks = jax.lax.scan(block, x_BTD, (self.layers, keys_L))
        if not self._ends_early:
            x_BTD = chosen(x_BTD, at_BP)
        return self.finish(x_BTD), looks

    @property
    def _ends_early(self) -> bool:
        """Whether the last block is on its own, and its queries need not know where they are."""
        c = self.config
        return (c.layers == 'unroll' and not c.window
                and c.positions not in ('rotary', 'relative', 'alibi'))

    def start(self, batch: int, max_length: int, memory_BSD=None) -> list[LayerCache]:
        """Empty caches with room for `max_length` tokens of `batch` hypotheses, one per block."""
        c = self.config
        empty = jnp.zeros((batch * c.K, max_length, c.H), c.dtype)
        caches = [LayerCache(c.K, empty.swapaxes(1, 2), empty) for _ in range(self.num_layers)]
        if not self.cross:
            return caches
        memories = [self._block().apply({'params': self._layer(index)}, memory_BSD,
                                        method='memory') for index in range(self.num_layers)]
        return [cache.replace(cross_k_YHS=by_head(k).swapaxes(1, 2), cross_v_YSH=by_head(v))
                for cache, (k, v) in zip(caches, memories)]

    def extend(self, x_BTD, caches: list[LayerCache], position, positions_BT,
               memory_mask: Mask | None = None, starts_B=None, lines_BGM=None):
        """The stack on T tokens that follow the cached ones: (x_BTD, longer caches).

        They go to the caches' slots from `position` on; positions_BT are theirs in their texts,
        which begin in slot starts_B. Of hypotheses side by side, lines_BGM says which one wrote
        each position of whose text.
        """
        mask = Mask(causal=True, offset=position, key_starts_B=starts_B)
        slots = caches[0].v_XMH.shape[1] if lines_BGM is None else lines_BGM.shape[2]
        view = self._view(mask, positions_BT, slots).replace(lines_BGM=lines_BGM)
        longer = []
        for index, cache in enumerate(caches):
            x_BTD, cache = self._block().apply({'params': self._layer(index)}, x_BTD, cache,
                                               position, view, memory_mask, method='extend')
            longer.append(cache)
        return self.finish(x_BTD), longer
