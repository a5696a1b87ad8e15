"""Whether a configuration makes sense as a whole; every sentence a user may read about it."""

import math
import re
from collections.abc import Sequence
from typing import Any

from xformer.config import (
    CHOOSING,
    LABELLED,
    SYMBOLS,
    Config,
    DataConfig,
    DecodeConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    UserError,
    diff,
    leaves,
    override,
    to_flat,
    writes_outputs,
)

FAMILIES = {'pairs': ('seq2seq', 'decoder'), 'spans': ('seq2seq',), 'denoise': ('seq2seq',),
            'lm': ('decoder',), 'mlm': ('encoder',), 'mlm_nsp': ('encoder',),
            **dict.fromkeys((*LABELLED, 'none'), ('encoder',))}  # which may learn it
_TEXTS = ('documents', 'lines', 'jsonl', 'text')
FORMATS = {'pairs': ('tsv', 'parallel', 'jsonl', 'lines'),
           'lm': ('text', 'documents', 'lines', 'jsonl'),
           **dict.fromkeys(('mlm', 'mlm_nsp', 'spans', 'denoise'), _TEXTS),
           'classify': ('tsv', 'jsonl'), 'regress': ('tsv', 'jsonl'), 'tag': ('conll', 'jsonl'),
           'answer': ('squad', 'jsonl')}  # of the user's own files, the usual one first


def validate(config: Config) -> Config:
    """The same configuration, once it is known to make sense as a whole.

    Raises UserError naming the field, the value and the mend. An option that would have no
    effect under the others is refused, never ignored.
    """
    flat = to_flat(config)
    for name, (low, high, closed) in _RANGES.items():
        value = flat[name]
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f'{name} must be a finite number, not {value}')
        if isinstance(value, int) and value >= 2**31 and high == _INFINITY:  # arrays count in int32
            raise UserError(f'{name} must be below {2**31}, not {value}')
        inside = low <= value <= high if closed else low <= value < high
        if not inside:
            bound = f'at least {low}' if high == _INFINITY else \
                f'from {low} to {"" if closed else "below "}{high}'
            raise UserError(f'{name} must be {bound}, not {value}')
    for holds, message in _whole_checks(config):
        if not holds:
            raise UserError(message)
    return config


def check_learns(config: Config) -> None:
    """Raises UserError where training would have nothing to learn, or nothing to learn from."""
    if config.data.objective == 'none':
        raise UserError('data.objective=none learns nothing; set what the model is to learn')
    if not (config.data.dataset or config.data.train):
        raise UserError('set data.dataset (a known data set) or data.train (your own file)')


def check_same(names: Sequence[str], what: str, theirs: Config, whose: str, ours: Config) -> None:
    """Raise UserError, `what` has NAME=X, `whose` Y, unless two configurations agree in `names`."""
    there, here = to_flat(theirs), to_flat(ours)
    for name in names:
        if there[name] != here[name]:
            raise UserError(f'{what} has {name}={there[name]}, {whose} {here[name]}; give one of '
                            'the same')


