"""Train a configuration many times with other settings, and find the best.

    python -m experiments.sweep --config=lm_shakespeare_char --trials=20 --sampler=tpe \\
        --space='optim.peak_learning_rate = log 1e-4 .. 1e-2; model.dropout = 0 .. 0.3'
    python -m experiments.sweep --config=lm_shakespeare_char --seeds=3 \\
        --space='model.positions = learned | rotary | none'
    python -m experiments.sweep --config=my_experiment.py --workers=4 --pruner=median --trials=50 \\
        --sampler=random --storage=postgresql://sweeper@host/sweeps

--space, or SPACE of the configuration's file, has a line for each setting, or several separated by
semicolons:

    optim.peak_learning_rate = log 1e-4 .. 1e-2
    optim.warmup_steps = 0 .. 400 step 100
    model.positions = sinusoidal | learned | rotary
    model.d_model, model.d_ff = 128, 512 | 256, 1024        # these change together
    model.rotary_base = 100 | 10000 if model.positions = rotary

    python -m experiments.sweep --config=my_experiment.py --workers=8 --submit=slurm \\
        --job='timeout_min=720 gpus_per_node=1 slurm_partition=gpu'

Every trial is ordinary runs, one for each seed, in WORKDIR/trials. Stop the sweep, or have it
killed, and the same command goes on. The same command on other machines helps, where --storage is a
database that all of them reach. WORKDIR/sweep.html and sweep.csv say what was found.
"""

import importlib
import signal
from functools import partial
from pathlib import Path

from absl import flags

from experiments import cli
from experiments.train import SECTIONS
from xformer.config import Config, UserError
from xformer.console import say
from xformer.sweep.jobs import parse_request, submit


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string('workdir', None, 'folder of the sweep, whose name is its name in a '
                        'database (default: runs/NAME-sweep)', flag_values=values)
    flags.DEFINE_string('space', None, 'what is varied (default: SPACE of the file)',
                        flag_values=values)
    flags.DEFINE_integer('trials', None, 'how many (default: the whole grid)', lower_bound=1,
                         flag_values=values)
    flags.DEFINE_integer('seeds', 1, 'runs of each trial, with seeds that follow train.seed',
                         lower_bound=1, flag_values=values)
    flags.DEFINE_integer('workers', 1, 'trials at once, which share the processors',
                         lower_bound=1, flag_values=values)
    flags.DEFINE_enum('sampler', 'grid', ['grid', 'random', 'tpe'], 'how settings are chosen: all, '
                      'at random, or by what was found so far', flag_values=values)
    flags.DEFINE_enum('pruner', 'none', ['none', 'median', 'hyperband'], 'which trials end early: '
                      'those worse than the median at the same step, or by successive halving',
                      flag_values=values)
    flags.DEFINE_string('metric', None, 'dev/NAME:min or :max, as training or experiments.evaluate '
                        'measures it (default: train.best_by)', flag_values=values)
    flags.DEFINE_integer('sampler_seed', 0, 'of --sampler=random and tpe', lower_bound=0,
                         flag_values=values)
    flags.DEFINE_string('storage', None, "URL of a database, as Optuna's (default: a journal in "
                        'the folder)', flag_values=values)
    flags.DEFINE_enum('submit', None, ['slurm', 'local'], 'the workers as jobs of a cluster, or of '
                      'this machine, by submitit', flag_values=values)
    flags.DEFINE_string('job', None, 'what each job asks for, as submitit names it: '
                        '"timeout_min=720 gpus_per_node=1 slurm_partition=gpu"',
                        flag_values=values)


