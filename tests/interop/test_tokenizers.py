"""Tokenizers of Hugging Face folders, both ways, against transformers and what it once wrote."""

import base64
import json
import os
import shutil
from pathlib import Path

import pytest
import sentencepiece
from tokenizer_folders import KINDS, NAMES, ODD, english, pieces, random_texts

from xformer.config import DataConfig, UserError
from xformer.data.tokenizers import (
    MarianTokenizer,
    Template,
    encode_following,
    load_tokenizers,
    train_tokenizers,
)
from xformer.interop.tokenizer_export import write_tokenizers
from xformer.interop.tokenizers import FAMILIES, read_tokenizers
from xformer.interop.vocabularies import from_proto, parse_proto

GOLDEN = json.loads(Path(__file__).parents[1].joinpath('golden/tokenizers.json').read_text(
    encoding='utf-8'))
TEXTS = [*ODD, *NAMES, *random_texts(150, seed=2)]
UNICODE = [(name, 'nmt_nfkc') for name in ('t5', 'albert', 'xlm_roberta', 'marian')]


def read(folder, family):
    return read_tokenizers(folder, family)


def theirs(folder):
    """The tokenizer that transformers makes of a folder."""
    transformers = pytest.importorskip('transformers')
    transformers.logging.set_verbosity_error()
    return transformers.AutoTokenizer.from_pretrained(folder)


def rows(tokenizers, texts, side='source'):
    return [tokenizers.template.row([ids])
            for ids in getattr(tokenizers, side).encode_batch(texts)]


def paired(tokenizers, pairs):
    return [tokenizers.template.row([tokenizers.source.encode(text) for text in pair])
            for pair in pairs]


def pairs_of(texts):
    """transformers takes an empty second text for none."""
    return [(first, second) for first, second in zip(texts, texts[7:]) if second]


def check_agrees(tokenizers, oracle, texts):
    """Ids, ids of pairs, decoded text, and places in the text."""
    ids = rows(tokenizers, texts)
    assert ids == [oracle(text)['input_ids'] for text in texts]
    assert [tokenizers.source.decode(row) for row in ids] == [
        oracle.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for row in ids]
    if isinstance(tokenizers.source, MarianTokenizer):
        assert rows(tokenizers, texts, 'target') == [
            oracle(text_target=text)['input_ids'] for text in texts]
        return
    pairs = pairs_of(texts)
    assert paired(tokenizers, pairs) == [oracle(*pair)['input_ids'] for pair in pairs]
    assert [tokenizers.source.spans(text) for text in texts] == [
        (found['input_ids'], found['offset_mapping']) for found in (
            oracle(text, add_special_tokens=False, return_offsets_mapping=True)
            for text in texts)]


@pytest.mark.filterwarnings('ignore:Recommended. pip install sacremoses')
@pytest.mark.parametrize('name, rules', [*((name, None) for name in KINDS), *UNICODE])
def test_every_kind_of_folder_reads_as_transformers_reads_it(name, rules, tmp_path):
    family = KINDS[name](tmp_path, rules) if rules else KINDS[name](tmp_path)
    check_agrees(read(tmp_path, family), theirs(tmp_path), TEXTS)


@pytest.mark.filterwarnings('ignore:Recommended. pip install sacremoses')
@pytest.mark.parametrize('name', KINDS)
def test_what_transformers_saves_reads_the_same(name, tmp_path):
    before, after = tmp_path / 'before', tmp_path / 'after'
    before.mkdir()
    family = KINDS[name](before)
    oracle = theirs(before)
    oracle.save_pretrained(after)
    shutil.copy(before / 'config.json', after)
    tokenizers = read(after, family)
    assert tokenizers.special == read(before, family).special
    check_agrees(tokenizers, theirs(after), TEXTS)


@pytest.mark.parametrize('name', KINDS)
def test_ids_are_those_that_transformers_once_wrote(name, tmp_path):
    kind = GOLDEN['kinds'][name]
    for file, content in kind['files'].items():
        (tmp_path / file).write_bytes(base64.b64decode(content))
    tokenizers = read(tmp_path, kind['family'])
    assert rows(tokenizers, GOLDEN['texts']) == kind['ids']
    assert [tokenizers.source.decode(ids) for ids in kind['ids']] == kind['decoded']
    if 'targets' in kind:
        assert rows(tokenizers, GOLDEN['texts'], 'target') == kind['targets']
    else:
        assert paired(tokenizers, GOLDEN['pairs']) == kind['pairs']
    first, between, after = tokenizers.template
    for (text, _), segments in zip(GOLDEN['pairs'], kind.get('segments', [])):
        size = len(first) + len(tokenizers.source.encode(text)) + len(between)
        assert segments == [0] * size + [1] * (len(segments) - size)


