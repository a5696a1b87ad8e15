"""The configuration of a run: frozen dataclasses, overrides, JSON, differences.

Standard library only, so that a mistyped flag is answered before JAX is imported.
Every field carries a one-line meaning, shown by `--help`.
"""

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Ending(Exception):
    """An end of the program that one sentence explains; `exit_code` tells scripts which."""

    exit_code = 1


class UserError(Ending):
    """A mistake the user can mend: one sentence saying what, where, and what to do."""

    exit_code = 2


def option(default: Any, meaning: str, choices: tuple = ()) -> Any:
    """A dataclass field with its one-line meaning and, if limited, its allowed values."""
    return field(default=default, metadata={'meaning': meaning, 'choices': choices})


@dataclass(frozen=True)
class ModelConfig:
    family: str = option('seq2seq', 'architecture', ('seq2seq',))
    num_encoder_layers: int = option(6, 'encoder blocks')
    num_decoder_layers: int = option(6, 'decoder blocks')
    d_model: int = option(512, 'width of the residual stream (D)')
    num_heads: int = option(8, 'attention heads (N); d_model must be a multiple')
    d_ff: int = option(2048, 'width of the feed-forward layer (F)')
    vocab_size: int = option(0, 'size of the vocabulary (V); 0 takes it from the tokenizer')
    max_length: int = option(512, 'longest source or target in tokens, end token included')
    activation: str = option('relu', 'of the feed-forward layer', ('relu', 'gelu', 'gelu_tanh'))
    norm_position: str = option('post', 'LayerNorm after (original) or before', ('post', 'pre'))
    positions: str = option('sinusoidal', 'position encoding', ('sinusoidal',))
    tie_embeddings: bool = option(True, 'one matrix for source, target and output embeddings')
    dropout: float = option(0.1, 'on embeddings and on the output of every sub-layer')
    attention_dropout: float = option(0.0, 'on the attention weights')
    activation_dropout: float = option(0.0, 'inside the feed-forward layer')
    attention: str = option('xla', 'attention implementation', ('xla', 'reference'))
    layers: str = option('scan', 'compile one block (scan) or all (unroll)', ('scan', 'unroll'))
    remat: bool = option(False, 'recompute activations in the backward pass to save memory')
    dtype: str = option('float32', 'compute type; parameters stay float32', ('float32', 'bfloat16'))


@dataclass(frozen=True)
class DataConfig:
    dataset: str = option('', 'name of a known data set; or give data.train')
    train: str = option('', 'training file; for format=parallel SOURCE,TARGET')
    dev: str = option('', 'development file; empty holds out 3 % of train by hash')
    test: str = option('', 'test file; empty holds out 7 % of train by hash')
    format: str = option('tsv', 'source<TAB>target, two files, or one text a line',
                         ('tsv', 'parallel', 'lines'))
    lowercase_source: bool = option(False, 'lower-case the source, here and when generating')
    source_tokenizer: str = option('char', 'how a source becomes tokens',
                                   ('char', 'word', 'bpe', 'unigram'))
    target_tokenizer: str = option('char', 'how a target becomes tokens',
                                   ('char', 'word', 'bpe', 'unigram'))
    vocab_size: int = option(8000, 'pieces to train, for bpe and unigram')
    batch_tokens: int = option(4096, 'token slots of a batch, source and target, padding included')
    batch_multiple: int = option(8, 'rows of every batch are a multiple of this')
    min_fill: float = option(0.85, 'least share of slots that hold real tokens; sets the buckets')
    max_buckets: int = option(8, 'most (source, target) length buckets')
    too_long: str = option('error', 'what to do with pairs beyond model.max_length',
                           ('error', 'drop'))
    score_strip: str = option('', 'characters removed from target tokens before scoring')


