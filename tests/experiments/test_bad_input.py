"""Every mistake of the user: exit code 2, one sentence that names it, nothing changed or left."""

import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

GOOD = 'ab\tA0 B1\n' * 20


@pytest.fixture
def here(mine, shared, tmp_path) -> Path:
    """A folder with the experiment tiny.py, its run `mine`, and one file for each mistake."""
    (tmp_path / 'tiny.py').write_text((shared / 'tiny.py').read_text())
    (tmp_path / 'broken.json').write_text('{"model": ')
    (tmp_path / 'typo.json').write_text('{"model": {"d_modle": 16}}')
    (tmp_path / 'list.json').write_text('[1]')
    (tmp_path / 'syntax.py').write_text('CONFIG = (\n')
    (tmp_path / 'typo.py').write_text(
        'from xformer.config import Config, ModelConfig\n'
        'CONFIG = Config(model=ModelConfig(d_modle=16))\n')
    (tmp_path / 'none.py').write_text('CONFIG = None\n')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'empty.tsv').touch()
    (tmp_path / 'no_tab.tsv').write_text('ab\tA0 B1\nba B0 A1\n')
    (tmp_path / 'two_tabs.tsv').write_text('ab\tA0\tB1\n')
    (tmp_path / 'latin.tsv').write_bytes(b'ab\tA0 B1\nb\xe9\tB0\n')
    (tmp_path / 'one.tsv').write_text(GOOD)
    (tmp_path / 'long.tsv').write_text(GOOD + 'abcdabcdabcd\tA0 B1\n')
    (tmp_path / 'all_long.tsv').write_text('abcdabcdabcd\tA0 B1\n' * 20)
    (tmp_path / 'three.txt').write_text('ab\nba\nbb\n')
    (tmp_path / 'two.txt').write_text('A0 B1\nB0 A1\n')
    (tmp_path / 'words.txt').write_text('abc\ndcb\n')
    (tmp_path / 'binary.bin').write_bytes(bytes(range(256)))
    return tmp_path


PROGRESS = re.compile(r'training the tokenizers|vocabulary: [0-9]+ tokens|tokenising [a-z]+'
                      r'|(train|dev|test) split: [0-9]+ pairs, .* dropped as too long, 0 cut'
                      r'|[0-9]+ examples, .* tokens in the vocabulary, .*|')


def assert_refused(result, *words: str) -> None:
    """Exit code 2, nothing on stdout; on stderr one line that holds all the words.

    Before that line come only those that a healthy run begins with, too.
    """
    assert result.returncode == 2, result.stderr
    assert result.stdout == ''
    *before, said = result.stderr.splitlines()
    assert [line for line in before if not PROGRESS.fullmatch(line)] == []
    assert said.startswith(result.args[2].removeprefix('experiments.') + ': ')
    assert not re.search(r'Traceback|[a-z]Error\b|Warning|\[Errno', said)
    for word in words:
        assert word in said


# Answered before JAX is imported

