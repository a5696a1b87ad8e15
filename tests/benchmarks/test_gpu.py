"""Every section of bench-gpu at a tiny size on the CPU; what fails is told, and alone lost."""

import functools
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from benchmarks import gpu, gpu_sections, processes, results
from benchmarks.results import OURS, table

ROOT = Path(__file__).parents[2]
SMALL = {'model.d_model': 16, 'model.num_heads': 2, 'model.d_ff': 24, 'model.max_length': 32}
GPT = SMALL | {'model.num_decoder_layers': 1, 'model.vocab_size': 64}
TINY = {
    'train': {
        'gpt2': {'changes': GPT},
        'bert-base': {'changes': SMALL | {'model.num_encoder_layers': 1, 'model.vocab_size': 200}},
        'transformer-big': {'changes': SMALL | {
            'model.num_encoder_layers': 1, 'model.num_decoder_layers': 1, 'model.vocab_size': 64}}},
    'attention': {'rows': 2, 'length': 16, 'heads': 2, 'width': 8, 'expected': 'xla',
                  'tolerance': 2e-2},
    'decode': {'batch 2': {'rows': 2, 'prompt': 4, 'new': 6, 'changes': GPT, 'rounds': 1}},
    'biggest': {'model': 'gpt2', 'rows': 1, 'most': 2, 'length': 8, 'changes': GPT},
}
for size in TINY['train'].values():
    size |= {'rows': 2, 'length': 16, 'rounds': 2, 'updates': 1}
HERE = {'platform': 'cpu', 'kind': 'a small device', 'memory_mib': 0}
OPERATIONS = 1e9  # per second, of the small device


def call(job, seconds):
    """The job in this process, its result as JSON carries it."""
    assert seconds > 0
    arguments = job.arguments | ({'seconds': 100} if 'seconds' in job.arguments else {})
    return json.loads(made(job.module, job.function, json.dumps(arguments)))


@functools.cache
def made(module, function, arguments):
    """Both tests of all sections take the same of ours."""
    return json.dumps(getattr(importlib.import_module(module), function)(**json.loads(arguments)))


@pytest.fixture(autouse=True)
def small_device(monkeypatch):
    monkeypatch.setattr(gpu_sections, 'peak_flops', lambda kind, dtype: OPERATIONS)


def test_all_sections_run_without_a_peer():
    result = json.loads(json.dumps(gpu.measure(TINY, HERE, 'peer not installed: no torch', call)))
    assert result['errors'] == {}
    cases = result['cases']
    titles = list(gpu.TITLES.values())
    assert {*titles, *(f'{title}, MFU of xformer' for title in titles), 'deterministic mode',
            'decode, batch 2', 'biggest batch', *(f'attention by xla, {mask}' for mask in (
                'causal', 'padded', 'packed', 'window', 'cross'))} == cases.keys()
    for title in titles:
        mfu, rounds = cases[f'{title}, MFU of xformer'], cases[title]['rounds']
        assert mfu['values'] == pytest.approx([
            mfu['flops'] / OPERATIONS / row[OURS] for row in rounds])
        assert len(rounds) == 2 and cases[title]['ratio'] == {}
    assert cases['GPT-2 124M']['amounts'] == {OURS: 2 * 16}
    assert cases['decode, batch 2']['amounts'] == {OURS: 2 * 6}
    assert cases['biggest batch']['value']['median'] == 2
    assert 'biggest batch: 2 rows are the most that are tried' in result['notes']
    for mask in ('causal', 'padded', 'packed', 'window', 'cross'):
        assert 0 < cases[f'attention by xla, {mask}']['value']['max'] < 2e-2
    lines = table(result).splitlines()
    assert lines[0].startswith('gpu: a small device')
    assert sum(line.endswith('peer not installed: no torch') for line in lines) == 4
    assert sum('at least 0.5' in line for line in lines) == 1


def test_flops_are_those_of_the_formula():
    made = gpu_sections.train('gpt2', **TINY['train']['gpt2'])
    weights = 4 * 16 * 16 + 2 * 16 * 24 + 16 * 64  # a block's, and the logits'
    assert made['flops'] == 2 * (6 * weights * 16 + 12 * 16 * 16 ** 2)


def test_both_sides_compute_the_same(monkeypatch):
    torch = pytest.importorskip('torch', reason='the peer needs PyTorch: the extra `parity`')
    pytest.importorskip('transformers', reason='the peer needs transformers: the extra `parity`')
    monkeypatch.setattr(torch, 'compile', lambda function, **_: function)
    monkeypatch.setattr(gpu, 'PEERS', {'train': ('compile',), 'decode': ('eager',)})
    result = gpu.measure(TINY, HERE, '', call)
    assert result['errors'] == {}
    for title in gpu.TITLES.values():
        found = result['cases'][title]
        assert found['parity']['compile'].keys() == {'loss', 'gradient norm'}
        assert found['ratio']['compile']['median'] > 0
    [share] = result['cases']['decode, batch 2']['agreement']['eager'].values()
    assert 0 < share <= 1
    assert 'ratio to compile' in table(result)


