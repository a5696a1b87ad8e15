"""The pure step: however a batch is split, the same update; bad numbers change nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from xformer.config import Config, ModelConfig, override
from xformer.models.seq2seq import Seq2Seq
from xformer.train.optimizer import make_optimizer
from xformer.train.parallel import Parallel
from xformer.train.step import TrainState, make_steps

V, ROWS, S, T = 11, 32, 5, 6
BASE = override(Config(), {
    'model.num_encoder_layers': 1, 'model.num_decoder_layers': 1, 'model.layers': 'unroll',
    'model.d_model': 16, 'model.num_heads': 2, 'model.d_ff': 24, 'model.vocab_size': V,
    'model.dropout': 0.0,
    'optim.schedule': 'constant', 'optim.peak_learning_rate': 0.01, 'optim.weight_decay': 0.1,
    'optim.epsilon': 1e-3,  # the gradient of a key's bias is zero: do not divide noise by noise
    'optim.clip_norm': 1e6, 'train.steps': 10, 'train.seed': 3})
WHOLE = ('mesh', 1, 1)
SPLITS = [('pmap', 4, 1), ('mesh', 4, 1), ('pmap', 1, 4), ('mesh', 2, 4)]


def make_batch(seed: int):
    """Rows of very unequal lengths, some empty, so that a mean of means would show."""
    rng = np.random.default_rng(seed)
    source_lengths_B = rng.integers(1, S + 1, ROWS).astype(np.int32)
    target_lengths_B = np.sort(rng.integers(0, T + 1, ROWS)).astype(np.int32)
    return {'source_BS': rng.integers(4, V, (ROWS, S)).astype(np.int32),
            'source_lengths_B': source_lengths_B * (target_lengths_B > 0),
            'inputs_BT': rng.integers(1, V, (ROWS, T)).astype(np.int32),
            'labels_BT': rng.integers(2, V, (ROWS, T)).astype(np.int32),
            'target_lengths_B': target_lengths_B}


BATCHES = [make_batch(seed) for seed in range(3)]


class Training:
    """A compiled step and states to give to it."""

    def __init__(self, mode: str, devices: int, accumulate: int, model=Seq2Seq, **changes):
        self.config = override(BASE, {
            'parallel.mode': mode, 'parallel.devices': devices, 'train.accumulate': accumulate,
            **{name.replace('__', '.'): value for name, value in changes.items()}})
        self.parallel = Parallel(self.config)
        self.steps = make_steps(self.config, model(self.config.model))
        _, self._train, self.evaluate = self.parallel.compile(self.steps)

    def state(self, step: int = 0) -> TrainState:
        rng = np.random.default_rng(7)
        shapes = jax.eval_shape(self.steps.init).params
        params = jax.tree_util.tree_map_with_path(lambda path, leaf: (
            rng.normal(0, 0.3, leaf.shape) + (path[-1].key == 'scale')).astype(np.float32), shapes)
        state = TrainState(jnp.int32(step), params, make_optimizer(self.config).init(params))
        return jax.device_put(state, self.parallel.replicated)

    def train(self, state, batch, index: int):
        return self._train(state, self.parallel.place(batch), np.int32(index))


@functools.cache
def training(*split, **changes) -> Training:
    return Training(*split, **changes)


@functools.cache
def three_updates(split):
    state, metrics = training(*split).state(), []
    for index, batch in enumerate(BATCHES):
        state, seen = training(*split).train(state, batch, index)
        metrics.append(jax.device_get(seen))
    return jax.device_get(state), metrics


def gradient_of(state: TrainState):
    """The gradient of the first update: Adam's first moment is (1 - beta1) of it."""
    moment = optax.tree.get(state.opt_state, 'mu')
    return jax.tree.map(lambda leaf: np.asarray(leaf) / (1 - BASE.optim.beta1), moment)


def bits(state) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize('split', SPLITS, ids=str)
def test_devices_and_micro_batches_are_one_big_batch(split):
    state, metrics = three_updates(split)
    expected_state, expected_metrics = three_updates(WHOLE)
    for seen, expected in zip(metrics, expected_metrics):
        assert seen.keys() == expected.keys()
        for name in seen:
            np.testing.assert_allclose(seen[name], expected[name], rtol=1e-5, err_msg=name)
    assert int(state.step) == 3
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state)):
        np.testing.assert_allclose(leaf, expected, atol=2e-6, rtol=1e-4)