@dataclass(frozen=True)
class OptimConfig:
    optimizer: str = option('adamw', 'update rule', ('adam', 'adamw'))
    schedule: str = option('inverse_sqrt', 'learning rate over steps',
                           ('noam', 'inverse_sqrt', 'linear', 'cosine', 'wsd', 'constant'))
    peak_learning_rate: float = option(0.0, 'highest learning rate; 0 with noam, which sets it')
    noam_factor: float = option(1.0, 'factor of the noam schedule')
    warmup_steps: int = option(0, 'steps of linear warm-up')
    decay_fraction: float = option(0.2, 'last part of training that decays, for wsd')
    final_fraction: float = option(0.0, 'final ÷ peak learning rate, for linear, cosine, wsd')
    beta1: float = option(0.9, 'Adam: decay of the first moment')
    beta2: float = option(0.98, 'Adam: decay of the second moment')
    epsilon: float = option(1e-9, 'Adam: added to the root of the second moment')
    weight_decay: float = option(0.0, 'decoupled, on weight matrices only (adamw)')
    clip_norm: float = option(0.0, 'largest gradient norm; 0 does not clip')
    label_smoothing: float = option(0.1, 'probability spread over the vocabulary')


@dataclass(frozen=True)
class TrainConfig:
    seed: int = option(0, 'of initialisation, data order and dropout')
    steps: int = option(100_000, 'optimizer updates')
    accumulate: int = option(1, 'micro-batches a batch is split into, to save memory')
    log_every: int = option(10, 'steps between rows of metrics.jsonl')
    eval_every: int = option(1000, 'steps between losses of the dev split')
    save_every: int = option(1000, 'steps between checkpoints')
    keep_last: int = option(2, 'newest checkpoints kept')
    keep_best: int = option(2, 'checkpoints kept for their dev loss')


@dataclass(frozen=True)
class ParallelConfig:
    mode: str = option('pmap', 'pmap, or jit over a device mesh', ('pmap', 'mesh'))
    devices: int = option(0, 'devices to use; 0 takes all')


@dataclass(frozen=True)
class DecodeConfig:
    beam_size: int = option(4, 'hypotheses kept; 1 is greedy')
    length_penalty: str = option('gnmt', 'score ÷ ((5+n)/6)^alpha or ÷ n^alpha',
                                 ('gnmt', 'length'))
    alpha: float = option(0.6, 'strength of the length penalty')
    max_length: int = option(0, 'longest output in tokens; 0 takes model.max_length')


@dataclass(frozen=True)
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)


def leaves() -> dict[str, dataclasses.Field]:
    """Every option by its dotted name, in declaration order: {'model.d_model': Field, ...}."""
    return {
        f'{section.name}.{leaf.name}': leaf
        for section in dataclasses.fields(Config)
        for leaf in dataclasses.fields(section.type)
    }


def to_flat(config: Config) -> dict[str, Any]:
    """{'model.d_model': 512, ...}."""
    return {f'{section}.{name}': value
            for section, values in dataclasses.asdict(config).items()
            for name, value in values.items()}


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy with dotted names set; text values are read as the field's type.

    Raises UserError for an unknown name, a value of the wrong type, or one not allowed.
    """
    known = leaves()
    for name, value in changes.items():
        if name not in known:
            raise UserError(f'config has no field {name!r}{nearest(name, known)}')
        section, leaf = name.split('.')
        typed = parse_value(name, known[name], value)
        config = dataclasses.replace(
            config, **{section: dataclasses.replace(getattr(config, section), **{leaf: typed})})
    return config


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the most similar known name, or lists all when none is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:  # the section may be missing or wrong: compare the last part alone
        by_leaf = {dotted.split('.')[-1]: dotted for dotted in known}
        close = [by_leaf[leaf] for leaf in
                 difflib.get_close_matches(name.split('.')[-1], by_leaf, n=1, cutoff=0.5)]
    if close:
        return f'; did you mean {close[0]!r}?'
    return f'; there are: {", ".join(sorted(known))}' if len(known) <= 12 else '; see --help'


def parse_value(name: str, leaf: dataclasses.Field, value: Any) -> Any:
    """`value` as the field's type (text from the command line, or a plain Python value)."""
    wanted = leaf.type
    result = _cast(wanted, value)
    if result is None:
        raise UserError(f'{name} takes {_NOUNS[wanted]}, not {value!r}')
    if leaf.metadata['choices'] and result not in leaf.metadata['choices']:
        choices = leaf.metadata['choices']
        hint = nearest(str(result), choices) if len(choices) > 1 else ''
        raise UserError(f'{name} is one of {", ".join(choices)}, not {result!r}{hint}')
    return result


