"""A run becomes a Hugging Face folder that says the same, and the other way round."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from experiments import cli, convert, embed, evaluate, generate, predict, train, visualize
from xformer.checks import validate
from xformer.config import Config, UserError, override, to_json
from xformer.data.tokenizers import load_tokenizers, train_tokenizers
from xformer.models import build, init_params
from xformer.train.checkpoint import Checkpoints

BERT = {'model.family': 'encoder', 'model.num_encoder_layers': 2, 'model.num_decoder_layers': 0,
        'model.d_model': 16, 'model.num_heads': 2, 'model.d_ff': 24, 'model.max_length': 24,
        'model.positions': 'learned', 'model.activation': 'gelu', 'model.embedding_norm': True,
        'model.embedding_scale': 'none', 'model.norm_epsilon': 1e-12, 'model.num_segments': 2,
        'model.pooler': True, 'model.init': 'bert', 'data.train': 'text.tsv',
        'optim.schedule': 'constant', 'optim.peak_learning_rate': 1e-3}
GPT2 = {'model.family': 'decoder', 'model.num_encoder_layers': 0, 'model.num_decoder_layers': 2,
        'model.d_model': 16, 'model.num_heads': 2, 'model.d_ff': 24, 'model.max_length': 24,
        'model.norm_position': 'pre', 'model.positions': 'learned', 'model.activation': 'gelu_tanh',
        'model.embedding_scale': 'none', 'model.norm_epsilon': 1e-5, 'model.init': 'gpt2',
        'data.objective': 'lm', 'data.format': 'text', 'data.train': 'text.txt',
        'decode.beam_size': 1, 'optim.schedule': 'constant', 'optim.peak_learning_rate': 1e-3}
T5 = {'model.num_encoder_layers': 2, 'model.num_decoder_layers': 2, 'model.d_model': 16,
      'model.num_heads': 2, 'model.d_ff': 24, 'model.max_length': 24, 'model.norm': 'rms',
      'model.norm_position': 'pre', 'model.positions': 'relative', 'model.biases': False,
      'model.embedding_scale': 'output', 'model.scale_scores': False, 'model.activation': 'relu',
      'model.norm_epsilon': 1e-6, 'model.init': 't5', 'model.attention_dropout': 0.1,
      'model.activation_dropout': 0.1, 'data.train': 'pairs.tsv', 'decode.max_length': 6,
      'optim.schedule': 'constant', 'optim.peak_learning_rate': 1e-3}
CLASSIFY = {'data.objective': 'classify', 'model.num_labels': 2}
LABELS = '''"""Whether a text has an a."""
from xformer.config import *

CONFIG = Config(
    model=ModelConfig(family='encoder', num_encoder_layers=1, num_decoder_layers=0, pooler=True),
    data=DataConfig(objective='classify', train='labels.tsv', batch_tokens=256, max_buckets=1),
    optim=OptimConfig(schedule='constant', peak_learning_rate=3e-3, label_smoothing=0.0),
    train=TrainConfig(steps=4, eval_every=4, save_every=4, init_from='theirs'))
'''


@pytest.fixture
def run_of(random_like, tmp_path, monkeypatch):
    """run_of(settings, labels): the folder of a run of a small BERT, or of `base`, that nobody
    trained."""
    monkeypatch.setattr(cli, 'prepare_jax', lambda: None)
    monkeypatch.chdir(tmp_path)

    def run_of(settings, labels=(), base=BERT):
        config = override(Config(), base | settings)
        texts = ('abcdefgh ',) * (2 if config.data.objective == 'pairs' else 1)
        tokenizers = replace(train_tokenizers(config.data, [texts]), labels=labels)
        special = tokenizers.special
        config = validate(override(config, {
            'model.vocab_size': tokenizers.vocab_size, 'model.pad_id': special.pad,
            'model.bos_id': special.bos, 'model.eos_id': special.eos}))
        shapes = jax.eval_shape(lambda: init_params(build(config), jax.random.key(0)))
        folder = tmp_path / 'ours'
        folder.mkdir()
        (folder / 'config.json').write_text(to_json(config))
        (folder / 'manifest.json').write_text('{"data_fingerprint": ""}')
        tokenizers.save(folder)
        checkpoints = Checkpoints(folder / 'checkpoints', 1, 0, print, config.train.best_by)
        checkpoints.save(7, {'params': random_like(shapes)}, {'dev/loss': 1.0})
        checkpoints.wait()
        return folder
    return run_of


def answers(folder, capsys, *flags):
    capsys.readouterr()
    predict.main(['predict', f'--model={folder}', '--prompt=abc de', '--prompt=hg fa\tba b',
                  *flags])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def check_same(one, other):
    """Numbers to the fifth digit: they are computed in other orders."""
    def numbers(answer):
        return [*answer.get('scores', {}).values(), answer.get('number', 0)]
    assert [answer.get('label') for answer in one] == [answer.get('label') for answer in other]
    np.testing.assert_allclose([numbers(each) for each in one], [numbers(each) for each in other],
                               rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize('settings, labels', [
    (CLASSIFY, ('no', 'yes')),
    ({'data.objective': 'regress', 'optim.label_smoothing': 0.0}, ('3.5', '2.0'))])
def test_there_and_back_says_the_same(settings, labels, run_of, capsys):
    ours = run_of(settings, labels)
    convert.main(['convert', f'--model={ours}', '--output=theirs', '--family=bert'])
    printed = capsys.readouterr().out
    assert 'theirs (BertForSequenceClassification)' in printed and 'model.safetensors' in printed
    parity = [line for line in printed.splitlines() if line.startswith('parity')]
    assert not parity or float(parity[0].split()[1]) < 1e-5
    expected = answers(ours, capsys)
    check_same(answers('theirs', capsys), expected)

    convert.main(['convert', '--model=theirs', '--output=back'])
    printed = capsys.readouterr().out.splitlines()
    assert [line.startswith('parity') for line in printed].count(True) == len(parity)
    assert json.loads(ours.with_name('back').joinpath('manifest.json').read_text()) == {
        'data_fingerprint': '', 'converted_from': 'theirs'}
    check_same(answers('back', capsys, '--checkpoint=last'), expected)


def test_training_begins_with_a_hugging_face_folder(run_of, tmp_path, capsys):
    ours = run_of({'data.objective': 'mlm', 'data.format': 'lines', 'model.pooler': False}, ())
    convert.main(['convert', f'--model={ours}', '--output=theirs', '--family=bert'])
    texts = [f'{x}{y}{z} {z}{x}' for x in 'abcdefgh' for y in 'abcdefgh' for z in 'abcd']
    (tmp_path / 'labels.tsv').write_text(''.join(
        f'{text}\t{"yes" if "a" in text else "no"}\n' for text in texts))
    (tmp_path / 'labels.py').write_text(LABELS)
    train.main(['train', '--config=labels.py', '--workdir=tuned'])
    said = capsys.readouterr().err
    for line in ('loaded  encoder/encoder', 'new     head/kernel', 'as theirs: '):
        assert line in said
    config = json.loads((tmp_path / 'tuned' / 'config.json').read_text())
    assert config['model']['d_model'] == 16 and config['model']['embedding_norm']
    assert config['model']['num_encoder_layers'] == 2 and config['data']['tokenizer'] == 'wordpiece'
    origin = json.loads((tmp_path / 'tuned' / 'manifest.json').read_text())['init_from']
    assert origin['checkpoint'] == 'BertForMaskedLM'
    assert {'label', 'scores'} < set(answers('tuned', capsys)[0])


def test_a_head_for_other_labels_begins_anew(run_of, tmp_path, capsys):
    texts = [f'{x}{y}{z} {z}{x}' for x in 'abcdefgh' for y in 'abcdefgh' for z in 'abcd']
    (tmp_path / 'labels.tsv').write_text(''.join(
        f'{text}\t{"yes" if "a" in text else "no"}\n' for text in texts))
    (tmp_path / 'labels.py').write_text(LABELS.replace('theirs', 'ours'))
    run_of(CLASSIFY, ('yes', 'no'))
    train.main(['train', '--config=labels.py', '--workdir=other'])
    assert 'new     head/kernel' in capsys.readouterr().err
    described = json.loads((tmp_path / 'ours' / 'tokenizers.json').read_text())
    tokenizers = load_tokenizers(tmp_path / 'ours')
    assert described['labels'] == ['yes', 'no']
    replace(tokenizers, labels=('no', 'yes')).save(tmp_path / 'ours')
    train.main(['train', '--config=labels.py', '--workdir=same'])
    assert 'loaded  head/kernel' in capsys.readouterr().err


def said(command, capsys, *flags):
    capsys.readouterr()
    command.main([command.__name__, *flags])
    return capsys.readouterr().out


def test_a_language_model_goes_on_alike_and_drafts_for_itself(run_of, tmp_path, capsys):
    ours = run_of({}, base=GPT2)
    convert.main(['convert', f'--model={ours}', '--output=theirs'])
    assert '(GPT2LMHeadModel)' in capsys.readouterr().out
    prompts = ('--prompt=abc', '--prompt=hgfa b', '--max_new_tokens=9')
    expected = said(generate, capsys, f'--model={ours}', *prompts)
    assert len(expected.splitlines()) == 2
    assert said(generate, capsys, '--model=theirs', *prompts) == expected
    assert said(generate, capsys, '--model=theirs', '--draft=theirs', *prompts) == expected
    (tmp_path / 'more.txt').write_text('abcd efgh\nab a bc h\n')
    measured = [said(evaluate, capsys, f'--model={model}', '--input=more.txt', *flags).splitlines()
                for model, *flags in ((ours,), ('theirs', '--output=scores'))]
    assert measured[0][1:] == measured[1][1:] and 'perplexity' in str(measured[0])
    assert json.loads((tmp_path / 'scores' / 'input-more.json').read_text())['metrics']['nll'] > 1
    assert not (tmp_path / 'theirs' / 'eval').exists()


def test_a_model_of_pairs_writes_alike(run_of, tmp_path, capsys):
    ours = run_of({'decode.length_penalty': 'length', 'decode.beam_size': 3}, base=T5)
    convert.main(['convert', f'--model={ours}', '--output=theirs', '--family=t5'])
    (tmp_path / 'pairs.tsv').write_text('ab\tabc\nhgf a\tdef g\n')
    flags = ('--input=pairs.tsv', '--score=exact', '--show=2')
    expected = said(evaluate, capsys, f'--model={ours}', *flags, '--output=first')
    assert said(evaluate, capsys, '--model=theirs', *flags, '--output=second'
                ).replace('T5ForConditionalGeneration', 'step 7') == expected
    written = [[(row['source'], row['prediction']) for row in map(json.loads, (
        tmp_path / name / 'input-pairs.predictions.jsonl').read_text().splitlines())]
        for name in ('first', 'second')]
    assert written[0] == written[1] and len(written[0]) == 2
    with pytest.raises(UserError, match='theirs is a Hugging Face folder, which has no dev split'):
        evaluate.main(['evaluate', '--model=theirs'])

    for model in ours, 'theirs':
        visualize.main(['visualize', f'--model={model}', '--prompt=ab\tabc', '--prompt=hgf a',
                        f'--output={Path(model).name}_looks'])
    for number in (1, 2):
        with (np.load(tmp_path / 'ours_looks' / f'{number}.npz') as one,
              np.load(tmp_path / 'theirs_looks' / f'{number}.npz') as other):
            for name in one.files:
                if one[name].dtype == np.float32:
                    np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('objective', ['spans', 'denoise'])
def test_pretrained_models_are_written_as_models_of_pairs(objective, run_of, tmp_path, capsys):
    ours = run_of({'data.objective': objective, 'data.format': 'lines',
                   'model.attention_dropout': 0.0}, base=T5)
    convert.main(['convert', f'--model={ours}', '--output=theirs', '--family=t5'])
    said = capsys.readouterr()
    assert '(T5ForConditionalGeneration)' in said.out
    assert 'what the folder cannot say: model.attention_dropout=0.0, decode.length_' in said.err


@pytest.mark.parametrize('settings, flags, sentence', [
    ({'model.positions': 'alibi'}, [], 'no family that Hugging Face knows: bert: model.positions'),
    ({'model.pooler': False}, ['--family=bert'], 'model.pooler is False, there heads'),
    ({}, ['--family=brt'], "there is no family 'brt'; did you mean 'bert'"),
    ({}, ['--family=gpt2'], 'gpt2: data.objective=classify has no architecture there')])
def test_what_cannot_be_written_leaves_nothing_behind(settings, flags, sentence, run_of, tmp_path):
    ours = run_of(CLASSIFY | settings, ('no', 'yes'))
    with pytest.raises(UserError, match=sentence):
        convert.main(['convert', f'--model={ours}', '--output=theirs', *flags])
    assert [path.name for path in tmp_path.iterdir()] == ['ours']


def test_flags_without_effect(run_of, tmp_path):
    ours = run_of(CLASSIFY, ('no', 'yes'))
    convert.main(['convert', f'--model={ours}', '--output=theirs'])
    with pytest.raises(UserError, match='--family has no effect on theirs, a Hugging Face folder'):
        convert.main(['convert', '--model=theirs', '--output=back', '--family=bert'])
    with pytest.raises(UserError, match='--pool has no effect on theirs'):
        convert.main(['convert', '--model=theirs', '--output=back', '--pool=mean'])
    with pytest.raises(UserError, match='--output=theirs exists'):
        convert.main(['convert', f'--model={ours}', '--output=theirs'])


@pytest.mark.parametrize('family, settings', [
    ('bert', {'model.num_segments': 0}), ('roberta', {'model.num_segments': 0}),
    ('roberta', {'model.num_segments': 1})])
def test_what_pytorch_cannot_do_without_is_written_as_zeros(family, settings, run_of, capsys):
    """A kind of segment; and the positions before the first, of which there are as many as the
    number of the padding token says, 0 here."""
    ours = run_of({'data.objective': 'mlm', 'data.format': 'lines', 'model.pooler': False,
                   'data.tokenizer': 'byte_bpe', 'data.vocab_size': 280, **settings}, ())
    convert.main(['convert', f'--model={ours}', '--output=theirs', f'--family={family}'])
    parity = [line for line in capsys.readouterr().out.splitlines() if line.startswith('parity')]
    assert not parity or float(parity[0].split()[1]) < 1e-5
    theirs = json.loads(Path('theirs/config.json').read_text())
    assert theirs['type_vocab_size'] == 1 and theirs['pad_token_id'] == 0
    assert theirs['max_position_embeddings'] == (25 if family == 'roberta' else 24)
    Path('texts.txt').write_text('abc de\nhg fa ba b\n')
    np.testing.assert_allclose(vectors('theirs', [], capsys), vectors(ours, [], capsys), rtol=2e-5,
                               atol=2e-6)


def vectors(folder, flags, capsys):
    capsys.readouterr()
    embed.main(['embed', f'--model={folder}', '--input=texts.txt', *flags])
    return [json.loads(line)['embedding'] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize('pool', ['mean', 'cls', 'max'])
@pytest.mark.parametrize('settings, has_pooler', [
    ({'data.objective': 'mlm', 'data.format': 'lines', 'model.pooler': False}, False),
    (CLASSIFY, True), (CLASSIFY | {'model.pooler_activation': 'gelu'}, False)])
def test_an_encoder_for_sentence_transformers(settings, has_pooler, pool, run_of, tmp_path, capsys):
    """A pooler goes with it, if it is BERT's and not a layer of the head, as ELECTRA's is."""
    ours = run_of(settings, ('no', 'yes'))
    (tmp_path / 'texts.txt').write_text('abc de\nhg fa ba b\n')
    expected = vectors(ours, [f'--pool={pool}'], capsys)
    convert.main(['convert', f'--model={ours}', '--output=theirs', f'--pool={pool}'])
    printed = capsys.readouterr().out
    assert 'theirs (BertModel)' in printed
    parity = [line for line in printed.splitlines() if line.startswith('parity')]
    assert not parity or float(parity[0].split()[1]) < 1e-5
    found = vectors('theirs', [], capsys)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    written = safetensors.numpy.load_file('theirs/model.safetensors')
    assert any('pooler' in name for name in written) == has_pooler

    library = pytest.importorskip('sentence_transformers', reason='in the extra `parity`')
    model = library.SentenceTransformer(str(tmp_path / 'theirs'), device='cpu')
    assert model.max_seq_length == 24
    np.testing.assert_allclose(model.encode(['abc de', 'hg fa ba b']), expected, rtol=2e-5,
                               atol=2e-6)


def test_only_encoders_have_vectors_for_sentence_transformers(run_of):
    ours = run_of({}, base=GPT2)
    with pytest.raises(UserError, match='--pool is for an encoder, .* model.family is decoder'):
        convert.main(['convert', f'--model={ours}', '--output=theirs', '--pool=mean'])
