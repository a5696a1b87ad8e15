"""A pre-trained encoder is fine-tuned, measured and asked, by the commands their users run."""

import json
import shutil

import pytest

from experiments import cli, evaluate, predict, train
from xformer.config import Config, UserError, override

LABELS = '''"""Whether a text has an a."""
from xformer.config import *

CONFIG = Config(
    model=ModelConfig(family='encoder', num_encoder_layers=1, num_decoder_layers=0, d_model=8,
                      num_heads=2, layers='scan', pooler=True),
    data=DataConfig(objective='classify', train='labels.tsv', batch_tokens=256, max_buckets=1),
    optim=OptimConfig(schedule='constant', peak_learning_rate=3e-3, label_smoothing=0.0),
    train=TrainConfig(steps=40, log_every=2, eval_every=4, save_every=4, init_from={source!r},
                      best_by='dev/accuracy:max', patience=2, freeze='encoder/embedding'))
'''


@pytest.fixture(scope='module')
def labels(untrained, trained_once):
    """(run folder, what training said) of a classifier that begins with an untrained encoder."""
    texts = [f'{x}{y}{z} {z}{x}' for x in 'abcdefgh' for y in 'abcdefgh' for z in 'abcdefgh']
    return trained_once('labels', {
        'labels.tsv': ''.join(f'{text}\t{"yes" if "a" in text else "no"}\n' for text in texts),
        'labels.py': LABELS.format(source=str(untrained('encoder')))})


def test_training_says_what_it_began_with_and_when_it_stopped(labels, rows):
    run, said = labels
    for line in ('loaded  encoder/encoder', 'new     head/kernel', 'new     encoder/pooler',
                 'left    transform/kernel', 'as '):
        assert line in said
    config = json.loads((run / 'config.json').read_text())
    assert config['model']['d_model'] == 16 and config['model']['num_labels'] == 2
    assert json.loads((run / 'manifest.json').read_text())['init_from']['checkpoint'] == 'step 7'
    values = [row['dev/accuracy'] for row in rows(run / 'metrics.jsonl') if 'dev/accuracy' in row]
    best = values.index(max(values))
    assert len(values) - 1 - best == 2 or len(values) == 10
    assert ('stopped early' in said) == (len(values) < 10)


