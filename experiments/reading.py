"""What the entry points share that read a trained model."""

import sys
from pathlib import Path

from absl import flags

from experiments import cli
from xformer.config import Config, UserError, is_labelled, override
from xformer.console import say


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string('model', None, 'run folder, or Hugging Face folder '
                        f'({cli.REQUIRED})', flag_values=values)
    flags.DEFINE_string('checkpoint', 'best', 'best, last, a step, average-last:K or '
                        'average-best:K', flag_values=values)


def define_cut(values: flags.FlagValues) -> None:
    flags.DEFINE_boolean('cut', None, 'cut texts that are longer than the model takes, instead of '
                         'refusing them (default: as the run was trained; a '
                         'sentence-transformers folder cuts)', flag_values=values)


def config_of(values: flags.FlagValues) -> Config:
    """The model's configuration, with --cut and the --config.decode.* that were given. Of the two
    limits of an output, one that is given takes the place of the model's other one."""
    from xformer.interop.folder import config_in
    config = config_in(Path(values.model))
    limits = {'decode.max_length', 'decode.max_new_tokens'}
    if given := {name for name in limits if f'config.{name}' in values
                 and values[f'config.{name}'].value is not None}:
        config = override(config, dict.fromkeys(limits - given, 0))
    config = cli.changed(config, values)
    if 'cut' in values and values.cut is not None:
        config = override(config, {'data.too_long': 'cut' if values.cut else 'error'})
    sample = config.decode.strategy == 'sample'
    for name, idle in (('beam_size', sample),
                       ('early_stopping', sample or config.decode.beam_size == 1)):
        flag = f'config.decode.{name}'
        if idle and flag in values and values[flag].present:
            raise UserError(f'--{flag} has no effect with decode.strategy='
                            f'{config.decode.strategy} and decode.beam_size='
                            f'{config.decode.beam_size}; leave it out')
    return config


def open_model(values: flags.FlagValues, config: Config):
    """(run, compilations) of --model and --checkpoint."""
    cli.prepare_jax()
    from xformer.compiled import Compilations
    from xformer.run import open_run
    return open_run(Path(values.model), config, values.checkpoint, say), Compilations()


def define_texts(values: flags.FlagValues, what: str = 'a text') -> None:
    flags.DEFINE_multi_string('prompt', [], f'{what}; may be given several times',
                              flag_values=values)
    define_files(values)


def define_files(values: flags.FlagValues) -> None:
    flags.DEFINE_string('input', None, 'file with one a line, - for standard input',
                        flag_values=values)
    flags.DEFINE_enum('split', None, ['dev', 'test'], "held-out part of the run's data to take "
                      'them from', flag_values=values)


def define_output(values: flags.FlagValues) -> None:
    flags.DEFINE_string('output', '-', 'file to write, - for standard output',
                        flag_values=values)


def texts_of(values: flags.FlagValues, config: Config, targets: bool = False) -> list[str]:
    """The texts of --prompt, --input or --split, of pairs the sources or, with `targets`,
    source<TAB>target. Raises UserError for none, several, or faulty ones."""
    if sum(map(bool, (values.prompt, values.input, values.split))) != 1:
        raise UserError('give one of --prompt=TEXT, --input=FILE (- for standard input) and '
                        '--split=dev or test')
    if values.split:
        return texts_of_split(values, config, targets)
    return values.prompt or lines_of(values.input)


def texts_of_split(values: flags.FlagValues, config: Config, targets: bool = False) -> list[str]:
    """Each once, in order: of pairs the sources or, with `targets`, source<TAB>target."""
    columns = 2 if targets or config.data.objective != 'pairs' else 1
    parted = columns > 1 and config.model.family == 'encoder' or targets
    return list(dict.fromkeys('\t'.join(columns_of(each[:columns])) if parted else each[0]
                              for each in examples_of_split(values, config)))


def columns_of(texts: list[str]) -> list[str]:
    """The texts that are there, for a line that parts them by tabs: those inside are spaces."""
    return [text.replace('\t', ' ') for text in texts if text]


def examples_of_split(values: flags.FlagValues, config: Config) -> list:
    """What evaluate measures on with that --split: pairs, labelled texts, or [text] alone."""
    from xformer.data.tokenizers import load_tokenizers
    from xformer.evaluate.inputs import fitting
    from xformer.interop.folder import is_checkpoint
    from xformer.train.folder import held_out
    folder = Path(values.model)
    if is_checkpoint(folder):
        raise no_split(values)
    examples = held_out(folder, values.split)
    if config.data.objective == 'pairs' or is_labelled(config):
        return fitting(examples, config, load_tokenizers(folder))
    if len(examples) == 1 and (config.data.dataset or config.data.format == 'text'):
        raise UserError(f'the {values.split} split is one whole text; give --input=FILE with one '
                        'a line')
    return [[text.removesuffix('\n').removeprefix(' ')] for document in examples
            for text in document if text.strip()]


def no_split(values: flags.FlagValues) -> UserError:
    return UserError(f'--model={values.model} is a Hugging Face folder, which has no '
                     f'{values.split} split; give --input=FILE')


def lines_of(path: str) -> list[str]:
    """The lines of a file, or of standard input. Raises UserError for whatever is wrong there."""
    from xformer.data.sources import read_lines
    return [text for _, text in read_lines(Path(file_of(path)))]


def file_of(path: str) -> str:
    """What is opened for an --input: - is standard input."""
    return '/dev/stdin' if path == '-' else path


def check_output(output: str | None, folder: bool = False) -> None:
    """Raises UserError where --output exists already or has no folder to be in, and where it is
    to be a `folder` and is standard output."""
    if folder and output == '-':
        raise UserError('--output is a folder here, not standard output; give its name')
    if output in (None, '-'):
        return
    if Path(output).exists():
        raise UserError(f'--output={output} exists; remove it or choose another name')
    if not Path(output).parent.is_dir():
        raise UserError(f'--output={output} is in a folder that does not exist; make it first')


def write(output: str, lines: str, count: int) -> None:
    """`lines` of `count` texts to --output."""
    if output == '-':
        sys.stdout.write(lines)
        return
    Path(output).write_text(lines, encoding='utf-8')
    say(f'{count:,} outputs: {output}')


def tell_unknown(rows: list[list[int]], special) -> None:
    """Say how many tokens of the input read as unknown, if any do."""
    unknown = sum(ids.count(special.unk) for ids in rows)
    if unknown and special.unk not in (special.eos, special.pad):
        say(f'tokens of the input that the model has never seen, read as unknown: {unknown:,}')
