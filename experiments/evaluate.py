"""Measure a trained model on a whole held-out split.

    python -m experiments.evaluate --model=runs/g2p_quickstart --split=dev
    python -m experiments.evaluate --model=runs/g2p_quickstart --checkpoint=average-last:2
    python -m experiments.evaluate --model=runs/g2p_quickstart --config.decode.beam_size=1
    python -m experiments.evaluate --model=runs/g2p_quickstart --input=my_pairs.tsv

Prints the metrics, writes SPLIT.json, SPLIT.predictions.jsonl and SPLIT.alignments.jsonl (and .png)
under eval/ in the run folder, and brings report.html up to date.
"""

import dataclasses
import json
from pathlib import Path

from absl import flags

from experiments import cli, reading
from xformer.config import DataConfig, UserError


def define(values: flags.FlagValues) -> None:
    reading.define(values)
    flags.DEFINE_enum('split', 'dev', ['dev', 'test'], 'held-out part of the data',
                      flag_values=values)
    flags.DEFINE_string('input', None, 'a source<TAB>target file to measure on instead',
                        flag_values=values)
    flags.DEFINE_integer('show', 0, 'also print a table of this many predictions', lower_bound=0,
                         flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, define, sections=('decode',))
    config = reading.config_of(values)
    if values.input and values['split'].present:
        raise UserError('give either --split or --input=FILE, not both')
    name, pairs = values.split, None
    if values.input:
        name, pairs = f'input-{Path(values.input).stem}', _read_tsv(values.input)

    run, generator, compilations = reading.open_model(values, config)
    from xformer.evaluate.alignment import align
    from xformer.evaluate.split import evaluate_pairs, group_references, is_right
    from xformer.report import write_report
    from xformer.run import held_out_pairs
    pairs = pairs or held_out_pairs(run.folder, name)
    with reading.counting(f'decoding {name}', len(group_references(pairs))) as progress:
        metrics, predictions = evaluate_pairs(pairs, config, run.tokenizers, generator, progress)
    pictured = [(row.source, row.prediction) for row in _spread(predictions, 6)]
    alignments = align(pictured, run.model, config, run.params, run.tokenizers, compilations)

    result = {
        'metrics': metrics, 'split': name, 'examples': len(predictions),
        'scoring': {'refs': 'any', 'strip': config.data.score_strip},
        'decode': dataclasses.asdict(config.decode), 'checkpoint': run.checkpoint,
        'fingerprint': run.manifest['data_fingerprint']}
    _write(run.folder / 'eval', name, result, predictions, alignments)
    with open(run.folder / 'timing.jsonl', 'a', encoding='utf-8') as timing:
        for row in compilations.rows:
            timing.write(json.dumps({'event': 'compile', **row}) + '\n')
    _print(result, [(row, is_right(row.prediction, row.references, config.data))
                    for row in _spread(predictions, values.show)])
    reading.say(f'results: {run.folder}/eval/{name}.json\nreport:  {write_report(run.folder)}')


def _read_tsv(path: str) -> list:
    from xformer.data.sources import read_pairs
    # with dev and test files of its own, nothing is held out of the training file
    return list(read_pairs(DataConfig(train=path, dev=path, test=path), 'train'))


def _spread(rows: list, count: int) -> list:
    """`count` rows, evenly spaced."""
    return [rows[i * len(rows) // count] for i in range(min(count, len(rows)))]


def _write(folder: Path, name: str, result: dict, predictions, alignments) -> None:
    from xformer.figures import draw_alignments
    from xformer.train.folder import write_atomically
    folder.mkdir(exist_ok=True)
    for kind, rows in (('predictions', [row._asdict() for row in predictions]),
                       ('alignments', [alignment.to_row() for alignment in alignments])):
        write_atomically(folder / f'{name}.{kind}.jsonl', ''.join(
            json.dumps(row, ensure_ascii=False) + '\n' for row in rows))
    (folder / f'{name}.alignments.png').write_bytes(draw_alignments(alignments))
    write_atomically(folder / f'{name}.json', json.dumps(result, indent=2) + '\n')


def _print(result: dict, shown: list) -> None:
    if shown:
        print(f'  {"word":<16} {"predicted":<36} reference')
    for row, right in shown:
        mark, references = ' ' if right else '✗', ' | '.join(row.references)
        print(f'{mark} {row.source:<16} {row.prediction:<36} {references}')
    print(f'{result["split"]}: {result["examples"]:,} sources, {result["checkpoint"]}, beam '
          f'{result["decode"]["beam_size"]}')
    for name, value in result['metrics'].items():
        print(f'  {name:<20} {value:7.2%}')


if __name__ == '__main__':
    cli.call(main)