def main(argv: list[str], anew: bool = True) -> None:
    values, (name, config, space) = cli.experiment(argv, __doc__, SECTIONS, define)
    text = values.space or space
    if not text:
        raise UserError(f'--space is missing, and {values.config} has no SPACE; see --help')
    folder = Path(values.workdir or f'runs/{name}-sweep')
    plan = _plan(config, text, values)
    if values.job and not values.submit:
        raise UserError('--job has no effect without --submit')
    request = parse_request(values.job or '')

    from xformer.sweep.live import shown
    from xformer.sweep.report import ranked, write_report
    from xformer.sweep.storage import storage_of
    from xformer.sweep.study import join
    from xformer.sweep.trial import Runner, prepare_folder, work_together
    from xformer.train.signals import STOPS, Stopped
    if values.storage is None:
        folder.mkdir(parents=True, exist_ok=True)
    sweep = join(plan, storage_of(values.storage, folder), folder.resolve().name, anew)
    prepare_folder(folder, sweep)
    say(f'{plan.trials:,} trials of {plan.seeds} {"seed" if plan.seeds == 1 else "seeds"}, '
        f'{plan.metric}: {folder}')
    if values.submit:
        ids = submit(_worker(values), folder / 'jobs', values.submit, values.workers, request)
        say(f'jobs {", ".join(ids)} of {values.submit}; their logs: {folder / "jobs"}')
        return
    runner = Runner(sweep, folder, say)
    stopped = []

    def stop(number, frame) -> None:
        stopped.append(signal.Signals(number).name)
        runner.stop()

    for number in STOPS:
        signal.signal(number, stop)
    with sweep.beating(), shown(sweep):
        work_together(runner, values.workers)
    say(f'report: {write_report(sweep.whole(), folder)}')
    if stopped:
        raise Stopped(f'stopped by {stopped[0]}, and saved; the same command goes on')
    rows = ranked(sweep)
    if all(row.state == 'failed' for row in rows):
        raise UserError(f'all trials failed, trial {rows[0].place} because {rows[0].reason}')


def _worker(values: flags.FlagValues):
    """The same command as one worker, as a function that another process finds by its name."""
    given = [f'--{name}={values[name].value}' for name in values
             if values[name].present and name not in ('submit', 'job', 'workers')]
    return partial(importlib.import_module('experiments.sweep').main, ['sweep', *given],
                   anew=False)


def _plan(config: Config, text: str, values: flags.FlagValues):
    from xformer.sweep.space import check_conditions, grid, parse_space
    from xformer.sweep.study import COMPLETE_FIRST, Plan
    space = parse_space(text, config)
    check_conditions(space, config)
    for name in (name for dimension in space for name in dimension.names):
        if values[f'config.{name}'].present:
            raise UserError(f'--config.{name} has no effect: --space varies {name}; leave one out')
    if values.pruner == 'hyperband' and config.train.eval_every >= config.train.steps:
        raise UserError(f'--pruner=hyperband has no effect: with train.eval_every='
                        f'{config.train.eval_every} nothing is measured before train.steps='
                        f'{config.train.steps}; measure more often')
    metric = values.metric or config.train.best_by
    if not metric.startswith('dev/') or metric.rpartition(':')[2] not in ('min', 'max'):
        raise UserError(f'--metric={metric} must be dev/NAME:min or dev/NAME:max')
    if metric == 'dev/loss:min' and any('optim.label_smoothing' in each.names for each in space):
        raise UserError('--metric=dev/loss:min has label smoothing in it, which --space varies; '
                        'compare by --metric=dev/nll:min')
    if values['sampler_seed'].present and values.sampler == 'grid':
        raise UserError(f'--sampler_seed has no effect with --sampler={values.sampler}')
    if values.sampler == 'grid':
        size = len(grid(space, config))
        if values.trials and values.trials > size:
            raise UserError(f'--trials={values.trials} is more than the {size} of the grid; leave '
                            'it out, or take another --sampler')
        trials = values.trials or size
    elif not values.trials:
        raise UserError(f'--trials is missing: --sampler={values.sampler} has no end of its own')
    else:
        trials = values.trials
    if values.pruner == 'median' and trials <= COMPLETE_FIRST:
        raise UserError(f'--pruner=median has no effect on {trials} trials: it compares with '
                        f'{COMPLETE_FIRST} that are complete')
    return Plan(config, text, space, metric, trials, values.seeds, values.sampler, values.pruner,
                values.sampler_seed)


if __name__ == '__main__':
    cli.call(main)
