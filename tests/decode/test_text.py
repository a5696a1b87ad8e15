"""Prompts of texts, texts of outputs."""

import pytest

from xformer.config import Config, override
from xformer.data.sources import read_examples
from xformer.data.tokenizers import train_tokenizers
from xformer.decode.text import before_stop, few_shot_prompt, output_text, pieces


@pytest.mark.parametrize('shots', [0, 2, 8])
def test_sums_are_shown_a_line_each_and_the_last_is_left_open(shots):
    sums = list(read_examples(override(Config(), {'data.dataset': 'addition'}).data, 'train'))
    examples, (source, target) = sums[:shots], sums[shots]
    prompt = few_shot_prompt(source, examples, '{source} = {target}')
    *lines, last = prompt.split('\n')
    assert len(lines) == shots and last == f'{source} = '
    for line in lines:
        sum_of, total = line.split(' = ')
        assert sum(map(int, sum_of.split('+'))) == int(total)
    assert target not in last.split()


def test_what_follows_the_target_belongs_to_the_lines_alone():
    assert few_shot_prompt('c', [('a', '{source}')], '<{source}|{target}>') == '<a|{source}>\n<c|'
    assert few_shot_prompt('c', [('{target}', 'b')], '{source}:{target}') == '{target}:b\nc:'


@pytest.mark.parametrize('kind', ['char', 'word', 'bytes', 'byte_bpe', 'bpe'])
def test_a_continuation_is_what_comes_after_the_prompt(kind):
    text, rest = 'the cat', ' sat on the mat'
    data = override(Config(), {'data.objective': 'lm', 'data.tokenizer': kind,
                               'data.vocab_size': 300})
    tokenizers = train_tokenizers(data.data, [(text + rest,)] * 3)
    prompt = tokenizers.source.encode(text)
    ids = tokenizers.source.encode(text + rest)[len(prompt):]
    assert output_text([*ids, tokenizers.special.eos], prompt, data, tokenizers) == rest


def test_an_output_is_cut_before_the_first_stop():
    assert before_stop('one. two; three', ['; ', '. ']) == 'one'
    assert before_stop('one', ['two']) == before_stop('one', []) == 'one'


def test_a_growing_text_is_shown_in_pieces_that_never_change():
    texts = ['o', 'on', 'one', 'one\ufffd', 'oneé', 'oneé.', 'oneé. ', 'oneé']  # cut at '. \n'
    shown = list(pieces(texts, held_back=2))
    assert shown[:3] == ['', '', 'o']
    assert ''.join(shown) == 'oneé' and not any('\ufffd' in piece for piece in shown)
    assert list(pieces(['a', 'a\ufffd'], held_back=0)) == ['a', '', '\ufffd']
