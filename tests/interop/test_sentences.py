"""What sentence-transformers' folders say is read in all its forms, or refused."""

import json

import pytest

from xformer.config import UserError
from xformer.interop.sentences import Sentences, read_sentences, transformer_folder

OLD = {'pooling_mode_cls_token': False, 'pooling_mode_mean_tokens': False,
       'pooling_mode_max_tokens': False, 'pooling_mode_mean_sqrt_len_tokens': False}


def make(folder, pooling, *others, transformer='', about=None):
    kinds = [('Transformer', transformer), ('Pooling', '1_Pooling'), *((each, f'9_{each}')
                                                                      for each in others)]
    for _, path in kinds:
        (folder / path).mkdir(exist_ok=True)
    (folder / 'modules.json').write_text(json.dumps([
        {'idx': i, 'name': str(i), 'path': path, 'type': f'sentence_transformers.models.{kind}'}
        for i, (kind, path) in enumerate(kinds)]))
    (folder / '1_Pooling' / 'config.json').write_text(json.dumps(pooling))
    if about:
        (folder / transformer / 'sentence_bert_config.json').write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize('pooling, pool', [
    (OLD | {'pooling_mode_cls_token': True, 'word_embedding_dimension': 8}, 'cls'),
    (OLD | {'pooling_mode_mean_tokens': True}, 'mean'), ({'pooling_mode': 'max'}, 'max'),
    (OLD | {'pooling_mode_max_tokens': True}, 'max'), ({'pooling_mode': 'mean'}, 'mean'),
    ({'pooling_mode': ['cls']}, 'cls')])
def test_how_tokens_are_pooled(pooling, pool, tmp_path):
    assert read_sentences(make(tmp_path, pooling)) == Sentences(pool, False, 0, False, '')


def test_an_old_folder_keeps_the_model_in_one_of_its_own(tmp_path):
    make(tmp_path, {'pooling_mode': 'mean'}, 'Normalize', transformer='0_Transformer',
         about={'max_seq_length': 128, 'do_lower_case': True})
    assert read_sentences(tmp_path) == Sentences('mean', True, 128, True, '')
    assert transformer_folder(tmp_path) == tmp_path / '0_Transformer'


@pytest.mark.parametrize('limit, found', [(256, 256), (10**30, 0)])
def test_a_new_folder_keeps_the_longest_text_with_the_tokenizer(limit, found, tmp_path):
    make(tmp_path, {'pooling_mode': 'mean'})
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'model_max_length': limit}))
    assert read_sentences(tmp_path).max_length == found


def test_a_prompt_for_all_texts(tmp_path):
    pooling = {'pooling_mode': 'mean'}
    for name, prompt in ((None, ''), ('query', 'query: ')):
        (tmp_path / 'config_sentence_transformers.json').write_text(json.dumps(
            {'prompts': {'query': 'query: '}, 'default_prompt_name': name}))
        assert read_sentences(make(tmp_path, pooling)).prompt == prompt
    with pytest.raises(UserError, match='leaves the prompt out of the pooling'):
        read_sentences(make(tmp_path, pooling | {'include_prompt': False}))


@pytest.mark.parametrize('file, about', [
    ('sentence_bert_config.json', {'max_seq_length': '256'}),
    ('config_sentence_transformers.json', {'prompts': ['x'], 'default_prompt_name': 'x'})])
def test_values_of_a_wrong_kind(file, about, tmp_path):
    make(tmp_path, {'pooling_mode': 'mean'})
    (tmp_path / file).write_text(json.dumps(about))
    with pytest.raises(UserError, match='from a copy'):
        read_sentences(tmp_path)


def test_a_folder_of_a_model_alone(tmp_path):
    assert read_sentences(tmp_path) is None and transformer_folder(tmp_path) == tmp_path


@pytest.mark.parametrize('pooling, others, sentence', [
    ({'pooling_mode': 'mean'}, ['Dense'], 'asks for a module Dense, which is not supported'),
    ({'pooling_mode': 'weightedmean'}, [], 'asks for pooling weightedmean; one of cls, mean'),
    ({'pooling_mode': ['cls', 'mean']}, [], 'asks for pooling cls, mean; one of'),
    (OLD, [], 'asks for pooling of no kind'), ([], [], 'is no JSON dict'),
    (OLD | {'pooling_mode_cls_token': True, 'pooling_mode_max_tokens': True}, [],
     'asks for pooling pooling_mode_cls_token, pooling_mode_max_tokens')])
def test_what_is_not_supported(pooling, others, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        read_sentences(make(tmp_path, pooling, *others))


@pytest.mark.parametrize('text', ['', '{}', '[1]', '[{"type": 3, "path": ""}]',
                                  '[{"type": "x.Transformer", "path": 3}]', '[{"type": "x"}]',
                                  '[]', '[{"type": "x.Pooling", "path": ""}]', '[' * 99_999])
def test_a_list_of_modules_that_is_none(text, tmp_path):
    (tmp_path / 'modules.json').write_text(text)
    with pytest.raises(UserError, match=r'^[^\n]+$'):
        read_sentences(tmp_path)
