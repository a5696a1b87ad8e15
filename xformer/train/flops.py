"""Floating-point operations that the mathematics of a model needs, and the most a device can do."""

import re

import numpy as np

from xformer.config import Config
from xformer.nn.layers import GATES

FORMULA = ('6 × weights in matrix products × real tokens + 12 × layers × heads × head width × '
           'tokens × tokens they are compared with')

# of 16-bit matrix products with 32-bit sums, without sparsity, as the makers publish them; the
# first name that a device's kind contains as whole words is its own
PEAKS = {'H200': 989e12, 'H100 PCIe': 756e12, 'H100': 989e12, 'A100': 312e12, 'L40S': 362e12,
         'L4': 121e12, 'V100': 125e12, 'T4': 65e12, 'RTX 4090': 165e12,
         'TPU v6 lite': 918e12, 'TPU v5 lite': 197e12, 'TPU v5': 459e12, 'TPU v4': 275e12}


def update_flops(config: Config, batch: dict[str, np.ndarray]) -> float:
    """Of an update on a batch: FORMULA (Chowdhery et al. 2022, appendix B).

    A weight takes part in one product forwards and in two backwards, each a multiplication and an
    addition. Padding is not credited, hidden pairs of a causal mask are, and columns that the last
    block of an encoder leaves out; the few operations of
    norms, softmax, the optimizer and the heads of labels are left out.
    """
    c, nothing = config.model, np.zeros(1, np.int64)
    if c.family == 'decoder':
        encoded_B, decoded_B = nothing, (batch['segments_BT'] > 0).sum(1)
    elif c.family == 'encoder':
        encoded_B, decoded_B = batch['lengths_B'].astype(np.int64), nothing
    else:
        encoded_B, decoded_B = (batch[name].astype(np.int64)
                                for name in ('source_lengths_B', 'target_lengths_B'))
    encoder, decoder = c.num_encoder_layers, c.num_decoder_layers
    queries_and_out, keys_and_values = 2 * c.d_model * c.num_heads * c.H, 2 * c.d_model * c.K * c.H
    block = queries_and_out + keys_and_values + c.d_model * c.d_ff * (3 if c.activation in GATES
                                                                      else 2)
    products = encoder * block * encoded_B.sum() + decoder * block * decoded_B.sum()
    compared = encoder * (encoded_B ** 2).sum() + decoder * (decoded_B ** 2).sum()
    if c.family == 'seq2seq':
        products += decoder * (queries_and_out * decoded_B.sum()
                               + keys_and_values * encoded_B.sum())
        compared += decoder * (encoded_B * decoded_B).sum()
    if 'masked_lengths_B' in batch:
        products += batch['masked_lengths_B'].sum() * c.E * (c.d_model + c.vocab_size)
    else:
        products += decoded_B.sum() * c.E * c.vocab_size
    return float(6 * products + 12 * c.num_heads * c.H * compared)


def peak_flops(kind: str, dtype: str) -> float | None:
    """Operations per second of a device of that kind, where the maker's figure is known."""
    if dtype != 'bfloat16':
        return None
    return next((peak for name, peak in PEAKS.items() if re.search(rf'\b{name}\b', kind)), None)