def test_different_updates_are_an_error():
    ours = {'parameters': 5, 'checks': [[2.0, 1.0], [1.9, 1.1]]}
    assert gpu.parity(ours, ours, 'compile') == {'loss': 0, 'gradient norm': 0}
    with pytest.raises(RuntimeError, match='gradient norm of compile differs'):
        gpu.parity(ours, ours | {'checks': [[2.0, 1.0], [1.9, 1.2]]}, 'compile')
    with pytest.raises(RuntimeError, match='6'):
        gpu.parity(ours, ours | {'parameters': 6}, 'compile')


def test_another_attention_than_expected_is_an_error():
    with pytest.raises(RuntimeError, match='auto takes xla for the mask causal, not cudnn'):
        gpu_sections.attention(**TINY['attention'] | {'expected': 'cudnn'})
    with pytest.raises(RuntimeError, match='causal differs'):
        gpu_sections.attention(**TINY['attention'] | {'tolerance': 1e-6})


@pytest.mark.parametrize('said, end', [
    ('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nmore',
     'out of memory at 8 rows: RESOURCE_EXHAUSTED: Out of memory'), ('INTERNAL: no', None)])
def test_rows_double_until_the_memory_is_full(monkeypatch, said, end):
    class Full:
        def __init__(self, config):
            pass

        def step(self, batch):
            if len(batch['inputs_BT']) > 4:
                raise jax.errors.JaxRuntimeError(said)
            time.sleep(0.001)
            return 0.0, 0.0

    monkeypatch.setattr(gpu_sections, 'Ours', Full)
    arguments = TINY['biggest'] | {'most': 64, 'seconds': 60}
    if end is None:
        with pytest.raises(jax.errors.JaxRuntimeError, match='INTERNAL'):
            gpu_sections.biggest(**arguments)
        return
    found = gpu_sections.biggest(**arguments)
    assert found['rows'] == 4 and found['end'].startswith(end) and 'more' not in found['end']
    late = gpu_sections.biggest(**arguments | {'seconds': 0})
    assert late['rows'] == 0 and 'the time was up before 1 rows' in late['end']


def test_a_failure_loses_no_other_section_and_ends_with_1(monkeypatch, tmp_path, capsys):
    def in_a_process(job, seconds):
        if job.function == 'device':
            return HERE | {'platform': 'gpu'}
        if job.section == 'attention':
            raise RuntimeError('first line\nno kernel')
        return {'rows': 4, 'end': 'full'} if job.function == 'biggest' else {
            'seconds': [1.0, 2.0], 'tokens': 30, 'flops': 1e8, 'peak_flops': OPERATIONS,
            'parameters': 3, 'memory_mib': 7, 'checks': [], 'ids': [[1, 2]]}

    monkeypatch.setattr(gpu, 'in_a_process', in_a_process)
    monkeypatch.setattr(gpu, 'absence', lambda: 'peer not installed: no torch')
    path = tmp_path / 'new' / 'gpu.json'
    with pytest.raises(gpu.Failed, match='1 sections could not') as ending:
        gpu.main(['gpu', f'--output={path}'])
    assert ending.value.exit_code == 1
    assert 'FAILED: attention, xformer: no kernel' in capsys.readouterr().out
    result = json.loads(path.read_text())
    assert result['errors'] == {'attention, xformer': 'first line\nno kernel'}
    assert results.verdict(result['cases']['GPT-2 124M, MFU of xformer']) == 'at least 0.5: MISSED'
    assert result['cases']['GPT-2 124M, memory of xformer']['value']['max'] == 7
    assert result['cases']['deterministic mode']['values'] == [1, 1]


def test_time_that_is_not_needed_is_for_the_others(monkeypatch):
    clock, given = [0.0], []

    def takes_half(job, seconds):
        given.append(seconds)
        clock[0] += seconds / 2
        return {}

    monkeypatch.setattr(gpu.time, 'monotonic', lambda: clock[0])
    jobs = [gpu.Job(name, OURS, 'train', {}, 50) for name in 'ab']
    gpu.run(jobs, takes_half, 100, {})
    assert given == [50, 75] and clock[0] < 100


def test_a_process_is_ended_with_its_time():
    start = time.monotonic()
    with pytest.raises(RuntimeError, match='not done after 1 s'):
        processes.finished(['http.server', '0'], limit=1)
    assert time.monotonic() - start < 10


def test_without_a_gpu_one_sentence_says_so():
    done = subprocess.run([sys.executable, '-m', 'benchmarks.gpu'], cwd=ROOT, capture_output=True,
                          text=True)
    if done.returncode == 0:
        pytest.skip('there is a GPU')
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr.startswith('gpu: bench-gpu needs an NVIDIA GPU, and JAX shows cpu')
    assert len(done.stderr.splitlines()) == 1