@pytest.mark.parametrize('name', KINDS)
def test_a_run_keeps_what_it_read(name, tmp_path):
    tokenizers = read(tmp_path, KINDS[name](tmp_path))
    (tmp_path / 'run').mkdir()
    tokenizers.save(tmp_path / 'run')
    loaded = load_tokenizers(tmp_path / 'run')
    assert loaded.fingerprint == tokenizers.fingerprint
    assert (loaded.special, loaded.template) == (tokenizers.special, tokenizers.template)
    for side in ('source', 'target'):
        assert rows(loaded, TEXTS, side) == rows(tokenizers, TEXTS, side)


@pytest.mark.filterwarnings('ignore:Recommended. pip install sacremoses')
@pytest.mark.parametrize('name', KINDS)
def test_what_was_read_is_written_for_transformers(name, tmp_path):
    before, after = tmp_path / 'before', tmp_path / 'after'
    before.mkdir()
    after.mkdir()
    family = KINDS[name](before)
    tokenizers = read(before, family)
    write_tokenizers(tokenizers, after, family)
    shutil.copy(before / 'config.json', after)
    again = read(after, family)
    assert (again.special, again.template) == (tokenizers.special, tokenizers.template)
    check_agrees(tokenizers, theirs(after), TEXTS)


def placed(family, special):
    """Where the objectives put special tokens, which is what a model trained here expects."""
    bos, eos = (special.bos,), (special.eos,)
    if family == 'marian':  # never reads pairs
        return Template((), (), eos)
    return {'encoder': Template(bos, eos, eos), 'seq2seq': Template((), eos, eos),
            'decoder': Template(bos, eos, ())}[FAMILIES[family].kind]


OWN = [('wordpiece', 'bert', 'mlm_nsp'), ('wordpiece', 'distilbert', 'classify'),
       ('byte_bpe', 'roberta', 'mlm'), ('byte_bpe', 'gpt2', 'lm'), ('byte_bpe', 'llama', 'lm'),
       ('bpe', 'llama', 'lm'), ('unigram', 'albert', 'mlm'), ('unigram', 't5', 'spans'),
       ('unigram', 'bart', 'denoise'), ('unigram', 'marian', 'pairs'), ('bpe', 'marian', 'pairs'),
       ('char', 't5', 'spans'), ('word', 'bart', 'pairs'), ('bytes', 'gpt2', 'lm')]


@pytest.mark.filterwarnings('ignore:Recommended. pip install sacremoses')
@pytest.mark.parametrize('kind, family, objective', OWN)
def test_what_is_trained_here_is_written_for_transformers(kind, family, objective, tmp_path):
    """Special tokens in a text, which it alone obeys, apart."""
    tokenizers = train_tokenizers(DataConfig(
        train='x', tokenizer=kind, objective=objective, vocab_size=560),
        ((text,) for text in english()))
    config = {'model_type': family, 'decoder_start_token_id': tokenizers.special.bos}
    (tmp_path / 'config.json').write_text(json.dumps(config))
    write_tokenizers(tokenizers, tmp_path, family)
    texts = [*ODD, *random_texts(150, seed=3)]
    template = placed(family, tokenizers.special)
    ids = [template.row([each]) for each in tokenizers.source.encode_batch(texts)]
    again = read(tmp_path, family)
    assert rows(again, texts) == ids
    assert (again.special, again.template) == (tokenizers.special, template)
    oracle = theirs(tmp_path)
    assert [oracle(text)['input_ids'] for text in texts] == ids
    assert ('token_type_ids' in oracle.model_input_names) == (family in ('bert', 'albert'))
    text, other = english()[:2]
    if family != 'marian':
        first, second = map(tokenizers.source.encode, (text, other))
        pair = oracle(text, other)
        assert pair['input_ids'] == template.row([first, second])
        assert pair.get('token_type_ids') in (
            None, [0] * (len(first) + 2) + [1] * (len(second) + 1))
    assert oracle.decode(oracle(text)['input_ids'], skip_special_tokens=True) == text


@pytest.mark.parametrize('kind, family, name', [
    ('wordpiece', 'bert', 'BertTokenizer'), ('wordpiece', 'electra', 'ElectraTokenizer'),
    ('byte_bpe', 'gpt2', 'GPT2Tokenizer'), ('byte_bpe', 'roberta', 'RobertaTokenizer')])
