"""Scores of given outputs, against one token at a time of one pair at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.compiled import Compilations
from xformer.config import Config, override
from xformer.decode.likelihood import log_likelihoods
from xformer.models import build, init_params

CONFIG = override(Config(), {
    'model.num_encoder_layers': 1, 'model.num_decoder_layers': 1, 'model.d_model': 16,
    'model.num_heads': 2, 'model.d_ff': 24, 'model.vocab_size': 12, 'model.max_length': 40,
    'model.pad_id': 0, 'model.bos_id': 1, 'model.eos_id': 2, 'model.init': 'gpt2'})
FAMILIES = {'seq2seq': {}, 'decoder': {'model.family': 'decoder', 'model.num_encoder_layers': 0}}
RNG = np.random.default_rng(0)
PAIRS = [tuple(RNG.integers(2, 12, length).tolist() for length in lengths)
         for lengths in ((3, 4), (9, 1), (1, 20), (14, 14), (2, 2))]


@pytest.mark.parametrize('family', FAMILIES)
def test_the_log_probabilities_of_the_outputs_tokens_are_added(family):
    config = override(CONFIG, FAMILIES[family])
    model = build(config)
    params = init_params(model, jax.random.key(0))
    pairs = PAIRS + [([], [5, 6, 7])] * (family == 'decoder')
    counted = []
    found = log_likelihoods(model, config, params, Compilations(), pairs, counted.append, 64)
    assert counted[-1] == len(pairs)
    for (source, output), value in zip(pairs, found):
        if family == 'decoder':
            inputs = (np.array([[1, *source, *output[:-1]]]),)
        else:
            inputs = (np.array([source]), np.array([len(source)]), np.array([[1, *output[:-1]]]))
        logits_TV = model.apply({'params': params}, *inputs)[0, -len(output):]
        log_p_TV = jax.nn.log_softmax(logits_TV)
        total = float(sum(log_p_TV[t, token] for t, token in enumerate(output)))
        assert value == pytest.approx(total, abs=1e-4)
    assert jnp.std(jnp.array(found)) > 1
