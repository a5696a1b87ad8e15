"""Both sides of train-g2p compute and drop the same, and its result is what its rounds say."""

import functools
import json

import jax
import numpy as np
import pytest

from benchmarks.ours import without_dropout
from xformer.config import Config, override
from xformer.models import build, init_params
from xformer.nn import layers
from xformer.train.step import make_steps

BASE = override(Config(), {
    'model.num_encoder_layers': 1, 'model.num_decoder_layers': 1, 'model.d_model': 16,
    'model.num_heads': 2, 'model.d_ff': 24, 'model.vocab_size': 11, 'model.max_length': 8,
    'model.dropout': 0.1, 'model.attention_dropout': 0.2, 'model.activation_dropout': 0.3,
    'optim.schedule': 'cosine', 'optim.peak_learning_rate': 1e-2, 'optim.warmup_steps': 1,
    'optim.weight_decay': 0.5, 'optim.clip_norm': 0.1, 'optim.epsilon': 1e-4, 'train.steps': 9})
VARIANTS = [{'model.norm_position': 'pre'},
            {'model.norm_position': 'post', 'model.activation': 'gelu', 'optim.clip_norm': 0.0}]


@pytest.fixture
def suite():
    torch = pytest.importorskip('torch', reason='the peer needs PyTorch: the extra `parity`')
    torch.set_num_threads(1)
    from benchmarks import train_g2p
    return train_g2p


@pytest.fixture
def training(suite):
    from benchmarks import training
    return training


@pytest.fixture
def batch(suite):
    return suite.pair_batch(np.random.default_rng(0), (8, 5, 4), BASE.model.vocab_size)


@functools.cache
def weights(config: Config) -> dict:
    """Random weights in the shapes of our model's."""
    shapes = jax.eval_shape(lambda: init_params(build(config), jax.random.key(0)))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: random.normal(0, 0.3, leaf.shape).astype(np.float32),
                        shapes)


def two_peers(suite, config: Config, other: Config):
    return {'xformer': suite.make_peer(config, weights(config), 'eager'),
            'eager': suite.make_peer(other, weights(other), 'eager')}


@pytest.mark.parametrize('changes', VARIANTS)
def test_both_sides_compute_the_same_updates(suite, training, batch, changes):
    config = without_dropout(override(BASE, changes))
    sides = training.both(config, suite.make_peer, suite.KERNELS)
    found = training.parity(sides, [batch] * 4)
    assert {peer: differences.keys() for peer, differences in found.items()} == dict.fromkeys(
        suite.KERNELS, training.TOLERANCES['float32'].keys())


@pytest.mark.parametrize('changes', [
    {'optim.label_smoothing': 0.2}, {'optim.weight_decay': 0.0}, {'optim.beta2': 0.9},
    {'optim.peak_learning_rate': 2e-2}, {'optim.clip_norm': 0.2}, {'model.num_heads': 4},
    {'model.d_ff': 25}, {'model.norm_position': 'post'}])
def test_any_difference_is_noticed(suite, training, batch, changes):
    config = without_dropout(override(BASE, VARIANTS[0]))
    with pytest.raises(RuntimeError, match='differs|parameters'):
        training.parity(two_peers(suite, config, override(config, changes)), [batch] * 4)


@pytest.mark.parametrize('changes', VARIANTS)
def test_both_sides_drop_the_same_places_at_the_same_rates(suite, batch, monkeypatch, changes):
    config = override(BASE, changes)
    ours, theirs = [], []

    def jax_factors(key, rate, shape, real=layers.dropout_factors):
        ours.append((rate, shape))
        return real(key, rate, shape)

    def torch_dropout(x, p, training, inplace, real=suite.F.dropout):
        theirs.append((p, tuple(x.shape)))
        return real(x, p, training, inplace)

    def torch_attention(q, k, v, mask, p, causal, real=suite.F.scaled_dot_product_attention):
        theirs.append((p, (*q.shape[:3], k.shape[2])))
        return real(q, k, v, mask, p, causal)

    peer = suite.make_peer(config, weights(config), 'eager')
    monkeypatch.setattr(layers, 'dropout_factors', jax_factors)
    monkeypatch.setattr(suite.F, 'dropout', torch_dropout)
    monkeypatch.setattr(suite.F, 'scaled_dot_product_attention', torch_attention)
    steps = make_steps(config, build(config))
    jax.eval_shape(lambda: steps.train(steps.init(), batch, 0))
    peer.step(batch)
    assert sorted(ours) == sorted(entry for entry in theirs if entry[0])
    assert {rate for rate, _ in ours} == {0.1, 0.2, 0.3}


def test_random_batches_look_like_real_ones(suite):
    batches = [suite.pair_batch(np.random.default_rng(1), shape, 102) for shape in suite.SHAPES]
    real = slots = 0
    for batch in batches:
        for ids, lengths in (('source_BS', 'source_lengths_B'), ('labels_BT', 'target_lengths_B')):
            assert ((batch[ids] != 0).sum(1) == batch[lengths]).all()
            real, slots = real + batch[lengths].sum(), slots + batch[ids].size
        for inputs, labels, length in zip(batch['inputs_BT'], batch['labels_BT'],
                                          batch['target_lengths_B']):
            assert inputs.tolist() == [1, *labels[:length - 1], *[0] * (len(labels) - length)]
    assert real / slots == pytest.approx(0.87, abs=0.01)


def test_the_result_can_be_recomputed_from_its_rounds(suite, training, monkeypatch):
    quick = override(BASE, {'model.max_length': 16, 'train.steps': 100})
    monkeypatch.setattr(suite.g2p_quickstart, 'CONFIG', quick)
    monkeypatch.setattr(training, 'cpus', lambda: 1)
    monkeypatch.setattr(training, 'both', lambda config, *_: two_peers(suite, config, config))
    [result] = json.loads(json.dumps(suite.measure(3, ['eager']))).values()
    ratios = sorted(row['eager'] / row['xformer'] for row in result['rounds'])
    assert list(result['ratio']['eager'].values()) == pytest.approx(ratios, rel=1e-5)
    fastest = min(row['xformer'] for row in result['rounds'])
    real = result['amounts']['xformer']
    slots = sum(rows * (S + T) for rows, S, T in suite.SHAPES)
    assert real == pytest.approx(0.87 * slots, rel=0.02)
    assert result['speed']['xformer']['max'] == pytest.approx(real / fastest, rel=1e-5)