_INFINITY = float('inf')
_RANGES = {  # name: (least, most, most is allowed)
    **{name: (1, _INFINITY, False) for name in (
        'model.d_model', 'model.num_heads', 'model.d_ff', 'model.max_length',
        'model.relative_distance', 'data.vocab_size',
        'data.batch_tokens', 'data.batch_multiple', 'data.mean_span',
        'train.steps', 'train.accumulate', 'train.log_every', 'train.eval_every',
        'train.save_every', 'train.keep_last', 'decode.beam_size', 'decode.beam_groups')},
    **{name: (0, _INFINITY, False) for name in (
        'model.num_encoder_layers', 'model.num_decoder_layers', 'model.num_kv_heads',
        'model.head_width', 'model.vocab_size', 'model.embedding_size', 'model.num_segments',
        'model.num_labels', 'model.window', 'model.norm_epsilon', 'data.sequence_length',
        'data.per_label',
        'optim.peak_learning_rate', 'optim.noam_factor', 'optim.warmup_steps',
        'optim.weight_decay', 'optim.clip_norm', 'optim.epsilon',
        'train.keep_best', 'train.patience', 'train.soft_weight', 'train.cosine_weight',
        'train.temperature', 'parallel.devices', 'decode.diversity', 'decode.alpha',
        'decode.max_length', 'decode.max_new_tokens', 'decode.min_length',
        'decode.repetition_penalty', 'decode.no_repeat_ngram', 'decode.temperature',
        'decode.top_k')},
    'train.seed': (0, 2**32, False), 'decode.seed': (0, 2**32, False),  # what JAX takes whole
    'data.max_buckets': (1, 255, True),  # they are numbered in bytes
    'model.relative_buckets': (4, _INFINITY, False), 'model.rotary_base': (1.0, _INFINITY, False),
    **{name: (-1, _INFINITY, False) for name in (
        'model.pad_id', 'model.bos_id', 'model.eos_id', 'decode.first_token')},
    **{name: (0, 1, False) for name in (
        'model.dropout', 'model.attention_dropout', 'model.activation_dropout', 'optim.beta1',
        'optim.beta2', 'optim.label_smoothing', 'data.min_fill', 'data.noise_rate')},
    **{name: (0, 1, True) for name in (
        'data.mask_share', 'data.random_share', 'optim.final_fraction', 'optim.decay_fraction',
        'optim.layer_decay', 'decode.top_p', 'decode.min_p')},
}


def _whole_checks(config: Config):
    yield from _model_checks(config.model)
    yield from _data_checks(config)
    yield from _optim_checks(config.optim, config.train)
    yield (config.data.objective not in ('regress', 'answer')
           or config.optim.label_smoothing in (0, OptimConfig().label_smoothing),
           f'optim.label_smoothing has no effect with data.objective={config.data.objective}')
    yield (config.data.batch_multiple % config.train.accumulate == 0,
           f'data.batch_multiple={config.data.batch_multiple} is not divisible by '
           f'train.accumulate={config.train.accumulate}; choose a multiple')
    yield from _teacher_checks(config)
    yield from _decode_checks(config.decode, config.model)
    for name, (_, given) in diff(Config(), config).items():
        yield (config.model.family != 'encoder' or not name.startswith('decode.'),
               f'{name}={given} has no effect with model.family=encoder, which writes nothing')


def _model_checks(model: ModelConfig):
    family, encoder, decoder = model.family, model.num_encoder_layers, model.num_decoder_layers
    yield ((encoder > 0) == (family != 'decoder') and (decoder > 0) == (family != 'encoder'),
           f'model.family={family} does not go with {encoder} encoder and {decoder} decoder '
           'layers: an encoder has model.num_decoder_layers=0, a decoder '
           'model.num_encoder_layers=0, seq2seq both above 0')
    yield (model.head_width or model.d_model % model.num_heads == 0,
           f'model.d_model={model.d_model} is not divisible by model.num_heads='
           f'{model.num_heads}; choose a multiple, or set model.head_width')
    yield (not model.num_kv_heads or model.num_heads % model.num_kv_heads == 0,
           f'model.num_heads={model.num_heads} is not divisible by model.num_kv_heads='
           f'{model.num_kv_heads}; choose a divisor')
    name = 'embedding_size' if model.embedding_size else 'd_model'
    yield (not model.positions.startswith('sinusoidal') or model.E % 2 == 0,
           f'model.{name}={model.E} must be even for sinusoidal positions; choose '
           'an even width or other model.positions')
    given = f'model.head_width={model.head_width}' if model.head_width else \
        f'model.d_model={model.d_model} / model.num_heads={model.num_heads}'
    yield (model.positions != 'rotary' or model.H % 2 == 0,
           f'{given} must be even for rotary positions; choose an even width or other '
           'model.positions')
    yield (family == 'encoder' or not (model.pooler or model.embedding_size or model.num_segments),
           f'model.pooler, model.embedding_size and model.num_segments have no effect with '
           f'model.family={family}; they are for an encoder')
    yield (family == 'seq2seq' or model.tie_embeddings != 'inputs',
           f'model.tie_embeddings=inputs is for seq2seq, not model.family={family}')
    yield (model.embedding_scale != 'output' or model.tie_embeddings == 'all',
           f'model.embedding_scale=output has no effect with model.tie_embeddings='
           f'{model.tie_embeddings}, whose output has a matrix of its own')
    for positions, names in (('rotary', ['rotary_base']),
                             ('relative', ['relative_buckets', 'relative_distance'])):
        for name in names:
            yield (model.positions == positions
                   or getattr(model, name) == getattr(ModelConfig(), name),
                   f'model.{name} has no effect with model.positions={model.positions}; it is for '
                   f'{positions}')
    yield (model.positions != 'relative' or model.relative_distance > model.relative_buckets // 2,
           f'model.relative_distance={model.relative_distance} must be beyond the '
           f'{model.relative_buckets // 2} distances that half of model.relative_buckets='
           f'{model.relative_buckets} tell apart exactly')
    yield (model.pooler or model.pooler_activation == ModelConfig().pooler_activation,
           'model.pooler_activation has no effect without model.pooler=true')
    yield (not model.output_bias or (family == 'seq2seq' and model.tie_embeddings == 'all'),
           'model.output_bias is for model.family=seq2seq with model.tie_embeddings=all')
    yield (family != 'encoder' or model.tie_embeddings == 'all',
           'model.tie_embeddings has no effect with model.family=encoder, whose output is tied')


