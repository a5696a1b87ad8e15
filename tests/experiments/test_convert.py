"""A run becomes a Hugging Face folder that says the same, and the other way round."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments import cli, convert, predict, train
from xformer.checks import validate
from xformer.config import Config, UserError, override, to_json
from xformer.data.tokenizers import train_tokenizers
from xformer.models import build, init_params
from xformer.train.checkpoint import Checkpoints

BERT = {'model.family': 'encoder', 'model.num_encoder_layers': 2, 'model.num_decoder_layers': 0,
        'model.d_model': 16, 'model.num_heads': 2, 'model.d_ff': 24, 'model.max_length': 24,
        'model.positions': 'learned', 'model.activation': 'gelu', 'model.embedding_norm': True,
        'model.embedding_scale': 'none', 'model.norm_epsilon': 1e-12, 'model.num_segments': 2,
        'model.pooler': True, 'model.init': 'bert', 'data.train': 'text.tsv',
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
    """run_of(settings, labels): the folder of a run of a small BERT that nobody trained."""
    monkeypatch.setattr(cli, 'prepare_jax', lambda: None)
    monkeypatch.chdir(tmp_path)

    def run_of(settings, labels):
        config = override(Config(), BERT | settings)
        tokenizers = replace(train_tokenizers(config.data, [('abcdefgh ',)]), labels=labels)
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
        checkpoints = Checkpoints(folder / 'checkpoints', 1, 0, print)
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
    with pytest.raises(UserError, match='--output=theirs exists'):
        convert.main(['convert', f'--model={ours}', '--output=theirs'])
