"""Evaluation: the documented keys, rates that another scorer finds too, the same bytes again."""

import dataclasses
import functools
import gzip
import json
import math
import shutil
from pathlib import Path

import pytest

from experiments.evaluate import examples_of_file
from xformer.config import Config, DataConfig, DecodeConfig


@functools.cache
def edits(a: tuple, b: tuple) -> int:
    """Levenshtein distance by its recursive definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(edits(a[1:], b) + 1, edits(a, b[1:]) + 1, edits(a[1:], b[1:]) + (a[0] != b[0]))


def rates(predictions: list[dict], marks: str, first: bool) -> tuple[float, float]:
    """(per, wer) of the rows of a predictions file, disregarding `marks`."""
    def tokens(text: str) -> tuple:
        return tuple(''.join(c for c in token if c not in marks) for token in text.split())
    best = []
    for row in predictions:
        references = row['references'][:1] if first else row['references']
        best.append(min(((edits(tokens(row['prediction']), tokens(text)), len(tokens(text)))
                         for text in references), key=lambda pair: pair[0]))
    wrong, length = map(sum, zip(*best))
    return wrong / length, sum(distance > 0 for distance, _ in best) / len(best)


def assert_scored(result: dict, predictions: list[dict]) -> None:
    for marks, suffix in (('01', ''), ('', '_marked')):
        for first, which in ((False, ''), (True, '_first')):
            per, wer = rates(predictions, marks, first)
            assert math.isclose(result['metrics'].pop(f'per{suffix}{which}'), per)
            assert math.isclose(result['metrics'].pop(f'wer{suffix}{which}'), wer)
    assert result['metrics'] == {}  # nothing is reported that was not recomputed


@pytest.fixture
def evaluate(run, mine, contents, rows):
    def evaluate(*args) -> tuple[str, dict, list[dict]]:
        """(stdout, eval/NAME.json, its predictions) for the one file that is written anew."""
        before = contents(mine)
        result = run('evaluate', '--model=mine', *args)
        assert result.returncode == 0, result.stderr
        after = contents(mine)
        changed = {name for name in after if before.get(name, b'') != after[name]}
        assert {name for name in changed if not name.startswith('eval')} \
            <= {'report.html', 'timing.jsonl'}
        assert after['timing.jsonl'].startswith(before['timing.jsonl'])
        assert before.keys() <= after.keys()
        named = [Path(line.removeprefix('results: ')) for line in result.stderr.splitlines()
                 if line.startswith('results: ')]
        assert len(named) == 1 and len(result.stderr.splitlines()) == 2
        path = mine.parent / named[0]
        return (result.stdout, json.loads(path.read_text()),
                rows(path.with_name(f'{path.stem}.predictions.jsonl')))
    return evaluate


def test_a_split_is_measured_whole_and_the_same_again(evaluate, mine, contents, rows):
    stdout, result, predictions = evaluate('--split=dev')
    wanted = {}
    for source, target in rows(mine / 'data' / 'dev.jsonl'):
        wanted.setdefault(source, []).append(target)
    assert {row['source']: row['references'] for row in predictions} == wanted
    assert len(predictions) == len(wanted) == result['examples']
    assert any(len(references) > 1 for references in wanted.values())

    assert {'metrics', 'scoring', 'decode', 'checkpoint', 'fingerprint'} <= result.keys()
    manifest = json.loads((mine / 'manifest.json').read_text())
    assert result['fingerprint'] == manifest['data_fingerprint']
    losses = {row['step']: row['dev/loss'] for row in rows(mine / 'metrics.jsonl')
              if 'dev/loss' in row}
    assert result['checkpoint'] == f'step {min(losses, key=losses.get)}'
    assert result['scoring'] == {'score': 'errors', 'strip': '01', 'too_long': 'error'}
    assert result['decode'] == dataclasses.asdict(DecodeConfig())
    for name, value in result['metrics'].items():
        assert f'  {name:<20} {value:7.2%}\n' in stdout
    assert 0 < result['metrics']['per'] < 1
    assert_scored(result, predictions)
    compiled = [row['function'] for row in rows(mine / 'eval' / 'dev.timing.jsonl')]
    assert compiled == ['search', 'attention_maps']  # all words are of one bucket

    def results():
        files = contents(mine / 'eval')
        return {name: files[name] for name in files if not name.endswith('timing.jsonl')}

    before = results()
    assert evaluate('--split=dev')[0] == stdout
    assert results() == before


def test_a_file_whose_rates_are_known(evaluate, run, tmp_path):
    words = ['ab', 'abc', 'dcba', 'bad', 'cabd', 'dd', 'acca', 'bdb']
    outputs = run('generate', '--model=mine', *(f'--prompt={word}' for word in words))
    texts = dict(zip(words, outputs.stdout.splitlines()))
    assert all(texts.values())
    rows = [(word, f'{text} D0' if i < 3 else text) for i, (word, text) in enumerate(texts.items())]
    rows.append(('abc', texts['abc']))  # second best is right
    (tmp_path / 'known.tsv').write_text(''.join(f'{a}\t{b}\n' for a, b in rows))

    stdout, result, predictions = evaluate('--input=known.tsv', '--show=2')
    assert {row['source']: row['prediction'] for row in predictions} == texts
    length = sum(len(text.split()) for text in texts.values())
    assert math.isclose(result['metrics']['wer'], 2 / 8)
    assert math.isclose(result['metrics']['wer_first'], 3 / 8)
    assert math.isclose(result['metrics']['per'], 2 / (length + 2))
    assert math.isclose(result['metrics']['per_first'], 3 / (length + 3))
    assert_scored(result, predictions)
    assert '✗ ab ' in stdout and '  cabd ' in stdout  # evenly spaced: rows 0 and 4


def test_an_average_of_checkpoints_decoded_greedily(evaluate):
    _, result, predictions = evaluate('--split=dev', '--checkpoint=average-last:2',
                                      '--config.decode.beam_size=1')
    assert result['checkpoint'] == 'mean of steps 50, 60'
    assert result['decode']['beam_size'] == 1
    assert result['examples'] == len(predictions)
    assert_scored(result, predictions)


DECODER = """from tiny import CONFIG, override

