"""The pure training step: (state, batch, index) -> (state, metrics)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from xformer.config import Config
from xformer.models import init_params
from xformer.train import distil
from xformer.train.loss import Batch, summary
from xformer.train.optimizer import check_frozen, frozen_at, make_optimizer, make_schedule
from xformer.train.tasks import task_of


@struct.dataclass
class TrainState:
    """All that changes in training; `step` counts the updates made."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState


class Steps(NamedTuple):
    """The functions of a training run, pure and not yet compiled."""

    init: Callable  # () -> TrainState
    train: Callable  # (TrainState, Batch, index, axis=None) -> (TrainState, metrics)
    evaluate: Callable  # (params, Batch, axis=None) -> (sums, weights), see train.loss


def make_steps(config: Config, model: nn.Module) -> Steps:
    """The steps for one configuration.

    `axis` names the mapped axis over which each device holds a part of the batch; without it the
    batch is whole (and may be laid out over a mesh by the compiler).
    """
    optimizer, schedule = make_optimizer(config), make_schedule(config)
    smoothing, clip_norm = config.optim.label_smoothing, config.optim.clip_norm
    accumulate, freeze, task = config.train.accumulate, config.train.freeze, task_of(config)
    teaches = bool(config.train.teacher)
    outputs_of = partial(distil.forward, config, model)

    def held(params):
        """Without a gradient through what is frozen."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: jax.lax.stop_gradient(leaf) if frozen_at(path, freeze) else leaf,
            params)

    def init() -> TrainState:
        params = init_params(model, jax.random.key(config.train.seed))
        check_frozen(params, freeze)
        return TrainState(jnp.int32(0), params, optimizer.init(params))

    def train(state: TrainState, batch: Batch, index, axis: str | None = None):
        key = jax.random.fold_in(jax.random.key(config.train.seed), index)
        if axis:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))
        weights = task.weights(batch)
        if teaches:
            weights |= distil.weights(weights, batch, config.train)
        weights = _across(axis, weights)

        def loss_of(params, micro_batch, key):
            outputs, hidden = outputs_of(held(params), micro_batch, {'dropout': key})
            sums = task.sums(outputs, micro_batch, smoothing)
            if teaches:
                sums |= distil.sums(outputs, hidden, task.real(micro_batch), micro_batch,
                                    config.train)
            seen = summary(sums, weights)
            return seen['loss'], seen

        grads, seen = _accumulated(jax.grad(loss_of, has_aux=True), state.params, batch, key,
                                   accumulate)
        grads, seen = _across(axis, (grads, seen))

        norm = optax.tree.norm(grads)
        if clip_norm:
            scale = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-16))
            grads = jax.tree.map(lambda grad: grad * scale, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)

        # The caller reads this loss only after it has dispatched the next step, and the old
        # buffers are donated: so the step itself keeps the old state when the numbers go bad,
        # and refuses later batches, whose index is then no longer the state's.
        good = jnp.isfinite(seen['loss']) & jnp.isfinite(norm) & (state.step == index)
        state = jax.tree.map(lambda new, old: jnp.where(good, new, old), new, state)
        return state, seen | {'grad_norm': norm, 'learning_rate': schedule(index)}

    def evaluate(params, batch: Batch, axis: str | None = None):
        def parts_of(params, micro_batch, key):
            outputs = model.apply({'params': params}, *task.inputs(micro_batch))
            return task.sums(outputs, micro_batch, smoothing), task.weights(micro_batch)

        unused = jax.random.key(0)
        return _across(axis, _accumulated(parts_of, params, batch, unused, accumulate))

    return Steps(init, train, evaluate)


def _across(axis: str | None, tree):
    """Summed over the devices of a mapped axis; a whole batch needs no sum."""
    return jax.lax.psum(tree, axis) if axis else tree


def _accumulated(sums_of: Callable, params, batch: Batch, key, parts: int):
    """sums_of(params, batch, key) added up over `parts` micro-batches, one after the other.

    Micro-batch m has rows m, m+parts, ...: each holds an equal share of every device's rows.
    """
    if parts == 1:
        return sums_of(params, batch, key)
    micro_batches = jax.tree.map(
        lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total, part):
        index, micro_batch = part
        result = sums_of(params, micro_batch, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, result), None

    shapes = jax.eval_shape(sums_of, params, jax.tree.map(lambda x: x[0], micro_batches), key)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zero, (jnp.arange(parts), micro_batches))[0]
