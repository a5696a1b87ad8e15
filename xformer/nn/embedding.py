"""From token ids to the first x of a stack, and from the last x to logits."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from xformer.config import ModelConfig
from xformer.nn.layers import Dropout, Linear, Norm, initial, linear
from xformer.nn.positions import sinusoidal


class Embedding(nn.Module):
    """Token + position + segment embeddings, then norm and dropout where there are any.

    The table of tokens is a parameter of the model, which may use it in several places; the
    tables of positions and segments belong here. Embeddings narrower than the model (ALBERT; Lan
    et al. 2020, section 3.1) are projected to it.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, table_VE, ids_BT, positions_BT, types_BT=None) -> jax.Array:
        """x_BTD, in the compute type. `positions_BT` may have one row for all."""
        c, start = self.config, initial(self.config)
        E = table_VE.shape[1]
        x_BTE = table_VE[ids_BT]
        if c.embedding_scale == 'input':
            x_BTE = x_BTE * E ** 0.5
        if c.positions in ('sinusoidal', 'sinusoidal_halves'):
            x_BTE = x_BTE + sinusoidal(positions_BT, E, halves=c.positions == 'sinusoidal_halves')
        if c.positions == 'learned':
            x_BTE = x_BTE + self.param(
                'position_embedding', start.embedding, (c.max_length, E))[positions_BT]
        if c.num_segments:
            if types_BT is None or c.num_segments == 1:  # one for both sentences (RoBERTa)
                types_BT = jnp.zeros_like(ids_BT)
            x_BTE = x_BTE + self.param(
                'segment_embedding', start.embedding, (c.num_segments, E))[types_BT]
        x_BTE = x_BTE.astype(c.dtype)
        if c.embedding_norm:
            x_BTE = Norm(c, name='norm')(x_BTE)
        x_BTE = Dropout(c.dropout)(x_BTE)
        if E == c.d_model:
            return x_BTE
        return Linear(c.d_model, start.kernel, c.biases, name='project')(x_BTE)


def token_table(module: nn.Module, name: str, config: ModelConfig) -> jax.Array:
    """The parameter table_VE of `module` (inside its setup)."""
    return module.param(name, initial(config).embedding, (config.vocab_size, config.E))


def tied_logits(x_BTE: jax.Array, table_VE: jax.Array, config: ModelConfig) -> jax.Array:
    """logits_BTV, float32: the products with the token embeddings (Press & Wolf 2017)."""
    if config.embedding_scale == 'output':
        x_BTE = x_BTE * config.d_model ** -0.5
    return linear(x_BTE, table_VE.T, None, out_type=jnp.float32)
