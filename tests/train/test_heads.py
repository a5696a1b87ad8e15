"""Heads: losses and scores by other means, parts that add up, what is frozen, what is loaded."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from xformer.checks import adapted
from xformer.config import Config, UserError, override
from xformer.models import build, init_params
from xformer.models.heads import answer_logits
from xformer.train.optimizer import by_layer, make_optimizer
from xformer.train.parallel import Parallel
from xformer.train.start import Start, merged
from xformer.train.step import make_steps
from xformer.train.tasks import task_of, total_summary

V, C, B, S = 11, 3, 16, 7
BASE = {'model.family': 'encoder', 'model.num_encoder_layers': 2, 'model.num_decoder_layers': 0,
        'model.d_model': 8, 'model.num_heads': 2, 'model.d_ff': 12, 'model.vocab_size': V,
        'model.max_length': S, 'model.num_labels': C, 'model.num_segments': 2,
        'model.dropout': 0.0, 'optim.schedule': 'constant', 'optim.peak_learning_rate': 0.01,
        'optim.label_smoothing': 0.0, 'optim.epsilon': 1e-3, 'optim.weight_decay': 0.1}
KINDS = ('classify', 'regress', 'tag', 'answer')


def config_of(kind, **options):
    return override(Config(), BASE | {'data.objective': kind, **options})


def make_batch(seed):
    """With labels of all kinds, and one empty row."""
    rng = np.random.default_rng(seed)
    lengths_B = rng.integers(4, S + 1, B).astype(np.int32)
    lengths_B[3] = 0
    types_BS = np.broadcast_to(np.arange(S) > 2, (B, S)).astype(np.int32)
    labels_BS = rng.integers(-1, C, (B, S))
    labels_BS[np.arange(S) >= lengths_B[:, None]] = -1
    return {'inputs_BS': rng.integers(4, V, (B, S)).astype(np.int32), 'lengths_B': lengths_B,
            'types_BS': types_BS * (np.arange(S) < lengths_B[:, None]),
            'labels_B': rng.integers(0, C, B).astype(np.int32),
            'numbers_B': rng.normal(size=B).astype(np.float32),
            'labels_BS': labels_BS.astype(np.int32),
            'labels_B2': rng.choice([0, 3], (B, 2)).astype(np.int32)}


@pytest.mark.parametrize('kind', KINDS)
def test_scores_of_several_batches_are_those_of_the_libraries(kind):
    config = config_of(kind)
    model = build(config)
    params = init_params(model, jax.random.key(0))
    evaluate = jax.jit(make_steps(config, model).evaluate)
    batches = [make_batch(seed) for seed in (0, 1)]
    ours = total_summary([evaluate(params, batch) for batch in batches], task_of(config).scores)

    outputs = [np.asarray(model.apply({'params': params}, *(batch[name] for name in (
        'inputs_BS', 'lengths_B', 'types_BS'))), np.float64) for batch in batches]
    real = [batch['lengths_B'] > 0 for batch in batches]
    if kind == 'regress':
        x = np.concatenate([o[r, 0] for o, r in zip(outputs, real)])
        y = np.concatenate([batch['numbers_B'][r] for batch, r in zip(batches, real)])
        assert ours['loss'] == pytest.approx(metrics.mean_squared_error(y, x), rel=1e-5)
        assert ours['pearson'] == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-4)
        return
    if kind == 'answer':
        right, losses = [], []
        for o, batch, r in zip(outputs, batches, real):
            for row in np.flatnonzero(r):
                allowed = np.flatnonzero(batch['types_BS'][row] | (np.arange(S) == 0))
                labels = batch['labels_B2'][row]
                log_p = o[row, allowed] - np.log(np.exp(o[row, allowed]).sum(0))
                where = [list(allowed).index(label) if label in allowed else None
                         for label in labels]
                right.append(allowed[log_p.argmax(0)].tolist() == labels.tolist())
                if None not in where:
                    losses.append(-(log_p[where[0], 0] + log_p[where[1], 1]) / 2)
        assert ours['accuracy'] == np.mean(right) and len(losses) == len(right)
        assert ours['loss'] == pytest.approx(np.mean(losses), rel=1e-5)
        return
    name = 'labels_B' if kind == 'classify' else 'labels_BS'
    labels, guesses, losses = [], [], []
    for o, batch, r in zip(outputs, batches, real):
        keep = r if kind == 'classify' else batch[name] >= 0
        labels += batch[name][keep].tolist()
        guesses += o[keep].argmax(-1).tolist()
        losses.append(metrics.log_loss(batch[name][keep], np.exp(o[keep]) / np.exp(o[keep]).sum(
            -1, keepdims=True), labels=range(C), normalize=False))
    assert ours['accuracy'] == pytest.approx(metrics.accuracy_score(labels, guesses))
    assert ours['loss'] == pytest.approx(sum(losses) / len(labels), rel=1e-5)
    assert ours['macro_f1'] == pytest.approx(metrics.f1_score(labels, guesses, average='macro'))
    assert ours['matthews'] == pytest.approx(metrics.matthews_corrcoef(labels, guesses))


def test_devices_and_micro_batches_are_one_big_batch():
    results = []
    for mode, devices, accumulate in [('mesh', 1, 1), ('pmap', 2, 2)]:
        config = config_of('tag', **{'parallel.mode': mode, 'parallel.devices': devices,
                                    'train.accumulate': accumulate})
        parallel = Parallel(config)
        init, train, _ = parallel.compile(make_steps(config, build(config)))
        _, seen = train(init(), parallel.place(make_batch(5)), np.int32(0))
        results.append({name: float(value) for name, value in seen.items()})
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.mark.parametrize('kind', ['tag', 'regress'])
def test_evaluation_in_micro_batches_adds_up(kind):
    params, found = init_params(build(config_of(kind)), jax.random.key(0)), []
    for accumulate in (1, 4):
        config = config_of(kind, **{'train.accumulate': accumulate})
        evaluate = jax.jit(make_steps(config, build(config)).evaluate)
        found.append(evaluate(params, make_batch(0)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *found)


def test_padding_and_other_rows_do_not_matter():
    config = config_of('classify')
    model = build(config)
    params = init_params(model, jax.random.key(1))
    batch = make_batch(2)
    apply = jax.jit(lambda *inputs: model.apply({'params': params}, *inputs))
    whole = apply(*(batch[name] for name in ('inputs_BS', 'lengths_B', 'types_BS')))
    for row in (0, 7):
        n = batch['lengths_B'][row]
        alone = apply(batch['inputs_BS'][row:row + 1, :n], batch['lengths_B'][row:row + 1],
                      batch['types_BS'][row:row + 1, :n])
        np.testing.assert_allclose(alone[0], whole[row], atol=1e-5)
    assert np.isfinite(whole[3]).all()


def test_answers_are_in_the_context_or_nowhere():
    logits = answer_logits(jnp.ones((1, 5, 2)), jnp.array([[0, 0, 0, 1, 1]]))
    p_S = jax.nn.softmax(logits)[0, 0]
    np.testing.assert_allclose(p_S, [1 / 3, 0, 0, 1 / 3, 1 / 3], atol=1e-6)


def leaves_of(tree):
    return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_what_is_frozen_keeps_every_bit_and_the_rest_learns():
    config = config_of('classify', **{'train.freeze': 'encoder/encoder,encoder/embedding'})
    steps = make_steps(config, build(config))
    state = steps.init()
    before, after = leaves_of(state.params), leaves_of(
        jax.jit(steps.train)(state, make_batch(0), np.int32(0))[0].params)
    for name in before:
        frozen = name.startswith(('encoder/encoder/', 'encoder/embedding'))
        assert frozen == (before[name] == after[name]).all(), name
    with pytest.raises(UserError, match="no parameters 'encodr'; there are: encoder, .*head"):
        make_steps(override(config, {'train.freeze': 'encodr'}), build(config)).init()
    with pytest.raises(UserError, match='leaves nothing to train'):
        make_steps(override(config, {'train.freeze': 'encoder,head'}), build(config)).init()


def test_lower_layers_learn_more_slowly():
    params = init_params(build(config_of('classify')), jax.random.key(0))
    scaled, _ = by_layer(0.5).update(jax.tree.map(jnp.ones_like, params), None)
    for name, leaf in leaves_of(scaled).items():
        wanted = np.array([0.25, 0.5]).reshape(2, *(1,) * (leaf.ndim - 1)) if '/layers/' in name \
            else 0.125 if 'embedding' in name else 1.0
        np.testing.assert_array_equal(leaf, np.broadcast_to(wanted, leaf.shape), err_msg=name)


def test_lower_layers_are_moved_less_by_an_update():
    """After Adam, which would undo what was done to its gradients."""
    params = jax.tree.map(jnp.ones_like, init_params(build(config_of('classify')),
                                                     jax.random.key(0)))
    whole, decayed = (leaves_of(optimizer.update(params, optimizer.init(params), params)[0])
                      for optimizer in (make_optimizer(config_of('classify', **{
                          'optim.weight_decay': 0.0, 'optim.layer_decay': decay}))
                          for decay in (1.0, 0.5)))
    for name, leaf in decayed.items():
        share = np.array([0.25, 0.5]).reshape(2, *(1,) * (leaf.ndim - 1)) if '/layers/' in name \
            else 0.125 if 'embedding' in name else 1.0
        assert (whole[name] != 0).all()
        np.testing.assert_allclose(leaf, whole[name] * share, rtol=1e-6, err_msg=name)


def test_a_head_begins_with_a_pretrained_encoder():
    source = override(config_of('mlm'), {'model.num_labels': 0})
    given = init_params(build(source), jax.random.key(3))
    config, changes = adapted(override(config_of('tag'), {'model.d_model': 16}), source)
    assert changes == {'model.d_model': 8} and config.model.num_labels == C
    own = init_params(build(config), jax.random.key(4))
    begun, table = merged(own, given)
    own, given, begun = map(leaves_of, (own, given, begun))
    for name, leaf in begun.items():
        np.testing.assert_array_equal(leaf, (given if name.startswith('encoder/') else own)[name])
    sums = {what: sum(count for kind, _, count in table if kind == what)
            for what in ('loaded', 'new', 'left')}
    assert sums['loaded'] + sums['new'] == sum(leaf.size for leaf in own.values())
    assert sums['loaded'] + sums['left'] == sum(leaf.size for leaf in given.values())
    assert {group for what, group, _ in table if what == 'new'} == {'head/kernel', 'head/bias'}


def test_what_begins_with_a_pooler_has_its_activation_and_positions_without_end_any_length():
    common = override(config_of('classify'), {'model.pooler': True, 'model.positions': 'learned'})
    source = override(common, {'model.pooler_activation': 'relu', 'model.max_length': 77})
    config = override(common, {'model.max_length': 99})
    _, changes = adapted(config, source)
    assert changes == {'model.pooler_activation': 'relu', 'model.max_length': 77}
    _, changes = adapted(override(config, {'model.pooler': False}),
                         override(source, {'model.positions': 'sinusoidal'}))
    assert changes == {'model.positions': 'sinusoidal'}


def test_a_layer_before_a_head_of_tags_is_part_of_that_head():
    tags = override(config_of('tag'), {'model.pooler': True, 'model.pooler_activation': 'gelu'})
    assert adapted(override(config_of('classify'), {'model.pooler': True}), tags)[1] == {}
    assert adapted(override(config_of('tag'), {'model.pooler': True}), tags)[1] == {
        'model.pooler_activation': 'gelu'}
    params = {'encoder': {'pooler': 1, 'embedding': 2}, 'head': 3}
    tokenizers = SimpleNamespace(labels=('a', 'b'))
    start = Start(tokenizers, params, {}, 'tag')
    assert start.for_head('classify', ('a', 'b')).params == {'encoder': {'embedding': 2}}
    assert start.for_head('tag', ('a', 'c')).params == {'encoder': params['encoder']}
    assert start.for_head('tag', ('a', 'b')).params == params


def test_other_shapes_are_new_and_said_to_be():
    own = {'a': {'b': jnp.zeros((2, 3))}, 'c': {'d': jnp.zeros(2)}}
    given = {'a': {'b': jnp.ones((2, 4))}, 'c': {'d': jnp.ones(2)}}
    begun, table = merged(own, given)
    assert begun['a']['b'].sum() == 0 and begun['c']['d'].sum() == 2
    assert sorted(table) == [('left', 'a/b', 8), ('loaded', 'c/d', 2), ('new', 'a/b', 6)]