def test_bfloat16_is_float32_but_for_its_rounding():
    """Nearly the same loss and gradients; parameters and moments stay float32."""
    rough = Training(*WHOLE, model__dtype='bfloat16')
    state, seen = rough.train(rough.state(), BATCHES[0], 0)
    whole = training(*WHOLE)
    exact_state, expected = whole.train(whole.state(), BATCHES[0], 0)
    np.testing.assert_allclose(seen['loss'], expected['loss'], rtol=5e-3)
    assert seen['loss'] != expected['loss']
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.params))
    for one, other in zip(*(jax.tree.leaves(gradient_of(each)) for each in (state, exact_state))):
        assert one.dtype == np.float32
        assert np.linalg.norm(one - other) < 0.15 * np.linalg.norm(other) + 1e-3


def test_metrics_are_means_over_real_tokens():
    """Recomputed from the model's logits, one token at a time."""
    whole, batch = training(*WHOLE), BATCHES[0]
    params = jax.device_get(whole.state().params)
    logits_BTV = np.asarray(jax.jit(Seq2Seq(whole.config.model).apply)(
        {'params': params}, batch['source_BS'], batch['source_lengths_B'], batch['inputs_BT']),
        np.float64)
    log_p_BTV = logits_BTV - np.log(np.exp(logits_BTV).sum(-1, keepdims=True))
    losses, nlls, hits = [], [], []
    for b in range(ROWS):
        for t in range(batch['target_lengths_B'][b]):
            label = batch['labels_BT'][b, t]
            nlls.append(-log_p_BTV[b, t, label])
            losses.append(0.9 * nlls[-1] - 0.1 * log_p_BTV[b, t].mean())
            hits.append(logits_BTV[b, t].argmax() == label)
    seen = three_updates(WHOLE)[1][0]
    assert seen['loss'] == pytest.approx(np.mean(losses), rel=1e-5)
    assert seen['nll'] == pytest.approx(np.mean(nlls), rel=1e-5)
    assert seen['accuracy'] == pytest.approx(np.mean(hits), rel=1e-5)
    assert seen['learning_rate'] == pytest.approx(0.01)


def test_the_gradient_is_that_of_finite_differences():
    """Of the mean loss, entry by entry where it is largest, and along the whole gradient."""
    whole, batch = training(*WHOLE), BATCHES[0]
    placed = whole.parallel.place(batch)
    params = jax.device_get(whole.state().params)
    state, metrics = whole.train(whole.state(), batch, 0)
    gradient = gradient_of(state)
    assert metrics['grad_norm'] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-5)

    def loss_beside(step, direction):
        moved = jax.tree.map(lambda p, d: np.asarray(p + step * d, np.float32), params, direction)
        sums, weights = whole.evaluate(moved, placed)
        return float(sums['tokens']['loss'] / weights['tokens'])

    def slope(direction):
        return (loss_beside(1e-2, direction) - loss_beside(-1e-2, direction)) / 2e-2

    norm = float(metrics['grad_norm'])
    assert slope(jax.tree.map(lambda g: g / norm, gradient)) == pytest.approx(norm, rel=1e-2)
    zero = jax.tree.map(np.zeros_like, params)
    for path in (('embedding',), ('encoder', 'layers', 'self_attention', 'query', 'kernel'),
                 ('decoder', 'layers', 'cross_attention', 'value', 'kernel'),
                 ('decoder', 'layers', 'feed_forward', 'up', 'bias'),
                 ('encoder', 'layers', 'self_attention_norm', 'scale')):
        leaf = functools.reduce(dict.__getitem__, path, gradient)
        where = np.unravel_index(np.abs(leaf).argmax(), leaf.shape)
        direction = jax.tree.map(np.copy, zero)
        functools.reduce(dict.__getitem__, path, direction)[where] = 1.0
        assert slope(direction) == pytest.approx(float(leaf[where]), rel=2e-2, abs=2e-4)


@pytest.mark.parametrize('poison', [np.nan, np.inf, 3e38])
@pytest.mark.parametrize('split', [WHOLE, ('pmap', 4, 1)], ids=str)
def test_bad_numbers_leave_every_bit_of_the_state_and_stop_training(split, poison):
    run = training(*split)
    state = run.state()
    state.params['embedding'] = jax.device_put(
        state.params['embedding'].at[5, 2].set(poison), run.parallel.replicated)
    before = bits(state)
    for index in (0, 1, 2):  # 1 and 2: as if the loop had dispatched them before it looked
        state, metrics = run.train(state, BATCHES[0], index)
        assert bits(state) == before
        assert not (np.isfinite(metrics['loss']) and np.isfinite(metrics['grad_norm']))