_NOUNS = {int: 'a whole number', float: 'a number', bool: 'true or false', str: 'text'}
_BOOLEANS = {'true': True, '1': True, 'yes': True, 'false': False, '0': False, 'no': False}


def _cast(wanted: type, value: Any) -> Any:
    if isinstance(value, str) and wanted is not str:
        if wanted is bool:
            return _BOOLEANS.get(value.strip().lower())
        try:
            return wanted(value)
        except ValueError:
            return None
    if wanted is float and type(value) is int:
        return float(value)
    return value if type(value) is wanted else None


def to_json(config: Config) -> str:
    """The configuration as indented JSON, a section per part."""
    return json.dumps(dataclasses.asdict(config), indent=2) + '\n'


def from_json(text: str, where: str = 'config.json') -> Config:
    """The inverse of `to_json`; `where` names the file in error messages."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f'{where} is not valid JSON ({error}); restore it from a copy') from None
    if not isinstance(tree, dict) or not all(isinstance(part, dict) for part in tree.values()):
        raise UserError(f'{where} is not a configuration: expected sections with fields')
    try:
        return override(Config(), {f'{section}.{name}': value for section, part in tree.items()
                                   for name, value in part.items()})
    except UserError as error:
        raise UserError(f'{where}: {error}') from None


def read_config(folder: Path) -> Config:
    """The configuration of a run folder. Raises UserError if it is none."""
    path = folder / 'config.json'
    if not path.is_file():
        what = ('holds no config.json' if folder.is_dir() else
                'is a file' if folder.exists() else 'does not exist')
        raise UserError(f'{folder} is not a run folder (it {what}); give the --workdir of a '
                        'training run')
    try:
        text = path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is not UTF-8 text ({error}); restore it from a copy') from None
    return from_json(text, str(path))


def diff(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """{'optim.beta2': (0.98, 0.999), ...}: the fields in which two configurations differ."""
    old, new = to_flat(before), to_flat(after)
    return {name: (old[name], new[name]) for name in old if old[name] != new[name]}


def validate(config: Config) -> Config:
    """The same configuration, once it is known to make sense as a whole.

    Raises UserError naming the field, the value and the mend. An option that would have no
    effect under the others is refused, never ignored.
    """
    flat = to_flat(config)
    for name, (low, high, closed) in _RANGES.items():
        value = flat[name]
        if not math.isfinite(value):
            raise UserError(f'{name} must be a finite number, not {value}')
        inside = low <= value <= high if closed else low <= value < high
        if not inside:
            bound = f'at least {low}' if high == _INFINITY else \
                f'from {low} to {"" if closed else "below "}{high}'
            raise UserError(f'{name} must be {bound}, not {value}')
    for holds, message in _whole_checks(config):
        if not holds:
            raise UserError(message)
    return config


_INFINITY = float('inf')
_RANGES = {  # name: (least, most, most is allowed)
    **{name: (1, _INFINITY, False) for name in (
        'model.num_encoder_layers', 'model.num_decoder_layers', 'model.d_model',
        'model.num_heads', 'model.d_ff', 'model.max_length', 'data.vocab_size',
        'data.batch_tokens', 'data.batch_multiple', 'data.max_buckets', 'train.steps',
        'train.accumulate', 'train.log_every', 'train.eval_every', 'train.save_every',
        'train.keep_last', 'decode.beam_size')},
    **{name: (0, _INFINITY, False) for name in (
        'model.vocab_size', 'optim.peak_learning_rate', 'optim.noam_factor',
        'optim.warmup_steps', 'optim.weight_decay', 'optim.clip_norm', 'optim.epsilon',
        'train.seed', 'train.keep_best', 'parallel.devices', 'decode.alpha',
        'decode.max_length')},
    **{name: (0, 1, False) for name in (
        'model.dropout', 'model.attention_dropout', 'model.activation_dropout', 'optim.beta1',
        'optim.beta2', 'optim.label_smoothing', 'data.min_fill')},
    **{name: (0, 1, True) for name in ('optim.final_fraction', 'optim.decay_fraction')},
}


def _whole_checks(config: Config):
    model, data, optim, train = config.model, config.data, config.optim, config.train
    default = OptimConfig()
    yield (model.d_model % model.num_heads == 0,
           f'model.d_model={model.d_model} is not divisible by model.num_heads='
           f'{model.num_heads}; choose a multiple')
    yield (model.d_model % 2 == 0,
           f'model.d_model={model.d_model} must be even for sinusoidal positions')
    yield (bool(data.dataset) != bool(data.train),
           'set either data.dataset (a known data set) or data.train (your own file), '
           f'not {"both" if data.train else "neither"}')
    yield (not data.dataset or not (data.dev or data.test),
           'data.dev and data.test go with data.train; a named data.dataset has its own splits')
    for side in ('source', 'target'):
        other = 'target' if side == 'source' else 'source'
        kind, twin = getattr(data, f'{side}_tokenizer'), getattr(data, f'{other}_tokenizer')
        yield (kind in ('char', 'word') or kind == twin,
               f'data.{side}_tokenizer={kind} needs data.{other}_tokenizer={kind} too: '
               'the two sides share one vocabulary')
    symbols = ('char', 'word')
    yield (data.source_tokenizer not in symbols or data.vocab_size == DataConfig().vocab_size,
           'data.vocab_size has no effect with char and word tokenizers; it is for bpe and unigram')
    yield (not data.dataset or data.format == DataConfig().format,
           'data.format has no effect with a named data.dataset')
    yield (data.batch_multiple % train.accumulate == 0,
           f'data.batch_multiple={data.batch_multiple} is not divisible by '
           f'train.accumulate={train.accumulate}; choose a multiple')
    yield (config.decode.max_length <= model.max_length,
           f'decode.max_length={config.decode.max_length} is beyond the '
           f'model.max_length={model.max_length} tokens that the model takes')
    noam = optim.schedule == 'noam'
    yield (not noam or optim.peak_learning_rate == 0,
           'optim.peak_learning_rate has no effect with optim.schedule=noam, which derives it '
           'from d_model and warmup_steps; set optim.noam_factor instead')
    yield (noam or optim.peak_learning_rate > 0,
           f'optim.schedule={optim.schedule} needs optim.peak_learning_rate above 0')
    yield (noam or optim.noam_factor == default.noam_factor,
           f'optim.noam_factor has no effect with optim.schedule={optim.schedule}')
    yield (optim.schedule not in ('noam', 'inverse_sqrt') or optim.warmup_steps > 0,
           f'optim.schedule={optim.schedule} needs optim.warmup_steps above 0')
    yield (optim.schedule in ('noam', 'inverse_sqrt', 'constant')
           or optim.warmup_steps < train.steps,
           f'optim.warmup_steps={optim.warmup_steps} leaves nothing of '
           f'train.steps={train.steps} to decay in')
    yield (optim.schedule == 'wsd' or optim.decay_fraction == default.decay_fraction,
           f'optim.decay_fraction has no effect with optim.schedule={optim.schedule}')
    yield (optim.schedule in ('linear', 'cosine', 'wsd') or optim.final_fraction == 0,
           f'optim.final_fraction has no effect with optim.schedule={optim.schedule}')
    yield (optim.optimizer == 'adamw' or optim.weight_decay == 0,
           'optim.weight_decay has no effect with optim.optimizer=adam; use adamw')


for _section in dataclasses.fields(Config):  # options are scalars, so each cast is defined
    assert set(typing.get_type_hints(_section.type).values()) <= set(_NOUNS)