def test_the_classes_of_the_families_load_it_too(kind, family, name, tmp_path):
    transformers = pytest.importorskip('transformers')
    tokenizers = train_tokenizers(DataConfig(
        train='x', tokenizer=kind, objective='mlm', vocab_size=400),
        ((text,) for text in english()))
    write_tokenizers(tokenizers, tmp_path, family)
    oracle = getattr(transformers, name).from_pretrained(tmp_path)
    template = placed(family, tokenizers.special)
    for text in [*ODD, *random_texts(100, seed=6)]:
        assert oracle(text)['input_ids'] == template.row([tokenizers.source.encode(text)])


def test_a_model_without_segments_is_given_no_types_and_texts_are_cut(tmp_path):
    tokenizers = train_tokenizers(DataConfig(
        train='x', tokenizer='wordpiece', objective='classify', vocab_size=400),
        ((text,) for text in english()))
    write_tokenizers(tokenizers, tmp_path, 'bert', segments=False, longest=12)
    about = json.loads((tmp_path / 'tokenizer_config.json').read_text())
    assert about['model_input_names'] == ['input_ids', 'attention_mask']
    oracle = theirs(tmp_path)
    text, other = english()[:2]
    assert set(oracle(text, other)) == {'input_ids', 'attention_mask'}
    assert len(oracle(text * 9, truncation=True)['input_ids']) == 12


@pytest.mark.parametrize('options', [{'add_eos_token': False}, {'add_bos_token': False}])
def test_where_texts_begin_is_as_tokenizer_json_has_it(options, tmp_path):
    family = KINDS['llama_json'](tmp_path)
    replaced(tmp_path, 'tokenizer_config.json', **options)
    tokenizers = read(tmp_path, family)
    assert tokenizers.template.before == (0,)
    check_agrees(tokenizers, theirs(tmp_path), TEXTS)


def shared(path) -> Path:
    """A file of the shared data; skips where it is absent."""
    file = Path(os.environ.get('XFORMER_DATA', 'XFORMER_DATA is unset'), path)
    if not file.is_file():
        pytest.skip(f'no {file}; set XFORMER_DATA')
    return file


def botchan():
    lines = shared('sentencepiece_test_models/botchan.txt').read_text(encoding='utf-8').split('\n')
    return [line for line in lines if line][:300]


def test_berts_own_vocabulary(tmp_path):
    shutil.copy(shared('bert_vocab/vocab.txt'), tmp_path / 'vocab.txt')
    (tmp_path / 'config.json').write_text('{"model_type": "bert"}')
    tokenizers = read(tmp_path, 'bert')
    assert tokenizers.special == (0, 101, 102, 100, 103, ())
    assert tokenizers.template == Template((101,), (102,), (102,))
    assert tokenizers.source.encode('the capital is [MASK].') == [1996, 3007, 2003, 103, 1012]
    check_agrees(tokenizers, theirs(tmp_path), [*TEXTS, *botchan()])


@pytest.mark.parametrize('names', [('encoder.json', 'vocab.bpe'), ('vocab.json', 'merges.txt')])
def test_gpt2s_own_vocabulary(names, tmp_path):
    for name, file in zip(names, ('encoder.json', 'vocab.bpe')):
        shutil.copy(shared(f'gpt2_tokenizer/{file}'), tmp_path / name)
    tokenizers = read(tmp_path, 'gpt2')
    assert tokenizers.special == (50256, 50256, 50256, 50256, None, ())
    assert tokenizers.template == Template((), (), ())
    assert tokenizers.source.encode('Hello world<|endoftext|>') == [15496, 995, 50256]
    if names[0] == 'vocab.json':
        (tmp_path / 'config.json').write_text('{"model_type": "gpt2"}')
        check_agrees(tokenizers, theirs(tmp_path), [*TEXTS, *botchan()])


def test_sentencepieces_own_model_as_t5s(tmp_path):
    shutil.copy(shared('sentencepiece_test_models/test_model.model'), tmp_path / 'spiece.model')
    (tmp_path / 'config.json').write_text('{"model_type": "t5"}')
    for name in ('tokenizer_config.json', 'special_tokens_map.json'):
        (tmp_path / name).write_text('{"pad_token": "<s>"}')
    tokenizers = read(tmp_path, 't5')
    assert tokenizers.special[:4] == (1, 1, 2, 0)
    assert tokenizers.special.sentinels[0] == 1099
    text = 'I saw a girl with a telescope.'
    assert ' '.join(tokenizers.source.tokens(tokenizers.source.encode(text))) == (
        '▁I ▁saw ▁a ▁girl ▁with ▁a ▁ te le s c o pe .')


def replaced(folder, name, **changes):
    """The JSON file with some of its values changed or added."""
    path = folder / name
    before = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    path.write_text(json.dumps(before | changes), encoding='utf-8')


