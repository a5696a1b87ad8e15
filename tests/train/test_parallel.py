"""Devices: what is refused, where rows go, and states that every layout shares."""

import jax
import numpy as np
import pytest

from xformer.config import Config, UserError, override
from xformer.models.seq2seq import Seq2Seq
from xformer.train.parallel import Parallel
from xformer.train.step import make_steps

BASE = override(Config(), {
    'model.num_encoder_layers': 1, 'model.num_decoder_layers': 1, 'model.d_model': 8,
    'model.num_heads': 2, 'model.d_ff': 12, 'model.vocab_size': 9,
    'optim.peak_learning_rate': 0.1, 'optim.warmup_steps': 1})
MODES = pytest.mark.parametrize('mode', ['pmap', 'mesh'])
ROWS = 8
IDS = np.arange(ROWS * 3, dtype=np.int32).reshape(ROWS, 3)
BATCH = {'source_BS': IDS % 9, 'source_lengths_B': np.arange(ROWS, dtype=np.int32) % 4,
         'inputs_BT': IDS[:, :2] % 9, 'labels_BT': IDS[:, 1:] % 9,
         'target_lengths_B': np.arange(ROWS, dtype=np.int32) % 3}


def make(mode: str, devices: int, accumulate: int = 1) -> Parallel:
    return Parallel(override(BASE, {'parallel.mode': mode, 'parallel.devices': devices,
                                    'train.accumulate': accumulate}))


@MODES
def test_zero_devices_means_all(mode):
    assert make(mode, 0).describe() == {
        'mode': mode, 'count': 4, 'platform': 'cpu', 'kind': jax.devices()[0].device_kind}
    assert make(mode, 3).num_devices == 3


@MODES
def test_more_devices_than_there_are_is_the_users_mistake(mode):
    with pytest.raises(UserError, match='parallel.devices=5, but this machine shows 4'):
        make(mode, 5)


@MODES
@pytest.mark.parametrize(('devices', 'accumulate', 'rows', 'splits'), [
    (4, 1, 8, True), (4, 1, 6, False), (4, 2, 8, True), (4, 2, 12, False), (1, 1, 5, True),
    (1, 4, 6, False), (3, 1, 8, False)])
def test_rows_that_do_not_split_are_refused(mode, devices, accumulate, rows, splits):
    parallel = make(mode, devices, accumulate)
    shapes = [(24, 3, 5), (rows, 7, 7)]
    if splits:
        parallel.check_rows(shapes)
    else:
        with pytest.raises(UserError, match=f'{rows} rows .*data.batch_multiple'):
            parallel.check_rows(shapes)


@MODES
def test_each_device_holds_its_own_rows_in_order(mode):
    placed = make(mode, 4).place(BATCH)
    assert placed.keys() == BATCH.keys()
    for name, array in placed.items():
        value = BATCH[name]
        assert array.dtype == value.dtype
        np.testing.assert_array_equal(np.asarray(array).reshape(value.shape), value)
        for device, shard in enumerate(sorted(array.addressable_shards, key=lambda s: s.device.id)):
            assert shard.device == jax.devices()[device]
            rows = np.asarray(shard.data).reshape(2, *value.shape[1:])
            np.testing.assert_array_equal(rows, value[2 * device:2 * device + 2])


def test_every_layout_starts_from_the_same_state_and_evaluates_the_same_sums():
    """A replicated tree without a device axis, whatever the mode or the number of devices."""
    steps = make_steps(BASE, Seq2Seq(BASE.model))
    shapes = jax.eval_shape(steps.init)
    states, sums = [], []
    for mode, devices in (('mesh', 1), ('mesh', 4), ('pmap', 4)):
        parallel = make(mode, devices)
        init, _, evaluate = parallel.compile(steps)
        state = init()
        for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
            assert leaf.shape == shape.shape and leaf.dtype == shape.dtype
            assert leaf.is_fully_replicated and len(leaf.devices()) == devices
        states.append(jax.device_get(state))
        sums.append(jax.device_get(evaluate(state.params, parallel.place(BATCH))))
    for state in states[1:]:
        for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(states[0])):
            np.testing.assert_array_equal(leaf, expected)
    lengths_B = BATCH['target_lengths_B']
    assert sums[0][1] == {'tokens': lengths_B.sum(), 'sequence': (lengths_B > 0).sum()}
    for seen in sums[1:]:
        assert jax.tree.structure(seen) == jax.tree.structure(sums[0])
        for value, expected in zip(jax.tree.leaves(seen), jax.tree.leaves(sums[0])):
            np.testing.assert_allclose(value, expected, rtol=1e-6)
