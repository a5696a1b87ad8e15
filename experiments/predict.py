"""Ask a trained encoder about texts: labels, numbers, tags and entities, answers, [MASK] fillers.

    python -m experiments.predict --model=runs/finetune_sst2 --prompt='a gripping , witty film .'
    python -m experiments.predict --model=runs/tag_wnut17 --input=tweets.txt --output=out.jsonl
    python -m experiments.predict --model=runs/finetune_mrpc --input=pairs.tsv
    python -m experiments.predict --model=runs/finetune_mrpc --split=test
    python -m experiments.predict --model=runs/qa_extractive --prompt=$'who ?\\tAda wrote it.'
    python -m experiments.predict --model=runs/bert_mini_pretrain --prompt='open the [MASK] .'
    python -m experiments.predict --model=runs/bert_mini_pretrain --next_sentence \\
        --prompt=$'It is small.\\tIt is fast, too.'

What the model was trained on decides. One line of input is one text; a pair, or a question and
its context, are separated by a tab. A JSON line each, in the order of the inputs.
"""

import json

from absl import flags

from experiments import cli, reading
from xformer.config import Config, UserError, is_labelled
from xformer.console import counting, say


def define(values: flags.FlagValues) -> None:
    reading.define(values)
    reading.define_cut(values)
    reading.define_texts(values, 'a text, or two separated by a tab')
    flags.DEFINE_alias('text', 'prompt', flag_values=values)
    reading.define_output(values)
    flags.DEFINE_integer('top', 5, 'fillers of each [MASK]', lower_bound=1, flag_values=values)
    flags.DEFINE_boolean('next_sentence', False, 'whether the second text follows the first',
                         flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, define, sections=())
    config = reading.config_of(values)
    _check(config, values)
    reading.check_output(values.output)
    texts = reading.texts_of(values, config)
    examples = [_example(number, text, config, values.next_sentence)
                for number, text in enumerate(texts, start=1)]

    run, compilations = reading.open_model(values, config)
    config = run.config
    from xformer.data.sources import Labelled, prepare_source
    from xformer.evaluate.fillers import fill_masks, next_sentence
    from xformer.evaluate.labels import guess
    asked = config, run.model, run.params, run.tokenizers, compilations
    with counting('predicting', len(texts)) as progress:
        if is_labelled(config):
            answers = guess([Labelled(*(prepare_source(text, config.data) for text in pair), '')
                             for pair in examples], *asked, progress, say)
        elif values.next_sentence:
            answers = next_sentence(texts, *asked, progress)
        else:
            answers = fill_masks(texts, *asked, values.top, progress)
    names = ('question', 'context') if config.data.objective == 'answer' else ('text', 'second')
    reading.write(values.output, ''.join(
        json.dumps({name: text for name, text in zip(names, pair) if text} | answer,
                   ensure_ascii=False) + '\n'
        for pair, answer in zip(examples, answers)), len(texts))


def _check(config: Config, values: flags.FlagValues) -> None:
    """Raises UserError for flags that the model cannot honour."""
    objective = config.data.objective
    if config.model.family != 'encoder':
        raise UserError(f'--model={values.model} is a model of model.family='
                        f'{config.model.family}; predict asks an encoder (experiments.generate '
                        'is for the others)')
    if objective == 'none':
        raise UserError(f'--model={values.model} is an encoder without a head, which answers '
                        'nothing; fine-tune it (--config.train.init_from), or see '
                        'experiments.embed')
    if values.next_sentence and objective != 'mlm_nsp':
        raise UserError(f'--next_sentence needs a model of data.objective=mlm_nsp, not {objective}')
    if values['top'].present and (is_labelled(config) or values.next_sentence):
        raise UserError('--top is for [MASK] fillers; leave it out here')


def _example(number: int, text: str, config: Config, pair: bool) -> tuple[str, str]:
    """The text, or the two of a pair, of one input."""
    parts, objective = text.split('\t'), config.data.objective
    one, two = objective == 'tag', pair or objective == 'answer'
    if len(parts) not in range(1 + two, 3 - one) or not all(part.strip() for part in parts):
        wanted = ('two texts separated by a tab' if two else
                  'one text' if one else 'a text, or two separated by a tab')
        raise UserError(f'input {number} ({text[:40]!r}) must be {wanted}, none of them empty')
    return parts[0], parts[1] if len(parts) == 2 else ''


if __name__ == '__main__':
    cli.call(main)
