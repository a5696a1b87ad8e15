"""Folders in all their forms read alike; of what is wrong with one, a sentence says what."""

import functools
import math
import re

import jax
import ml_dtypes
import numpy as np
import pytest
from golden_checkpoints import FILES, make_folder, read
from parity import opened
from tokenizer_folders import KINDS

from xformer.config import UserError, override
from xformer.interop.folder import (
    config_in,
    is_checkpoint,
    open_checkpoint,
    write_checkpoint,
)
from xformer.interop.tables import by_path
from xformer.models import build, init_params
from xformer.presets import preset
from xformer.run import open_run

OLD = {'LayerNorm.weight': 'LayerNorm.gamma', 'LayerNorm.bias': 'LayerNorm.beta'}
HEAD = 'cls.predictions.transform.dense.weight'


def params(folder):
    return by_path(opened(folder)[1])


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name])
                                              for name in one)


@pytest.fixture
def bert(tmp_path):
    """bert('name', {'hidden_act': ...}, {'tensor': None, ...}): the golden BERT, changed."""
    config, tensors, _, _ = read('bert')

    def bert(name='bert', options=None, others=None, **more):
        changed = {path: array for path, array in (tensors | (others or {})).items()
                   if array is not None}
        return make_folder(tmp_path / name, config | (options or {}), changed, **more)
    return bert


def renamed(rename):
    config, tensors, _, _ = read('bert')
    return dict.fromkeys(tensors) | {rename(name): array for name, array in tensors.items()}


def older(name):
    for new, old in OLD.items():
        name = name.replace(new, old)
    return name


FORMS = {
    'shards': lambda tensors: ({}, {'shard_bytes': 3000}),
    'gamma and beta': lambda tensors: (renamed(older), {}),
    'no prefix': lambda tensors: (renamed(lambda name: name.removeprefix('bert.')), {}),
    'tied twice': lambda tensors: (
        {'cls.predictions.decoder.weight': tensors['bert.embeddings.word_embeddings.weight'],
         'cls.predictions.decoder.bias': tensors['cls.predictions.bias'],
         'bert.embeddings.position_ids': np.arange(8)[None]}, {}),
    'tied, under the other name alone': lambda tensors: (
        {'bert.embeddings.word_embeddings.weight': None,
         'cls.predictions.decoder.weight': tensors['bert.embeddings.word_embeddings.weight']}, {}),
    'float16': lambda tensors: (
        {name: array.astype(np.float16) for name, array in tensors.items()}, {}),
    'float64': lambda tensors: (
        {name: array.astype(np.float64) for name, array in tensors.items()}, {})}


@pytest.mark.parametrize('form', FORMS)
def test_the_same_parameters_in_another_form(form, bert):
    others, options = FORMS[form](read('bert')[1])
    folder = bert('other', None, others, **options)
    assert same(params(folder), params(bert()))
    found, ours = opened(folder)
    assert found.unused({path: leaf.shape for path, leaf in by_path(ours).items()}) == []


@pytest.mark.parametrize('form', ['', 'gamma and beta'])  # the published ones have both
def test_bert_of_masked_tokens_keeps_its_head_for_next_sentences(form, bert):
    others, _ = FORMS[form](read('bert')[1]) if form else ({}, {})
    found = open_checkpoint(bert('masked', {'architectures': ['BertForMaskedLM']}, others))
    assert found.config.data.objective == 'mlm_nsp' and found.config.model.pooler
    assert same(params(found.folder), params(bert()))
    alone = bert('alone', {'architectures': ['BertForMaskedLM']},
                 {'cls.seq_relationship.weight': None, 'cls.seq_relationship.bias': None})
    assert open_checkpoint(alone).config.data.objective == 'mlm'


def test_a_model_of_sentence_transformers_has_no_head(bert):
    heads = [name for name in read('bert')[1] if name.startswith('cls.')]
    folder = bert('sentences', {'architectures': ['BertForMaskedLM']}, dict.fromkeys(heads))
    (folder / 'modules.json').write_text('[{"type": "x.Transformer", "path": ""}]')
    found, _ = opened(folder)
    assert found.name == 'BertModel' and found.config.data.objective == 'none'


