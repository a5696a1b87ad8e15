"""Training that is killed, stopped, damaged or diverges loses nothing and ends in the same bytes.

XFORMER_KILL_STEPS=400 XFORMER_KILLS=5 make the test of kills longer than its default.
"""

import gzip
import hashlib
import json
import os
import random
import re
import signal
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from waiting import wait_for

from experiments import evaluate

STEPS = 60
COMMAND = ('train', '--config=tiny.py', '--workdir=run')


@pytest.fixture(autouse=True)
def here(shared, trained, tmp_path) -> Path:
    (tmp_path / 'tiny.py').write_text((shared / 'tiny.py').read_text())
    return tmp_path


def state(run: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by name, read by Orbax alone."""
    path = (run / 'checkpoints' / str(step)).absolute()
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {jax.tree_util.keystr(name): np.asarray(x)
            for name, x in jax.tree_util.tree_leaves_with_path(restored)}


def digest(arrays: dict[str, np.ndarray]) -> str:
    named = sorted((name, str(x.dtype), x.shape, x.tobytes()) for name, x in arrays.items())
    return hashlib.sha256(repr(named).encode()).hexdigest()


def assert_same_end(run: Path, undisturbed: Path, steps: int = STEPS) -> None:
    """The same last state, bit for bit, and the same metrics, byte for byte, each step once."""
    metrics = (run / 'metrics.jsonl').read_bytes()
    logged = [json.loads(line)['step'] for line in metrics.splitlines()]
    assert logged == list(range(5, steps + 1, 5))
    assert metrics == (undisturbed / 'metrics.jsonl').read_bytes()
    arrays = state(run, steps)
    assert {'opt_state', 'params'} <= {re.match(r"\['(\w+)", name)[1] for name in arrays
                                       if name != "['step']"}
    assert digest(arrays) == digest(state(undisturbed, steps))
    assert steps_saved(run) == steps_saved(undisturbed)


def steps_saved(run: Path) -> list[int]:
    return sorted(int(path.stem) for path in (run / 'checkpoints').glob('*.json'))


def reached(run: Path, step: int):
    """Whether the newest start of a run has logged a step from `step` on."""
    def happened() -> bool:
        path = run / 'timing.jsonl'
        lines = path.read_text().split('\n')[:-1] if path.exists() else []
        rows = [json.loads(line) for line in lines]
        starts = [i for i, row in enumerate(rows) if row.get('event') == 'start']
        return bool(starts) and any('seconds' in row and row.get('step', 0) >= step
                                    for row in rows[starts[-1]:])
    return happened


def end(process) -> tuple[int, str]:
    """(exit code, stderr) of a process that was signalled."""
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


def flip_a_byte(folder: Path, draw: random.Random) -> Path:
    """Change one bit of one file below `folder`."""
    path = draw.choice(sorted(path for path in folder.rglob('*') if path.is_file()))
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1
    path.write_bytes(data)
    return path


def test_killed_at_any_moment_it_ends_in_the_same_bytes(here, start, run, trained, capsys):
    steps = int(os.environ.get('XFORMER_KILL_STEPS', STEPS))
    kills = int(os.environ.get('XFORMER_KILLS', 2))
    command = (*COMMAND, f'--config.train.steps={steps}')
    draw = random.Random(0)
    killed, undisturbed = here / 'run', trained
    if steps != STEPS:
        undisturbed = here / 'undisturbed'
        result = run(*command, '--workdir=undisturbed')
        assert result.returncode == 0, result.stderr

    moments = sorted(draw.sample(range(1, steps - 10), kills))
    for happened in (killed.exists, *(reached(killed, step) for step in moments)):
        process = start(*command, cwd=here)
        wait_for(happened, process)
        time.sleep(draw.uniform(0, 0.02))
        process.kill()
        assert end(process)[0] == -signal.SIGKILL
    result = run(*command)
    assert result.returncode == 0, result.stderr
    assert_same_end(killed, undisturbed, steps)
    if {'XFORMER_KILL_STEPS', 'XFORMER_KILLS'} & os.environ.keys():
        with capsys.disabled():
            print(f'\nkilled at once and at steps {moments} of {steps}: '
                  f'{digest(state(killed, steps))}\nundisturbed: '
                  f'{digest(state(undisturbed, steps))}')


TEXTS = ('--config.data.dataset=sentences', '--config.data.train=', '--config.data.score_strip=',
         '--config.data.target_tokenizer=', '--config.data.tokenizer=word',
         '--config.model.max_length=24', '--config.data.batch_tokens=512',
         '--config.data.max_buckets=1')
FAMILIES = {
    'encoder': ('--config.model.family=encoder', '--config.model.num_decoder_layers=0',
                '--config.data.objective=mlm_nsp', '--config.model.pooler=true',
                '--config.model.num_segments=2'),
    'decoder': ('--config.model.family=decoder', '--config.model.num_encoder_layers=0',
                '--config.data.objective=lm', '--config.model.positions=rotary'),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_the_other_families_go_on_after_a_kill_as_if_undisturbed(family, here, start, run):
    """Trained on generated texts with dropout and accumulation, killed once, and measured."""
    flags = (*TEXTS, *FAMILIES[family], '--config.train.steps=20')
    result = run('train', '--config=tiny.py', '--workdir=undisturbed', *flags)
    assert result.returncode == 0, result.stderr
    process = start('train', '--config=tiny.py', '--workdir=run', *flags, cwd=here)
    wait_for(reached(here / 'run', 10), process)
    process.kill()
    assert end(process)[0] == -signal.SIGKILL
    result = run('train', '--config=tiny.py', '--workdir=run', *flags)
    assert result.returncode == 0, result.stderr
    assert_same_end(here / 'run', here / 'undisturbed', steps=20)

    evaluate.main(['evaluate', f'--model={here}/run'])
    metrics = json.loads((here / 'run' / 'eval' / 'dev.json').read_text())['metrics']
    last = json.loads((here / 'run' / 'metrics.jsonl').read_text().splitlines()[-1])
    assert metrics['nll'] == pytest.approx(last['dev/nll'], rel=1e-5)  # the same masks


def assert_second_writer_refused(first, here: Path, run) -> None:
    """The same command, while the first is under way, changes nothing of its run."""
    def sizes():
        return {path: path.stat().st_size for path in here.rglob('*')}
    first.send_signal(signal.SIGSTOP)  # so that it cannot end too soon
    before = sizes()
    result = run(*COMMAND)
    assert (result.returncode, result.stdout) == (2, '')
    assert re.fullmatch(r'train: another process .* in run; .*\n', result.stderr)
    assert sizes() == before
    first.send_signal(signal.SIGCONT)


def stopped_by(number: signal.Signals, process, run: Path) -> int:
    """The step at which a command that was sent this signal says it has saved its state."""
    process.send_signal(number)
    code, stderr = end(process)
    said = re.search(rf'train: .*{number.name}.* saved at step ([0-9]+)\n$', stderr)
    assert code == 75 and said and 'Traceback' not in stderr, stderr
    assert 0 < int(said[1]) == steps_saved(run)[-1] < STEPS
    return int(said[1])


def test_a_signal_saves_and_the_same_command_goes_on(here, start, run, trained):
    """While it compiles, then while it trains; a second writer changes nothing meanwhile."""
    folder = here / 'run'
    process = start(*COMMAND, cwd=here)
    wait_for((folder / 'manifest.json').exists, process)
    first = stopped_by(signal.SIGINT, process, folder)

    process = start(*COMMAND, cwd=here)
    wait_for(reached(folder, first + 5), process)
    assert_second_writer_refused(process, here, run)
    second = stopped_by(signal.SIGTERM, process, folder)
    assert second > first

    result = run(*COMMAND)
    assert result.returncode == 0
    assert f'going on from step {second}\n' in result.stderr
    assert_same_end(folder, trained)


def test_a_trace_of_some_steps(here, run):
    result = run(*COMMAND, '--profile', '--config.train.steps=25')
    assert result.returncode == 0
    [trace] = (here / 'run/profile').rglob('perfetto_trace.json.gz')
    assert b'train' in gzip.decompress(trace.read_bytes())


def test_a_finished_run_is_left_alone(mine, run, contents, rows):
    before = contents(mine)
    result = run('train', '--config=tiny.py', '--workdir=mine')
    assert (result.returncode, result.stdout) == (0, '')
    after = contents(mine)
    touched = {name for name in before.keys() | after.keys()
               if before.get(name, b'') != after.get(name, b'')}
    assert {name for name in touched if not name.startswith('tensorboard/')} \
        <= {'timing.jsonl', 'report.html'}
    added = rows(mine / 'timing.jsonl')[before['timing.jsonl'].count(b'\n'):]
    assert [row.get('event') for row in added] == ['start']


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(mine, run, trained):
    damaged = flip_a_byte(mine / 'checkpoints' / str(STEPS), random.Random(1))
    result = run('train', '--config=tiny.py', '--workdir=mine')
    assert result.returncode == 0, result.stderr
    assert 'damaged' in result.stderr
    assert damaged.relative_to(mine / 'checkpoints').as_posix() in result.stderr
    assert 'going on from step 50\n' in result.stderr
    assert_same_end(mine, trained)


def test_when_all_checkpoints_are_damaged_nothing_is_touched(mine, run, contents):
    draw = random.Random(2)
    for step in steps_saved(mine):
        flip_a_byte(mine / 'checkpoints' / str(step), draw)
    before = contents(mine)
    result = run('train', '--config=tiny.py', '--workdir=mine')
    assert (result.returncode, result.stdout) == (2, '')
    said = result.stderr.splitlines()[-1]
    assert said.startswith('train: every checkpoint in') and '60, 50, 40' in said
    assert 'Traceback' not in result.stderr
    assert contents(mine) == before


def test_the_best_checkpoint_is_kept_whatever_is_saved_besides(here, run):
    result = run('train', '--config=tiny.py', '--config.train.patience=2',
                 '--config.train.eval_every=5', '--config.train.save_every=1000',
                 '--config.optim.peak_learning_rate=0.3', '--workdir=run')
    assert result.returncode == 0, result.stderr
    losses = {row['step']: row['dev/loss'] for row in map(
        json.loads, (here / 'run' / 'metrics.jsonl').read_text().splitlines())}
    best = min(losses, key=losses.get)
    assert max(losses) < STEPS and best < max(losses)
    assert {best, max(losses)} <= set(steps_saved(here / 'run'))


@pytest.mark.parametrize('save_every', [10, 1])
def test_divergence_keeps_the_last_good_state(save_every, here, run):
    """Also where that one is just being written."""
    command = ('train', '--config=tiny.py', '--config.optim.clip_norm=0',
               '--config.optim.peak_learning_rate=1e30', f'--config.train.save_every={save_every}')
    result = run(*command, '--workdir=run')
    assert (result.returncode, result.stdout) == (3, '')
    said = re.search(r'\ntrain: update ([0-9]+) was not finite .* saved at step ([0-9]+)\..*\n$',
                     result.stderr)
    assert said, result.stderr
    failed, kept = map(int, said.groups())
    assert (failed, steps_saved(here / 'run')[-1]) == (kept + 1, kept)
    arrays = state(here / 'run', kept)
    assert int(arrays["['step']"]) == kept
    assert all(np.isfinite(x).all() for x in arrays.values())

    result = run(*command, '--workdir=until', f'--config.train.steps={kept}')
    assert result.returncode == 0, result.stderr
    assert digest(arrays) == digest(state(here / 'until', kept))
