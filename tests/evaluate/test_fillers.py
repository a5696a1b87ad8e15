"""What stands in the place of [MASK], and whether a sentence follows: each text alone, by hand."""

import jax
import numpy as np
import pytest

from xformer.compiled import Compilations
from xformer.config import UserError, override
from xformer.evaluate.fillers import fill_masks, next_sentence
from xformer.models import build, init_params


def softmax(logits):
    exponentials = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return exponentials / exponentials.sum()


def test_fillers_are_those_of_each_text_alone(small):
    """Of several lengths, with several masks."""
    one = small('encoder')
    special, encode = one.tokenizers.special, one.tokenizers.source.encode
    texts = ['ab[MASK]c', '[MASK]hgfe[MASK]dcba[MASK] abc', 'a[MASK]']
    found = fill_masks(texts, one.config, one.model, one.params, one.tokenizers, Compilations(), 3)
    assert [len(row['masks']) for row in found] == [1, 3, 1]
    for text, row in zip(texts, found):
        first, *others = map(encode, text.split('[MASK]'))
        ids = [special.bos, *first, *(i for part in others for i in (special.mask, *part)),
               special.eos]
        [places] = np.nonzero(np.array(ids) == special.mask)
        logits_1PV, _ = one.model.apply({'params': one.params}, np.array([ids]),
                                        np.array([len(ids)]), None, places[None])
        for logits_V, fillers in zip(logits_1PV[0], row['masks'], strict=True):
            p_V = softmax(logits_V)
            best = sorted(range(len(p_V)), key=lambda i: -p_V[i])[:3]
            assert [filler['token'] for filler in fillers] == one.tokenizers.source.tokens(best)
            assert [filler['p'] for filler in fillers] == pytest.approx(p_V[best], abs=2e-6)


def test_a_text_without_a_mask_is_refused(small):
    one = small('encoder')
    with pytest.raises(UserError, match=r'input 2 has no \[MASK\] to fill'):
        fill_masks(['[MASK]', 'ab'], one.config, one.model, one.params, one.tokenizers,
                   Compilations(), 1)


def test_whether_a_sentence_follows(small, random_like):
    one = small('encoder')
    config = override(one.config, {'data.objective': 'mlm_nsp', 'model.num_segments': 2,
                                   'model.pooler': True})
    model = build(config)
    params = random_like(jax.eval_shape(lambda: init_params(model, jax.random.key(0))))
    texts = [('ab', 'cd'), ('abcdefgh', 'hgfedcba a'), ('cd', 'ab')]
    found = next_sentence(['\t'.join(pair) for pair in texts], config, model, params,
                          one.tokenizers, Compilations())
    special, encode = one.tokenizers.special, one.tokenizers.source.encode
    for (first, second), row in zip(texts, found, strict=True):
        a, b = [special.bos, *encode(first), special.eos], [*encode(second), special.eos]
        _, logits_12 = model.apply({'params': params}, np.array([a + b]), np.array([len(a + b)]),
                                   np.array([[0] * len(a) + [1] * len(b)]), np.array([[0]]))
        assert row['follows'] == pytest.approx(softmax(logits_12[0])[0], abs=2e-6)
    assert len({row['follows'] for row in found}) == 3