def test_bfloat16(bert):
    _, tensors, _, _ = read('bert')
    rough = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
    exact = params(bert())
    for path, leaf in params(bert('rough', None, rough)).items():
        assert leaf.dtype == np.float32
        assert np.array_equal(leaf, exact[path].astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize('name', FILES)
def test_written_and_read_again_bit_by_bit(name, tmp_path):
    config, tensors, _, _ = read(name)
    found, _ = opened(make_folder(tmp_path / 'one', config, tensors))
    (tmp_path / 'two').mkdir()
    written = write_checkpoint(tmp_path / 'two', found.config, params(tmp_path / 'one'),
                               found.family.model_type, found.labels)
    again = open_checkpoint(tmp_path / 'two')
    assert written == (found.name, []) and again.labels == found.labels and not again.aside
    assert again.config.model == found.config.model and again.config.data == found.config.data
    assert same(params(tmp_path / 'two'), params(tmp_path / 'one'))


@pytest.mark.parametrize('options, sentence', [
    ({'model_type': 'gemma3'}, "is of model_type='gemma3', which is not supported; there are: be"),
    ({'model_type': ['bert']}, 'is no configuration of a model'),
    ({'architectures': None}, 'does not say of which architecture .* BertForMaskedLM'),
    ({'architectures': 'BertModel'}, 'does not say of which architecture'),
    ({'architectures': ['BertForPretraining']}, "did you mean 'BertForPreTraining'"),
    ({'is_decoder': True}, 'config.json: is_decoder=True is not supported, only False is'),
    ({'hidden_act': 'mish'}, "hidden_act='mish' is not supported; there are: gelu"),
    ({'hidden_act': []}, 'of a wrong kind'), ({'hidden_size': 'x'}, "d_model takes a whole num"),
    ({'id2label': [1]}, 'of a wrong kind'), ({'num_labels': 'x'}, 'of a wrong kind'),
    ({'num_labels': 5 * 10**9}, 'num_labels=5000000000 is more than any model here has'),
    ({'architectures': ['BertForSequenceClassification'],
      'problem_type': 'multi_label_classification'}, 'not supported: a text has one label'),
    ({'architectures': ['BertForSequenceClassification'], 'problem_type': 'regression'},
     'of 2 numbers is not supported')])
def test_what_config_json_says_that_is_not_supported(options, sentence, bert):
    with pytest.raises(UserError, match=sentence) as refused:
        open_checkpoint(bert(options=options))
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('text', [None, '', 'null', '[]', '{}', '{"model_type": "bert"',
                                  '[' * 99_999])
def test_a_config_json_that_is_none(text, bert):
    folder = bert()
    (folder / 'config.json').unlink()
    if text is not None:
        (folder / 'config.json').write_text(text)
    assert not is_checkpoint(folder)
    with pytest.raises(UserError, match=r'config.json is no configuration of a model [^\n]*$'):
        open_checkpoint(folder)


@pytest.mark.parametrize('others, sentence', [
    ({HEAD: None}, f'lacks the tensor {HEAD}, which BertForPreTraining needs'),
    ({HEAD: None, 'cls.predictions.bias': None}, 'lacks the tensor .* and 1 more, which'),
    ({HEAD: np.zeros((15, 14), np.float32)}, re.escape(f'{HEAD} has the shape [15, 14]')),
    ({HEAD: np.zeros(15, np.float32)}, re.escape(f'{HEAD} has the shape [15]')),
    ({HEAD: np.zeros((15, 15), np.int32)}, f'{HEAD} in .* is of type I32'),
    ({'cls.predictions.decoder.weight': np.zeros((53, 15), np.float32)},
     'cls.predictions.decoder.weight .* differs from bert.embeddings.word_embeddings.weight')])
def test_tensors_that_are_not_what_the_architecture_needs(others, sentence, bert):
    with pytest.raises(UserError, match=sentence):
        params(bert(others=others))


def test_what_has_no_place_is_listed(bert):
    folder = bert(options={'auto_map': {'AutoModel': 'x.Y'}, 'secret_scale': 3.0, 'gate': None,
                           'use_cache': False, 'pruned_heads': {'1': [0]},
                           'tie_encoder_decoder': False, '_num_labels': 2},
                  others={'bert.extra.weight': np.ones(3, np.float32)})
    found, ours = opened(folder)
    assert found.aside == ["auto_map={'AutoModel': 'x.Y'}", 'secret_scale=3.0',
                           "pruned_heads={'1': [0]}"]
    assert found.unused({path: leaf.shape for path, leaf in by_path(ours).items()}) == [
        'bert.extra.weight']


def test_an_encoder_of_texts_needs_its_pooler(tmp_path):
    """Without it the head would see the mean of all tokens, which it never learnt from."""
    config, tensors, _, _ = read('electra')
    del tensors['classifier.dense.weight']
    with pytest.raises(UserError, match='lacks the tensor classifier.dense.weight, which Electra'):
        params(make_folder(tmp_path, config, tensors))


@pytest.fixture
def discriminator(tmp_path):
    """discriminator('name', {'hidden_act': ...}): the golden ELECTRA with the head that it was
    pre-trained with; and the tensors of that head."""
    config, tensors, _, _ = read('electra')
    draw, D = np.random.default_rng(0), config['hidden_size']
    head = {f'discriminator_predictions.{name}': draw.normal(size=shape).astype(np.float32)
            for name, shape in {'dense.weight': (D, D), 'dense.bias': (D,),
                                'dense_prediction.weight': (1, D), 'dense_prediction.bias': (1,)
                                }.items()}
    tensors = {name: array for name, array in tensors.items() if 'classifier' not in name} | head

    def discriminator(name='discriminator', **options):
        said = {'architectures': ['ElectraForPreTraining'], 'id2label': {}, 'label2id': {}}
        return make_folder(tmp_path / name, config | said | options, tensors), head
    return discriminator


def test_the_discriminator_tells_which_tokens_were_replaced(discriminator):
    """The probability of each token is the sigmoid of its logit (Clark et al. 2020, section 2),
    here in NumPy of the encoder's output."""
    folder, head = discriminator()
    found, ours = opened(folder)
    assert found.labels == ('O', 'replaced')
    unnamed, _ = discriminator('unnamed', id2label={'0': 'LABEL_0', '1': 'LABEL_1'})
    assert open_checkpoint(unnamed).labels == found.labels
    inputs = np.arange(8).reshape(2, 4), np.array([4, 3]), np.zeros((2, 4), int)
    apply = functools.partial(build(found.config).apply, {'params': ours}, *inputs)
    x_BTD = np.asarray(apply(method='features')[-1], np.float64)
    dense, last = (f'discriminator_predictions.{name}' for name in ('dense', 'dense_prediction'))
    h_BTD = x_BTD @ head[f'{dense}.weight'].T + head[f'{dense}.bias']
    h_BTD = h_BTD * 0.5 * (1 + np.vectorize(math.erf)(h_BTD / math.sqrt(2)))
    logits_BT = (h_BTD @ head[f'{last}.weight'].T + head[f'{last}.bias'])[..., 0]
    np.testing.assert_allclose(jax.nn.softmax(apply())[..., 1], 1 / (1 + np.exp(-logits_BT)),
                               atol=1e-5)


def test_the_discriminator_is_written_as_it_was_and_after_training_as_the_difference(
        discriminator, tmp_path):
    folder, head = discriminator()
    found, ours = opened(folder)
    ours, moved = by_path(ours), np.float32(0.25)
    for name, change in (('same', 0), ('trained', moved)):
        both = np.array([change, 0], np.float32)
        arrays = ours | {'head/bias': ours['head/bias'] + both}
        (tmp_path / name).mkdir()
        assert write_checkpoint(tmp_path / name, found.config, arrays, 'electra', found.labels) == (
            'ElectraForPreTraining', [])
        again = open_checkpoint(tmp_path / name).tensors
        last = 'discriminator_predictions.dense_prediction.bias'
        assert again[last] == head[last] - change
        assert all(np.array_equal(again[each], array) for each, array in head.items()
                   if each != last)


def test_tags_through_a_pooler_have_a_class_in_electra_alone(discriminator, tmp_path):
    found, ours = opened(discriminator()[0])
    with pytest.raises(UserError, match='bert: model.pooler is True, there words are seen without'):
        write_checkpoint(tmp_path, found.config, by_path(ours), 'bert', found.labels)
    with pytest.raises(UserError, match='activation=relu is not .* architecture ElectraModel'):
        config_in(discriminator('other', hidden_act='relu')[0])
    with pytest.raises(UserError, match='lacks the tensor classifier.bias and 1 more'):
        params(discriminator('tags', architectures=['ElectraForTokenClassification'])[0])


def test_roberta_has_one_kind_of_segment_however_many_its_embeddings_have(tmp_path):
    config, tensors, _, _ = read('roberta')
    one = params(make_folder(tmp_path / 'one', config, tensors))
    name = 'roberta.embeddings.token_type_embeddings.weight'
    more = tensors | {name: np.concatenate([tensors[name], 7 * np.ones_like(tensors[name])])}
    assert same(params(make_folder(tmp_path / 'two', config | {'type_vocab_size': 2}, more)), one)


def test_bart_without_a_bias_of_the_logits(tmp_path):
    config, tensors, _, _ = read('bart')
    whole = params(make_folder(tmp_path / 'one', config, tensors))
    del tensors['final_logits_bias']
    without = params(make_folder(tmp_path / 'two', config, tensors))
    del whole['output_bias']
    assert same(whole, without)


def test_an_albert_with_embeddings_as_wide_as_the_model_is_refused_both_ways(tmp_path):
    config, tensors, _, _ = read('albert')
    found, ours = opened(make_folder(tmp_path / 'one', config, tensors))
    with pytest.raises(UserError, match='config.json: an ALBERT with embeddings as wide as'):
        config_in(make_folder(tmp_path / 'two', config | {
            'embedding_size': config['hidden_size']}, tensors))
    wide = override(found.config, {'model.embedding_size': 0})
    with pytest.raises(UserError, match='an ALBERT with embeddings as wide as'):
        write_checkpoint(tmp_path / 'three', wide, by_path(ours), 'albert')


def test_marian_of_the_published_size_is_one_of_theirs(tmp_path):
    small = override(preset('marian'), {
        'data.objective': 'pairs', 'model.vocab_size': 9, 'model.d_model': 8, 'model.d_ff': 8,
        'model.pad_id': 0, 'model.bos_id': 0, 'model.eos_id': 1})
    ours = init_params(build(small), jax.random.key(0))
    assert write_checkpoint(tmp_path, small, by_path(jax.device_get(ours)), 'marian') == (
        'MarianModel', [])


def test_labels_stand_in_the_order_of_outputs(tmp_path):
    config, tensors, _, _ = read('electra')
    names = {'2': 'good', '0': 0, '1': 'so so'}
    folder = make_folder(tmp_path, config | {'id2label': names}, tensors)
    assert open_checkpoint(folder).labels == ('0', 'so so', 'good')
    assert config_in(folder).model.num_labels == 3


def test_the_output_of_t5_is_tied_or_not_as_the_tensors_are(tmp_path):
    config, tensors, _, _ = read('t5')
    tensors.pop('lm_head.weight', None)
    tied = config_in(make_folder(tmp_path / 'tied', config, tensors))
    free = config_in(make_folder(tmp_path / 'free', config, tensors | {
        'lm_head.weight': 2 * tensors['shared.weight']}))
    assert (tied.model.tie_embeddings, free.model.tie_embeddings) == ('all', 'inputs')
    table = tensors.pop('shared.weight')
    for name, output, tie in (('encoder.embed_tokens.weight', 2 * table, 'inputs'),
                              ('encoder.embed_tokens.weight', table, 'all'),
                              ('lm_head.weight', table, 'all')):
        folder = make_folder(tmp_path / f'{name} {tie}', config, tensors | {
            name: table, 'lm_head.weight': output})
        assert config_in(folder).model.tie_embeddings == tie
        assert np.array_equal(params(folder)['embedding'], table)


def test_what_is_null_in_t5s_settings_is_as_if_it_were_not_there(tmp_path):
    config, tensors, _, _ = read('t5')
    folder = make_folder(tmp_path, config | dict.fromkeys(
        ['num_decoder_layers', 'n_positions', 'tie_word_embeddings']), tensors)
    assert config_in(folder).model.num_decoder_layers == config['num_layers']


def test_relative_positions_have_no_last_one(tmp_path):
    config, tensors, _, _ = read('t5')
    for given in ({'n_positions': 512}, {}):
        others = {name: value for name, value in config.items() if name != 'n_positions'}
        folder = make_folder(tmp_path / str(len(given)), others | given, tensors)
        assert config_in(folder).model.max_length == 4096


@pytest.mark.parametrize('said', [
    {'rope_scaling': {'type': 'linear', 'factor': 4.0}},
    {'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0}, 'rope_parameters': None},
    {'rope_parameters': {'type': 'linear', 'factor': 4.0}}])
def test_rotary_positions_that_are_scaled_are_refused(said, tmp_path):
    config, tensors, _, _ = read('llama')
    with pytest.raises(UserError, match='scaled rotary positions .* are not supported'):
        open_checkpoint(make_folder(tmp_path / 'scaled', config | said, tensors))
    plain = config | {'rope_parameters': None, 'rope_theta': 500.0,
                      'rope_scaling': {'rope_type': 'default'}}
    assert config_in(make_folder(tmp_path / 'plain', plain, tensors)).model.rotary_base == 500.0
    within = plain | {'rope_scaling': {'rope_type': 'default', 'rope_theta': 300.0}}
    assert config_in(make_folder(tmp_path / 'within', within, tensors)).model.rotary_base == 300.0


def test_a_decoder_reads_the_begin_token_that_its_tokenizer_puts(tmp_path):
    """Whatever config.json says, as transformers does."""
    config, tensors, _, _ = read('llama')
    KINDS['llama_json'](tmp_path)
    make_folder(tmp_path, config | {'bos_token_id': 5}, tensors)
    model = open_run(tmp_path, config_in(tmp_path), 'best', print).config.model
    assert model.bos_id == 0 != config_in(tmp_path).model.bos_id


def test_a_model_of_no_family_is_refused_with_the_reason_of_each(tmp_path):
    config, tensors, _, _ = read('bert')
    found = open_checkpoint(make_folder(tmp_path, config, tensors))
    odd = override(found.config, {'model.positions': 'alibi'})
    with pytest.raises(UserError, match='no family .* bert: model.positions is alibi, there learn'):
        write_checkpoint(tmp_path / 'other', odd, {})
    with pytest.raises(UserError, match="there is no family 'brt'; did you mean 'bert'"):
        write_checkpoint(tmp_path / 'other', odd, {}, 'brt')
    assert not (tmp_path / 'other').exists()