CONFIG = override(CONFIG, {'model.family': 'decoder', 'model.num_encoder_layers': 0,
                           'model.max_length': 16, 'data.score': 'exact', 'data.score_strip': '',
                           'train.steps': 300, 'train.eval_every': 100, 'train.save_every': 100})
"""


def test_a_decoder_of_pairs_is_measured_by_what_it_writes(trained_once, run, rows):
    folder, _ = trained_once('pairs_decoder', {'pairs_decoder.py': DECODER})
    assert run('evaluate', f'--model={folder}', '--config.decode.alpha=0').returncode == 0
    predictions = rows(folder / 'eval' / 'dev.predictions.jsonl')
    right = sum(row['prediction'] in row['references'] for row in predictions)
    result = json.loads((folder / 'eval' / 'dev.json').read_text())
    assert result['metrics'] == {'exact_match': right / len(predictions)} and right
    assert 'Cross-attention' not in (folder / 'report.html').read_text()
    given = ''.join(f'--prompt={row["source"]}\t{row["prediction"]}\n' for row in predictions)
    scored = run('generate', f'--model={folder}', '--score', *given.splitlines())
    for row, line in zip(predictions, scored.stdout.splitlines(), strict=True):
        assert float(line.split('\t')[0]) == pytest.approx(row['score'], abs=1e-4)


def test_bits_are_shared_by_bytes_and_by_characters(language_model, run, tmp_path):
    shutil.copytree(language_model, tmp_path / 'lm')
    (tmp_path / 'more.txt').write_text('1+2=3\né+é=é\n')
    assert run('evaluate', '--model=lm', '--input=more.txt').returncode == 0
    result = json.loads((tmp_path / 'lm' / 'eval' / 'input-more.json').read_text())
    bits = result['metrics']['nll'] * result['scoring']['labels'] / math.log(2)
    assert result['metrics']['bits_per_byte'] == pytest.approx(bits / 15)
    assert result['metrics']['bits_per_character'] == pytest.approx(bits / 12)


def test_a_language_model_reads_a_pipe(language_model, run, tmp_path):
    (tmp_path / 'more.txt').write_text('1+2=3\n2+2=4\n')
    measured = []
    for source, text, output in ('more.txt', '', 'a'), ('-', '1+2=3\n2+2=4\n', 'b'):
        done = run('evaluate', f'--model={language_model}', f'--input={source}',
                   f'--output={output}', text=text, env={'PYTHONUTF8': '1'})  # a true pipe
        assert done.returncode == 0, done.stderr
        measured.append(done.stdout.partition('\n')[2])  # without the name
    assert measured[0] == measured[1] and 'nll' in measured[0]


def test_more_batches_than_there_are_are_refused(language_model, run):
    done = run('evaluate', f'--model={language_model}', '--split=dev', '--batches=1000')
    assert done.returncode == 2 and '--batches=1000 is more than the' in done.stderr


def test_the_ending_of_a_file_says_its_format(tmp_path):
    (tmp_path / 'more.tsv').write_text('a\tb\n')
    for form in 'jsonl', 'parallel', 'lines', 'tsv':
        data = DataConfig(train='x,y', format=form)
        assert examples_of_file(str(tmp_path / 'more.tsv'), Config(data=data)) == [('a', 'b')]
    data = DataConfig(objective='lm', train='x', format='documents')
    (tmp_path / 'more.text').write_text('a\nb\n\nc\n')
    assert examples_of_file(str(tmp_path / 'more.text'), Config(data=data)) == [['a', ' b'], ['c']]


@pytest.mark.parametrize('objective, named, text, expected', [
    ('pairs', 'sentences', 'AB\tC d\n', [('ab', 'C d')]),
    ('lm', 'sentences', 'AB\nC', [['ab\n', 'c']]),
    ('mlm', 'sentences', 'AB\nC\n\nd\n', [['ab', ' c'], ['d']]),
    ('classify', 'sentences', 'AB\tC\tYes\n', [('ab', 'c', 'Yes')]),
    ('tag', 'sentences', 'AB O\nC X\n', [('ab c', '', 'O X')]),
    ('regress', '', '{"text": "AB", "label": 1.5}\n', [('ab', '', '1.5')])])
def test_a_file_is_read_as_the_training_data_were(objective, named, text, expected, tmp_path):
    data = DataConfig(objective=objective, dataset=named, lowercase_source=True, per_label=1)
    path = tmp_path / ('input' if named else 'input.jsonl.gz')
    path.write_bytes(text.encode() if named else gzip.compress(text.encode()))
    assert examples_of_file(str(path), Config(data=data)) == expected
