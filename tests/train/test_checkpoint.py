"""Checkpoints: exact, atomic, verified, pruned as promised; readers change nothing."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xformer.config import UserError
from xformer.train.checkpoint import Checkpoints, read_params

pytestmark = pytest.mark.filterwarnings('error')
ROOT = Path(__file__).parents[2]
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, mask={
    'embed': True, 'norm': {'scale': False}}))


def state_after(steps: int) -> dict:
    """A training state with moments and counters that are not zero."""
    params = {'embed': jax.random.normal(jax.random.key(0), (7, 4)),
              'norm': {'scale': jnp.ones(4)}}
    opt_state = OPTIMIZER.init(params)
    for step in range(steps):
        grads = jax.tree.map(lambda x, step=step: jnp.sin(x + step), params)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    return {'params': params, 'opt_state': opt_state, 'step': jnp.int32(steps)}


def abstract(tree):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


read = partial(read_params, best_by='dev/loss:min')
STATES = {step: state_after(step) for step in (1, 2, 3)}
ABSTRACT = abstract(STATES[1])


def assert_bit_equal(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def writer(run: Path, keep_last=3, keep_best=0, say=None) -> Checkpoints:
    def refuse(sentence):
        raise AssertionError(f'nothing to say was expected, not {sentence!r}')
    return Checkpoints(run / 'checkpoints', keep_last, keep_best, say or refuse, 'dev/loss:min')


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in folder.rglob('*')}


@pytest.fixture(scope='module')
def saved(tmp_path_factory) -> Path:
    """A run with checkpoints 1, 2, 3 of dev/loss 0.5, 0.2, 0.4. Copy before damaging it."""
    run = tmp_path_factory.mktemp('saved')
    checkpoints = writer(run)
    for step, loss in ((1, 0.5), (2, 0.2), (3, 0.4)):
        checkpoints.save(step, STATES[step], {'dev/loss': loss})
    checkpoints.wait()
    return run


@pytest.fixture
def run(saved, tmp_path) -> Path:
    shutil.copytree(saved, tmp_path / 'run')
    return tmp_path / 'run'


def flipped(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1:]


def damage(path: Path):
    data = path.read_bytes()
    path.write_bytes(flipped(data, len(data) // 2))


# Saving and restoring


def test_round_trip_is_bit_equal_with_structure_and_types(run, capfd):
    step, state = writer(run).restore(ABSTRACT)
    assert step == 3
    assert_bit_equal(state, STATES[3])
    assert state['opt_state'][1][0].count.dtype == jnp.int32
    assert capfd.readouterr() == ('', '')


def test_any_leaf_types_are_kept(tmp_path):
    state = {'params': {'a': jnp.array([1.5, -0.0, jnp.nan], jnp.bfloat16)},
             'opt_state': (jnp.array([3], jnp.uint32), optax.EmptyState()), 'step': jnp.int32(0)}
    checkpoints = writer(tmp_path)
    assert checkpoints.restore(abstract(state)) is None
    checkpoints.save(0, state, {})
    assert_bit_equal(checkpoints.restore(abstract(state))[1], state)


def test_buffers_may_be_donated_right_after_save(tmp_path):
    state = {'params': jax.random.normal(jax.random.key(1), (1000, 1000)),
             'opt_state': jnp.zeros(()), 'step': jnp.int32(0)}
    wanted = np.array(state['params'])
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    checkpoints = writer(tmp_path)
    checkpoints.save(1, state, {})
    for _ in range(3):
        state['params'] = overwrite(state['params'])
    jax.block_until_ready(state['params'])
    found = checkpoints.restore(abstract(state))[1]['params']
    assert np.array_equal(found, wanted) and not np.array_equal(found, state['params'])


def test_saving_a_step_twice_is_refused(run):
    with pytest.raises(ValueError, match='step 3'):
        writer(run).save(3, STATES[3], {})


@pytest.mark.parametrize(('change', 'named'), [
    (lambda s: {**s, 'params': {**s['params'], 'embed': jnp.zeros((8, 4))}}, 'params.embed'),
    (lambda s: {**s, 'step': jnp.float32(0)}, 'step'),
    (lambda s: {**s, 'ema': jnp.zeros(2)}, 'ema'),
    (lambda s: {key: s[key] for key in ('params', 'step')}, 'opt_state'),
])
def test_a_state_of_another_model_is_refused(run, change, named):
    before = contents(run)
    with pytest.raises(UserError, match=rf'checkpoints/3 does not fit this model: {named}'):
        writer(run).restore(abstract(change(STATES[3])))
    assert contents(run) == before


LIMITED = '''
import resource, sys
from pathlib import Path
import jax
from xformer.config import UserError
from xformer.train.checkpoint import Checkpoints
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
checkpoints = Checkpoints(Path(sys.argv[1]), 2, 0, print, 'dev/loss:min')
checkpoints.save(4, {'params': jax.random.normal(jax.random.key(0), (100_000,))}, {})
try:
    checkpoints.wait()
except UserError as error:
    print(error)
checkpoints.wait()
'''


def python(program: str, *arguments, **options) -> subprocess.Popen:
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    return subprocess.Popen([sys.executable, '-c', program, *map(str, arguments)],
                            env=environment, stdout=subprocess.PIPE, text=True, **options)


def test_a_disk_that_refuses_is_one_sentence_and_the_older_checkpoint_stays(run):
    with python(LIMITED, run / 'checkpoints', stderr=subprocess.PIPE) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == ''
    assert re.fullmatch(r'checkpoint 4 could not be written to \S+/checkpoints \(File too large\)'
                        r'; .*\n', output)
    assert writer(run, say=lambda _: None).restore(ABSTRACT)[0] == 3


# Damage


def test_damage_to_any_file_is_named_and_the_checkpoint_before_is_used(run):
    folder = run / 'checkpoints'
    files = [path for path in (folder / '3').rglob('*') if path.is_file()] + [folder / '3.json']
    assert len(files) > 8
    for path in files:
        name, data = path.relative_to(folder).as_posix(), path.read_bytes()
        for damaged in (*(flipped(data, i) for i in (0, len(data) // 2, len(data) - 1)),
                        data[:-1], b'', data + b'\n', None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            said = []
            where, params = read(folder, 'last', ABSTRACT['params'], said.append)
            assert where == 'step 2', (name, damaged)
            assert_bit_equal(params, STATES[2]['params'])
            unrecorded = name == '3.json' and damaged is None
            assert len(said) == 1 and ('/3 is a save' if unrecorded else name) in said[0]
            path.write_bytes(data)
    assert read(folder, 'last', ABSTRACT['params'], pytest.fail)[0] == 'step 3'
    (folder / '3' / 'd' / 'stray').write_text('')  # nor may there be a file too many
    assert read(folder, 'last', ABSTRACT['params'], said.append)[0] == 'step 2'
    assert '3/d/stray' in said[-1]


def test_every_byte_of_the_record_counts(run):
    record = run / 'checkpoints' / '3.json'
    data = record.read_bytes()
    others = data.replace(b'\n', b'\r\n'), b'[]', b'null', data * 2
    for damaged in (*others, *(flipped(data, i) for i in range(len(data)))):
        record.write_bytes(damaged)
        with pytest.raises(UserError, match="'3' needs 1 intact checkpoint"):
            read(run / 'checkpoints', '3', ABSTRACT['params'], lambda _: None)
    record.write_bytes(data)
    assert read(run / 'checkpoints', '3', ABSTRACT['params'], pytest.fail)[0] == 'step 3'


def test_resuming_moves_the_damaged_aside_and_never_over_an_earlier_one(run):
    folder, said = run / 'checkpoints', []
    for name in ('3', '3-2'):
        damage(folder / '3' / '_METADATA')
        before = contents(folder / '3')
        checkpoints = writer(run, say=said.append)
        step, state = checkpoints.restore(ABSTRACT)
        assert step == 2 and checkpoints.steps() == [1, 2]
        assert_bit_equal(state, STATES[2])
        assert contents(run / 'damaged' / name / '3') == before
        assert (run / 'damaged' / name / '3.json').is_file()
        assert '3/_METADATA' in said[-2] and str(run / 'damaged' / name) in said[-1]
        checkpoints.save(3, STATES[3], {})
        checkpoints.wait()
    assert sorted(path.name for path in (run / 'damaged').iterdir()) == ['3', '3-2']
    assert writer(run).restore(ABSTRACT)[0] == 3


def test_nothing_intact_is_an_error_and_moves_nothing(run):
    for step in (1, 2, 3):
        damage(run / 'checkpoints' / str(step) / '_METADATA')
    before, said = contents(run), []
    with pytest.raises(UserError, match=r'every checkpoint in \S+ is damaged .*from a copy'):
        writer(run, say=said.append).restore(ABSTRACT)
    assert contents(run) == before
    assert [int(re.search(r'checkpoint (\d)', sentence)[1]) for sentence in said] == [3, 2, 1]
    with pytest.raises(UserError, match="'last' needs 1 intact checkpoint, .* has 0"):
        read(run / 'checkpoints', 'last', ABSTRACT['params'], said.append)


def test_a_damaged_record_is_left_alone_by_pruning(run):
    damage(run / 'checkpoints' / '1.json')
    said = []
    checkpoints = writer(run, keep_last=1, say=said.append)
    checkpoints.save(4, STATES[1], {})
    checkpoints.wait()
    assert checkpoints.steps() == [1, 4]
    assert 'checkpoint 1' in said[0] and '1.json' in said[0]


# Saves that were cut short


def test_an_unfinished_save_is_ignored_by_readers_and_removed_by_the_writer(run):
    folder = run / 'checkpoints'
    shutil.copytree(folder / '3', folder / '4')
    shutil.copytree(folder / '3', folder / '5.orbax-checkpoint-tmp')
    (folder / '4.json.0a1b2c3d.tmp').write_text('{')
    said, before = [], contents(run)
    assert read(folder, 'last', ABSTRACT['params'], said.append)[0] == 'step 3'
    assert contents(run) == before and len(said) == 3
    said.clear()
    checkpoints = writer(run, say=said.append)
    left = {path.name for path in folder.iterdir()}
    assert left == {'1', '2', '3', '1.json', '2.json', '3.json'}
    assert len(said) == 3 and all('cut short' in sentence for sentence in said)
    assert checkpoints.restore(ABSTRACT)[0] == 3


KILLED = '''
import sys
from pathlib import Path
import jax
from xformer.train.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]), 2, 0, print, 'dev/loss:min')
for step in range(10_000):
    checkpoints.save(step, {'params': jax.numpy.full((300, 1000), step)}, {})
    print(step, flush=True)
'''


@pytest.mark.parametrize('milliseconds', [1, 15, 40])
def test_a_kill_at_any_moment_leaves_a_restorable_checkpoint(tmp_path, milliseconds):
    with python(KILLED, tmp_path / 'checkpoints') as process:
        for line in process.stdout:
            if int(line) == 4:  # steps up to 3 are complete: a save waits for the one before
                break
        time.sleep(milliseconds / 1000)
        process.kill()
        last = max([4, *map(int, process.stdout.read().split())])
    assert process.returncode == -signal.SIGKILL
    state = abstract({'params': jnp.full((300, 1000), 0)})
    said = []
    step, state = writer(tmp_path, say=said.append).restore(state)
    assert last - 1 <= step <= last + 1
    assert np.array_equal(state['params'], np.full((300, 1000), step))
    assert not (tmp_path / 'damaged').exists()
    assert all('cut short' in sentence for sentence in said)


# Pruning


@pytest.mark.parametrize('seed', range(3))
def test_kept_are_exactly_the_last_and_the_best(tmp_path, seed):
    choose = random.Random(seed)
    keep_last, keep_best = choose.randint(1, 2), choose.randint(0, 3)
    state = {'params': jnp.zeros(1)}
    checkpoints = writer(tmp_path, keep_last, keep_best)
    kept = {}  # the policy, simulated: step -> loss, infinite where it does not count
    for step in range(10, 130, 10):
        loss = choose.choice([None, float('nan'), choose.random(), choose.random()])
        checkpoints.save(step, state, {} if loss is None else {'dev/loss': loss, 'x': 1.0})
        checkpoints.wait()
        kept[step] = loss if loss is not None and loss == loss else float('inf')
        kept = {s: x for s, x in kept.items()
                if sum(t > s for t in kept) < keep_last
                or sum(y < x for y in kept.values()) < keep_best and x < float('inf')}
        assert checkpoints.steps() == sorted(kept)
        folders = {path.name for path in (tmp_path / 'checkpoints').iterdir() if path.is_dir()}
        assert folders == set(map(str, kept))
        if choose.random() < 0.5:
            checkpoints = writer(tmp_path, keep_last, keep_best)


def test_one_that_is_only_passing_takes_no_others_place(tmp_path):
    state = {'params': jnp.zeros(1)}
    plain, disturbed = (writer(tmp_path / name, 2, 1) for name in ('plain', 'disturbed'))
    for step, loss in ((10, 0.5), (20, 0.3), (30, 0.4), (40, 0.35)):
        for checkpoints in (plain, disturbed):
            checkpoints.save(step, state, {'dev/loss': loss})
            checkpoints.wait()
        assert disturbed.steps() == plain.steps()
        disturbed.save(step + 5, state, {'dev/loss': 0.1}, passing=True)
        disturbed.wait()
        assert disturbed.steps() == [*plain.steps(), step + 5]
    for which, steps in (('best', '20'), ('average-last:2', '30, 40'), ('last', '45')):
        where, _ = read(tmp_path / 'disturbed' / 'checkpoints', which,
                        abstract(state)['params'], pytest.fail)
        assert where.endswith(f' {steps}')


# Readers


@pytest.mark.parametrize(('which', 'steps'), [
    ('best', [2]), ('last', [3]), ('1', [1]), ('01', [1]), ('average-last:1', [3]),
    ('average-last:2', [2, 3]), ('average-best:2', [2, 3]), ('average-best:3', [1, 2, 3])])
def test_readers_get_the_steps_they_ask_for_and_change_nothing(run, which, steps):
    def listing():
        return {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in run.rglob('*')}
    before = contents(run), listing()
    where, params = read(run / 'checkpoints', which, ABSTRACT['params'], pytest.fail)
    assert (contents(run), listing()) == before
    assert [int(n) for n in re.findall(r'\d+', where)] == steps
    wanted = jax.tree.map(
        lambda *leaves: np.mean(np.stack(leaves).astype(np.float64), axis=0).astype(np.float32),
        *(STATES[step]['params'] for step in steps))
    assert_bit_equal(params, wanted)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(params))


def test_params_go_where_the_abstract_tree_says_or_to_the_default_device(run):
    for wanted in (ABSTRACT['params'], jax.eval_shape(lambda: state_after(0)['params'])):
        _, params = read(run / 'checkpoints', '2', wanted, pytest.fail)
        assert_bit_equal(params, STATES[2]['params'])
        assert params['embed'].sharding.device_set == {jax.devices()[0]}


def test_a_damaged_best_gives_the_next_best(run):
    damage(run / 'checkpoints' / '2' / 'manifest.ocdbt')
    said = []
    assert read(run / 'checkpoints', 'best', ABSTRACT['params'], said.append)[0] == 'step 3'
    assert len(said) == 1 and '2/manifest.ocdbt' in said[0]
    where, _ = read(run / 'checkpoints', 'average-last:2', ABSTRACT['params'], said.append)
    assert where == 'mean of steps 1, 3'


@pytest.mark.parametrize(('which', 'message'), [
    ('newest', 'choose best, last, .*average-best:K'), ('average-last', 'choose'),
    ('last:2', 'choose'), ('average-best:0', 'choose'), ('-1', 'choose'), ('', 'choose'),
    ('4', r"'4' needs 1 intact checkpoint, .* has 0; .*steps there: 1, 2, 3"),
    ('3', r"'3' needs 1 intact checkpoint, .*1, 2, 3"),
    ('average-last:3', 'needs 3 intact checkpoints, .* has 2')])
def test_what_cannot_be_had_is_one_sentence(run, which, message):
    damage(run / 'checkpoints' / '3' / '_METADATA')
    with pytest.raises(UserError, match=message):
        read(run / 'checkpoints', which, ABSTRACT['params'], lambda _: None)


def test_best_without_any_dev_loss_is_an_error(tmp_path):
    checkpoints = writer(tmp_path)
    checkpoints.save(1, STATES[1], {'dev/loss': float('nan')})
    checkpoints.save(2, STATES[2], {'train/loss': 0.1})
    checkpoints.wait()
    with pytest.raises(UserError, match='with a dev/loss, .* has 0'):
        read(tmp_path / 'checkpoints', 'best', ABSTRACT['params'], pytest.fail)


@pytest.mark.parametrize(('shape', 'dtype'), [((7, 5), jnp.float32), ((7, 4), jnp.bfloat16)])
def test_params_of_another_model_are_refused(run, shape, dtype):
    embed = jax.ShapeDtypeStruct(shape, dtype)
    with pytest.raises(UserError, match=r'does not fit this model: params\.embed is float32'):
        read(run / 'checkpoints', 'last', {**ABSTRACT['params'], 'embed': embed}, pytest.fail)


def test_a_folder_without_checkpoints_is_an_error(tmp_path):
    with pytest.raises(UserError, match='no folder'):
        read(tmp_path / 'checkpoints', 'last', ABSTRACT['params'], pytest.fail)
    with pytest.raises(UserError, match='steps there: none'):
        read(tmp_path, 'last', ABSTRACT['params'], pytest.fail)
