"""The encoder-decoder Transformer of Vaswani et al. 2017, "Attention Is All You Need".

    model = Seq2Seq(config.model)
    params = model.init(key, source_BS, source_lengths_B, inputs_BT)['params']
    logits_BTV = model.apply({'params': params}, source_BS, source_lengths_B, inputs_BT)

Training mode is chosen by giving a random stream: `rngs={'dropout': key}`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from xformer.config import ModelConfig
from xformer.nn.layers import Dropout, Linear
from xformer.nn.masks import Mask
from xformer.nn.positions import sinusoidal
from xformer.nn.stack import LayerCache, Stack


@struct.dataclass
class Cache:
    """Decoder state: one LayerCache per block, tokens seen so far, lengths of the sources."""

    layers: list[LayerCache]
    position: jax.Array
    source_lengths_C: jax.Array


class Seq2Seq(nn.Module):
    """The model as a whole (`__call__`), and in the parts that decoding needs."""

    config: ModelConfig

    def setup(self):
        c = self.config
        shape = (c.vocab_size, c.d_model)
        initial = nn.initializers.normal(c.d_model ** -0.5)  # unit variance once scaled by √D
        self.embedding = self.param('embedding', initial, shape)
        if not c.tie_embeddings:
            self.target_embedding = self.param('target_embedding', initial, shape)
            self.output = Linear(c.vocab_size, jnp.float32)
        self.encoder = Stack(c, c.num_encoder_layers)
        self.decoder = Stack(c, c.num_decoder_layers, cross=True)
        self.drop = Dropout(c.dropout)

    def __call__(self, source_BS, source_lengths_B, inputs_BT) -> jax.Array:
        """logits_BTV (float32) of the token after each of the inputs, under teacher forcing."""
        memory_BSD = self.encode(source_BS, source_lengths_B)
        x_BTD = self._embed_target(inputs_BT, 0)
        x_BTD, _ = self.decoder(x_BTD, Mask(causal=True), memory_BSD,
                                Mask(key_lengths_B=source_lengths_B))
        return self._logits(x_BTD)

    def encode(self, source_BS, source_lengths_B) -> jax.Array:
        """memory_BSD: the encoder's output; positions beyond a source's length are noise."""
        x_BSD = self._embed(self.embedding, source_BS, 0)
        return self.encoder(x_BSD, Mask(key_lengths_B=source_lengths_B))[0]

    def attention_maps(self, source_BS, source_lengths_B, inputs_BT) -> dict:
        """{'encoder': {'self'}, 'decoder': {'self', 'cross'}}: weights of shape LBNTS."""
        memory_mask = Mask(key_lengths_B=source_lengths_B)
        memory_BSD, encoder = self.encoder(
            self._embed(self.embedding, source_BS, 0), memory_mask, look=True)
        _, decoder = self.decoder(self._embed_target(inputs_BT, 0), Mask(causal=True),
                                  memory_BSD, memory_mask, look=True)
        return {'encoder': encoder, 'decoder': decoder}

    def start(self, source_BS, source_lengths_B, beam_size: int, max_length: int) -> Cache:
        """Encode the sources once, for decoding at most `max_length` tokens of B·beam_size rows.

        Row b·beam_size + k is hypothesis k of example b.
        """
        memory_BSD = self.encode(source_BS, source_lengths_B)
        layers = self.decoder.start(memory_BSD, source_BS.shape[0] * beam_size, max_length)
        return Cache(layers, jnp.int32(0), source_lengths_B)

    def extend(self, inputs_BT, cache: Cache) -> tuple[jax.Array, Cache]:
        """logits_BTV after T more inputs, and the cache that holds them.

        One call takes a whole prefix (prefill) or a single token (a decoding step). Going past
        the cache's room would overwrite it: callers keep position + T ≤ max_length.
        """
        x_BTD = self._embed_target(inputs_BT, cache.position)
        x_BTD, layers = self.decoder.extend(
            x_BTD, cache.layers, cache.position, Mask(key_lengths_B=cache.source_lengths_C))
        longer = cache.replace(layers=layers, position=cache.position + inputs_BT.shape[1])
        return self._logits(x_BTD), longer

    def _embed(self, table_VD, ids_BT, offset) -> jax.Array:
        """√D · embedding + position, in the compute type (sections 3.4 and 3.5)."""
        D = self.config.d_model
        positions_1T = offset + jnp.arange(ids_BT.shape[1])[None]
        x_BTD = table_VD[ids_BT] * D ** 0.5 + sinusoidal(positions_1T, D)
        return self.drop(x_BTD.astype(self.config.dtype))

    def _embed_target(self, ids_BT, offset) -> jax.Array:
        tied = self.config.tie_embeddings
        return self._embed(self.embedding if tied else self.target_embedding, ids_BT, offset)

    def _logits(self, x_BTD) -> jax.Array:
        if not self.config.tie_embeddings:
            return self.output(x_BTD)
        flat = x_BTD.reshape(-1, x_BTD.shape[-1])
        logits = jnp.matmul(flat, self.embedding.T.astype(flat.dtype),
                            preferred_element_type=jnp.float32)
        return logits.reshape(*x_BTD.shape[:-1], -1)
