"""Measure a trained model on a whole held-out split.

    python -m experiments.evaluate --model=runs/g2p_quickstart --split=dev
    python -m experiments.evaluate --model=runs/g2p_quickstart --checkpoint=average-last:2
    python -m experiments.evaluate --model=runs/g2p_quickstart --config.decode.beam_size=1
    python -m experiments.evaluate --model=runs/g2p_quickstart --input=my_pairs.tsv
    python -m experiments.evaluate --model=runs/lm_shakespeare_char --batches=20
    python -m experiments.evaluate --model=downloads/opus-mt-en-de --input=my_pairs.tsv \\
        --score=bleu --output=scores

A model of pairs writes its output for every source, which is scored (data.score); a language
model, masked or not, is measured by its own objective. Prints the metrics and, where there is
one, the floor that a trivial guess reaches; writes SPLIT.json and
SPLIT.timing.jsonl (of pairs also SPLIT.predictions.jsonl, of seq2seq SPLIT.alignments.jsonl and
.png, of labels SPLIT.guesses.jsonl) to --output, for a run eval/ in its folder, whose report.html
is brought up to date.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

from absl import flags

from experiments import cli, reading
from xformer.config import (
    Config,
    DataConfig,
    UserError,
    is_labelled,
    leaves,
    override,
    writes_outputs,
)
from xformer.console import counting, say
from xformer.files import write_atomically


def define(values: flags.FlagValues) -> None:
    reading.define(values)
    reading.define_cut(values)
    flags.DEFINE_enum('split', 'dev', ['dev', 'test'], 'held-out part of the data',
                      flag_values=values)
    flags.DEFINE_string('input', None, "a file to measure on instead, - for standard input, in the "
                        "run's data.format, unless it is named *.jsonl, *.tsv or *.conll; of a "
                        'Hugging Face folder source<TAB>target, text<TAB>label or text; SPLIT is '
                        'then input-NAME',
                        flag_values=values)
    flags.DEFINE_enum('score', None, leaves()['data.score'].metadata['choices'],
                      'metrics of outputs (default: data.score of the run; of a Hugging Face '
                      'folder bleu)', flag_values=values)
    flags.DEFINE_string('output', None, 'folder for the results (default: MODEL/eval; of a Hugging '
                        'Face folder, which is left as it is, they are only printed)',
                        flag_values=values)
    flags.DEFINE_integer('show', 0, 'also print a table of this many predictions', lower_bound=0,
                         flag_values=values)
    flags.DEFINE_integer('batches', 0, 'measure the objective on this many random batches only; '
                         '0 takes all', lower_bound=0, flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, define, sections=('decode',))
    config = reading.config_of(values)
    from xformer.interop.folder import is_checkpoint
    theirs = is_checkpoint(Path(values.model))
    _check(config, values, theirs)
    reading.check_output(values.output, folder=True)
    if values.score:
        strip = config.data.score_strip if values.score == 'errors' else ''
        config = override(config, {'data.score': values.score, 'data.score_strip': strip})
    file = values.input and reading.file_of(values.input)
    name = f'input-{Path(file).stem}' if file else values.split
    examples = examples_of_file(file, config) if file else None

    run, compilations = reading.open_model(values, config)
    config = run.config
    if not values.input:
        from xformer.train.folder import held_out
        examples = held_out(run.folder, name)
    writes, labels = writes_outputs(config), is_labelled(config)
    if writes or labels:
        from xformer.evaluate.inputs import fitting
        examples = fitting(examples, config, run.tokenizers)
    measure = _outputs if writes else _labels if labels else _objective
    measured = measure(run, examples, name, values, compilations)
    result = {**measured.result, 'split': name, 'checkpoint': run.checkpoint,
              'fingerprint': run.manifest['data_fingerprint']}
    _print(result)
    files = {**measured.files, f'{name}.json': json.dumps(result, indent=2) + '\n',
             f'{name}.timing.jsonl': _lines([{'event': 'compile', **row}
                                             for row in compilations.rows])}
    if values.output:
        _write(Path(values.output), files)
        say(f'results: {values.output}/{name}.json')
    elif not theirs:
        from xformer.report import write_report
        _write(run.folder / 'eval', files)
        say(f'results: {run.folder}/eval/{name}.json\nreport:  {write_report(run.folder)}')


class Measured(NamedTuple):
    """What SPLIT.json says, and other files: {name: content}."""

    result: dict
    files: dict[str, str | bytes] = {}


def _check(config: Config, values: flags.FlagValues, theirs: bool) -> None:
    """Raises UserError for flags that are missing, contradict one another or have no effect.
    `theirs` says that the model is a Hugging Face folder."""
    if theirs and not values.input:
        raise reading.no_split(values)
    if values.input and values['split'].present:
        raise UserError('give either --split or --input=FILE, not both')
    if config.data.objective == 'none':
        raise UserError(f'--model={values.model} is an encoder without a head (data.objective='
                        'none), of which nothing can be measured; experiments.embed makes vectors')
    writes = writes_outputs(config)
    only_outputs = ['show', 'score', *(flag for flag in values
                                       if flag.startswith('config.decode.'))]
    for flag in [*(['batches'] if writes or is_labelled(config) else []),
                 *([] if writes else only_outputs),
                 *([] if writes and config.model.family != 'decoder' or is_labelled(config)
                   else ['cut'])]:
        if values[flag].present:
            raise UserError(f'--{flag} has no effect on a model of model.family='
                            f'{config.model.family} and data.objective={config.data.objective}')


def examples_of_file(path: str, config: Config) -> list:
    """What a model is measured on with --input: all that the file holds, as in training."""
    from xformer.checks import FORMATS
    from xformer.data.sources import read_examples
    data = config.data
    # a named data set says nothing of the format of other files, nor does a Hugging Face folder
    ending = Path(path.removesuffix('.gz')).suffix.removeprefix('.')
    form = ending if ending in {'jsonl', 'tsv', 'conll'} & set(FORMATS[data.objective]) else \
        data.format if data.train else FORMATS[data.objective][0]
    # with dev and test files of its own, nothing is held out of the training file
    data = dataclasses.replace(data, dataset='', format=form, train=path, dev=path, test=path,
                               per_label=0)
    return [example if isinstance(example, tuple) else list(example)
            for example in read_examples(data, 'train')]


def _outputs(run, pairs: list, name: str, values, compilations) -> Measured:
    """The model's outputs for all sources, scored; they are written, and of a model with
    cross-attention the alignments of some."""
    from xformer.decode.generate import Generator
    from xformer.evaluate import scores
    from xformer.evaluate.alignment import align
    from xformer.evaluate.split import evaluate_pairs, examples_of
    from xformer.figures import draw_alignments
    config, data = run.config, run.config.data
    generator = Generator(run.model, config, run.params, compilations)
    with counting(f'decoding {name}', len(examples_of(pairs, config))) as progress:
        metrics, predictions = evaluate_pairs(pairs, config, run.tokenizers, generator, progress)
    files = {f'{name}.predictions.jsonl': _lines([row._asdict() for row in predictions])}
    if config.model.family == 'seq2seq':
        alignments = align([(row.source, row.prediction) for row in _spread(predictions, 6)],
                           run.model, config, run.params, run.tokenizers, compilations)
        files |= {f'{name}.alignments.jsonl': _lines([each.to_row() for each in alignments]),
                  f'{name}.alignments.png': draw_alignments(alignments)}
    if values.show:
        _show(_spread(predictions, values.show), data)
    floors = scores.floor(data.score, [row.source for row in predictions],
                          [row.references for row in predictions], data)
    return Measured({'metrics': metrics, 'floors': floors, 'examples': len(predictions),
                     'scoring': {'score': data.score, 'strip': data.score_strip,
                                 'too_long': data.too_long},
                     'decode': dataclasses.asdict(config.decode)}, files)


def _labels(run, examples: list, name: str, values, compilations) -> Measured:
    """What the head says of every example, scored; it is written."""
    from xformer.data.layouts import labels_in
    from xformer.data.sources import Labelled
    from xformer.evaluate.labels import guess, score_labels
    from xformer.interop.folder import is_checkpoint
    config = run.config
    examples, tokenizers = [Labelled(*example) for example in examples], run.tokenizers
    if config.data.objective == 'answer' and is_checkpoint(run.folder):  # it does not say itself
        tokenizers = dataclasses.replace(tokenizers, labels=labels_in(examples, 'answer'))
    with counting(f'labelling {name}', len(examples)) as progress:
        guesses = guess(examples, config, run.model, run.params, tokenizers, compilations,
                        progress, say)
    metrics, floors = score_labels(config.data.objective, examples, guesses)
    return Measured({'metrics': metrics, 'floors': floors, 'examples': len(examples),
                     'scoring': {'objective': config.data.objective,
                                 'too_long': config.data.too_long}},
                    {f'{name}.guesses.jsonl': _lines([
                        example._asdict() | guessed
                        for example, guessed in zip(examples, guesses)])})


def _objective(run, examples: list, name: str, values, compilations) -> Measured:
    """The model measured by the objective it was trained on."""
    import math

    from xformer.data.sources import kind_of
    from xformer.data.store import build_store
    from xformer.evaluate.inputs import check_store
    from xformer.train.held_out import measure
    config, data = run.config, run.config.data
    with tempfile.TemporaryDirectory() as folder, counting(f'measuring {name}') as progress:
        store = build_store(
            Path(folder, name), examples, run.tokenizers, kind=kind_of(data), split=name,
            max_length=config.model.max_length, too_long=data.too_long)
        check_store(store, config, run.tokenizers)
        metrics, floors, labels = measure(
            config, run.model, run.params, store, run.tokenizers,
            run.manifest['data_fingerprint'], compilations, values.batches, progress)
        counted = len(store)
    if data.objective == 'lm' and not values.batches:
        bits = metrics['nll'] * labels / math.log(2)
        sentences = [sentence for document in examples for sentence in document]
        metrics['bits_per_byte'] = bits / sum(len(sentence.encode()) for sentence in sentences)
        metrics['bits_per_character'] = bits / sum(map(len, sentences))
    return Measured({'metrics': metrics, 'floors': floors, 'examples': counted,
                     'scoring': {'objective': data.objective, 'labels': labels,
                                 'batches': values.batches or 'all'}})


def _spread(rows: list, count: int) -> list:
    """`count` rows, evenly spaced."""
    return [rows[i * len(rows) // count] for i in range(min(count, len(rows)))]


def _write(folder: Path, files: dict[str, str | bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)


def _lines(rows: list[dict]) -> str:
    return ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)


def _show(rows: list, data: DataConfig) -> None:
    from xformer.evaluate.scores import is_right
    print(f'  {"source":<16} {"predicted":<36} reference')
    for row in rows:
        mark = '✗' if is_right(row.prediction, row.references, data) is False else ' '
        print(f'{mark} {row.source:<16} {row.prediction:<36} {" | ".join(row.references)}')


def _print(result: dict) -> None:
    from xformer.evaluate.scores import plain
    print(f'{result["split"]}: {result["examples"]:,} examples, {result["checkpoint"]}')
    for name, value in result['metrics'].items():
        floor = result['floors'].get(name, '')
        beside = '' if isinstance(floor, str) else f'  (floor {plain(name, floor).strip()})'
        print(f'  {name:<20} {plain(name, value)}{beside}')


if __name__ == '__main__':
    cli.call(main)
