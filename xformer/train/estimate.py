"""What a configuration will need, without its data and without running it."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from xformer.config import CHOOSING, Config, UserError, is_labelled
from xformer.data.objectives.spans import SpanNoise
from xformer.models import build
from xformer.train.distil import make_teach
from xformer.train.step import make_steps


def estimate(config: Config) -> dict[str, int | dict]:
    """{'parameters', 'state_bytes', 'step_bytes', 'batch': {name: shape}} of one training step on
    one device, whose batch is as long as data.batch_tokens and the lengths allow.

    state_bytes: parameters and optimizer state. step_bytes: what the compiler sets aside besides
    for one step, gradients and activations included; compiled for this machine, not run.
    Raises UserError without a model.vocab_size, or a model.num_labels where there are labels, as
    there are no data to take it from. A teacher's own memory is not counted.
    """
    for name in ('vocab_size', *(['num_labels'] if config.data.objective in CHOOSING else [])):
        if not getattr(config.model, name):
            raise UserError(f'model.{name}=0 takes the number from the data; set '
                            f'--config.model.{name} to estimate without them')
    model = build(config)
    steps = make_steps(config, model)
    state = jax.eval_shape(steps.init)
    batch = abstract_batch(config)
    if config.train.teacher:  # which says as much as its student
        batch = jax.eval_shape(make_teach(config, model), state.params, batch)
    compiled = jax.jit(steps.train, donate_argnums=0).lower(
        state, batch, jax.ShapeDtypeStruct((), jnp.int32)).compile()
    return {'parameters': sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            'state_bytes': sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
            'step_bytes': compiled.memory_analysis().temp_size_in_bytes,
            'batch': {name: leaf.shape for name, leaf in batch.items()}}


def abstract_batch(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """The longest batch, as shapes: the arrays that `xformer.data.objectives` make."""
    data, model = config.data, config.model
    length, target = _longest(config)
    rows = data.batch_tokens // (length + target) // data.batch_multiple * data.batch_multiple
    if not rows:
        raise UserError(f'data.batch_tokens={data.batch_tokens} holds no data.batch_multiple='
                        f'{data.batch_multiple} rows of {length} + {target} tokens; make it larger')

    def arrays(names: str, *shape: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in names.split()}

    if model.family == 'seq2seq':
        return (arrays('source_BS', rows, length) | arrays('inputs_BT labels_BT', rows, target)
                | arrays('source_lengths_B target_lengths_B', rows))
    if model.family == 'decoder':
        scored = ' scored_BT' if data.objective == 'pairs' else ''
        return arrays('inputs_BT labels_BT segments_BT positions_BT' + scored, rows, length)
    if is_labelled(config):
        labels = {'classify': arrays('labels_B', rows), 'tag': arrays('labels_BS', rows, length),
                  'regress': {'numbers_B': jax.ShapeDtypeStruct((rows,), jnp.float32)},
                  'answer': arrays('labels_B2', rows, 2)}[data.objective]
        return arrays('inputs_BS types_BS', rows, length) | arrays('lengths_B', rows) | labels
    masked = math.ceil(data.noise_rate * length)
    nsp = ' nsp_labels_B' if data.objective == 'mlm_nsp' else ''
    return (arrays('inputs_BS types_BS', rows, length)
            | arrays('masked_BP masked_labels_BP', rows, masked)
            | arrays('lengths_B masked_lengths_B' + nsp, rows))


def _longest(config: Config) -> tuple[int, int]:
    """Source and target slots of the longest example; no target but in seq2seq."""
    data, length = config.data, config.data.sequence_length or config.model.max_length
    if config.model.family != 'seq2seq':
        return length, 0
    if data.objective != 'spans':
        return length, length
    noise = SpanNoise(data.noise_rate, data.mean_span, tuple(range(100)))  # sentinels, as T5 has
    source, target = noise.lengths(np.array([noise.largest_chunk(length)]))[0].tolist()
    return source, target