def _data_checks(config: Config):
    data, model, default = config.data, config.model, DataConfig()
    objective = data.objective
    yield (not (data.dataset and data.train),
           'set data.dataset (a known data set) or data.train (your own file), not both')
    yield (not data.dataset or not (data.dev or data.test),
           'data.dev and data.test go with data.train; a named data.dataset has its own splits')
    yield (model.family in FAMILIES[objective],
           f'data.objective={objective} is for model.family={" or ".join(FAMILIES[objective])}, '
           f'not {model.family}')
    yield (objective != 'mlm_nsp' or model.pooler,
           'data.objective=mlm_nsp needs model.pooler=true')
    yield (not model.pooler or objective in ('mlm_nsp', 'classify', 'regress', 'tag', 'none'),
           f'model.pooler=true has no effect with data.objective={objective}, which does not train '
           'it')
    yield (objective in CHOOSING or not model.num_labels,
           f'model.num_labels has no effect with data.objective={objective}')
    yield (objective == 'classify' or not data.per_label,
           f'data.per_label has no effect with data.objective={objective}; it is for classify')
    yield (objective != 'mlm_nsp' or model.num_segments == 2,
           f'data.objective=mlm_nsp needs model.num_segments=2, not {model.num_segments}')
    yield (objective in ('mlm', 'mlm_nsp', 'spans', 'denoise')
           or data.noise_rate == default.noise_rate,
           f'data.noise_rate has no effect with data.objective={objective}')
    yield (objective in ('spans', 'denoise') or data.mean_span == default.mean_span,
           f'data.mean_span has no effect with data.objective={objective}')
    for name in ('whole_words', 'mask_share', 'random_share'):
        yield (objective in ('mlm', 'mlm_nsp') or getattr(data, name) == getattr(default, name),
               f'data.{name} has no effect with data.objective={objective}')
    yield (data.mask_share + data.random_share <= 1,
           f'data.mask_share={data.mask_share} and data.random_share={data.random_share} are more '
           'than all hidden tokens')
    yield (not data.whole_words or data.tokenizer not in SYMBOLS,
           f'data.whole_words has no effect with data.tokenizer={data.tokenizer}, whose tokens are '
           'no parts of words')
    yield (data.score == 'errors' or not data.score_strip,
           f'data.score_strip has no effect with data.score={data.score}; it is for errors')
    for name in ('score', 'score_strip'):
        yield (writes_outputs(config) or getattr(data, name) == getattr(default, name),
               f'data.{name} has no effect with data.objective={objective}, which is not scored '
               'by its outputs')
    yield (objective in ('pairs', *LABELLED) or data.too_long == default.too_long,
           f'data.too_long has no effect with data.objective={objective}')
    yield (objective not in ('pairs', *LABELLED) or not data.sequence_length,
           f'data.sequence_length has no effect with data.objective={objective}')
    yield (data.sequence_length <= model.max_length,
           f'data.sequence_length={data.sequence_length} is beyond the model.max_length='
           f'{model.max_length} tokens that the model takes')
    yield (objective == 'pairs' or not data.target_tokenizer,
           f'data.target_tokenizer has no effect with data.objective={objective}')
    yield (not data.train or data.format in FORMATS.get(objective, ()),
           f'data.format={data.format} does not go with data.objective={objective}; choose '
           f'{" or ".join(FORMATS.get(objective, ()))}')
    target = data.target_tokenizer or data.tokenizer
    for kind, twin in ((data.tokenizer, target), (target, data.tokenizer)):
        yield (kind in ('char', 'word') or kind == twin,
               f'data.tokenizer={data.tokenizer} and data.target_tokenizer={target} do not go '
               'together: the two sides share one vocabulary')
    trained = data.tokenizer not in SYMBOLS and not data.tokenizer_file
    yield (trained or data.vocab_size == default.vocab_size,
           'data.vocab_size has no effect here; it is for bpe, unigram, wordpiece and byte_bpe '
           'that are trained')
    yield (not data.tokenizer_file or data.tokenizer not in SYMBOLS,
           f'data.tokenizer_file has no effect with data.tokenizer={data.tokenizer}; it is for '
           'bpe, unigram, wordpiece and byte_bpe')
    yield (not data.dataset or data.format == default.format,
           'data.format has no effect with a named data.dataset')


