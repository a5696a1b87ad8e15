"""Scores of given outputs, against one token at a time of one pair at a time."""

import jax
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


def padded(ids):
    return np.array([ids + [0] * (40 - len(ids))], np.int32)


@pytest.mark.parametrize('family', FAMILIES)
def test_the_log_probabilities_of_the_outputs_tokens_are_added(family):
    config = override(CONFIG, FAMILIES[family])
    model = build(config)
    params = init_params(model, jax.random.key(0))
    pairs = PAIRS + [([], [5, 6, 7])] * (family == 'decoder')
    counted = []
    found = log_likelihoods(model, config, params, Compilations(), pairs, counted.append, 64)
    assert counted[-1] == len(pairs)
    apply = jax.jit(model.apply)
    for (source, output), value in zip(pairs, found):
        before = [1, *source] if family == 'decoder' else [1]
        inputs = (padded(before + output[:-1]),)
        if family == 'seq2seq':
            inputs = (padded(source), np.array([len(source)]), *inputs)
        logits_TV = np.asarray(apply({'params': params}, *inputs)[0], np.float64)
        log_p_TV = logits_TV - np.log(np.exp(logits_TV).sum(-1, keepdims=True))
        total = sum(log_p_TV[len(before) - 1 + t, token] for t, token in enumerate(output))
        assert value == pytest.approx(total, abs=1e-4)
    assert np.std(found) > 1
