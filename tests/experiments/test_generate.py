"""Generation: every way in gives the same outputs, in order, best first."""

import dataclasses
import importlib
import json
import random

import pytest
from absl import flags

from xformer.config import Config, leaves

WORDS = random.Random(0).choices(['ab', 'dcba', 'bad', 'cab', 'dd', 'abcdabc'], k=40)


@pytest.fixture
def generate(run, trained):
    def generate(*args, **options):
        result = run('generate', f'--model={trained}', *args, **options)
        assert (result.returncode, result.stderr) == (0, '')
        return result.stdout
    return generate


def test_prompts_a_file_and_standard_input_are_the_same(generate, trained, contents, tmp_path):
    before = contents(trained)
    lines = '\n'.join(WORDS) + '\n'
    (tmp_path / 'words.txt').write_text(lines)
    of_file = generate('--input=words.txt', '--json')
    assert [json.loads(line)['source'] for line in of_file.splitlines()] == WORDS
    assert generate('--input=-', '--json', text=lines) == of_file
    assert contents(trained) == before


def test_two_prompts_give_what_they_gave_among_forty(generate):
    among = generate('--input=-', '--json', text='\n'.join(WORDS)).splitlines()
    alone = generate(f'--prompt={WORDS[0]}', f'--prompt={WORDS[1]}', '--json').splitlines()
    for found, wanted in zip(map(json.loads, alone), map(json.loads, among[:2]), strict=True):
        assert found['source'] == wanted['source']
        assert found['outputs'][0]['text'] == wanted['outputs'][0]['text']
        assert abs(found['outputs'][0]['score'] - wanted['outputs'][0]['score']) < 1e-5


def test_several_outputs_come_best_first(generate):
    lines = '\n'.join(WORDS)
    as_json = generate('--input=-', '--num_outputs=3', '--json', text=lines)
    as_text = generate('--input=-', '--num_outputs=3', text=lines)
    assert as_text.splitlines() == ['\t'.join(
        output['text'] for output in json.loads(line)['outputs']) for line in as_json.splitlines()]
    assert len(set(as_text.splitlines())) > 1  # else the order would not show
    for line in map(json.loads, as_json.splitlines()):
        assert line.keys() == {'source', 'outputs'}
        scores = [output['score'] for output in line['outputs']]
        assert scores == sorted(scores, reverse=True)
        texts = [output['text'] for output in line['outputs']]
        assert len(texts) == 3 == len(set(texts))


def test_a_file_of_outputs(run, trained, tmp_path):
    result = run('generate', f'--model={trained}', '--prompt=ab', '--prompt=bad', '--json',
                 '--num_outputs=2', '--output=out.jsonl')
    assert (result.returncode, result.stdout) == (0, '')
    assert result.stderr == '2 outputs: out.jsonl\n'
    lines = (tmp_path / 'out.jsonl').read_text().splitlines()
    assert [json.loads(line)['source'] for line in lines] == ['ab', 'bad']


def test_symbols_never_seen_are_counted_not_feared(run, trained):
    result = run('generate', f'--model={trained}', '--prompt=aXb', '--prompt=漢字🙂')
    assert result.returncode == 0
    assert result.stdout.count('\n') == 2
    assert result.stderr.count('\n') == 1 and '4' in result.stderr


def test_a_reader_that_has_seen_enough_is_no_error(start, trained, tmp_path):
    (tmp_path / 'many.txt').write_text('abcd\n' * 1000)
    with start('generate', f'--model={trained}', '--input=many.txt', '--json', '--num_outputs=4',
               cwd=tmp_path) as process:  # more than a pipe holds
        first = process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read()
    assert json.loads(first)['source'] == 'abcd'
    assert (process.returncode, stderr) == (0, '')


@pytest.mark.parametrize('module, sections', [
    ('train', {field.name for field in dataclasses.fields(Config)}),
    ('evaluate', {'decode'}), ('generate', {'decode'})])
def test_help_names_every_flag(module, sections, run, without_jax):
    values = flags.FlagValues()
    importlib.import_module(f'experiments.{module}').define(values)
    wanted = [*values, *(f'config.{name}' for name in leaves() if name.split('.')[0] in sections)]
    assert len(wanted) > 5
    result = run(module, '--help', env=without_jax)
    assert (result.returncode, result.stderr) == (0, '')
    shown = [line.split()[0] for line in result.stdout.splitlines() if line.startswith('  --')]
    assert set(shown) == {f'--{name}' for name in (*wanted, 'help')}
    assert f'python -m experiments.{module}' in result.stdout