def test_the_same_command_again_changes_nothing(labels, finish):
    run, _ = labels
    before = (run / 'metrics.jsonl').read_bytes()
    result = finish('train', '--config=labels.py', '--workdir=labels', cwd=run.parent)
    assert result.returncode == 0 and (run / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize('flag, sentence', [
    ('model.d_model=32', '--config.model.d_model=32 cannot be had.* has its model.d_model=16'),
    ('model.num_labels=3', 'model.num_labels=3 is not the 2'),
    ('train.best_by=dev/f1:max', 'dev/f1:max is not measured here; .*dev/loss, .*dev/macro_f1')])
def test_what_cannot_be_had_is_refused_before_there_is_a_run(flag, sentence, labels, tmp_path,
                                                             monkeypatch):
    monkeypatch.chdir(labels[0].parent)
    monkeypatch.setattr(cli, 'prepare_jax', lambda: None)
    with pytest.raises(UserError, match=sentence):
        train.main(['train', '--config=labels.py', f'--workdir={tmp_path}/run',
                    f'--config.{flag}'])
    assert not (tmp_path / 'run').exists()


def test_a_student_learns_what_its_teacher_says(labels, rows, tmp_path, monkeypatch, capsys):
    teacher, _ = labels
    source, student = tmp_path / 'source', tmp_path / 'student'
    shutil.copytree(teacher, source, ignore=shutil.ignore_patterns('*.tmp', 'eval'))
    monkeypatch.chdir(teacher.parent)
    monkeypatch.setattr(cli, 'prepare_jax', lambda: None)
    command = [
        'train', '--config=labels.py', f'--workdir={student}', '--config.train.teacher=labels',
        f'--config.train.init_from={source}', '--config.train.cosine_weight=1',
        '--config.model.num_encoder_layers=1', '--config.train.steps=8']
    train.main(command)
    assert json.loads((student / 'config.json').read_text())['model']['num_encoder_layers'] == 1
    manifest = json.loads((student / 'manifest.json').read_text())
    assert manifest['teacher'] == manifest['init_from'] | {'run': 'labels'}
    assert 'new' not in capsys.readouterr().err.split(f'parameters of {source}')[1]
    seen = rows(student / 'metrics.jsonl')
    assert all({'soft_nll', 'cosine_distance'} < row.keys() for row in seen)
    assert seen[-1]['cosine_distance'] < seen[0]['cosine_distance']

    shutil.rmtree(source)  # what a run began with it needs no more
    train.main(command)
    assert rows(student / 'metrics.jsonl') == seen


def test_evaluation_finds_what_training_found(labels, rows, tmp_path):
    run, _ = labels
    evaluate.main(['evaluate', f'--model={run}', f'--output={tmp_path}/eval'])
    metrics = json.loads((tmp_path / 'eval' / 'dev.json').read_text())['metrics']
    best = max(row.get('dev/accuracy', 0) for row in rows(run / 'metrics.jsonl'))
    guesses = rows(tmp_path / 'eval' / 'dev.guesses.jsonl')
    assert metrics['accuracy'] == pytest.approx(best)
    assert metrics['accuracy'] == sum(
        row['label'] == row['target'] for row in guesses) / len(guesses)


def test_prompts_and_a_file_are_the_same_and_the_mask_is_filled(labels, untrained, capsys,
                                                                tmp_path):
    run, _ = labels
    (tmp_path / 'texts').write_text('abc\nb c\n')
    predict.main(['predict', f'--model={run}', '--prompt=abc', '--prompt=b c'])
    shown = capsys.readouterr().out
    predict.main(['predict', f'--model={run}', f'--input={tmp_path}/texts',
                  f'--output={tmp_path}/out'])
    assert (tmp_path / 'out').read_text() == shown
    for row in map(json.loads, shown.splitlines()):
        assert row['scores'].keys() == {'yes', 'no'} and sum(row['scores'].values()) == \
            pytest.approx(1, abs=1e-5) and row['label'] == max(row['scores'], key=row['scores'].get)

    predict.main(['predict', f'--model={untrained("classifier")}', '--cut',
                  '--prompt=' + 'ab' * 30])
    captured = capsys.readouterr()
    assert 'cut there: 1' in captured.err and json.loads(captured.out)['label'] in ('yes', 'no')

    predict.main(['predict', f'--model={run}', '--split=test'])
    asked = [json.loads(line)['text'] for line in capsys.readouterr().out.splitlines()]
    assert asked == [json.loads(line)[0] for line in (run / 'data/test.jsonl').read_text()
                     .splitlines()]

    predict.main(['predict', f'--model={untrained("encoder")}', '--top=3',
                  '--prompt=a[MASK]c[MASK]'])
    [row] = map(json.loads, capsys.readouterr().out.splitlines())
    assert [len(fillers) for fillers in row['masks']] == [3, 3]
    assert all(a['p'] >= b['p'] for fillers in row['masks'] for a, b in zip(fillers, fillers[1:]))


@pytest.mark.parametrize('family, arguments, sentence', [
    ('decoder', '--prompt=a', 'model.family=decoder; predict asks an encoder'),
    ('encoder', '--prompt=abc', r'input 1 has no \[MASK\] to fill'),
    ('encoder', '--prompt=[MASK]bbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'has 32 tokens, .* model takes 24'),
    ('encoder', '--prompt=a --next_sentence', 'needs a model of data.objective=mlm_nsp, not mlm'),
    ('encoder', '--prompt=', 'input 1 .* none of them empty'),
    ('encoder', '', 'give one of --prompt=TEXT, --input=FILE .* and --split'),
    ('encoder', '--split=dev', 'cannot read the dev split in .*dev.jsonl .*; give --input=FILE'),
    ('encoder', '--prompt=[MASK] --checkpoint=9', 'needs 1 intact checkpoint')])
def test_refused(family, arguments, sentence, untrained):
    with pytest.raises(UserError, match=sentence):
        predict.main(['predict', f'--model={untrained(family)}', *arguments.split()])


def test_labels_and_columns_that_do_not_fit_are_refused(labels, tmp_path):
    run, _ = labels
    for text, sentence in (('a\tb\tc', 'must be a text, or two separated by a tab'),
                           ('a\t', 'none of them empty')):
        with pytest.raises(UserError, match=sentence):
            predict.main(['predict', f'--model={run}', f'--prompt={text}'])
    tagger = override(Config(), {'data.objective': 'tag'})
    with pytest.raises(UserError, match='input 7 .* must be one text'):
        predict._example(7, 'a\tb', tagger, False)
    with pytest.raises(UserError, match='--top is for'):
        predict.main(['predict', f'--model={run}', '--prompt=a', '--top=2'])
