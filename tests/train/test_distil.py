"""Distillation: its terms by their definitions, and a batch that may be split."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from xformer.config import Config, UserError, override
from xformer.models import build
from xformer.train import distil
from xformer.train.distil import Teacher, check_teacher, make_teach
from xformer.train.parallel import Parallel
from xformer.train.start import merged
from xformer.train.step import TrainState, make_steps
from xformer.train.tasks import task_of

V, C, B, S, P, T = 11, 3, 16, 7, 2, 4.0
BASE = {'model.family': 'encoder', 'model.num_encoder_layers': 2, 'model.num_decoder_layers': 0,
        'model.layers': 'scan', 'model.d_model': 8, 'model.num_heads': 2, 'model.d_ff': 12,
        'model.vocab_size': V, 'model.max_length': S, 'model.num_segments': 2, 'model.dropout': 0.0,
        'optim.schedule': 'constant', 'optim.peak_learning_rate': 0.01,
        'optim.epsilon': 1e-3, 'train.teacher': 'a run', 'train.temperature': T,
        'train.soft_weight': 0.7, 'train.cosine_weight': 0.3}
KINDS = {'classify': {'model.num_labels': C}, 'tag': {'model.num_labels': C},
         'mlm_nsp': {'model.pooler': True}}


def config_of(kind: str, **changes) -> Config:
    return override(Config(), BASE | {'data.objective': kind} | KINDS[kind] | changes)


@pytest.fixture(scope='module')
def batch() -> dict[str, np.ndarray]:
    """With labels of all kinds, rows of unequal lengths and one empty row."""
    rng = np.random.default_rng(0)
    lengths_B = rng.integers(4, S + 1, B).astype(np.int32)
    lengths_B[3] = 0
    real_BS = np.arange(S) < lengths_B[:, None]
    rows = {'inputs_BS': rng.integers(4, V, (B, S)), 'lengths_B': lengths_B,
            'types_BS': (np.arange(S) > 2) * real_BS, 'labels_B': rng.integers(0, C, B),
            'labels_BS': np.where(real_BS, rng.integers(-1, C, (B, S)), -1),
            'masked_BP': np.sort(rng.integers(0, 4, (B, P))),
            'masked_labels_BP': rng.integers(4, V, (B, P)),
            'masked_lengths_B': np.minimum(lengths_B, rng.integers(1, P + 1, B)),
            'nsp_labels_B': rng.integers(0, 2, B)}
    return {name: values.astype(np.int32) for name, values in rows.items()}


@pytest.fixture(scope='module')
def pair(batch, random_like):
    """config, model, a student's and a teacher's parameters, and what both say, of each kind."""
    def pair(kind: str, **changes):
        config = config_of(kind, **changes)
        model, inputs = build(config), task_of(config).inputs(batch)
        shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
        teacher = jax.tree.map(jnp.asarray, random_like(shapes))
        student = jax.tree.map(lambda leaf: leaf + 0.1 * np.cos(np.arange(leaf.size, dtype='f'))
                               .reshape(leaf.shape), teacher)

        def sums(params, batch):
            outputs, x_BTD = distil.forward(config, model, params, batch)
            taught = make_teach(config, model)(teacher, batch)
            return distil.sums(outputs, x_BTD, task_of(config).real(batch), taught, config.train)

        def logits(batch):
            apply = jax.jit(lambda params: model.apply({'params': params}, *inputs))
            said = [apply(params) for params in (student, teacher)]
            return [np.asarray(each[0] if kind == 'mlm_nsp' else each, np.float64)
                    for each in said]
        return SimpleNamespace(config=config, model=model, student=student, teacher=teacher,
                               sums=sums, logits=logits)
    return pair


@pytest.mark.parametrize('kind', KINDS)
def test_the_terms_are_those_of_the_papers(kind, pair, batch):
    one = pair(kind)
    task, train = task_of(one.config), one.config.train
    real, (student, theirs) = np.asarray(task.real(batch)), one.logits(batch)
    found = jax.jit(one.sums)(one.student, batch)

    nll = -(softmax(theirs / T, -1) * log_softmax(student / T, -1)).sum(-1)[real].sum()
    assert found['soft']['nll'] == pytest.approx(nll, rel=1e-5)
    assert found['soft']['loss'] == pytest.approx(0.7 * T**2 * nll, rel=1e-5)

    inputs = [batch[name] for name in ('inputs_BS', 'lengths_B', 'types_BS')]
    encode = jax.jit(lambda params: one.model.bind({'params': params}).encoder(*inputs))
    x_BTD, y_BTD = (np.asarray(encode(params), np.float64)
                    for params in (one.student, one.teacher))
    cosines = (x_BTD * y_BTD).sum(-1) / np.linalg.norm(x_BTD, axis=-1) / np.linalg.norm(
        y_BTD, axis=-1)
    distance = (1 - cosines)[np.arange(S) < batch['lengths_B'][:, None]].sum()
    assert found['cosine']['distance'] == pytest.approx(distance, rel=1e-4) and distance > 0.01
    assert found['cosine']['loss'] == pytest.approx(0.3 * distance, rel=1e-4)
    assert distil.weights(task.weights(batch), batch, train) == {
        'soft': real.sum(), 'cosine': batch['lengths_B'].sum()}


def test_what_equals_its_teacher_has_nothing_to_learn_from_it(pair, batch):
    one = pair('classify')
    gradient = jax.jit(jax.grad(lambda params: sum(
        term['loss'] for term in one.sums(params, batch).values())))
    at_teacher, elsewhere = (max(float(abs(leaf).max()) for leaf in jax.tree.leaves(
        gradient(params))) for params in (one.teacher, one.student))
    assert at_teacher < 1e-4 * elsewhere


@pytest.fixture(scope='module')
def update(pair, batch):
    """update(mode, devices, accumulate): (parameters, metrics) after one of the student."""
    @functools.cache
    def update(mode: str, devices: int, accumulate: int):
        one = pair('mlm_nsp', **{'parallel.mode': mode, 'parallel.devices': devices,
                                 'train.accumulate': accumulate})
        parallel, steps = Parallel(one.config), make_steps(one.config, one.model)
        state = steps.init()
        state = jax.device_put(TrainState(state.step, one.student, state.opt_state),
                               parallel.replicated)
        teach = parallel.compile_on_batches(make_teach(one.config, one.model))
        taught = teach(jax.device_put(one.teacher, parallel.replicated), parallel.place(batch))
        state, metrics = parallel.compile(steps)[1](state, taught, np.int32(0))
        return jax.device_get((state.params, metrics))
    return update


@pytest.mark.parametrize('split', [('pmap', 4, 1), ('mesh', 2, 4)], ids=str)
def test_devices_and_micro_batches_are_one_big_batch(split, update):
    params, metrics = update(*split)
    expected_params, expected_metrics = update('mesh', 1, 1)
    assert {'soft_nll', 'cosine_distance', 'nsp_nll'} < metrics.keys() == expected_metrics.keys()
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    for leaf, expected in zip(jax.tree.leaves(params), jax.tree.leaves(expected_params)):
        np.testing.assert_allclose(leaf, expected, atol=2e-6, rtol=1e-4)


def test_a_student_of_fewer_layers_begins_with_every_other_one(pair):
    whole = pair('classify')
    stacked = jax.tree.map(lambda leaf: np.stack([leaf[0], leaf[0] + 1, leaf[0] + 2, leaf[0] + 3]),
                           whole.teacher['encoder']['encoder'])
    four = whole.teacher | {'encoder': whole.teacher['encoder'] | {'encoder': stacked}}
    student, table = merged(whole.student, four)
    for leaf, given in zip(jax.tree.leaves(student['encoder']['encoder']),
                           jax.tree.leaves(stacked)):
        np.testing.assert_array_equal(leaf, given[[0, 2]])
    assert {what for what, _, _ in table} == {'loaded'}


@pytest.mark.parametrize('changes, words', [
    ({'data.objective': 'tag'}, 'data.objective=classify, the student tag'),
    ({'model.d_model': 16}, 'model.d_model=8, the student 16'),
    ({'model.num_labels': 4}, 'model.num_labels=3, the student 4'),
    ({'model.max_length': 8}, 'model.max_length=7 tokens, fewer than the 8'),
    ({}, 'other tokens or labels')])
def test_a_teacher_of_something_else_is_refused(changes, words, pair):
    one = pair('classify')
    ours = SimpleNamespace(fingerprint='ours' if not changes else 'theirs')
    theirs = override(one.config, {'model.positions': 'learned'})
    teacher = Teacher(theirs, one.model, one.teacher, SimpleNamespace(fingerprint='theirs'), {})
    with pytest.raises(UserError, match=words):
        check_teacher(teacher, override(one.config, changes), ours)
    check_teacher(teacher, one.config, SimpleNamespace(fingerprint='theirs'))


def test_a_teacher_takes_longer_texts_than_it_learnt_where_positions_have_no_end(pair):
    one = pair('classify')
    longer = override(one.config, {'model.max_length': 8})
    free = override(one.config, {'model.positions': 'sinusoidal'})
    same = SimpleNamespace(fingerprint='theirs')
    check_teacher(Teacher(free, one.model, one.teacher, same, {}), longer, same)
