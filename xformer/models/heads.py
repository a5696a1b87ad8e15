"""Heads on an encoder: one vector for a text, or one for each of its tokens."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from xformer.config import ModelConfig
from xformer.models.encoder import Encoder
from xformer.nn.layers import Dropout, Linear, initial
from xformer.nn.masks import Packing

NEVER = -1e9  # a logit of what is not allowed: finite, so that losses stay numbers


class Labeller(nn.Module):
    """The encoder, dropout and a linear map (Devlin et al. 2019, section 4).

    Of a text it sees the pooled first token, or without a pooler the mean of all tokens; of a
    token it sees that, pooled if there is a pooler (ELECTRA; Clark et al. 2020). With no outputs
    it has no head, and returns what a head would see.
    """

    config: ModelConfig
    outputs: int
    per_token: bool = False

    def setup(self):
        c = self.config
        self.encoder = Encoder(c)
        self.drop = Dropout(c.dropout)
        self.head = Linear(self.outputs, initial(c).kernel, True, jnp.float32)

    def __call__(self, inputs_BT, lengths_B, types_BT) -> jax.Array:
        """outputs_BO, or outputs_BTO of every token (noise beyond a row's length); float32."""
        inputs = inputs_BT, lengths_B, types_BT
        if not self.config.pooler:
            x_BTD = self.encoder(*inputs)
            seen = x_BTD if self.per_token else self._mean(x_BTD, lengths_B)
        elif self.per_token:
            seen = self.encoder.pool(self.encoder(*inputs))
        else:
            first_B1 = jnp.zeros((len(inputs_BT), 1), jnp.int32)
            seen = self.encoder.pool(self.encoder.at(first_B1, *inputs)[:, 0])
        return self.head(self.drop(seen)) if self.outputs else seen

    def look(self, ids_BT, lengths_B, types_BT=None) -> dict:
        """As `Encoder.look`."""
        return self.encoder.look(ids_BT, lengths_B, types_BT)

    def features(self, ids_BT, lengths_B=None, types_BT=None,
                 packing: Packing | None = None) -> jax.Array:
        """As `Encoder.features`."""
        return self.encoder.features(ids_BT, lengths_B, types_BT, packing)

    def _mean(self, x_BTD, lengths_B) -> jax.Array:
        real_BT = jnp.arange(x_BTD.shape[1])[None] < lengths_B[:, None]
        total_BD = jnp.where(real_BT[..., None], x_BTD, 0).sum(axis=1)
        return total_BD / jnp.maximum(lengths_B, 1)[:, None].astype(x_BTD.dtype)


def answer_logits(outputs_BS2: jax.Array, types_BS: jax.Array) -> jax.Array:
    """logits_B2S of the first and the last token of the answer: in the context, or BOS."""
    S = types_BS.shape[1]
    allowed_BS = (types_BS > 0) | (jnp.arange(S) == 0)[None]
    return jnp.where(allowed_BS[:, None], outputs_BS2.swapaxes(1, 2), NEVER)
