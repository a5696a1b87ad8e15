"""What the data say of a configuration before training begins."""

from types import SimpleNamespace

import pytest

from xformer.config import Config, UserError, override
from xformer.data.pipeline import prepare
from xformer.data.tokenizers import train_tokenizers
from xformer.train.loop import resolve
from xformer.train.start import Start


@pytest.mark.parametrize('target', ['b', 'z'])
def test_a_model_may_lack_tokens_that_no_text_has(target, tmp_path, monkeypatch):
    monkeypatch.setenv('XFORMER_CACHE', str(tmp_path))
    (tmp_path / 'pairs.tsv').write_text(''.join(
        f'{"ab" * (i % 99)}a\t{target}\n' for i in range(400)))
    config = override(Config(), {'data.train': str(tmp_path / 'pairs.tsv'),
                                 'data.tokenizer': 'char'})
    tokenizers = train_tokenizers(config.data, [('ab', 'z')])
    last = tokenizers.vocab_size - 1
    corpus = prepare(config, given=tokenizers)
    assert tokenizers.source.tokens([last]) == ['z']
    assert resolve(config, corpus).model.vocab_size == last + 1
    short = override(config, {'model.vocab_size': last})
    if target == 'z':
        with pytest.raises(UserError, match=f'too few for the data, which have token {last} of'):
            resolve(short, corpus)
    else:
        assert resolve(short, corpus).model.vocab_size == last


@pytest.mark.parametrize('objective, labels, stays', [
    ('classify', ('no', 'yes'), True), ('classify', ('yes', 'no'), False),
    ('answer', ('no', 'yes'), False), ('regress', (), False)])
def test_a_head_is_kept_where_it_stands_for_the_same(objective, labels, stays):
    start = Start(SimpleNamespace(labels=('no', 'yes')), {'head': 1, 'encoder': 2}, {}, 'classify')
    kept = start.for_head(objective, labels).params
    assert 'encoder' in kept and ('head' in kept) == stays
