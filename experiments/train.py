"""Train an experiment, or go on with it: the same command continues a stopped run.

    python -m experiments.train --config=g2p_quickstart
    python -m experiments.train --config=g2p_quickstart:smoke --workdir=/tmp/smoke
    python -m experiments.train --config=g2p_quickstart --config.optim.peak_learning_rate=1e-3 \\
        --workdir=runs/g2p_slow
    python -m experiments.train --config=g2p_quickstart --config.data.dataset= \\
        --config.data.train=my_pairs.tsv --workdir=runs/mine
    python -m experiments.train --config=gpt2_124m --estimate

The run folder receives the configuration, the tokenizers, checkpoints, metrics.jsonl,
timing.jsonl, TensorBoard events and report.html.
"""

import dataclasses
from pathlib import Path

from absl import flags

from experiments import cli
from xformer.checks import adapted, check_learns, check_same, validate
from xformer.config import Config, UserError, to_json
from xformer.console import say

SECTIONS = tuple(field.name for field in dataclasses.fields(Config))


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string('workdir', None, 'run folder (default: runs/NAME, of a variant '
                        'runs/NAME-VARIANT)', flag_values=values)
    flags.DEFINE_boolean('print_config', False, 'show the configuration and stop',
                         flag_values=values)
    flags.DEFINE_boolean('profile', False, 'write a trace of ten steps to WORKDIR/profile',
                         flag_values=values)
    flags.DEFINE_boolean('estimate', False, 'show parameters, batch and memory of a step without '
                         'data or running it, and stop', flag_values=values)


def main(argv: list[str]) -> None:
    values, (name, config, _) = cli.experiment(argv, __doc__, SECTIONS, define)
    check_learns(config)
    if values.print_config + values.estimate + values.profile > 1:
        raise UserError('give one of --print_config, --estimate and --profile')
    folder = Path(values.workdir or f'runs/{name}')
    goes_on = any((folder / 'checkpoints').glob('*.json'))  # what it began with may be gone
    begins, teacher = config.train.init_from, config.train.teacher
    if teacher:
        check_same(['data.objective'], f'train.teacher={teacher}', _config_in(Path(teacher)),
                   'the student', config)
    if begins or teacher:
        config = like(config, folder if goes_on else Path(begins or teacher), values,
                      only_tokenizer=not begins)
    if values.print_config:
        print(to_json(config), end='')
        return

    cli.prepare_jax()
    if values.estimate:
        _print_estimate(config)
        return
    from xformer.report import write_report
    from xformer.train.loop import train
    start = None
    if begins:
        start = _own_start(folder) if goes_on else _start(begins)
    train(config, folder, start, _teacher(teacher) if teacher else None, values.profile)
    say(f'trained: {folder}\nreport:  {write_report(folder)}')


def _config_in(source: Path) -> Config:
    """Of a run, or of a Hugging Face folder."""
    from xformer.interop.folder import config_in
    return config_in(source)


def like(config: Config, source: Path, values, only_tokenizer: bool) -> Config:
    """With the architecture and the tokenizer of the run that it begins with.

    Raises UserError for a flag that asks for others.
    """
    config, changes = adapted(config, _config_in(source), only_tokenizer)
    for name, value in changes.items():
        if values[f'config.{name}'].present:
            raise UserError(f'--config.{name}={values[f"config.{name}"].value} cannot be had: what '
                            f'begins with {source} has its {name}={value}; leave it out')
    if changes:
        listed = ', '.join(f'{name}={value}' for name, value in changes.items())
        say(f'as {source}: {listed}')
    return validate(config)


def _start(source: str):
    from xformer.train.start import Start
    run, origin = _open(source)
    return Start(run.tokenizers, run.params, origin, run.config.data.objective)


def _own_start(folder: Path):
    """Of a run that goes on: its tokenizers. Its parameters are in its checkpoints."""
    from xformer.data.tokenizers import load_tokenizers
    from xformer.train.start import Start
    return Start(load_tokenizers(folder), {}, {})


def _teacher(source: str):
    from xformer.train.distil import Teacher
    run, origin = _open(source)
    return Teacher(run.config, run.model, run.params, run.tokenizers, origin)


def _open(source: str):
    """(the run, what the manifest says of it)"""
    from xformer.run import open_run
    run = open_run(Path(source), _config_in(Path(source)), 'best', say)
    return run, {'run': source, 'checkpoint': run.checkpoint,
                 'data_fingerprint': run.manifest['data_fingerprint']}


def _print_estimate(config: Config) -> None:
    from xformer.train.estimate import estimate
    needs = estimate(config)
    print(f'parameters  {needs["parameters"]:,}')
    print(f'state       {needs["state_bytes"] / 2**30:,.2f} GiB (parameters and optimizer)')
    print(f'step        {needs["step_bytes"] / 2**30:,.2f} GiB besides, compiled for this machine')
    for name, shape in needs['batch'].items():
        print(f'{name:<22} {" × ".join(map(str, shape))}')


if __name__ == '__main__':
    cli.call(main)