@pytest.mark.parametrize('index', [0, 3, 5])
def test_a_batch_that_is_not_the_next_one_is_refused(index):
    run = training(*WHOLE)
    state = run.state(step=4)
    before = bits(state)
    state, _ = run.train(state, BATCHES[0], index)
    assert bits(state) == before
    state, _ = run.train(state, BATCHES[0], 4)
    assert int(state.step) == 5 and bits(state)[1:] != before[1:]


def test_a_step_is_a_pure_function():
    """Traced anew, it has no memory of the first time."""
    once, again = (run.train(run.state(), BATCHES[0], 0)
                   for run in (training(*WHOLE), Training(*WHOLE)))
    assert bits(once) == bits(again)


@pytest.mark.parametrize('split', [WHOLE, ('pmap', 4, 1)], ids=str)
def test_the_state_is_donated(split):
    run = training(*split)
    state = run.state()
    run.train(state, BATCHES[0], 0)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_clipping_scales_the_gradient_to_the_norm():
    """A norm beyond all gradients, as in the other tests, changes nothing: there it is exact."""
    whole = training(*WHOLE)
    gradient = gradient_of(whole.train(whole.state(), BATCHES[0], 0)[0])
    norm = float(optax.tree.norm(gradient))
    run = training(*WHOLE, optim__clip_norm=norm / 4)
    state, metrics = run.train(run.state(), BATCHES[0], 0)
    assert metrics['grad_norm'] == pytest.approx(norm, rel=1e-5)  # before it is clipped
    for clipped, leaf in zip(jax.tree.leaves(gradient_of(state)), jax.tree.leaves(gradient)):
        np.testing.assert_allclose(clipped, leaf / 4, rtol=1e-4, atol=1e-8)


class Noise(nn.Module):
    """Logits that only the random stream moves, alike for all rows."""

    config: ModelConfig

    @nn.compact
    def __call__(self, source_BS, source_lengths_B, inputs_BT):
        logits_V = self.param('logits', nn.initializers.zeros, (V,))
        if self.has_rng('dropout'):
            bits = jax.random.key_data(self.make_rng('dropout'))[0]
            logits_V = logits_V + bits.astype(jnp.float32) * 2**-32 * jnp.arange(V)
        return jnp.broadcast_to(logits_V, (*inputs_BT.shape, V))


def test_randomness_is_of_the_step_the_device_and_the_micro_batch():
    """Parts that shared their randomness would have the same loss, and so would any number."""
    def loss(mode, devices, accumulate, step=0):
        run = training(mode, devices, accumulate, model=Noise)
        rows = devices * accumulate
        alike = {name: np.repeat(value[-1:], rows, axis=0) for name, value in BATCHES[0].items()}
        return float(run.train(run.state(step), alike, step)[1]['loss'])
    devices, micro_batches = loss('pmap', 4, 1), loss('mesh', 1, 4)
    assert loss('pmap', 4, 1) == devices
    assert loss('pmap', 4, 1, step=1) != pytest.approx(devices, rel=1e-3)
    assert loss('pmap', 2, 1) != pytest.approx(devices, rel=1e-3)
    assert loss('mesh', 1, 2) != pytest.approx(micro_batches, rel=1e-3)


class Steep(nn.Module):
    """Logits that are a parameter times 1e25: at zero the loss is finite, its gradient huge."""

    config: ModelConfig

    @nn.compact
    def __call__(self, source_BS, source_lengths_B, inputs_BT):
        logits_V = 1e25 * self.param('logits', nn.initializers.zeros, (V,))
        return jnp.broadcast_to(logits_V, (*inputs_BT.shape, V))


@pytest.mark.parametrize(('model', 'logit', 'finite'), [
    (Steep, 0.0, 'loss'), (Noise, -np.inf, 'grad_norm')])
def test_the_loss_alone_or_the_gradient_alone_may_be_bad(model, logit, finite):
    run = training(*WHOLE, model=model)
    state = run.state()
    state.params['logits'] = jax.device_put(
        jnp.zeros(V).at[5].set(logit), run.parallel.replicated)
    before = bits(state)
    state, metrics = run.train(state, BATCHES[0], 0)
    assert [name for name in ('loss', 'grad_norm') if np.isfinite(metrics[name])] == [finite]
    assert bits(state) == before
