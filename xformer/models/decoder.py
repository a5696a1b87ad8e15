"""Decoder-only: a causal language model (GPT-2; Radford et al. 2019; Llama with its options)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from xformer.config import ModelConfig
from xformer.nn.embedding import Embedding, tied_logits, token_table
from xformer.nn.layers import Linear, initial
from xformer.nn.masks import Mask, Packing, row_positions
from xformer.nn.stack import LayerCache, Stack


@struct.dataclass
class Cache:
    """Decoding state: one LayerCache per block, and the number of slots filled so far.

    Example b's text begins in slot starts_B[b], so that texts of any lengths end together; None:
    all begin in the first. lines_BGM: as `Stack.extend` takes it.
    """

    layers: list[LayerCache]
    position: jax.Array
    starts_B: jax.Array | None = None
    lines_BGM: jax.Array | None = None


class Decoder(nn.Module):
    """Predicts every next token; `start` and `extend` do so step by step."""

    config: ModelConfig

    def setup(self):
        c = self.config
        self.embedding = token_table(self, 'embedding', c)
        self.input_embedding = Embedding(c)
        self.decoder = Stack(c, c.num_decoder_layers)
        if c.tie_embeddings == 'none':
            self.output = Linear(c.vocab_size, initial(c).kernel, use_bias=False,
                                 out_type=jnp.float32)

    def __call__(self, inputs_BT, packing: Packing | None = None) -> jax.Array:
        """logits_BTV (float32) of the token after each of the inputs.

        Documents packed into one row do not see each other. Without packing, a row is one text.
        """
        return self._forward(inputs_BT, packing, look=False)[0]

    def look(self, inputs_BT) -> dict:
        """{'decoder': {'self': maps_LBNTS, 'hidden': hidden_LBTD}}."""
        return {'decoder': self._forward(inputs_BT, None, look=True)[1]}

    def features(self, inputs_BT, packing: Packing | None = None) -> jax.Array:
        """features_LBTD: each block's output through the final norm; the last are the stack's."""
        return self.decoder.finish(self._forward(inputs_BT, packing, look=True)[1]['hidden'])

    def lens(self, hidden_LTD) -> jax.Array:
        """logits_LTV: each block's output read as if it were the last's (logit lens;
        nostalgebraist 2020)."""
        return self._logits(self.decoder.finish(hidden_LTD))

    def _forward(self, inputs_BT, packing, look):
        positions_BT = row_positions(inputs_BT.shape[1], packing=packing)
        x_BTD = self.input_embedding(self.embedding, inputs_BT, positions_BT)
        x_BTD, looks = self.decoder(x_BTD, Mask(causal=True).packed(packing), positions_BT,
                                    look=look)
        return self._logits(x_BTD), looks

    def start(self, batch: int, max_length: int, starts_B=None) -> Cache:
        """An empty cache with room for `max_length` tokens of `batch` rows, padding included."""
        return Cache(self.decoder.start(batch, max_length), jnp.int32(0), starts_B)

    def extend(self, inputs_BT, cache: Cache) -> tuple[jax.Array, Cache]:
        """logits_BTV after T more inputs, and the cache that holds them.

        What goes to slots before a row's start is padding: its logits are noise, nothing sees it.
        Going past the cache's room would overwrite it: callers keep position + T ≤ max_length.
        """
        starts_B1 = 0
        if cache.starts_B is not None:
            starts_B1 = jnp.repeat(cache.starts_B, len(inputs_BT) // len(cache.starts_B))[:, None]
        positions_BT = row_positions(inputs_BT.shape[1], cache.position - starts_B1)
        x_BTD = self.input_embedding(self.embedding, inputs_BT, positions_BT)
        x_BTD, layers = self.decoder.extend(x_BTD, cache.layers, cache.position, positions_BT,
                                            starts_B=cache.starts_B, lines_BGM=cache.lines_BGM)
        longer = cache.replace(layers=layers, position=cache.position + inputs_BT.shape[1])
        return self._logits(x_BTD), longer

    def _logits(self, x_BTD) -> jax.Array:
        if self.config.tie_embeddings == 'none':
            return self.output(x_BTD)
        return tied_logits(x_BTD, self.embedding, self.config)
