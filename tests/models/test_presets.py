"""Presets: the published sizes, to the exact number of parameters."""

import jax
import jax.numpy as jnp
import pytest

from xformer.config import Config, UserError, diff, override, validate
from xformer.models.presets import PRESETS, preset
from xformer.models.seq2seq import Seq2Seq


@pytest.mark.parametrize(('name', 'parameters'), [
    ('transformer-base', 63_082_496), ('transformer-big', 214_245_376)])
def test_number_of_parameters_with_a_shared_vocabulary_of_37_000(name, parameters):
    config = override(preset(name), {'model.vocab_size': 37_000})
    ids, lengths = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    shapes = jax.eval_shape(Seq2Seq(config.model).init, jax.random.key(0), ids, lengths, ids)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


@pytest.mark.parametrize('name', PRESETS)
def test_a_preset_changes_only_the_size_and_makes_sense(name):
    base = override(Config(), {'train.seed': 7, 'data.train': 'mine.tsv', 'model.d_ff': 6,
                               'optim.schedule': 'noam', 'optim.warmup_steps': 4000})
    config = preset(name, base)
    assert set(diff(base, config)) <= {f'model.{field}' for field in (
        'num_encoder_layers', 'num_decoder_layers', 'd_model', 'd_ff', 'num_heads', 'dropout')}
    assert validate(config).train.seed == 7


def test_an_unknown_preset_is_the_users_mistake():
    with pytest.raises(UserError, match="'transformer-bas'; did you mean 'transformer-base'"):
        preset('transformer-bas')
