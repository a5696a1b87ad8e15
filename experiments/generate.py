"""Write outputs of a trained model: text, or JSON lines with scores.

    python -m experiments.generate --model=runs/g2p_quickstart --prompt=transformer
    python -m experiments.generate --model=runs/g2p_quickstart --input=words.txt --output=out.txt
    cat words.txt | python -m experiments.generate --model=runs/g2p_quickstart --input=- --json \\
        --num_outputs=3 --config.decode.beam_size=8

One line of input is one source; outputs keep the order of the inputs.
"""

import json
import sys
from pathlib import Path

from absl import flags

from experiments import cli, reading
from xformer.config import UserError
from xformer.console import counting, say


def define(values: flags.FlagValues) -> None:
    reading.define(values)
    flags.DEFINE_multi_string('prompt', [], 'a source text; may be given several times',
                              flag_values=values)
    flags.DEFINE_string('input', None, 'file with one source a line, - for standard input',
                        flag_values=values)
    flags.DEFINE_string('output', '-', 'file to write, - for standard output',
                        flag_values=values)
    flags.DEFINE_boolean('json', False, 'write JSON lines {"source", "outputs": [{"text", '
                         '"score"}]} instead of text', flag_values=values)
    flags.DEFINE_integer('num_outputs', 1, 'outputs of each source, best first; at most '
                         'decode.beam_size', lower_bound=1, flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, define, sections=('decode',))
    if bool(values.prompt) == bool(values.input):
        raise UserError('give either --prompt=TEXT or --input=FILE (- for standard input)')
    config = reading.config_of(values)
    if config.model.family != 'seq2seq':
        raise UserError(f'--model={values.model} is a model of model.family='
                        f'{config.model.family}, which writes no outputs for sources; give one of '
                        'seq2seq')
    if values.num_outputs > config.decode.beam_size:
        raise UserError(f'--num_outputs={values.num_outputs} is more than decode.beam_size='
                        f'{config.decode.beam_size}; set --config.decode.beam_size too')
    output = Path(values.output)
    if values.output != '-' and output.exists():
        raise UserError(f'--output={output} exists; remove it or choose another name')
    if not output.parent.is_dir():
        raise UserError(f'--output={output} is in a folder that does not exist; make it first')
    texts = values.prompt or _read(values.input)

    run, compilations = reading.open_model(values, config)
    from xformer.decode.generate import Generator
    from xformer.evaluate.split import encode_sources, predict
    generator = Generator(run.model, config, run.params, compilations)
    sources = encode_sources(texts, config, run.tokenizers)
    special = run.tokenizers.special
    unknown = sum(ids.count(special.unk) for ids in sources)
    if unknown and special.unk != special.eos:
        say(f'tokens of the input that the model has never seen, read as unknown: {unknown:,}')
    with counting('decoding', len(texts)) as progress:
        best = predict(sources, run.tokenizers, generator, progress)
    lines = ''.join(_line(source, outputs[:values.num_outputs], values.json) + '\n'
                    for source, outputs in zip(texts, best))
    if values.output == '-':
        sys.stdout.write(lines)
    else:
        output.write_text(lines, encoding='utf-8')
        say(f'{len(texts):,} outputs: {output}')


def _read(path: str) -> list[str]:
    from xformer.data.sources import read_lines
    return [text for _, text in read_lines(Path('/dev/stdin' if path == '-' else path))]


def _line(source: str, outputs: list, as_json: bool) -> str:
    if as_json:
        return json.dumps({'source': source, 'outputs': [
            {'text': text, 'score': round(output.score, 6)} for text, output in outputs]},
            ensure_ascii=False)
    return '\t'.join(text for text, _ in outputs)


if __name__ == '__main__':
    cli.call(main)
