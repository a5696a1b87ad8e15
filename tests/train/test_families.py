"""Encoder and decoder through the step: devices and micro-batches are one big batch.

test_step has the encoder-decoder.
"""

import functools

import jax
import numpy as np
import pytest

from xformer.config import Config, override
from xformer.models import build
from xformer.train.parallel import Parallel
from xformer.train.step import TrainState, make_steps

V, ROWS, T, P = 13, 32, 8, 3
BASE = {'model.d_model': 16, 'model.num_heads': 2, 'model.d_ff': 24, 'model.vocab_size': V,
        'model.max_length': T, 'model.layers': 'unroll', 'model.dropout': 0.0,
        'optim.schedule': 'constant', 'optim.peak_learning_rate': 0.01, 'optim.clip_norm': 1.0,
        'optim.epsilon': 1e-3, 'optim.label_smoothing': 0.0}
FAMILIES = {
    'encoder': {'model.family': 'encoder', 'model.num_encoder_layers': 2,
                'model.num_decoder_layers': 0, 'model.pooler': True, 'model.num_segments': 2,
                'model.positions': 'learned', 'data.objective': 'mlm_nsp'},
    'decoder': {'model.family': 'decoder', 'model.num_encoder_layers': 0,
                'model.num_decoder_layers': 2, 'model.positions': 'rotary', 'model.norm': 'rms',
                'model.activation': 'swiglu', 'model.num_kv_heads': 1, 'data.objective': 'lm'},
}


def make_batch(family: str, seed: int) -> dict[str, np.ndarray]:
    """Rows of very unequal lengths, one of them empty, so that a mean of means would show."""
    rng = np.random.default_rng(seed)
    lengths_B = np.sort(rng.integers(3, T + 1, ROWS)).astype(np.int32)
    lengths_B[0] = 0
    ids_BT = rng.integers(4, V, (ROWS, T)).astype(np.int32)
    labels_BT = rng.integers(4, V, (ROWS, T)).astype(np.int32)
    if family == 'decoder':
        real_BT = np.arange(T) < lengths_B[:, None]
        second_BT = np.arange(T) >= 2  # a document of two tokens, then another one
        return {'inputs_BT': ids_BT, 'labels_BT': labels_BT,
                'segments_BT': (real_BT * (1 + second_BT)).astype(np.int32),
                'positions_BT': (np.arange(T) - 2 * second_BT + 0 * ids_BT).astype(np.int32)}
    masked_BP = np.sort(rng.integers(0, 3, (ROWS, P))).astype(np.int32)
    return {'inputs_BS': ids_BT, 'lengths_B': lengths_B,
            'types_BS': (np.arange(T) > 1).astype(np.int32) + 0 * ids_BT, 'masked_BP': masked_BP,
            'masked_labels_BP': labels_BT[:, :P], 'nsp_labels_B': rng.integers(
                0, 2, ROWS).astype(np.int32),
            'masked_lengths_B': np.minimum(lengths_B, rng.integers(1, P + 1, ROWS)
                                           ).astype(np.int32)}


@functools.cache
def updates(family: str, mode: str, devices: int, accumulate: int):
    """(state, metrics of each) after three updates."""
    config = override(Config(), BASE | FAMILIES[family] | {
        'parallel.mode': mode, 'parallel.devices': devices, 'train.accumulate': accumulate})
    parallel = Parallel(config)
    steps = make_steps(config, build(config))
    init, train, _ = parallel.compile(steps)
    state: TrainState = init()
    metrics = []
    for index in range(3):
        state, seen = train(state, parallel.place(make_batch(family, index)), np.int32(index))
        metrics.append(jax.device_get(seen))
    return jax.device_get(state), metrics


@pytest.mark.parametrize('split', [('pmap', 4, 1), ('mesh', 4, 1), ('pmap', 1, 4)],
                         ids=str)
@pytest.mark.parametrize('family', FAMILIES)
def test_devices_and_micro_batches_are_one_big_batch(family, split):
    state, metrics = updates(family, *split)
    expected_state, expected_metrics = updates(family, 'mesh', 1, 1)
    for seen, expected in zip(metrics, expected_metrics, strict=True):
        assert seen.keys() == expected.keys()
        for name in seen:
            np.testing.assert_allclose(seen[name], expected[name], rtol=1e-5, err_msg=name)
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(expected_state)):
        np.testing.assert_allclose(leaf, expected, atol=5e-6, rtol=1e-4)


def test_the_loss_of_bert_is_the_sum_of_both_terms():
    """Each with a weight of its own: masked tokens and sentence pairs."""
    seen = updates('encoder', 'mesh', 1, 1)[1][0]
    assert seen['loss'] == pytest.approx(seen['nll'] + seen['nsp_nll'], rel=1e-6)
    assert seen['nll'] > 0 and seen['nsp_nll'] > 0