BEFORE_JAX = {
    'unknown experiment': ('train --config=g2p_quickstar', "'g2p_quickstar'", "'g2p_quickstart'"),
    'no experiment like it': ('train --config=zzz', "'zzz'", 'there are: addition, '),
    'unknown variant': ('train --config=g2p_quickstart:smoky', "'smoky'", "'smoke'"),
    'empty variant': ('train --config=g2p_quickstart:', 'variant', 'smoke'),
    'unknown flag': ('train --config=tiny.py --wrokdir=x', '--wrokdir', "'workdir'"),
    'unknown field': ('train --config=tiny.py --config.model.d_modle=8', '--config.model.d_modle',
                      "'config.model.d_model'"),
    'field without section': ('train --config=tiny.py --config.d_model=8',
                              "'config.model.d_model'"),
    'wrong type': ('train --config=tiny.py --config.model.d_model=wide', 'model.d_model',
                   'a whole number', "'wide'"),
    'wrong flag type': ('train --config=tiny.py --print_config=perhaps', '--print_config',
                        'perhaps'),
    'not among choices': ('train --config=tiny.py --config.optim.schedule=lineer',
                          'optim.schedule', "'lineer'", "'linear'"),
    'out of range': ('train --config=tiny.py --config.model.dropout=1', 'model.dropout', '1.0'),
    'not a number': ('train --config=tiny.py --config.model.dropout=nan', 'model.dropout', 'nan'),
    'indivisible': ('train --config=tiny.py --config.model.d_model=15', 'model.d_model=15',
                    'model.num_heads=2'),
    'no effect': ('train --config=tiny.py --config.optim.final_fraction=0.1',
                  'optim.final_fraction', 'optim.schedule=constant'),
    'missing config': ('train', '--config'),
    'empty config': ('train --config=', '--config'),
    'empty workdir': ('train --config=tiny.py --workdir=', '--workdir'),
    'stray argument': ('train --config=tiny.py stray', "'stray'"),
    'missing value': ('train --config=tiny.py --workdir', '--workdir'),
    'missing .py': ('train --config=absent.py', 'absent.py', 'No such file'),
    'missing .json': ('train --config=absent.json', 'absent.json', 'No such file'),
    'broken .json': ('train --config=broken.json', 'broken.json', 'JSON'),
    'field in .json': ('train --config=typo.json', 'typo.json', "'model.d_modle'",
                       "'model.d_model'"),
    'list in .json': ('train --config=list.json', 'list.json'),
    'broken .py': ('train --config=syntax.py', 'syntax.py:1'),
    'field in .py': ('train --config=typo.py', 'typo.py:2', 'd_modle'),
    '.py without CONFIG': ('train --config=none.py', 'none.py', 'CONFIG'),

    'two ways of not training': ('train --config=tiny.py --print_config --estimate',
                                 '--print_config', '--estimate'),
    'begins nowhere': ('train --config=tiny.py --config.train.init_from=nowhere', 'nowhere'),
    'teacher of another kind': ('train --config=finetune_sst2 --config.train.teacher=mine', 'mine',
                                'data.objective=pairs', 'classify'),
    'missing model': ('evaluate', '--model'),
    'model nowhere': ('evaluate --model=nowhere', 'nowhere'),
    'model is no run': ('evaluate --model=folder', 'folder', 'config.json'),
    'model is a file': ('evaluate --model=tiny.py', 'tiny.py', 'file'),
    'unknown split': ('evaluate --model=mine --split=train', '--split', 'dev', 'test'),
    'negative show': ('evaluate --model=mine --show=-1', '--show'),
    'field not of decoding': ('evaluate --model=mine --config.model.d_model=8',
                              '--config.model.d_model'),
    'decodes too long': ('evaluate --model=mine --config.decode.max_length=9',
                         'decode.max_length=9', 'model.max_length=8'),
    'input missing': ('evaluate --model=mine --input=absent.tsv', 'absent.tsv', 'No such file'),
    'input is a folder': ('evaluate --model=mine --input=folder', 'folder', 'Is a directory'),
    'input empty': ('evaluate --model=mine --input=empty.tsv', 'empty.tsv', 'empty'),
    'input without tab': ('evaluate --model=mine --input=no_tab.tsv', 'no_tab.tsv:2', '0 tabs'),
    'input with two tabs': ('evaluate --model=mine --input=two_tabs.tsv', 'two_tabs.tsv:1',
                            '2 tabs'),
    'input not UTF-8': ('evaluate --model=mine --input=latin.tsv', 'latin.tsv:2', '0xe9'),
    'split and input': ('evaluate --model=mine --split=test --input=one.tsv', '--split',
                        '--input'),

    'nothing to generate from': ('generate --model=mine', '--prompt', '--input'),
    'prompt and input': ('generate --model=mine --prompt=ab --input=words.txt', '--prompt',
                         '--input'),
    'more outputs than beam': ('generate --model=mine --prompt=ab --num_outputs=5',
                               '--num_outputs=5', 'decode.beam_size=4'),
    'early stopping of nothing': (
        'generate --model=mine --prompt=ab --config.decode.beam_size=1 '
        '--config.decode.early_stopping=true', '--config.decode.early_stopping', 'beam_size=1'),
    'no outputs': ('generate --model=mine --prompt=ab --num_outputs=0', '--num_outputs'),
    'output exists': ('generate --model=mine --prompt=ab --output=words.txt', 'words.txt',
                      'exists'),
    'output nowhere': ('generate --model=mine --prompt=ab --output=no/where.txt', 'no/where.txt'),
    'binary input': ('generate --model=mine --input=binary.bin', 'binary.bin:2', '0x80'),
    'empty stdin': ('generate --model=mine --input=-', 'empty'),
}


@pytest.mark.parametrize('case', BEFORE_JAX.values(), ids=BEFORE_JAX.keys())
def test_refused_before_jax_is_imported(case, here, run, contents, without_jax):
    command, *words = case
    before = contents(here)
    result = run(*command.split(), env=without_jax)
    assert_refused(result, *words)
    assert result.stderr.count('\n') == 1
    assert contents(here) == before


def test_an_import_of_jax_would_have_been_seen(here, run, without_jax):
    result = run('generate', '--model=mine', '--prompt=ab', env=without_jax)
    assert result.returncode == 1
    assert 'AssertionError: jax was imported' in result.stderr


# Answered once the data, the devices or the run have been looked at

