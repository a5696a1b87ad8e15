"""What the entry points share that read a trained model."""

from pathlib import Path

from absl import flags

from experiments import cli
from xformer.config import Config, UserError, read_config
from xformer.console import say


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string('model', None, f'run folder ({cli.REQUIRED})', flag_values=values)
    flags.DEFINE_string('checkpoint', 'best', 'best, last, a step, average-last:K or '
                        'average-best:K', flag_values=values)


def config_of(values: flags.FlagValues) -> Config:
    """The run's configuration, with the --config.decode.* that were given."""
    config = cli.changed(read_config(Path(values.model)), values)
    if config.decode.strategy == 'sample' and values['config.decode.beam_size'].present:
        raise UserError('--config.decode.beam_size has no effect with decode.strategy=sample; '
                        'leave it out')
    return config


def open_model(values: flags.FlagValues, config: Config):
    """(run, compilations) of --model and --checkpoint."""
    cli.prepare_jax()
    from xformer.compiled import Compilations
    from xformer.run import open_run
    return open_run(Path(values.model), config, values.checkpoint, say), Compilations()