def _optim_checks(optim: OptimConfig, train: TrainConfig):
    default = OptimConfig()
    yield (re.fullmatch(r'dev/\w+:(min|max)', train.best_by),
           f'train.best_by={train.best_by} must be dev/METRIC:min or dev/METRIC:max')
    noam = optim.schedule == 'noam'
    yield (not noam or optim.peak_learning_rate == 0,
           'optim.peak_learning_rate has no effect with optim.schedule=noam, which derives it '
           'from d_model and warmup_steps; set optim.noam_factor instead')
    yield (noam or optim.peak_learning_rate > 0,
           f'optim.schedule={optim.schedule} needs optim.peak_learning_rate above 0')
    yield (noam or optim.noam_factor == default.noam_factor,
           f'optim.noam_factor has no effect with optim.schedule={optim.schedule}')
    yield (optim.schedule not in ('noam', 'inverse_sqrt', 'rsqrt') or optim.warmup_steps > 0,
           f'optim.schedule={optim.schedule} needs optim.warmup_steps above 0')
    yield (optim.schedule in ('noam', 'inverse_sqrt', 'rsqrt', 'constant')
           or optim.warmup_steps < train.steps,
           f'optim.warmup_steps={optim.warmup_steps} leaves nothing of '
           f'train.steps={train.steps} to decay in')
    yield (optim.schedule == 'wsd' or optim.decay_fraction == default.decay_fraction,
           f'optim.decay_fraction has no effect with optim.schedule={optim.schedule}')
    yield (optim.schedule in ('linear', 'cosine', 'wsd') or optim.final_fraction == 0,
           f'optim.final_fraction has no effect with optim.schedule={optim.schedule}')
    yield (optim.optimizer == 'adamw' or optim.weight_decay == 0,
           f'optim.weight_decay has no effect with optim.optimizer={optim.optimizer}; use adamw')
    yield optim.epsilon > 0, 'optim.epsilon must be above 0: gradients may be exactly 0'
    adam = (optim.beta1, optim.beta2, optim.epsilon)
    yield (optim.optimizer != 'adafactor'
           or adam == (default.beta1, default.beta2, default.epsilon),
           'optim.beta1, optim.beta2 and optim.epsilon have no effect with '
           'optim.optimizer=adafactor')


def _teacher_checks(config: Config):
    train, objective, default = config.train, config.data.objective, TrainConfig()
    for name in ('temperature', 'soft_weight', 'cosine_weight'):
        yield (train.teacher or getattr(train, name) == getattr(default, name),
               f'train.{name} has no effect without train.teacher')
    yield (not train.teacher or objective not in ('regress', 'answer'),
           f'train.teacher has no effect with data.objective={objective}, which has no '
           'distribution over tokens or labels')
    yield train.temperature > 0, 'train.temperature must be above 0'
    yield (train.soft_weight or train.cosine_weight,
           'train.soft_weight=0 and train.cosine_weight=0 leave train.teacher without effect')
    yield (not train.cosine_weight or config.model.family == 'encoder',
           f'train.cosine_weight has no effect with model.family={config.model.family}; it is for '
           'an encoder')


