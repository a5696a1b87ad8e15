"""The three families as thin compositions of `xformer.nn`."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from xformer.config import Config, is_labelled
from xformer.models.decoder import Decoder
from xformer.models.encoder import MaskedLM
from xformer.models.heads import Labeller
from xformer.models.seq2seq import Seq2Seq


def build(config: Config) -> nn.Module:
    """The model that a configuration trains."""
    if config.model.family == 'seq2seq':
        return Seq2Seq(config.model)
    if config.model.family == 'decoder':
        return Decoder(config.model)
    objective = config.data.objective
    if is_labelled(config) or objective == 'none':
        outputs = {'none': 0, 'regress': 1, 'answer': 2}.get(objective, config.model.num_labels)
        return Labeller(config.model, outputs, per_token=objective in ('tag', 'answer'))
    return MaskedLM(config.model, next_sentence=config.data.objective == 'mlm_nsp')


def init_params(model: nn.Module, key: jax.Array) -> dict:
    """The parameters that the model begins with; they do not depend on any batch's shape."""
    ids, lengths = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    inputs = {'seq2seq': (ids, lengths, ids), 'decoder': (ids,),
              'encoder': (ids, lengths, ids, ids)}[model.config.family]
    if isinstance(model, Labeller):
        inputs = ids, lengths, ids
    return model.init(key, *inputs)['params']
