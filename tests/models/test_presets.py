"""Presets: the published sizes, to the exact number of parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.checks import validate
from xformer.config import Config, UserError, diff, override
from xformer.models import build, init_params
from xformer.models.encoder import Encoder
from xformer.presets import PRESETS, preset

LLAMA_125M = (
    2 * 32_000 * 768  # embeddings and output
    + 12 * (2 * 768 * 768 + 2 * 768 * 256  # query and out; key and value of 4 heads of 64
            + 3 * 768 * 2048 + 2 * 768)  # up, gate and down; two scales of norms
    + 768)  # the last norm
MARIAN = (
    58_101 * 512  # one table for all; sinusoidal positions have no parameters
    + 6 * (4 * (512 * 512 + 512) + 2 * 512 * 2048 + 2048 + 512 + 2 * 2 * 512)
    + 6 * (8 * (512 * 512 + 512) + 2 * 512 * 2048 + 2048 + 512 + 3 * 2 * 512))
PUBLISHED = {  # encoders without the heads of their objectives, but with BERT's pooler
    'transformer-base': 63_082_496, 'transformer-big': 214_245_376, 'marian': MARIAN,
    'bert-tiny': 4_385_920, 'bert-mini': 11_170_560, 'bert-small': 28_763_648,
    'bert-medium': 41_373_184, 'bert-base': 109_482_240, 'bert-large': 335_141_888,
    'roberta-base': 124_645_632, 'distilbert': 66_362_880, 'albert-base': 11_683_584,
    'gpt2': 124_439_808, 'gpt2-medium': 354_823_168, 'gpt2-large': 774_030_080,
    'gpt2-xl': 1_557_611_200, 'llama-125m': LLAMA_125M,
    't5-small': 60_506_624, 't5-base': 222_903_552, 't5-large': 737_668_096,
    't5-v1.1-small': 76_961_152, 't5-v1.1-base': 247_577_856, 't5-v1.1-large': 783_150_080,
    'bart-base': 139_420_416, 'bart-large': 406_291_456,
}


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def encoder_init(config):
    """Parameters of the encoder and, if it has one, its pooler."""
    def forward(encoder, ids_BT):
        x_BTD = encoder(ids_BT)
        return encoder.pool(x_BTD) if config.model.pooler else x_BTD
    return Encoder(config.model).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32),
                                      method=forward)


@pytest.mark.parametrize('name', PRESETS)
def test_number_of_parameters_is_the_published_one(name):
    config = preset(name)
    if config.model.family == 'encoder':
        shapes = jax.eval_shape(lambda: encoder_init(config))
    else:
        shapes = jax.eval_shape(lambda: init_params(build(config), jax.random.key(0)))
    assert count(shapes) == PUBLISHED[name]


@pytest.mark.parametrize(('name', 'objective', 'heads'), [
    ('bert-tiny', 'mlm_nsp', (128 * 128 + 128) + 2 * 128 + 30_522 + (128 * 2 + 2)),
    ('distilbert', 'mlm', (768 * 768 + 768) + 2 * 768 + 30_522),
    ('albert-base', 'mlm_nsp', (768 * 128 + 128) + 2 * 128 + 30_000 + (768 * 2 + 2))])
def test_heads_of_masked_tokens_and_next_sentences_by_hand(name, objective, heads):
    config = override(preset(name), {'data.objective': objective})
    shapes = jax.eval_shape(lambda: init_params(build(config), jax.random.key(0)))
    assert count(shapes) == PUBLISHED[name] + heads


OBJECTIVES = {'seq2seq': 'pairs', 'decoder': 'lm', 'encoder': 'mlm'}


@pytest.mark.parametrize('name', PRESETS)
def test_a_preset_changes_only_the_model_and_makes_sense(name):
    base = override(Config(), {'train.seed': 7, 'data.train': 'mine.jsonl', 'data.format': 'jsonl',
                               'optim.schedule': 'noam', 'optim.warmup_steps': 4000})
    config = preset(name, base)
    assert diff(base, config) and all(field.startswith('model.') for field in diff(base, config))
    objective = 'mlm_nsp' if config.model.pooler else OBJECTIVES[config.model.family]
    config = override(config, {'data.objective': objective, 'model.num_segments': 2
                               if objective == 'mlm_nsp' else config.model.num_segments})
    assert validate(config).train.seed == 7


@pytest.mark.parametrize('name', ['marian', 'roberta-base', 'albert-base', 'llama-125m',
                                  't5-v1.1-small', 'bart-base'])
def test_a_small_copy_of_a_preset_computes(random_params, name):
    """The same options at a width of 16: finite numbers that depend on the input."""
    model = preset(name).model
    small = dataclasses.replace(
        model, d_model=16, d_ff=24, num_heads=2, num_kv_heads=model.num_kv_heads and 1,
        head_width=0, vocab_size=13, max_length=12, embedding_size=model.embedding_size and 6,
        num_encoder_layers=min(model.num_encoder_layers, 1), pooler=False, layers='unroll',
        num_decoder_layers=min(model.num_decoder_layers, 1))
    built = build(dataclasses.replace(Config(), model=small))
    ids, lengths = np.random.default_rng(0).integers(0, 13, (3, 6)), np.array([6, 6, 6])
    inputs = {'seq2seq': (ids, lengths, ids), 'decoder': (ids,),
              'encoder': (ids, lengths, np.zeros_like(ids), ids % 6)}[model.family]
    params = random_params(built, *inputs)
    logits = built.apply({'params': params}, *inputs)
    logits = np.asarray(logits[0] if model.family == 'encoder' else logits)
    assert logits.shape == (3, 6, 13) and logits.dtype == np.float32
    assert np.isfinite(logits).all() and (logits[0] != logits[1]).any(-1).all()


def test_an_unknown_preset_is_the_users_mistake():
    with pytest.raises(UserError, match="'transformer-bas'; did you mean 'transformer-base'"):
        preset('transformer-bas')
