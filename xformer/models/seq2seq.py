"""Encoder-decoder: the original Transformer (Vaswani et al. 2017), T5, BART, Marian.

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
from xformer.nn.embedding import Embedding, tied_logits, token_table
from xformer.nn.layers import Linear, initial
from xformer.nn.masks import Mask, Packing, row_positions
from xformer.nn.stack import LayerCache, Stack


@struct.dataclass
class Cache:
    """Decoder state: one LayerCache per block, tokens seen so far, lengths of the sources.

    lines_BGM: as `Stack.extend` takes it.
    """

    layers: list[LayerCache]
    position: jax.Array
    source_lengths_B: jax.Array
    lines_BGM: jax.Array | None = None


class Seq2Seq(nn.Module):
    """The model as a whole (`__call__`), and in the parts that decoding needs.

    Rows may be packed with several pairs: pair i of a row is segment i on both sides.
    """

    config: ModelConfig

    def setup(self):
        c = self.config
        self.embedding = token_table(self, 'embedding', c)
        if c.tie_embeddings == 'none':
            self.target_embedding = token_table(self, 'target_embedding', c)
        if c.tie_embeddings != 'all':
            self.output = Linear(c.vocab_size, initial(c).kernel, c.biases, jnp.float32)
        elif c.output_bias:
            self.output_bias = self.param('output_bias', nn.initializers.zeros, (c.vocab_size,))
        self.encoder_embedding, self.decoder_embedding = Embedding(c), Embedding(c)
        self.encoder = Stack(c, c.num_encoder_layers)
        self.decoder = Stack(c, c.num_decoder_layers, cross=True)

    def __call__(self, source_BS, source_lengths_B, inputs_BT,
                 source_packing: Packing | None = None,
                 target_packing: Packing | None = None) -> jax.Array:
        """logits_BTV (float32) of the token after each of the inputs, under teacher forcing."""
        return self._forward(source_BS, source_lengths_B, inputs_BT, source_packing,
                             target_packing, look=False)[0]

    def look(self, source_BS, source_lengths_B, inputs_BT) -> dict:
        """{'encoder': {'self', 'hidden'}, 'decoder': {'self', 'cross', 'hidden'}}.

        Attention maps have shape LBNTS, hidden states (of each block's output) LBTD.
        """
        return self._forward(source_BS, source_lengths_B, inputs_BT, None, None, look=True)[1]

    def features(self, source_BS, source_lengths_B=None,
                 packing: Packing | None = None) -> jax.Array:
        """features_LBSD of the encoder: each block's output through the final norm; the last are
        the memory."""
        looks = self._encode(source_BS, source_lengths_B, packing, look=True)[1]
        return self.encoder.finish(looks['hidden'])

    def lens(self, hidden_LTD) -> jax.Array:
        """logits_LTV: each decoder block's output read as if it were the last's (logit lens;
        nostalgebraist 2020)."""
        return self._logits(self.decoder.finish(hidden_LTD))

    def _forward(self, source_BS, source_lengths_B, inputs_BT, source_packing, target_packing,
                 look):
        memory_BSD, encoder = self._encode(source_BS, source_lengths_B, source_packing, look)
        x_BTD, positions_BT = self._embed_target(inputs_BT, 0, target_packing)
        mask = Mask(causal=True).packed(target_packing)
        memory_mask = Mask(key_lengths_B=source_lengths_B).packed(target_packing, source_packing)
        x_BTD, decoder = self.decoder(x_BTD, mask, positions_BT, memory_BSD, memory_mask, look)
        return self._logits(x_BTD), {'encoder': encoder, 'decoder': decoder}

    def encode(self, source_BS, source_lengths_B) -> jax.Array:
        """memory_BSD: the encoder's output; positions beyond a source's length are noise."""
        return self._encode(source_BS, source_lengths_B, None, look=False)[0]

    def _encode(self, source_BS, source_lengths_B, packing, look):
        positions_BS = row_positions(source_BS.shape[1], packing=packing)
        x_BSD = self.encoder_embedding(self.embedding, source_BS, positions_BS)
        mask = Mask(key_lengths_B=source_lengths_B).packed(packing)
        return self.encoder(x_BSD, mask, positions_BS, look=look)

    def start(self, source_BS, source_lengths_B, rows: int, max_length: int) -> Cache:
        """Encode the sources once, for decoding at most `max_length` tokens of B·rows rows.

        Row b·rows + k continues example b.
        """
        memory_BSD = self.encode(source_BS, source_lengths_B)
        layers = self.decoder.start(source_BS.shape[0] * rows, max_length, memory_BSD)
        return Cache(layers, jnp.int32(0), source_lengths_B)

    def extend(self, inputs_BT, cache: Cache) -> tuple[jax.Array, Cache]:
        """logits_BTV after T more inputs, and the cache that holds them.

        One call takes a whole prefix (prefill) or a single token (a decoding step). Going past
        the cache's room would overwrite it: callers keep position + T ≤ max_length.
        """
        x_BTD, positions_1T = self._embed_target(inputs_BT, cache.position, None)
        x_BTD, layers = self.decoder.extend(x_BTD, cache.layers, cache.position, positions_1T,
                                            Mask(key_lengths_B=cache.source_lengths_B),
                                            lines_BGM=cache.lines_BGM)
        longer = cache.replace(layers=layers, position=cache.position + inputs_BT.shape[1])
        return self._logits(x_BTD), longer

    def _embed_target(self, ids_BT, offset, packing):
        positions_BT = row_positions(ids_BT.shape[1], offset, packing)
        own = self.config.tie_embeddings == 'none'
        table_VE = self.target_embedding if own else self.embedding
        return self.decoder_embedding(table_VE, ids_BT, positions_BT), positions_BT

    def _logits(self, x_BTD) -> jax.Array:
        if self.config.tie_embeddings != 'all':
            return self.output(x_BTD)
        logits_BTV = tied_logits(x_BTD, self.embedding, self.config)
        if self.config.output_bias:
            logits_BTV = logits_BTV + self.output_bias[None, None]
        return logits_BTV