TRAIN = 'train --config=tiny.py --workdir=new '
PARALLEL = TRAIN + '--config.data.format=parallel --config.data.train='
AFTER_JAX = {
    'empty data': (TRAIN + '--config.data.train=empty.tsv', 'empty.tsv', 'empty'),
    'missing data': (TRAIN + '--config.data.train=absent.tsv', 'absent.tsv', 'No such file'),
    'data is a folder': (TRAIN + '--config.data.train=folder', 'folder', 'directory'),
    'no tab': (TRAIN + '--config.data.train=no_tab.tsv', 'no_tab.tsv:2', '0 tabs'),
    'two tabs': (TRAIN + '--config.data.train=two_tabs.tsv', 'two_tabs.tsv:1', '2 tabs'),
    'not UTF-8': (TRAIN + '--config.data.train=latin.tsv', 'latin.tsv:2', '0xe9'),
    'nothing held out': (TRAIN + '--config.data.train=one.tsv', 'dev split has no pairs',
                         'data.dev'),
    'unequal files': (PARALLEL + 'three.txt,two.txt', 'three.txt:3', 'two.txt'),
    'one file for two': (PARALLEL + 'three.txt', 'data.train=three.txt', 'SOURCE,TARGET'),
    'pair too long': (TRAIN + '--config.data.train=long.tsv', 'example 21 of train', '13 source',
                      'model.max_length=8'),
    'all pairs too long': (TRAIN + '--config.data.train=all_long.tsv --config.data.too_long=drop',
                           'train split has no pairs', 'all 20', 'model.max_length'),
    'batch too small': (TRAIN + '--config.data.batch_tokens=8', 'data.batch_tokens=8'),
    'more devices than there are': (TRAIN + '--config.parallel.devices=3', 'parallel.devices=3',
                                    'shows 1'),
    'another configuration': (
        'train --config=tiny.py --workdir=mine --config.optim.beta2=0.9 --config.train.seed=7',
        'optim.beta2 is 0.98 there, 0.9 here', 'train.seed is 0 there, 7 here'),
    'workdir is a file': ('train --config=tiny.py --workdir=tiny.py', 'tiny.py is a file'),
    'workdir is no run': ('train --config=tiny.py --workdir=.', 'not empty', 'no run'),
    'workdir below a file': ('train --config=tiny.py --workdir=tiny.py/run', 'tiny.py/run'),
    'workdir in a system folder': ('train --config=tiny.py --workdir=/proc/run', '/proc/run'),
    'prompt too long': ('generate --model=mine --prompt=abcdabcdabcd', "'abcdabcdabcd'",
                        '13 tokens', '8'),
    'empty prompt': ('generate --model=mine --prompt=', 'empty'),
    'unknown checkpoint': ('generate --model=mine --prompt=ab --checkpoint=newest', "'newest'",
                           'average-last:K'),
    'missing checkpoint': ('generate --model=mine --prompt=ab --checkpoint=7', "'7'", '40, 50, 60'),
    'too many to average': ('evaluate --model=mine --checkpoint=average-last:9', '9',
                            '40, 50, 60'),
}


@pytest.mark.parametrize('case', AFTER_JAX.values(), ids=AFTER_JAX.keys())
def test_refused(case, here, run, contents):
    command, *words = case
    before = contents(here)
    assert_refused(run(*command.split()), *words)
    assert contents(here) == before


def test_rows_that_do_not_split_over_devices(here, run, contents):
    before = contents(here)
    three = {'XLA_FLAGS': '--xla_force_host_platform_device_count=3'}
    assert_refused(run(*TRAIN.split(), env=three), '6 devices × micro-batches',
                   'data.batch_multiple')
    assert contents(here) == before


def test_data_that_changed_since(here, run, contents, shared):
    (here / 'pairs.tsv').write_text((shared / 'pairs.tsv').read_text())
    config = here / 'mine' / 'config.json'
    config.write_text(config.read_text().replace(str(shared / 'pairs.tsv'), 'pairs.tsv'))
    with open(here / 'pairs.tsv', 'a') as file:
        file.write('abab\tA0 B1\n')
    before = contents(here)
    assert_refused(run('train', '--config=tiny.py', '--config.data.train=pairs.tsv',
                       '--workdir=mine'), 'mine', 'data')
    assert contents(here) == before


# Disks that refuse


@contextmanager
def mounted(folder: Path, options: str):
    """A small disk of its own on `folder`; skips the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mount = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', folder]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip('only root on Linux may mount a small disk')
    try:
        yield
    finally:
        subprocess.run(['umount', '-l', folder], check=True)


def test_read_only_disk(here, run):
    with mounted(here / 'disk', 'ro,size=1m'):
        assert_refused(run('train', '--config=tiny.py', '--workdir=disk/run'), 'disk/run',
                       'Read-only file system')


def test_full_disk_costs_no_checkpoint(here, run, trained, contents):
    disk = here / 'disk'
    command = ('train', '--config=tiny.py', '--workdir=disk/run', '--config.train.keep_last=99',
               '--config.train.save_every=5')
    with mounted(disk, 'size=1m'):
        assert_refused(run(*command), 'disk/run', 'No space left on device')
        saved = [path for path in (disk / 'run' / 'checkpoints').glob('*.json')]
        assert saved

        subprocess.run(['mount', '-o', 'remount,size=20m', disk], check=True)
        result = run(*command)
        assert result.returncode == 0, result.stderr
        assert 'damaged' not in result.stderr
        newest = max(int(path.stem) for path in saved)
        assert f'going on from step {newest}\n' in result.stderr
        assert contents(disk / 'run')['metrics.jsonl'] == contents(trained)['metrics.jsonl']