@pytest.mark.parametrize('name, spoil, sentence', [
    ('bert', lambda f: (f / 'vocab.txt').unlink(), 'neither tokenizer.json nor vocab.txt'),
    ('bert', lambda f: (f / 'vocab.txt').write_text('[UNK]\n[CLS]\n[SEP]\na\n'),
     'no pad_token .* tokenizer_config.json'),
    ('bert', lambda f: (f / 'vocab.txt').write_text('a\nb\na\n'), "piece 'a' twice"),
    ('bert', lambda f: replaced(f, 'tokenizer_config.json', unk_token=None), 'no unk_token'),
    ('roberta', lambda f: replaced(f, 'special_tokens_map.json', sep_token=None), 'no sep_token'),
    ('electra_json', lambda f: replaced(f, 'tokenizer.json', post_processor={
        'type': 'TemplateProcessing', 'single': [{'Sequence': {'id': 'A', 'type_id': 0}}],
        'pair': [{'Sequence': {'id': 'A', 'type_id': 0}}, {'Sequence': {'id': 'B', 'type_id': 0}},
                 {'SpecialToken': {'id': '[SEP]', 'type_id': 0}}],
        'special_tokens': {'[SEP]': {'id': '[SEP]', 'ids': [4], 'tokens': ['[SEP]']}}}),
     'other special tokens around one text than around two'),
    ('cased_distilbert', lambda f: (f / 'tokenizer_config.json').unlink(),
     'capital letters.*does not say do_lower_case'),
    ('electra_json', lambda f: replaced(f, 'tokenizer_config.json', do_lower_case=False),
     'has do_lower_case=False, tokenizer.json has True'),
    ('electra_json', lambda f: replaced(f, 'special_tokens_map.json', pad_token='[PAD]'),
     r"contradict each other: pad_token is '<pad>' or '\[PAD\]'"),
    *(('electra_json', lambda f, wrong=wrong: replaced(f, 'tokenizer_config.json', **wrong),
       'a value of a wrong kind') for wrong in (
           {'pad_token': {'__type': 'AddedToken'}}, {'pad_token': ['x']},
           {'added_tokens_decoder': {'x': {'content': 'y'}}})),
    ('electra_json', lambda f: (f / 'tokenizer.json').write_text('{'),
     'tokenizer.json is no tokenizer that can be read'),
    ('roberta', lambda f: (f / 'merges.txt').unlink(), 'nor merges.txt'),
    ('roberta', lambda f: (f / 'merges.txt').write_text('x yz\n'), 'does not go with vocab.json'),
    ('roberta', lambda f: (f / 'encoder.json').write_text('{}'), 'both vocab.json and encoder'),
    ('roberta', lambda f: (f / 'vocab.json').write_text('[1]'), 'vocab.json is damaged'),
    ('roberta', lambda f: replaced(f, 'added_tokens.json', **{'<new>': 7}),
     "added token '<new>' the id 7, but its vocabulary makes it 400"),
    ('gpt2', lambda f: replaced(f, 'tokenizer_config.json', eos_token='<end>'),
     'no eos_token in its vocabulary'),
    ('llama', lambda f: replaced(f, 'tokenizer_config.json', add_bos_token=None),
     None),
    ('llama', lambda f: (f / 'tokenizer_config.json').unlink(), 'does not say add_bos_token'),
    ('llama', lambda f: (f / 'tokenizer.model').write_bytes(pieces('unigram')),
     'no byte-pair encoding'),
    ('t5', lambda f: (f / 'spiece.model').write_bytes(b'nonsense'), 'spiece.model is damaged'),
    ('t5', lambda f: (f / 'spiece.model').write_bytes(b''), 'spiece.model is damaged'),
    ('marian', lambda f: (f / 'target.spm').unlink(), 'no target.spm'),
    ('marian', lambda f: (f / 'source.spm').write_bytes(b'x'), 'source.spm is damaged'),
    ('marian', lambda f: replaced(f, 'vocab.json', new=3), 'without gaps or repeats'),
    ('marian', lambda f: replaced(f, 'tokenizer_config.json', separate_vocabs=True),
     'a vocabulary for each language')])
def test_what_is_missing_or_contradicts_itself_is_said_in_one_sentence(
        name, spoil, sentence, tmp_path):
    family = KINDS[name](tmp_path)
    spoil(tmp_path)
    if sentence is None:
        assert read(tmp_path, family).template == Template((), (), ())
        return
    with pytest.raises(UserError, match=sentence) as caught:
        read(tmp_path, family)
    assert str(tmp_path) in str(caught.value) and '\n' not in str(caught.value)


