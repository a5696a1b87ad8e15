"""What the entry points share that read a trained model."""

import sys
from pathlib import Path

from absl import flags

from experiments import cli
from xformer.config import Config, UserError, read_config
from xformer.console import say


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string('model', None, f'run folder ({cli.REQUIRED})', flag_values=values)
    flags.DEFINE_string('checkpoint', 'best', 'best, last, a step, average-last:K or '
                        'average-best:K', flag_values=values)


def define_texts(values: flags.FlagValues, what: str) -> None:
    flags.DEFINE_multi_string('prompt', [], f'{what}; may be given several times',
                              flag_values=values)
    flags.DEFINE_string('input', None, 'file with one a line, - for standard input',
                        flag_values=values)
    flags.DEFINE_string('output', '-', 'file to write, - for standard output',
                        flag_values=values)


def texts_of(values: flags.FlagValues) -> list[str]:
    """Those of --prompt or --input. Raises UserError, also if --output cannot be written."""
    if bool(values.prompt) == bool(values.input):
        raise UserError('give either --prompt=TEXT or --input=FILE (- for standard input)')
    output = Path(values.output)
    if values.output != '-' and output.exists():
        raise UserError(f'--output={output} exists; remove it or choose another name')
    if not output.parent.is_dir():
        raise UserError(f'--output={output} is in a folder that does not exist; make it first')
    if values.prompt:
        return values.prompt
    from xformer.data.sources import read_lines
    path = Path('/dev/stdin' if values.input == '-' else values.input)
    return [text for _, text in read_lines(path)]


def write(values: flags.FlagValues, lines: str, count: int) -> None:
    """`lines` to --output."""
    if values.output == '-':
        sys.stdout.write(lines)
    else:
        Path(values.output).write_text(lines, encoding='utf-8')
        say(f'{count:,} outputs: {values.output}')


def config_of(values: flags.FlagValues) -> Config:
    """The run's configuration, with the --config.decode.* that were given."""
    return cli.changed(read_config(Path(values.model)), values)


def open_model(values: flags.FlagValues, config: Config):
    """(run, compilations) of --model and --checkpoint."""
    cli.prepare_jax()
    from xformer.compiled import Compilations
    from xformer.run import open_run
    return open_run(Path(values.model), config, values.checkpoint, say), Compilations()
