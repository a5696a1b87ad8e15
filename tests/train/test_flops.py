"""Counted operations against those of the products in the traced update."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import Config, override
from xformer.models import build
from xformer.train.estimate import abstract_batch
from xformer.train.flops import peak_flops, update_flops
from xformer.train.step import make_steps

TINY = override(Config(), {
    'model.num_encoder_layers': 2, 'model.num_decoder_layers': 3, 'model.d_model': 96,
    'model.num_heads': 4, 'model.d_ff': 160, 'model.vocab_size': 300, 'model.max_length': 32,
    'model.dropout': 0.0, 'model.layers': 'unroll', 'model.attention': 'xla',
    'model.pad_id': 0, 'model.bos_id': 1, 'model.eos_id': 2, 'data.batch_tokens': 512,
    'optim.label_smoothing': 0.0})
VARIANTS = {
    'seq2seq': {},
    'seq2seq, grouped, gated': {'model.num_kv_heads': 2, 'model.activation': 'swiglu',
                                'model.head_width': 16},
    'decoder': {'model.family': 'decoder', 'model.num_encoder_layers': 0, 'data.objective': 'lm'},
    'encoder': {'model.family': 'encoder', 'model.num_decoder_layers': 0,
                'data.objective': 'mlm', 'model.activation': 'gelu',
                'model.positions': 'rotary'},  # so that the last block leaves no columns out
}


def products(jaxpr) -> float:
    """Multiplications and additions of every matrix product in a traced function."""
    total = 0.0
    for equation in jaxpr.eqns:
        for part in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, 'eqns')):
            inner = getattr(part, 'jaxpr', part)
            if hasattr(inner, 'eqns'):
                total += products(inner)
        if equation.primitive.name == 'dot_general':
            (contracted, _), _ = equation.params['dimension_numbers']
            left = equation.invars[0].aval.shape
            total += 2 * np.prod(equation.outvars[0].aval.shape) * np.prod(
                [left[axis] for axis in contracted])
    return total


@pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)
def test_operations_are_those_of_the_products_of_an_update(changes):
    config = override(TINY, changes)
    shapes = abstract_batch(config)
    full = {name: leaf.shape[1] for name, leaf in shapes.items() if len(leaf.shape) == 2}
    batch = {name: jnp.ones(leaf.shape, jnp.int32) for name, leaf in shapes.items()}
    for name, slots in (('source_lengths_B', 'source_BS'), ('target_lengths_B', 'inputs_BT'),
                        ('lengths_B', 'inputs_BS'), ('masked_lengths_B', 'masked_BP')):
        if name in batch:
            batch[name] = jnp.full(batch[name].shape, full[slots])
    steps = make_steps(config, build(config))
    traced = jax.make_jaxpr(steps.train)(jax.eval_shape(steps.init), batch, jnp.int32(0))
    counted = update_flops(config, jax.device_get(batch))
    # norms add their columns up by products with ones: about 1 %
    assert counted < products(traced.jaxpr) < 1.02 * counted


def test_padding_counts_nothing():
    config = override(TINY, VARIANTS['decoder'])
    segments_BT = np.array([[1, 1, 2, 0], [1, 0, 0, 0]])
    wider_BT = np.pad(segments_BT, ((0, 1), (0, 5)))
    assert (update_flops(config, {'segments_BT': segments_BT})
            == update_flops(config, {'segments_BT': wider_BT}))


def test_peaks_are_of_known_devices_in_16_bits():
    assert peak_flops('NVIDIA H200', 'bfloat16') == 989e12
    assert peak_flops('NVIDIA H100 PCIe', 'bfloat16') == 756e12
    assert peak_flops('TPU v5 lite', 'bfloat16') == 197e12
    assert peak_flops('NVIDIA A100-SXM4-40GB', 'bfloat16') == 312e12
    assert peak_flops('NVIDIA H200', 'float32') is None
    assert peak_flops('NVIDIA L40', 'bfloat16') is None  # no L4
    assert peak_flops('cpu', 'bfloat16') is None