def test_older_files_that_do_not_say_how_text_is_cut_are_refused(tmp_path):
    KINDS['gpt2'](tmp_path)
    with pytest.raises(UserError, match='no tokenizer.json, .* do not say how text is cut'):
        read(tmp_path, 'qwen2')


def test_an_unknown_family_is_refused(tmp_path):
    with pytest.raises(UserError, match="model_type 'mamba' are not read or written.*bart, bert"):
        read(tmp_path, 'mamba')


def test_tokens_added_after_training_are_found(tmp_path):
    family = KINDS['gpt2'](tmp_path)
    replaced(tmp_path, 'added_tokens.json', **{'[PAD]': 400, '<|user|>': 401})
    replaced(tmp_path, 'special_tokens_map.json', pad_token='[PAD]')
    tokenizers = read(tmp_path, family)
    assert tokenizers.special.pad == 400 and tokenizers.vocab_size == 402
    assert tokenizers.source.encode('<|user|>') == [401]
    assert tokenizers.source.decode([401]) == '<|user|>'
    for extra in ['<|user|>'], {'user_token': '<|user|>'}:  # special, and so not written
        replaced(tmp_path, 'tokenizer_config.json', extra_special_tokens=extra)
        tokenizers = read(tmp_path, family)
        assert tokenizers.vocab_size == 402 and tokenizers.source.decode([401]) == ''


@pytest.mark.parametrize('kind, options, family, sentence', [
    ('wordpiece', {}, 'marian', 'sentencepiece models, not data.tokenizer=wordpiece'),
    ('char', {'target_tokenizer': 'word'}, 'bart', 'char and word.*one for both'),
    ('bytes', {}, 'mamba', "'mamba' are not read or written")])
def test_what_cannot_be_written_is_said(kind, options, family, sentence, tmp_path):
    tokenizers = train_tokenizers(DataConfig(
        train='x', tokenizer=kind, vocab_size=300, **options), ((s, s) for s in english()))
    with pytest.raises(UserError, match=sentence):
        write_tokenizers(tokenizers, tmp_path, family)
    assert not list(tmp_path.iterdir())


def test_a_word_like_a_special_token_cannot_be_written(tmp_path):
    tokenizers = train_tokenizers(DataConfig(train='x', tokenizer='word'), [('a <eos> b',)])
    with pytest.raises(UserError, match='reads like a special token'):
        write_tokenizers(tokenizers, tmp_path, 'gpt2')


@pytest.mark.parametrize('kind', ['bpe', 'unigram'])
@pytest.mark.parametrize('options', [
    {'normalization_rule_name': 'identity', 'remove_extra_whitespaces': False},
    {'normalization_rule_name': 'nmt_nfkc'}, {'add_dummy_prefix': False}], ids=str)
def test_a_sentencepiece_model_cuts_as_sentencepiece_does(kind, options):
    file = pieces(kind, vocab_size=400, byte_fallback=True, **options)
    library = from_proto(parse_proto(file))
    oracle = sentencepiece.SentencePieceProcessor(model_proto=file)
    texts = [*english(), ' naïve  café ', 'ﬁ ｆｕｌｌ Å', '\u00a0b\t c\n', ' ', '東京']
    if 'identity' in options.values():  # else marks beside a letter may be composed otherwise
        texts += [*ODD, *random_texts(300, seed=4)]
    assert [library.encode(text).ids for text in texts] == oracle.encode(texts)
    ids = oracle.encode(english()[:50])
    assert [library.decode(row) for row in ids] == oracle.decode(ids)


@pytest.mark.parametrize('options', [
    {'legacy': None}, {'legacy': True, 'add_eos_token': True}, {'add_prefix_space': False}],
    ids=str)
@pytest.mark.parametrize('kind', ['llama', 'llama_prepend'])
def test_llama_puts_spaces_where_transformers_does(kind, options, tmp_path):
    family = KINDS[kind](tmp_path)
    replaced(tmp_path, 'tokenizer_config.json', **options)
    tokenizers = read(tmp_path, family)
    oracle, texts = theirs(tmp_path), [*ODD, *NAMES]
    assert tokenizers.source.encode_batch(texts) == oracle(
        texts, add_special_tokens=False)['input_ids']
    lines = [text for text in ODD if text.strip() and not text.startswith(' ')]
    inside = encode_following(tokenizers.source, lines)
    before = tokenizers.source.encode('x\n')
    assert [before + ids for ids in inside] == [
        tokenizers.source.encode(f'x\n{line}') for line in lines]
    if 'add_eos_token' in options and kind == 'llama':
        assert tokenizers.template == Template((1,), (2, 1), (2,))
