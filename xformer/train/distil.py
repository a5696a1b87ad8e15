"""Distillation: a student learns what a trained teacher says of the same batches.

The loss of the student's own task, plus up to two terms:

soft    cross-entropy to the teacher's distribution, both at temperature t, times t² so that its
        gradient keeps its size (Hinton et al. 2015, section 2)
cosine  1 - cosine of the two encoders' last hidden states, token by token (DistilBERT; Sanh et al.
        2019, section 3)

What the teacher says is computed before the step and travels in the batch, as `teacher_*`: so the
step stays a function of (state, batch, index), and rows split over devices and micro-batches.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from xformer.checks import check_same
from xformer.config import Config, TrainConfig, UserError
from xformer.data.tokenizers import Tokenizers
from xformer.models.encoder import Encoder
from xformer.train.loss import MAIN, Batch, Sums, below, count
from xformer.train.tasks import task_of

SOFT, COSINE = 'soft', 'cosine'


class Teacher(NamedTuple):
    """A trained model; `origin` says which run and checkpoint."""

    config: Config
    model: nn.Module
    params: dict
    tokenizers: Tokenizers
    origin: dict[str, str]


def check_teacher(teacher: Teacher, config: Config, tokenizers: Tokenizers) -> None:
    """Raise UserError unless what the teacher says is about the student's tokens and labels."""
    where = f'train.teacher={config.train.teacher}'
    check_same(['data.objective', 'model.family', 'model.vocab_size', 'model.num_labels',
                *(['model.d_model'] if config.train.cosine_weight else [])],
               where, teacher.config, 'the student', config)
    theirs, ours = teacher.config.model.max_length, config.model.max_length
    if theirs < ours and teacher.config.model.positions == 'learned':  # others have no last one
        raise UserError(f'{where} takes model.max_length={theirs} tokens, fewer than the {ours} of '
                        "the student; lower the student's")
    if teacher.tokenizers.fingerprint != tokenizers.fingerprint:
        raise UserError(f'{where} has other tokens or labels; give a run on the same '
                        'data, and no train.init_from with another tokenizer')


def forward(config: Config, model: nn.Module, params, batch: Batch, rngs=None):
    """(what the model says of a batch, x_BTD of its encoder if that is compared, or None)."""
    inputs = task_of(config).inputs(batch)
    if not config.train.cosine_weight:
        return model.apply({'params': params}, *inputs, rngs=rngs), None
    outputs, seen = model.apply(
        {'params': params}, *inputs, rngs=rngs, mutable='intermediates',
        capture_intermediates=lambda module, method: isinstance(module, Encoder)
        and method == '__call__')
    [x_BTD] = seen['intermediates']['encoder']['__call__']
    return outputs, x_BTD


def make_teach(config: Config, teacher: nn.Module) -> Callable:
    """(the teacher's parameters, batch) -> the batch with what the teacher says of it."""
    def teach(params, batch: Batch) -> Batch:
        outputs, x_BTD = forward(config, teacher, params, batch)
        said = {'teacher_logits': _main(outputs)} | ({} if x_BTD is None else
                                                     {'teacher_x_BTD': x_BTD})
        return batch | said
    return teach


def weights(given: dict, batch: Batch, train: TrainConfig) -> dict:
    """How many labels, and how many tokens of the encoder, the terms count."""
    counts = {SOFT: given[MAIN]}
    return counts | ({COSINE: count(batch['lengths_B'])} if train.cosine_weight else {})


def sums(outputs, x_BTD, real, batch: Batch, train: TrainConfig) -> Sums:
    """'soft' has 'nll', the cross-entropy at the temperature; 'cosine' has 'distance'."""
    t = train.temperature
    log_p = jax.nn.log_softmax(_main(outputs) / t)
    q = jax.nn.softmax(batch['teacher_logits'] / t)
    nll = jnp.where(real, -(q * log_p).sum(-1), 0.0).sum()
    terms = {SOFT: {'loss': train.soft_weight * t**2 * nll, 'nll': nll}}
    if train.cosine_weight:
        real_BT = below(batch['lengths_B'], x_BTD.shape[1])
        distance = jnp.where(real_BT, 1 - _cosine(x_BTD, batch['teacher_x_BTD']), 0.0).sum()
        terms[COSINE] = {'loss': train.cosine_weight * distance, 'distance': distance}
    return terms


def _main(outputs):
    """The logits of the main term; a masked language model has those of next sentences, too."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _cosine(x, y) -> jax.Array:
    """Over the last axis, in float32."""
    x, y = (each.astype(jnp.float32) for each in (x, y))
    norms = jnp.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return (x * y).sum(-1) / jnp.maximum(norms, 1e-8)
