"""The configuration of a run: frozen dataclasses, overrides, JSON, differences.

Standard library only, so that a mistyped flag is answered before JAX is imported.
Every field carries a one-line meaning, shown by `--help`.
"""

import dataclasses
import difflib
import json
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
    """The architecture; K, H and E are the widths that two fields decide on."""

    family: str = option('seq2seq', 'architecture', ('seq2seq', 'encoder', 'decoder'))
    num_encoder_layers: int = option(6, 'encoder blocks; 0 in a decoder')
    num_decoder_layers: int = option(6, 'decoder blocks; 0 in an encoder')
    d_model: int = option(512, 'width of the residual stream (D)')
    num_heads: int = option(8, 'attention heads (N)')
    num_kv_heads: int = option(0, 'key and value heads (K), each for N/K query heads; 0 takes N')
    head_width: int = option(0, 'width of a head (H); 0 takes d_model / num_heads')
    d_ff: int = option(2048, 'width of the feed-forward layer (F)')
    vocab_size: int = option(0, 'size of the vocabulary (V); 0 takes it from the tokenizer')
    embedding_size: int = option(0, 'width of the token embeddings (E, as ALBERT); 0 takes d_model')
    num_segments: int = option(0, 'segment embeddings (BERT: sentences A and B); 0 has none')
    num_labels: int = option(0, 'outputs of the head of classify and tag; 0 takes it from the data')
    max_length: int = option(512, 'longest source or target in tokens, special tokens included')
    activation: str = option('relu', 'of the feed-forward layer', (
        'relu', 'gelu', 'gelu_tanh', 'silu', 'geglu', 'geglu_tanh', 'swiglu'))
    norm: str = option('layer', 'LayerNorm or RMSNorm', ('layer', 'rms'))
    norm_position: str = option('post', 'norm after (original) or before', ('post', 'pre'))
    norm_epsilon: float = option(1e-6, 'added to the variance')
    embedding_norm: bool = option(False, 'a norm after the embeddings (BERT, BART)')
    positions: str = option('sinusoidal', 'position encoding; sinusoidal_halves has all sines '
                            'before all cosines (Marian)', (
                                'sinusoidal', 'sinusoidal_halves', 'learned', 'rotary', 'relative',
                                'alibi', 'none'))
    rotary_base: float = option(10_000.0, 'base of the rotary frequencies')
    relative_buckets: int = option(32, 'distances that relative positions tell apart')
    relative_distance: int = option(128, 'distance from which on relative positions are one')
    window: int = option(0, 'self-attention sees fewer than this many positions away; 0 sees all')
    embedding_scale: str = option('input', 'embeddings × √D (original), or logits ÷ √D (T5)',
                                  ('input', 'output', 'none'))
    scale_scores: bool = option(True, 'attention scores ÷ √H; if false, queries begin √H times '
                                'smaller (T5)')
    tie_embeddings: str = option('all', 'one matrix for source, target and output; for the two '
                                 'inputs; or one each', ('all', 'inputs', 'none'))
    biases: bool = option(True, 'in linear maps and LayerNorm')
    output_bias: bool = option(False, 'of the logits, where a seq2seq model ties them to its '
                               'embeddings (BART, Marian)')
    share_layers: bool = option(False, 'all layers of a stack share one set of parameters (ALBERT)')
    pooler: bool = option(False, 'encoder: a layer on the first token (BERT), or for tags on each; '
                          'without it, heads of a text take the mean of all tokens')
    pooler_activation: str = option('tanh', 'of the pooler', ('tanh', 'relu', 'gelu'))
    init: str = option('glorot', 'initialisation as in the papers', (
        'glorot', 'bert', 'gpt2', 't5'))
    dropout: float = option(0.1, 'on embeddings and on the output of every sub-layer')
    attention_dropout: float = option(0.0, 'on the attention weights')
    activation_dropout: float = option(0.0, 'inside the feed-forward layer')
    attention: str = option('auto', 'what computes attention, but for decoding step by step; auto '
                            'takes cudnn, or blockwise for long texts, where they can, else xla; '
                            'splash, for a TPU, is to be asked for',
                            ('auto', 'xla', 'blockwise', 'cudnn', 'splash', 'reference'))
    layers: str = option('scan', 'compile one block (scan) or all (unroll)', ('scan', 'unroll'))
    remat: bool = option(False, 'recompute activations in the backward pass to save memory')
    dtype: str = option('float32', 'compute type; parameters stay float32', ('float32', 'bfloat16'))
    pad_id: int = option(-1, 'token that fills rows; -1 takes it from the tokenizer')
    bos_id: int = option(-1, 'token that begins every output; -1 takes it from the tokenizer')
    eos_id: int = option(-1, 'token that ends every output; -1 takes it from the tokenizer')

    @property
    def K(self) -> int:
        """Key and value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def H(self) -> int:
        """Width of a head."""
        return self.head_width or self.d_model // self.num_heads

    @property
    def E(self) -> int:
        """Width of the token embeddings."""
        return self.embedding_size or self.d_model


SYMBOLS = ('char', 'word', 'bytes')
LABELLED = ('classify', 'regress', 'tag', 'answer')  # objectives of a head on an encoder
CHOOSING = ('classify', 'tag')  # of these, those that choose among model.num_labels
TOKENIZERS = (*SYMBOLS, 'bpe', 'unigram', 'wordpiece', 'byte_bpe')


@dataclass(frozen=True)
class DataConfig:
    objective: str = option('pairs', 'what is learnt: source to target, next token, masked tokens '
                            '(with next sentence), T5 spans, BART denoising; the label or number '
                            'of a text or pair, the tag of every word, the answer in a context; '
                            'none, for an encoder that came without a head',
                            ('pairs', 'lm', 'mlm', 'mlm_nsp', 'spans', 'denoise', *LABELLED,
                             'none'))
    dataset: str = option('', 'known data set, or several joined by +; or give data.train')
    train: str = option('', 'training file; for format=parallel SOURCE,TARGET')
    dev: str = option('', 'development file; empty holds out 3 % of train by hash, of '
                      'format=text the last tenth')
    test: str = option('', 'test file; empty holds out 7 % of train by hash, of format=text '
                       'nothing')
    format: str = option('tsv', 'of the files: source<TAB>target or text(<TAB>text)<TAB>label; two '
                         'files; JSON lines; a text a line; a sentence a line and a blank line '
                         'between documents; one text; word<TAB>tag lines; SQuAD',
                         ('tsv', 'parallel', 'jsonl', 'lines', 'documents', 'text', 'conll',
                          'squad'))
    per_label: int = option(0, 'train on this many examples of each label, chosen by hash; 0 all')
    lowercase_source: bool = option(False, 'lower-case the source or text, here and in generation')
    tokenizer: str = option('char', 'how text becomes tokens', TOKENIZERS)
    target_tokenizer: str = option('', 'how a target becomes tokens; empty as data.tokenizer',
                                   ('', *TOKENIZERS))
    tokenizer_file: str = option('', 'read the tokenizer instead of training it: vocab.txt, '
                                 'tokenizer.json, vocab.json (with merges.txt beside), '
                                 'encoder.json (with vocab.bpe), *.model, *.spm')
    vocab_size: int = option(8000, 'pieces to train, for bpe, unigram, wordpiece and byte_bpe')
    sequence_length: int = option(0, 'tokens of a text seen at once; 0 takes model.max_length')
    noise_rate: float = option(0.15, 'share of tokens that mlm, spans and denoise hide')
    mask_share: float = option(0.8, 'of the tokens that mlm hides, shown as [MASK]')
    random_share: float = option(0.1, 'of them, shown as another token; the others stay')
    mean_span: float = option(3.0, 'mean length of a hidden span, for spans and denoise')
    whole_words: bool = option(False, 'mlm hides all pieces of a word together')
    batch_tokens: int = option(4096, 'token slots of a batch, source and target, padding included')
    batch_multiple: int = option(8, 'rows of every batch are a multiple of this')
    min_fill: float = option(0.85, 'least share of slots that hold real tokens; sets the buckets')
    max_buckets: int = option(8, 'most (source, target) length buckets')
    too_long: str = option('error', 'what to do with examples beyond model.max_length',
                           ('error', 'drop', 'cut'))
    score: str = option('errors', 'metrics of outputs: error rates, exact match, (tokenised) BLEU, '
                        'ROUGE', ('errors', 'exact', 'bleu', 'bleu_tokenised', 'rouge'))
    score_strip: str = option('', 'characters removed from target tokens before counting errors')


@dataclass(frozen=True)
class OptimConfig:
    optimizer: str = option('adamw', 'update rule', ('adam', 'adamw', 'adafactor'))
    schedule: str = option('inverse_sqrt', 'learning rate over steps',
                           (
                               'noam', 'inverse_sqrt', 'rsqrt', 'linear', 'cosine', 'wsd',
                               'constant'))
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
    label_smoothing: float = option(0.1, 'probability spread over the vocabulary or labels')
    layer_decay: float = option(1.0, 'learning rate × this per layer below the top; embeddings '
                                'lowest')


@dataclass(frozen=True)
class TrainConfig:
    seed: int = option(0, 'of initialisation, data order and dropout')
    steps: int = option(100_000, 'optimizer updates')
    accumulate: int = option(1, 'micro-batches a batch is split into, to save memory')
    log_every: int = option(10, 'steps between rows of metrics.jsonl')
    eval_every: int = option(1000, 'steps between losses of the dev split')
    save_every: int = option(1000, 'steps between checkpoints')
    keep_last: int = option(2, 'newest checkpoints kept')
    keep_best: int = option(2, 'checkpoints kept for their train.best_by')
    best_by: str = option('dev/loss:min', 'which checkpoint is best: dev/METRIC:min or :max')
    patience: int = option(0, 'stop after this many evaluations without a better one; 0 never')
    init_from: str = option('', 'begin with the tokenizer, architecture and parameters of this run '
                            'or Hugging Face folder')
    teacher: str = option('', 'learn also what this run says of every batch, with its tokenizer '
                          '(distillation)')
    temperature: float = option(2.0, 'of both distributions, for train.teacher')
    soft_weight: float = option(1.0, "weight of the cross-entropy to the teacher's distribution")
    cosine_weight: float = option(0.0, 'weight of 1 - cosine of the hidden states, for an encoder')
    freeze: str = option('', 'parameters that stay as they are: paths joined by commas (encoder)')


@dataclass(frozen=True)
class ParallelConfig:
    mode: str = option('pmap', 'pmap, or jit over a device mesh', ('pmap', 'mesh'))
    devices: int = option(0, 'devices to use; 0 takes all')


@dataclass(frozen=True)
class DecodeConfig:
    strategy: str = option('beam', 'keep the most probable prefixes, or draw tokens',
                           ('beam', 'sample'))
    beam_size: int = option(4, 'hypotheses kept; 1 is greedy')
    beam_groups: int = option(1, 'groups of hypotheses that avoid one another (diverse beam '
                              'search); divides beam_size')
    diversity: float = option(0.0, 'taken from the log p of a token for each hypothesis of an '
                              'earlier group that takes it, for beam_groups above 1')
    length_penalty: str = option('gnmt', 'score ÷ ((5+n)/6)^alpha or ÷ n^alpha',
                                 ('gnmt', 'length'))
    alpha: float = option(0.6, 'strength of the length penalty')
    early_stopping: str = option('true', 'an example is done as soon as beam_size outputs are '
                                 'complete (true), or once no prefix is better than the worst of '
                                 'them at its present length (false) or at the longest (never)',
                                 ('true', 'false', 'never'))
    max_length: int = option(0, 'most tokens of an output, in a decoder with its prompt; 0 takes '
                             'what the model takes, of seq2seq at most the source and 50 more')
    max_new_tokens: int = option(0, 'most tokens of an output without any prompt; 0 leaves it to '
                                 'max_length')
    min_length: int = option(0, 'fewest tokens of an output, end included; counted as max_length')
    first_token: int = option(-1, 'id of a token that every output of seq2seq begins with; -1 none')
    end_at_limit: bool = option(False, 'an output that is cut at its most tokens has the end token '
                                'as the last of them')
    more_ends: str = option('', 'ids of tokens that end an output besides model.eos_id, as 5,7')
    renormalise: bool = option(False, 'share the probability of what is not allowed among what is')
    repetition_penalty: float = option(1.0, 'what logits of tokens in the text are divided by '
                                       '(multiplied, below 0); 1 has no effect')
    no_repeat_ngram: int = option(0, 'no n tokens in sequence come twice in a text; 0 allows all')
    temperature: float = option(1.0, 'what log p is divided by, for sample')
    top_k: int = option(0, 'draw from the k most probable tokens, for sample; 0 from all')
    top_p: float = option(1.0, 'draw from the fewest tokens that hold this probability, for sample')
    min_p: float = option(0.0, 'draw from tokens this probable or more, as a share of the most '
                          'probable, for sample')
    seed: int = option(0, 'of the draws, for sample')


@dataclass(frozen=True)
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)


def end_ids(config: Config) -> list[int]:
    """Ids of the tokens that end an output, model.eos_id first."""
    return [config.model.eos_id, *map(int, filter(None, config.decode.more_ends.split(',')))]


def is_labelled(config: Config) -> bool:
    """Whether a model is an encoder with a head that labels."""
    return config.data.objective in LABELLED


def writes_outputs(config: Config) -> bool:
    """Whether a model is measured by the outputs it writes; otherwise by its objective."""
    return config.data.objective == 'pairs'


def measure_of(best_by: str) -> tuple[str, int]:
    """('dev/loss', 1) of dev/loss:min, ('dev/f1', -1) of dev/f1:max: the sign makes less better."""
    name, _, direction = best_by.rpartition(':')
    return name, 1 if direction == 'min' else -1


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
    return f'; there are: {", ".join(sorted(known))}' if len(known) <= 40 else '; see --help'


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
        raise UserError(f'{where} is not a configuration: expected sections with fields (a Hugging '
                        'Face folder has "model_type" and "architectures" there: add them)')
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
                        'training run, or a Hugging Face folder on this machine (hf download NAME '
                        '--local-dir FOLDER)')
    try:
        text = path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise UserError(f'{path} is not UTF-8 text ({error}); restore it from a copy') from None
    return from_json(text, str(path))


def diff(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """{'optim.beta2': (0.98, 0.999), ...}: the fields in which two configurations differ."""
    old, new = to_flat(before), to_flat(after)
    return {name: (old[name], new[name]) for name in old if old[name] != new[name]}


for _section in dataclasses.fields(Config):  # options are scalars, so each cast is defined
    assert set(typing.get_type_hints(_section.type).values()) <= set(_NOUNS)
