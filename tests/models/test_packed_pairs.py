"""Pairs packed into one row, on both sides, in every position scheme."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.config import ModelConfig
from xformer.models.seq2seq import Seq2Seq
from xformer.nn.masks import Packing

TINY = ModelConfig(num_encoder_layers=2, num_decoder_layers=2, d_model=16, num_heads=2, d_ff=24,
                   vocab_size=13, max_length=12, dropout=0.0, layers='unroll')
RNG = np.random.default_rng(0)
IDS, LENGTHS = np.zeros((1, 1), np.int32), np.ones(1, np.int32)  # for the parameters' shapes
SCHEMES = {
    **{scheme: {'positions': scheme} for scheme in (
        'sinusoidal', 'learned', 'rotary', 'relative', 'alibi', 'none')},
    'relative, window, grouped, inputs tied': {
        'positions': 'relative', 'window': 2, 'num_kv_heads': 1, 'tie_embeddings': 'inputs'},
}
SOURCE_LENGTHS, TARGET_LENGTHS = (4, 2, 4), (5, 4, 2)  # three pairs in a row; its end is empty


def packed(lengths, slots: int = 12) -> Packing:
    empty = slots - sum(lengths)
    return Packing(np.repeat([1, 2, 3, 0], [*lengths, empty])[None],
                   np.concatenate([*map(np.arange, lengths), [0] * empty])[None])


PACKINGS = packed(SOURCE_LENGTHS), packed(TARGET_LENGTHS)


@pytest.mark.parametrize('scheme', SCHEMES)
def test_a_packed_pair_has_the_logits_it_has_alone(random_params, scheme):
    model = Seq2Seq(dataclasses.replace(TINY, **SCHEMES[scheme]))
    params = random_params(model, IDS, LENGTHS, IDS)
    source_1S, inputs_1T = RNG.integers(1, 13, (2, 1, 12))
    packed_TV = model.apply({'params': params}, source_1S, np.array([10]), inputs_1T, *PACKINGS)[0]
    source_PS, inputs_PT = (
        np.stack([np.resize(ids_1T[0, packing.segments_BT[0] == pair + 1], 5)
                  for pair in range(3)])
        for ids_1T, packing in zip((source_1S, inputs_1T), PACKINGS))
    alone_PTV = model.apply({'params': params}, source_PS, np.array(SOURCE_LENGTHS), inputs_PT)
    for pair, length in enumerate(TARGET_LENGTHS):
        np.testing.assert_allclose(packed_TV[PACKINGS[1].segments_BT[0] == pair + 1],
                                   alone_PTV[pair, :length], atol=1e-5)


@pytest.mark.parametrize('scheme', [name for name in SCHEMES if 'window' not in name])
def test_targets_see_back_and_sources_both_ways_by_gradients(random_params, scheme):
    """Each token of its own pair alone. All ids differ, so an embedding's gradient is a token's."""
    model = Seq2Seq(dataclasses.replace(TINY, tie_embeddings='none', positions=scheme))
    params = random_params(model, IDS, LENGTHS, IDS)
    source_1S, inputs_1T = RNG.permutation(13)[None, :12], RNG.permutation(13)[None, :12]
    direction_V = jnp.asarray(RNG.normal(size=13), jnp.float32)

    def one_number_each(tables):
        logits_1TV = model.apply({'params': params | tables}, source_1S, np.array([10]), inputs_1T,
                                 *PACKINGS)
        return logits_1TV[0] @ direction_V
    gradients = jax.jacrev(one_number_each)(
        {name: params[name] for name in ('embedding', 'target_embedding')})
    (source_S,), (target_T,) = (packing.segments_BT for packing in PACKINGS)
    for name, ids, expected in (
            ('embedding', source_1S[0], (target_T[:, None] == source_S) & (source_S > 0)),
            ('target_embedding', inputs_1T[0],
             (target_T[:, None] == target_T) & np.tri(12, dtype=bool))):
        np.testing.assert_array_equal((gradients[name] != 0).any(-1)[:, ids], expected)
