"""Encoder-only: BERT (Devlin et al. 2019), RoBERTa, DistilBERT, ALBERT; and its two objectives."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from xformer.config import ModelConfig
from xformer.nn.embedding import Embedding, tied_logits, token_table
from xformer.nn.layers import ACTIVATIONS, GATES, Linear, Norm, initial
from xformer.nn.masks import Mask, Packing, row_positions
from xformer.nn.stack import Stack, chosen


class Encoder(nn.Module):
    """Token + position + segment embeddings, a stack without a causal mask, and the pooler."""

    config: ModelConfig

    def setup(self):
        c = self.config
        self.embedding = token_table(self, 'embedding', c)
        self.input_embedding = Embedding(c)
        self.encoder = Stack(c, c.num_encoder_layers)
        if c.pooler:
            self.pooler = Linear(c.d_model, initial(c).kernel, c.biases)

    def __call__(self, ids_BT, lengths_B=None, types_BT=None,
                 packing: Packing | None = None) -> jax.Array:
        """x_BTD. Positions beyond a row's length are not seen, and what they hold is noise.

        types_BT: 0 in sentence A, 1 in sentence B (0 everywhere without it).
        """
        return self._forward(ids_BT, lengths_B, types_BT, packing, look=False)[0]

    def at(self, at_BP, ids_BT, lengths_B, types_BT) -> jax.Array:
        """x_BPD: what `__call__` gives, at the columns at_BP alone, which is less work: the last
        block needs the others for keys and values only. Not so where somebody looks at `__call__`
        itself, as distillation does."""
        if self.is_mutable_collection('intermediates'):
            return chosen(self(ids_BT, lengths_B, types_BT), at_BP)
        return self._forward(ids_BT, lengths_B, types_BT, None, look=False, at_BP=at_BP)[0]

    def look(self, ids_BT, lengths_B=None, types_BT=None) -> dict:
        """{'encoder': {'self': maps_LBNTS, 'hidden': hidden_LBTD}}."""
        return {'encoder': self._forward(ids_BT, lengths_B, types_BT, None, look=True)[1]}

    def features(self, ids_BT, lengths_B=None, types_BT=None,
                 packing: Packing | None = None) -> jax.Array:
        """features_LBTD: each block's output through the final norm; the last are `__call__`'s."""
        looks = self._forward(ids_BT, lengths_B, types_BT, packing, look=True)[1]
        return self.encoder.finish(looks['hidden'])

    def _forward(self, ids_BT, lengths_B, types_BT, packing, look, at_BP=None):
        positions_BT = row_positions(ids_BT.shape[1], packing=packing)
        x_BTD = self.input_embedding(self.embedding, ids_BT, positions_BT, types_BT)
        mask = Mask(key_lengths_B=lengths_B).packed(packing)
        return self.encoder(x_BTD, mask, positions_BT, look=look, at_BP=at_BP)

    def pool(self, x: jax.Array) -> jax.Array:
        """A linear map and tanh, of the first token (section 3.2, NSP's input), or in heads of
        DistilBERT and ELECTRA another activation, there also of every token."""
        activation = {**ACTIVATIONS, 'tanh': jnp.tanh}[self.config.pooler_activation]
        return activation(self.pooler(x))


class MaskedLM(nn.Module):
    """The encoder with BERT's heads: masked tokens and, if wanted, the next sentence."""

    config: ModelConfig
    next_sentence: bool = False

    def setup(self):
        c = self.config
        start = initial(c)
        self.encoder = Encoder(c)
        self.transform = Linear(c.E, start.kernel, c.biases)
        self.transform_norm = Norm(c)
        if c.biases:
            self.output_bias = self.param('output_bias', nn.initializers.zeros, (c.vocab_size,))
        if self.next_sentence:
            self.next_sentence_head = Linear(2, start.kernel, c.biases, jnp.float32)

    def __call__(self, inputs_BT, lengths_B, types_BT, masked_BP):
        """(logits_BPV of the tokens at positions masked_BP, logits_B2 of is-next and random).

        Logits are computed at the masked positions only; the second is None without the head.
        """
        if not self.next_sentence:
            return self._logits(self.encoder.at(masked_BP, inputs_BT, lengths_B, types_BT)), None
        at_BQ = jnp.pad(masked_BP, ((0, 0), (1, 0)))  # the first token before them
        x_BQD = self.encoder.at(at_BQ, inputs_BT, lengths_B, types_BT)
        return self._logits(x_BQD[:, 1:]), self.next_sentence_head(self.encoder.pool(x_BQD[:, 0]))

    def look(self, ids_BT, lengths_B, types_BT=None) -> dict:
        """As `Encoder.look`."""
        return self.encoder.look(ids_BT, lengths_B, types_BT)

    def features(self, ids_BT, lengths_B=None, types_BT=None,
                 packing: Packing | None = None) -> jax.Array:
        """As `Encoder.features`."""
        return self.encoder.features(ids_BT, lengths_B, types_BT, packing)

    def lens(self, hidden_LTD) -> jax.Array:
        """logits_LTV of every position, masked or not: each block's output read as if it were the
        last's (logit lens; nostalgebraist 2020)."""
        return self._logits(self.encoder.encoder.finish(hidden_LTD))

    def _logits(self, x_BPD) -> jax.Array:
        activation = {**ACTIVATIONS, **GATES}[self.config.activation]
        h_BPE = self.transform_norm(activation(self.transform(x_BPD)))
        logits_BPV = tied_logits(h_BPE, self.encoder.embedding, self.config)
        if self.config.biases:
            logits_BPV = logits_BPV + self.output_bias[None, None]
        return logits_BPV
