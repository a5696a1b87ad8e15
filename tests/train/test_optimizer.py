"""Schedules against their formulas in Python floats; updates against Adam written by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xformer.config import Config, override
from xformer.models import init_params
from xformer.models.seq2seq import Seq2Seq
from xformer.train.optimizer import decays, make_optimizer, make_schedule

PEAK, STEPS = 0.02, 200


def configured(schedule: str, **optim) -> Config:
    peak = {} if schedule == 'noam' else {'peak_learning_rate': PEAK}
    return override(Config(), {'train.steps': STEPS, 'model.d_model': 64, **{
        f'optim.{name}': value for name, value in
        {'schedule': schedule, **peak, **optim}.items()}})


def by_hand(schedule: str, t: int, warmup: int, final: float, decay_fraction: float) -> float:
    """The learning rate of update t, from the papers' words, counting updates n from 1."""
    n = t + 1
    if schedule == 'noam':
        return 64**-0.5 * min(n**-0.5, n * warmup**-1.5)
    if schedule == 'rsqrt':
        return PEAK * math.sqrt(warmup / max(n, warmup))
    if n < warmup:
        return PEAK * n / warmup
    if schedule == 'inverse_sqrt':
        return PEAK * math.sqrt(warmup) / math.sqrt(n)
    if schedule == 'constant':
        return PEAK
    flat = max(warmup, STEPS - decay_fraction * STEPS) if schedule == 'wsd' else warmup
    if n <= flat:
        return PEAK
    share = min((n - flat) / (STEPS - flat), 1)
    if schedule == 'cosine':
        return PEAK * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share)))
    return PEAK * (1 + (final - 1) * share)


CASES = [('noam', 40, 0.0), ('noam', 1, 0.0), ('inverse_sqrt', 40, 0.0), ('inverse_sqrt', 1, 0.0),
         ('rsqrt', 40, 0.0), ('rsqrt', 1, 0.0),
         *((schedule, warmup, final) for schedule in ('linear', 'cosine', 'wsd')
           for warmup in (0, 1, 40) for final in (0.0, 0.1)),
         ('constant', 0, 0.0), ('constant', 40, 0.0)]


@pytest.mark.parametrize(('name', 'warmup', 'final'), CASES)
def test_every_schedule_is_its_formula(name, warmup, final):
    schedule = make_schedule(configured(name, warmup_steps=warmup, final_fraction=final))
    rates = np.asarray(schedule(jnp.arange(STEPS + 20)))
    expected = [by_hand(name, t, warmup, final, 0.2) for t in range(STEPS + 20)]
    np.testing.assert_allclose(rates, expected, rtol=2e-5, atol=1e-8)

    peak = 64**-0.5 * warmup**-0.5 if name == 'noam' else PEAK
    assert rates.max() == pytest.approx(peak, rel=0.006 if warmup == 0 else 1e-6)
    if name == 'rsqrt':
        assert (rates[:warmup] == rates[0]).all()
    elif warmup:
        assert rates[warmup - 1] == pytest.approx(peak, rel=1e-6)
        steepest = max(peak / warmup, peak * 0.03)
        assert warmup == 1 or np.abs(np.diff(rates)).max() < 1.01 * steepest  # no jumps
    if name in ('linear', 'cosine', 'wsd'):
        assert rates[STEPS - 1] == pytest.approx(final * PEAK, abs=1e-8)
        assert (rates[STEPS:] == rates[STEPS - 1]).all()


@pytest.mark.parametrize('decay_fraction', [0.0, 0.005, 0.5, 1.0])
@pytest.mark.parametrize('warmup', [0, 150])
def test_wsd_of_any_decay_rises_to_its_peak_stays_and_falls(decay_fraction, warmup):
    """Also when decay would begin within the warm-up, and when it is a single step."""
    schedule = make_schedule(configured('wsd', warmup_steps=warmup, decay_fraction=decay_fraction))
    rates = np.asarray(schedule(jnp.arange(STEPS)))
    expected = [by_hand('wsd', t, warmup, 0.0, decay_fraction) for t in range(STEPS)]
    np.testing.assert_allclose(rates, expected, rtol=2e-5, atol=1e-8)


def test_the_noam_factor_scales():
    plain, doubled = (np.asarray(make_schedule(configured(
        'noam', warmup_steps=40, noam_factor=factor))(jnp.arange(99))) for factor in (1.0, 2.0))
    np.testing.assert_allclose(doubled, 2 * plain, rtol=1e-6)


