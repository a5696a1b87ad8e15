"""Write outputs of a trained model: text, or JSON lines with scores.

    python -m experiments.generate --model=runs/g2p_quickstart --prompt=transformer
    python -m experiments.generate --model=runs/g2p_quickstart --input=words.txt --output=out.txt
    python -m experiments.generate --model=runs/g2p_quickstart --split=test --output=test.txt
    cat words.txt | python -m experiments.generate --model=runs/g2p_quickstart --input=- --json \\
        --num_outputs=3 --config.decode.beam_size=8
    python -m experiments.generate --model=runs/lm_shakespeare_char --prompt=ROMEO: --stream \\
        --config.decode.strategy=sample --config.decode.top_k=20
    python -m experiments.generate --model=runs/lm --input=questions.txt --stop=. \\
        --examples=solved.tsv --template='{source} = {target}' --config.decode.beam_size=1
    python -m experiments.generate --model=runs/g2p_quickstart --score --input=pairs.tsv

One line of input is one source, or for a language model one prompt; outputs keep their order. How
they are searched for or drawn is --config.decode.*.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from absl import flags

from experiments import cli, reading
from xformer.checks import check_same, validate
from xformer.config import Config, DecodeConfig, UserError, nearest, override, to_flat
from xformer.console import counting, say

TASKS = {  # settings of decoding that fit, unless they are given
    # Vaswani et al. 2017, section 6.1
    'translate': {'beam_size': 4, 'length_penalty': 'gnmt', 'alpha': 0.6},
    # as BART on XSum (Lewis et al. 2020), whose summaries are one sentence
    'summarize': {'beam_size': 6, 'length_penalty': 'length', 'alpha': 1.0, 'min_length': 5,
                  'max_length': 60, 'no_repeat_ngram': 3}}
SAME_IN_CONFIG = ('max_length', 'max_new_tokens', 'min_length', 'seed')


def define(values: flags.FlagValues) -> None:
    reading.define(values)
    reading.define_cut(values)
    reading.define_texts(values, 'a source text or prompt')
    reading.define_output(values)
    flags.DEFINE_string('task', None, 'settings of decoding that fit, unless given: ' + '; '.join(
        f'{task} {_listed(settings)}' for task, settings in TASKS.items())
        + '; of a Hugging Face folder first its own, with what it wants before each text (T5: also '
        'translation_en_to_de)', flag_values=values)
    flags.DEFINE_boolean('json', False, 'write JSON lines {"source", "outputs": [{"text", '
                         '"score"}]} instead of text', flag_values=values)
    flags.DEFINE_integer('num_outputs', 1, 'outputs of each source, best first: of a beam at most '
                         'decode.beam_size, or samples', lower_bound=1, flag_values=values)
    for name in SAME_IN_CONFIG:
        flags.DEFINE_integer(name, None, f'short for --config.decode.{name}', flag_values=values)
    flags.DEFINE_multi_string('stop', [], 'an output ends before this text; may be given several '
                              'times', flag_values=values)
    flags.DEFINE_string('template', None, "a language model's prompt, as '{source} = {target}': "
                        'each input is the source, the output is the target, to the end of the '
                        'line', flag_values=values)
    flags.DEFINE_string('examples', None, 'file with source<TAB>target lines, shown in the '
                        'template before each input (few-shot)', flag_values=values)
    flags.DEFINE_boolean('stream', False, 'show the output of one --prompt as it is written',
                         flag_values=values)
    flags.DEFINE_boolean('interactive', False, 'ask for prompts and show the output of each as it '
                         'is written', flag_values=values)
    flags.DEFINE_string('draft', None, 'run or Hugging Face folder of a smaller model that drafts '
                        'greedy outputs (speculative decoding: same outputs, sooner)',
                        flag_values=values)
    flags.DEFINE_integer('draft_tokens', 4, 'tokens drafted at once', lower_bound=1,
                         flag_values=values)
    flags.DEFINE_boolean('score', False, 'write log p (in nats) of given outputs instead: inputs '
                         'are source<TAB>target, or texts of a language model', flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, define, sections=('decode',))
    for name in SAME_IN_CONFIG:
        same = values[f'config.decode.{name}']
        if values[name].present and same.present:
            raise UserError(f'give either --{name} or --config.decode.{name}, not both')
        if values[name].present:
            same.value = str(values[name].value)
    config, prefix = reading.config_of(values), ''
    if values.task:
        config, prefix = _for_task(config, values)
    if config.model.family == 'encoder':
        raise UserError(f'--model={values.model} is a model of model.family=encoder, which writes '
                        'no outputs; give a decoder or one of seq2seq')
    given = values.interactive, *map(bool, (values.prompt, values.input, values.split))
    if sum(given) != 1:
        raise UserError('give one of --prompt=TEXT, --input=FILE (- for standard input), '
                        '--split=dev or test, and --interactive')
    for holds, message in _checks(values, config):
        if not holds:
            raise UserError(message)
    reading.check_output(values.output)
    examples = _read_pairs(values.examples) if values.examples else []
    texts = [] if values.interactive else reading.texts_of(values, config, targets=values.score)

    if values.score:
        lines = _scores(texts, values, config)
    elif values.stream or values.interactive:
        return _show(texts, examples, values, config, prefix)
    else:
        lines = _outputs(texts, examples, values, config, prefix)
    reading.write(values.output, lines, len(texts))


def _for_task(config: Config, values) -> tuple[Config, str]:
    """With the settings of --task that neither a flag gives nor the model's Hugging Face folder,
    and what that wants before each text; no length beyond what the model takes, or what is given.
    """
    from xformer.interop.folder import is_checkpoint
    from xformer.interop.generation import read_task, to_config
    kind, prefix, theirs = values.task, '', {}
    if published := is_checkpoint(Path(values.model)):
        kind, prefix, theirs = read_task(Path(values.model), values.task)
    elif kind not in TASKS:
        raise UserError(f'there is no --task={kind}{nearest(kind, TASKS)}')
    own = to_config(theirs, config.model)[0] if theirs else {}
    config = override(config, _not_given(own, values))
    settings = {f'decode.{name}': setting for name, setting in TASKS[kind].items()}
    if published:
        silent = to_flat(override(replace(config, decode=DecodeConfig()),
                                  to_config({}, config.model)[0]))
        settings = {name: setting for name, setting in settings.items()
                    if name not in ('decode.length_penalty', 'decode.alpha')
                    and to_flat(config)[name] == silent[name]}
    decode = config.decode
    most = decode.max_length or decode.max_new_tokens or config.model.max_length
    settings = {'decode.min_length': decode.min_length} | settings
    settings = {name: min(setting, most) if name.endswith('_length') else setting
                for name, setting in settings.items()}
    if decode.max_new_tokens:
        settings.pop('decode.max_length', None)
    return validate(override(config, _not_given(settings, values))), prefix


def _not_given(settings: dict, values) -> dict:
    """Those of decoding that no flag gives."""
    return {name: setting for name, setting in settings.items() if name.startswith('decode.')
            and values[f'config.{name}'].value is None}


def _listed(settings: dict) -> str:
    return ', '.join(f'{name}={value}' for name, value in settings.items())


def _checks(values, config: Config):
    """(what must hold, what is said where it does not) of flags that go with one another."""
    decode = config.decode
    sample = decode.strategy == 'sample'
    one_by_one = sample or decode.beam_size == 1
    yield (sample or values.num_outputs <= decode.beam_size,
           f'--num_outputs={values.num_outputs} is more than decode.beam_size={decode.beam_size}; '
           'set --config.decode.beam_size too')
    for name in ('stop', 'template', 'stream', 'interactive'):
        yield (one_by_one or not values[name].present,
               f'--{name} is for outputs written one by one; set --config.decode.beam_size=1 or '
               '--config.decode.strategy=sample')
    shown = 'stream' if values.stream else 'interactive'
    for name in ('output', 'json', 'num_outputs', 'input', 'split'):
        yield (not (values.stream or values.interactive) or not values[name].present,
               f'--{name} has no effect with --{shown}')
    yield (not values.stream or len(values.prompt) == 1, '--stream takes one --prompt')
    yield (not (values.template or values.examples) or config.data.objective == 'lm',
           f'--template and --examples are for a language model (data.objective=lm), not '
           f'data.objective={config.data.objective}')
    yield (not values.examples or values.template,
           "--examples needs a --template, as --template='{source} = {target}'")
    yield (not values.template or all(values.template.count(part) == 1 for part in (
        '{source}', '{target}')) and values.template.index('{source}')
        < values.template.index('{target}'),
           f'--template={values.template} must hold {{source}} and after it {{target}}, each once')
    yield (not values.draft or not sample and decode.beam_size == 1,
           '--draft is for greedy outputs; set --config.decode.beam_size=1')
    yield (not values.task or config.data.objective == 'pairs',
           f'--task={values.task} is for a model of pairs (data.objective=pairs), not '
           f'data.objective={config.data.objective}')
    yield (values.cut is None or config.model.family != 'decoder',
           '--cut is not for a decoder: a prompt as long as the model takes leaves no room')
    yield all(values.stop), '--stop is empty; give the text to stop at, or leave it out'
    yield (values.draft or not values['draft_tokens'].present,
           '--draft_tokens has no effect without --draft')
    for name in values:
        yield (not (values.score and values[name].present) or name in (
            'model', 'checkpoint', 'cut', 'prompt', 'input', 'split', 'output', 'json', 'score'),
            f'--{name} has no effect with --score')


def _read_pairs(path: str) -> list[tuple[str, str]]:
    return [_pair(text, f'{path}:{number}') for number, text in enumerate(
        reading.lines_of(path), start=1)]


def _pair(text: str, where: str) -> tuple[str, str]:
    sides = text.split('\t')
    if len(sides) != 2:
        raise UserError(f'{where} has {len(sides) - 1} tabs; it must be source<TAB>target')
    return sides[0], sides[1]


class _Writer:
    """From texts to texts: prompts are made and encoded, outputs cut before the stop strings."""

    def __init__(self, examples: list, values, config: Config, prefix: str):
        draft_config = _draft_config(values, config) if values.draft else None
        self._run, compilations = reading.open_model(values, config)
        config = self._run.config
        from xformer.decode.generate import Draft, Generator
        from xformer.evaluate.inputs import template_of
        draft = None
        if draft_config:
            from xformer.run import open_run
            small = open_run(Path(values.draft), draft_config, 'best', say)
            draft = Draft(small.model, small.params, values.draft_tokens)
        self._config, self._examples, self._template = config, examples, values.template
        self._prefix, self._stops = prefix, list(values.stop)
        if values.template:
            _check_lines(self._run.tokenizers.source)
            self._stops.append(values.template.split('{target}')[1] + '\n')
        self._prompts: list[list[int]] = []
        self.generator = Generator(self._run.model, config, self._run.params, compilations,
                                   values.num_outputs, self._stopped if self._stops else None,
                                   draft, after_bos=bool(
                                       template_of(config, self._run.tokenizers).before))

    def write(self, texts: list[str]) -> list[list[tuple[str, float]]]:
        """(text, score) of the outputs for each text, best first."""
        self._encode(texts)
        with counting('decoding', len(texts)) as progress:
            found = self.generator(self._prompts, progress)
        return [[(self._text(number, output.ids), output.score) for output in outputs]
                for number, outputs in enumerate(found)]

    def stream(self, text: str, number: int):
        """What each token adds to the output; `number` tells draws for equal prompts apart."""
        from xformer.decode.text import pieces
        self._encode([text])
        return pieces((self._text(0, output.ids)
                       for output in self.generator.stream(self._prompts[0], number)),
                      held_back=max(map(len, self._stops), default=1) - 1)

    def _encode(self, texts: list[str]) -> None:
        from xformer.decode.text import few_shot_prompt
        from xformer.evaluate.inputs import encode_sources
        if self._template:
            texts = [few_shot_prompt(text, self._examples, self._template) for text in texts]
        texts = [text if text.startswith(self._prefix) else self._prefix + text for text in texts]
        self._prompts = encode_sources(texts, self._config, self._run.tokenizers)
        reading.tell_unknown(self._prompts, self._run.tokenizers.special)

    def _whole_text(self, number: int, ids: list[int]) -> str:
        from xformer.decode.text import output_text
        return output_text(ids, self._prompts[number], self._config, self._run.tokenizers)

    def _stopped(self, number: int, ids: list[int]) -> bool:
        text = self._whole_text(number, ids)
        return any(stop in text for stop in self._stops)

    def _text(self, number: int, ids: list[int]) -> str:
        from xformer.decode.text import before_stop
        return before_stop(self._whole_text(number, ids), self._stops)


def _check_lines(tokenizer) -> None:
    """Raises UserError for one that does not tell the end of a line from a space."""
    if '\n' not in tokenizer.decode(tokenizer.encode('a\nb')):
        raise UserError('--template needs a model that reads the ends of lines, for there examples '
                        'and outputs end; this one has data.tokenizer=word or wordpiece, or never '
                        'saw one')


def _draft_config(values, config: Config) -> Config:
    """That of --draft. Raises UserError unless it can write for the model."""
    from xformer.interop.folder import config_in
    from xformer.run import tokenizers_in
    draft = config_in(Path(values.draft))
    check_same(['model.family', 'data.objective'], f'--draft={values.draft}', draft, 'the model',
               config)
    theirs, ours = (tokenizers_in(Path(folder)) for folder in (values.draft, values.model))
    if theirs.fingerprint != ours.fingerprint:
        raise UserError(f'--draft={values.draft} has another tokenizer than --model={values.model};'
                        ' give a model trained with the same')
    if draft.model.positions == 'learned' and draft.model.max_length < config.model.max_length:
        raise UserError(f'--draft={values.draft} takes model.max_length={draft.model.max_length} '
                        f'tokens, fewer than the {config.model.max_length} of the model; give one '
                        'that takes as many')
    return draft


def _outputs(texts: list[str], examples: list, values, config: Config, prefix: str) -> str:
    writer = _Writer(examples, values, config, prefix)
    found = writer.write(texts)
    lines = ''.join(_line(source, outputs, values.json) + '\n'
                    for source, outputs in zip(texts, found))
    if lines.count('\n') > len(texts) > 1:
        say('some outputs have several lines; --json keeps each on one')
    if values.draft:
        say(_kept(writer.generator))
    return lines


def _kept(generator) -> str:
    return (f'drafted tokens: {generator.drafted:,}, kept: {generator.kept:,} '
            f'({generator.kept / max(generator.drafted, 1):.0%})')


def _line(source: str, outputs: list[tuple[str, float]], as_json: bool) -> str:
    if as_json:
        return json.dumps({'source': source, 'outputs': [
            {'text': text, 'score': round(score, 6)} for text, score in outputs]},
            ensure_ascii=False)
    return '\t'.join(text for text, _ in outputs)


def _show(texts: list[str], examples: list, values, config: Config, prefix: str) -> None:
    """The outputs of --stream or --interactive, as they are written."""
    writer = _Writer(examples, values, config, prefix)
    for number, text in enumerate(texts or _asked()):
        try:
            for piece in writer.stream(text, number):
                print(piece, end='', flush=True)
            print()
        except UserError as error:
            if not values.interactive:
                raise
            say(str(error))
    if values.draft:
        say(_kept(writer.generator))


def _asked():
    """Lines of standard input, asked for if a person types them, until it ends."""
    if hasattr(sys.stdin, 'reconfigure'):  # some locales would let broken text through
        sys.stdin.reconfigure(encoding='utf-8', errors='strict')
    while True:
        if sys.stdin.isatty():
            print('> ', end='', file=sys.stderr, flush=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError:
            raise UserError('standard input is not valid UTF-8; type or send text') from None
        if not line:
            return
        yield line.removesuffix('\n')


def _scores(texts: list[str], values, config: Config) -> str:
    """A line for each given output: log p and the text, or JSON."""
    lm = config.data.objective == 'lm'
    given = [('', text) if lm else _pair(text, f'input {number}')
             for number, text in enumerate(texts, start=1)]
    run, compilations = reading.open_model(values, config)
    config = run.config
    from xformer.decode.likelihood import log_likelihoods
    from xformer.evaluate.inputs import encode_outputs, encode_sources
    sources = [[] for _ in given] if lm else encode_sources(
        [source for source, _ in given], config, run.tokenizers)
    targets = encode_outputs([target for _, target in given], sources, config, run.tokenizers)
    with counting('scoring', len(given)) as progress:
        found = log_likelihoods(run.model, config, run.params, compilations,
                                list(zip(sources, targets)), progress)
    if not values.json:
        return ''.join(f'{value:.6f}\t{text}\n' for value, text in zip(found, texts))
    return ''.join(json.dumps(
        ({} if lm else {'source': source}) | {'text': text, 'log_p': round(value, 6),
                                              'tokens': len(ids)}, ensure_ascii=False) + '\n'
        for (source, text), value, ids in zip(given, found, targets))


if __name__ == '__main__':
    cli.call(main)