def _decode_checks(decode: DecodeConfig, model: ModelConfig):
    default = DecodeConfig()
    for name in ('max_length', 'max_new_tokens', 'min_length'):
        yield (getattr(decode, name) <= model.max_length,
               f'decode.{name}={getattr(decode, name)} is beyond the model.max_length='
               f'{model.max_length} tokens that the model takes')
    yield (not (decode.max_length and decode.max_new_tokens),
           'decode.max_length and decode.max_new_tokens both limit an output; set one of them')
    # a decoder's min_length counts the prompt, too, its max_new_tokens does not
    most = decode.max_length or (decode.max_new_tokens if model.family != 'decoder' else 0)
    yield (not most or decode.min_length <= most,
           f'decode.min_length={decode.min_length} is above the most tokens of an output, {most}')
    for name in ('temperature', 'top_p', 'repetition_penalty'):
        yield getattr(decode, name) > 0, f'decode.{name} must be above 0'
    for name in ('temperature', 'top_k', 'top_p', 'min_p', 'seed'):
        yield (decode.strategy == 'sample' or getattr(decode, name) == getattr(default, name),
               f'decode.{name} has no effect with decode.strategy={decode.strategy}; it is for '
               'sample')
    yield (decode.first_token < 0 or model.family == 'seq2seq',
           f'decode.first_token has no effect with model.family={model.family}; it is for seq2seq')
    yield (not model.vocab_size or decode.first_token < model.vocab_size,
           f'decode.first_token={decode.first_token} is none of the {model.vocab_size:,} tokens of '
           'the vocabulary')
    more = [each.strip() for each in decode.more_ends.split(',')] if decode.more_ends else []
    yield (all(each.isdecimal() and int(each) < (model.vocab_size or math.inf) for each in more),
           f'decode.more_ends={decode.more_ends} must be ids of tokens, as 5,7')
    yield (decode.strategy == 'beam' or decode.beam_groups == 1,
           'decode.beam_groups has no effect with decode.strategy=sample')
    yield (decode.beam_size % decode.beam_groups == 0 or decode.strategy == 'sample',
           f'decode.beam_size={decode.beam_size} is not divisible by decode.beam_groups='
           f'{decode.beam_groups}; choose a multiple')
    yield ((decode.beam_groups > 1) == (decode.diversity > 0),
           f'decode.beam_groups={decode.beam_groups} and decode.diversity={decode.diversity} do '
           'not go together: diverse beam search needs groups above 1 and diversity above 0')


# of a model, what need not be as it was when training begins with another's parameters
_FREE = {f'model.{name}' for name in (
    'dropout', 'attention_dropout', 'activation_dropout', 'attention', 'layers', 'remat', 'dtype',
    'num_labels', 'pooler', 'eos_id')}
_LAYERS = {'model.num_encoder_layers', 'model.num_decoder_layers'}
_TOKENIZER = {f'data.{name}' for name in (
    'tokenizer', 'target_tokenizer', 'tokenizer_file', 'vocab_size', 'lowercase_source')}


def adapted(config: Config, source: Config, only_tokenizer: bool = False
            ) -> tuple[Config, dict[str, Any]]:
    """`config` with the architecture and tokenizer of `source`; {name: value} of what changed.

    A student (train.teacher) may have fewer layers than what it begins with.
    """
    free = _FREE | (_LAYERS if config.train.teacher else set())
    if not (config.model.pooler and source.model.pooler) or (
            (config.data.objective == 'tag') != (source.data.objective == 'tag')):
        free = free | {'model.pooler_activation'}
    if source.model.positions != 'learned':  # the others have no last one
        free = free | {'model.max_length'}
    architecture = {name for name in leaves() if name.startswith('model.')} - free
    taken = _TOKENIZER if only_tokenizer else architecture | _TOKENIZER
    changes = {name: value for name, (_, value) in diff(config, source).items() if name in taken}
    return override(config, changes), changes