@pytest.mark.parametrize('layers', ['scan', 'unroll'])
def test_weight_decay_applies_to_matrices_and_embeddings_only(layers):
    """Every parameter of a whole model, by a rule of its own: the rank before stacking."""
    model = override(Config(), {'model.vocab_size': 9, 'model.layers': layers,
                                'model.tie_embeddings': 'none', 'model.positions': 'learned',
                                'model.norm_position': 'pre'}).model
    params = jax.eval_shape(lambda: init_params(Seq2Seq(model), jax.random.key(0)))
    decayed = jax.tree_util.tree_leaves_with_path(decays(params, ''))
    shapes = jax.tree_util.tree_leaves_with_path(params)
    assert [path for path, _ in decayed] == [path for path, _ in shapes]
    for (path, decay), (_, leaf) in zip(decayed, shapes):
        stacked = any(getattr(key, 'key', None) == 'layers' for key in path)
        assert decay == (leaf.ndim - stacked == 2), jax.tree_util.keystr(path)
    assert 0 < sum(decay for _, decay in decayed) < len(decayed)


def test_three_updates_are_those_of_adafactor_by_hand():
    """Shazeer & Stern 2018, algorithms 4 and 5 with section 8's relative steps, in float64: a
    matrix large enough for factors, and what has none."""
    optimizer = make_optimizer(configured('rsqrt', warmup_steps=2, optimizer='adafactor'))
    rng = np.random.default_rng(0)
    start = {'kernel': rng.normal(size=(130, 128)), 'small': rng.normal(size=(3, 2)),
             'bias': np.zeros(4)}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start)
    opt_state = optimizer.init(params)
    squares = {name: np.zeros_like(value) for name, value in start.items()}
    rows, columns = np.zeros(130), np.zeros(128)
    for t in range(3):
        grads = {name: rng.normal(size=value.shape) * 10.0 ** (t - 1)
                 for name, value in start.items()}
        updates, opt_state = optimizer.update(
            jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads), opt_state, params)
        params = optax.apply_updates(params, updates)
        beta = 1 - (t + 1) ** -0.8
        for name, grad in grads.items():
            if name == 'kernel':
                rows = beta * rows + (1 - beta) * (grad**2).mean(1)
                columns = beta * columns + (1 - beta) * (grad**2).mean(0)
                square = np.outer(rows, columns) / rows.mean()
            else:
                squares[name] = square = beta * squares[name] + (1 - beta) * grad**2
            update = grad / np.sqrt(square)
            update /= max(1, np.sqrt((update**2).mean()))
            scale = max(1e-3, np.sqrt((start[name]**2).mean()))
            start[name] = start[name] - by_hand('rsqrt', t, 2, 0.0, 0.2) * scale * update
    for name, value in start.items():
        np.testing.assert_allclose(params[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(('name', 'weight_decay'), [('adam', 0.0), ('adamw', 0.0), ('adamw', 0.1)])
def test_three_updates_are_those_of_adam_by_hand(name, weight_decay):
    config = configured('inverse_sqrt', warmup_steps=2, optimizer=name, weight_decay=weight_decay,
                        beta1=0.8, beta2=0.95, epsilon=1e-6)
    optimizer = make_optimizer(config)
    rng = np.random.default_rng(0)
    start = {'layer': {'kernel': rng.normal(size=(3, 2)), 'bias': rng.normal(size=2)},
             'embedding': rng.normal(size=(4, 2))}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start)
    opt_state = optimizer.init(params)
    by_path = {path: (value, np.zeros_like(value), np.zeros_like(value))
               for path, value in jax.tree_util.tree_leaves_with_path(start)}
    for t in range(3):
        grads = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), start)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        rate = by_hand('inverse_sqrt', t, 2, 0.0, 0.2)
        for path, grad in jax.tree_util.tree_leaves_with_path(grads):
            value, first, second = by_path[path]
            first = 0.8 * first + 0.2 * grad
            second = 0.95 * second + 0.05 * grad.astype(np.float64) ** 2
            step = first / (1 - 0.8**(t + 1)) / (np.sqrt(second / (1 - 0.95**(t + 1))) + 1e-6)
            if path[-1].key != 'bias':
                step = step + weight_decay * value
            by_path[path] = value - rate * step, first, second
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        np.testing.assert_allclose(value, by_path[path][0], rtol=1e-5, atol=1e-6)
