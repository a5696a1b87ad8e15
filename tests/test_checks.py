"""Whole configurations: what makes sense passes in every family, all else gets its one sentence."""

import importlib
import math
import re

import pytest

from experiments.configs import load, names
from xformer import checks
from xformer.checks import FAMILIES, validate
from xformer.config import Config, UserError, leaves, override

DECODER = {'model.family': 'decoder', 'model.num_encoder_layers': 0}
ENCODER = {'model.family': 'encoder', 'model.num_decoder_layers': 0}
PAIRS = {'data.train': 'pairs.tsv', 'optim.peak_learning_rate': 0.001, 'optim.warmup_steps': 100}
TEXTS = PAIRS | {'data.train': 'text.txt', 'data.format': 'documents'}
LM = TEXTS | DECODER | {'data.objective': 'lm'}
MLM = TEXTS | ENCODER | {'data.objective': 'mlm'}
LABELS = MLM | {'data.objective': 'classify', 'data.format': 'tsv', 'model.pooler': True}
NSP = MLM | {'data.objective': 'mlm_nsp', 'model.pooler': True, 'model.num_segments': 2}
SPANS, DENOISE = (TEXTS | {'data.objective': objective} for objective in ('spans', 'denoise'))
NAMED = {'data.train': '', 'data.dataset': 'x', 'data.format': 'tsv'}

SAMPLE = {'decode.strategy': 'sample'}
SOUND = [
    PAIRS, PAIRS | DECODER, LM, MLM, NSP, SPANS, DENOISE,
    PAIRS | NAMED, LM | NAMED, NSP | NAMED, DENOISE | NAMED,
    PAIRS | {'data.dev': 'dev.tsv', 'data.test': 'test.tsv'},
    PAIRS | {'data.format': 'parallel'}, PAIRS | {'data.format': 'lines'},
    PAIRS | {'data.format': 'jsonl'}, LM | {'data.format': 'jsonl'}, LM | {'data.format': 'text'},
    MLM | {'data.format': 'lines'},
    # models
    PAIRS | {'model.tie_embeddings': 'inputs'}, PAIRS | {'model.tie_embeddings': 'none'},
    LM | {'model.tie_embeddings': 'none'}, LM | {'model.num_kv_heads': 2, 'model.window': 4},
    PAIRS | {'model.d_model': 100, 'model.num_heads': 8, 'model.head_width': 16},
    PAIRS | {'model.d_model': 5, 'model.num_heads': 5, 'model.positions': 'learned'},
    LM | {'model.d_model': 10, 'model.num_heads': 2, 'model.positions': 'alibi'},
    MLM | {'model.embedding_size': 64, 'model.share_layers': True, 'model.num_segments': 1},
    PAIRS | {'model.pad_id': 0, 'model.bos_id': 0, 'model.eos_id': 0},
    # data
    PAIRS | {'data.tokenizer': 'char', 'data.target_tokenizer': 'word'},
    PAIRS | {'data.tokenizer': 'bpe', 'data.target_tokenizer': 'bpe', 'data.vocab_size': 300},
    LM | {'data.tokenizer': 'byte_bpe', 'data.vocab_size': 300},
    MLM | {'data.tokenizer': 'wordpiece', 'data.tokenizer_file': 'vocab.txt'},
    MLM | {'data.noise_rate': 0.3, 'data.whole_words': True, 'data.tokenizer': 'wordpiece'},
    NSP | {'data.whole_words': True, 'data.tokenizer': 'wordpiece'},
    MLM | {'data.mask_share': 0.0, 'data.random_share': 1.0}, NSP | {'data.random_share': 0.0},
    SPANS | {'data.noise_rate': 0.3, 'data.mean_span': 2.0}, DENOISE | {'data.mean_span': 2.0},
    LM | {'data.sequence_length': 512}, PAIRS | {'data.score_strip': '012'},
    PAIRS | {'data.score': 'rouge', 'data.too_long': 'cut'},
    # optimisation
    PAIRS | {'optim.schedule': 'noam', 'optim.peak_learning_rate': 0.0, 'optim.noam_factor': 2.0},
    PAIRS | {'optim.schedule': 'wsd', 'optim.decay_fraction': 0.5, 'optim.final_fraction': 0.1},
    PAIRS | {'optim.schedule': 'cosine', 'optim.final_fraction': 1.0},
    PAIRS | {'optim.schedule': 'linear', 'optim.warmup_steps': 0},
    PAIRS | {'optim.schedule': 'constant', 'optim.warmup_steps': 10**9},
    PAIRS | {'optim.schedule': 'rsqrt', 'optim.optimizer': 'adafactor'},
    PAIRS | {'optim.weight_decay': 0.1}, PAIRS | {'optim.optimizer': 'adam', 'optim.beta1': 0.5},
    PAIRS | {'train.accumulate': 4}, LM | {'train.teacher': 'runs/x', 'train.temperature': 1.0},
    LABELS | {'train.teacher': 'runs/x', 'train.cosine_weight': 1.0, 'train.soft_weight': 0.0},
    # decoding
    PAIRS | {'decode.max_length': 512},
    PAIRS | {'decode.max_new_tokens': 9, 'decode.min_length': 9},
    PAIRS | {'decode.beam_size': 6, 'decode.beam_groups': 3, 'decode.diversity': 0.5},
    LM | {'decode.strategy': 'sample', 'decode.temperature': 0.7, 'decode.top_k': 10,
          'decode.top_p': 0.9, 'decode.min_p': 0.1, 'decode.seed': 1},
    LM | {'decode.repetition_penalty': 1.2, 'decode.no_repeat_ngram': 3},
]


def described(changes: dict) -> str:
    return ' '.join(f'{name}={value}' for name, value in changes.items()
                    if PAIRS.get(name) != value) or 'as little as can be'


@pytest.mark.parametrize('changes', SOUND, ids=described)
def test_what_makes_sense_is_given_back(changes):
    config = override(Config(), changes)
    assert validate(config) is config


def specs() -> list[str]:
    """Every configuration that comes with the code: NAME and NAME:variant."""
    return [spec for name in names() for spec in (name, *(
        f'{name}:{variant}'
        for variant in importlib.import_module(f'experiments.configs.{name}').VARIANTS))]


@pytest.mark.parametrize('spec', specs())
def test_every_experiment_makes_sense(spec):
    config = load(spec).config
    assert validate(config) is config


REGRESS = LABELS | {'data.objective': 'regress'}
TAUGHT = LABELS | {'train.teacher': 'runs/x'}
NONSENSE = [  # (what makes sense, what spoils it, what is said of it)
    (PAIRS, {'model.num_decoder_layers': 0}, 'model.family=seq2seq does not go with 6 encoder and '
     '0 decoder layers: .*seq2seq both above 0'),
    (PAIRS, {'model.num_encoder_layers': 0}, 'model.family=seq2seq does not go with 0 encoder'),
    (LM, {'model.num_encoder_layers': 1}, 'a decoder model.num_encoder_layers=0'),
    (LM, {'model.num_decoder_layers': 0}, 'model.family=decoder does not go with 0 encoder and 0'),
    (MLM, {'model.num_decoder_layers': 6}, 'an encoder has model.num_decoder_layers=0'),
    (MLM, {'model.num_encoder_layers': 0}, 'model.family=encoder does not go with 0 encoder'),
    (PAIRS, {'model.d_model': 100}, 'model.d_model=100 is not divisible by model.num_heads=8; '
     'choose a multiple, or set model.head_width'),
    (LM, {'model.num_kv_heads': 3}, 'model.num_heads=8 .* model.num_kv_heads=3; choose a divisor'),
    (LM, {'model.num_kv_heads': 16}, 'model.num_heads=8 .* model.num_kv_heads=16; choose'),
    (PAIRS, {'model.d_model': 5, 'model.num_heads': 5}, 'model.d_model=5 .*even.*sinusoidal'),
    (MLM, {'model.embedding_size': 7}, 'model.embedding_size=7 .*even.*sinusoidal'),
    (LM, {'model.positions': 'rotary', 'model.head_width': 7},
     'model.head_width=7 .*even.*rotary'),
    (LM, {'model.positions': 'rotary', 'model.d_model': 40, 'model.num_heads': 8},
     'model.d_model=40 .*even.*rotary'),
    (PAIRS, {'model.pooler': True}, 'model.pooler, .* no effect with model.family=seq2seq'),
    (LM, {'model.embedding_size': 64}, 'model.embedding_size .* no effect .*model.family=decoder'),
    (LM, {'model.num_segments': 2}, 'model.num_segments .* no effect with model.family=decoder'),
    (LM, {'model.tie_embeddings': 'inputs'}, 'model.tie_embeddings=inputs is for seq2seq, not '
     'model.family=decoder'),
    (MLM, {'model.tie_embeddings': 'none'}, 'model.tie_embeddings has no effect with '
     'model.family=encoder'),
    (PAIRS, {'model.rotary_base': 5e5}, 'model.rotary_base .*positions=sinusoidal; .* rotary'),
    (LM, {'model.relative_buckets': 8}, 'model.relative_buckets has no effect .* for relative'),
    (LM, {'model.positions': 'relative', 'model.relative_distance': 16},
     'model.relative_distance=16 must be beyond the 16 distances'),
    (LM, {'model.relative_distance': 8}, 'model.relative_distance has no effect .* for relative'),
    (MLM, {'model.pooler_activation': 'relu'}, 'pooler_activation .* without model.pooler=true'),
    (LM, {'model.output_bias': True}, 'model.output_bias is for model.family=seq2seq'),
    (PAIRS, {'model.output_bias': True, 'model.tie_embeddings': 'none'}, 'model.output_bias is '
     'for .* model.tie_embeddings=all'),
    (PAIRS, {'data.dataset': 'x'}, '^set data.dataset .* or data.train .*, not both$'),
    (PAIRS | NAMED, {'data.dev': 'd'}, 'data.dev and data.test go with data.train'),
    (PAIRS | NAMED, {'data.test': 'd'}, 'data.dev and data.test go with data.train'),
    (MLM, {'data.objective': 'lm'}, 'data.objective=lm is for model.family=decoder, not encoder'),
    (LM, {'data.objective': 'mlm'}, 'data.objective=mlm is for model.family=encoder, not decoder'),
    (LM, {'data.objective': 'spans'}, 'data.objective=spans is for model.family=seq2seq'),
    (MLM, {'data.objective': 'pairs', 'data.format': 'tsv'},
     'data.objective=pairs is for model.family=seq2seq or decoder, not encoder'),
    (MLM, {'model.pooler': True}, 'model.pooler=true has no effect with data.objective=mlm'),
    (NSP, {'model.pooler': False}, 'data.objective=mlm_nsp needs model.pooler=true'),
    (NSP, {'model.num_segments': 0}, 'mlm_nsp needs model.num_segments=2, not 0'),
    (NSP, {'model.num_segments': 3}, 'mlm_nsp needs model.num_segments=2, not 3'),
    (LM, {'data.noise_rate': 0.3}, 'data.noise_rate has no effect with data.objective=lm'),
    (PAIRS, {'data.noise_rate': 0.3}, 'data.noise_rate has no effect with data.objective=pairs'),
    (MLM, {'data.mean_span': 2.0}, 'data.mean_span has no effect with data.objective=mlm'),
    (MLM, {'data.whole_words': True}, 'data.whole_words has no effect with data.tokenizer=char'),
    (PAIRS, {'model.embedding_scale': 'output', 'model.tie_embeddings': 'none'},
     'embedding_scale=output has no effect with model.tie_embeddings=none'),
    (MLM, {'decode.beam_size': 9}, 'decode.beam_size=9 has no effect with model.family=encoder'),
    (SPANS, {'data.whole_words': True}, 'data.whole_words has no effect with data.objective=spans'),
    (DENOISE, {'data.mask_share': 1.0}, 'data.mask_share has no effect with .*=denoise'),
    (LM, {'data.random_share': 0.0}, 'data.random_share has no effect with data.objective=lm'),
    (MLM, {'data.random_share': 0.3}, 'mask_share=0.8 and data.random_share=0.3 are more than all'),
    (PAIRS, {'data.score': 'bleu', 'data.score_strip': '0'}, 'data.score_strip has no effect with '
     'data.score=bleu; it is for errors'),
    (LM, {'data.score_strip': '0'}, 'data.score_strip has no effect with data.objective=lm'),
    (LM, {'data.too_long': 'cut'}, 'data.too_long has no effect with data.objective=lm'),
    (LM, {'data.score': 'exact'}, 'data.score has no effect with data.objective=lm'),
    (PAIRS, {'data.sequence_length': 64}, 'data.sequence_length has no effect'),
    (LM, {'data.sequence_length': 513}, 'data.sequence_length=513 is beyond the '
     'model.max_length=512'),
    (LM, {'data.target_tokenizer': 'word'}, 'data.target_tokenizer has no effect with '
     'data.objective=lm'),
    (LM, {'data.format': 'tsv'}, 'data.format=tsv does not go with .*=lm; choose text'),
    (SPANS, {'data.format': 'parallel'}, 'data.format=parallel does not go with .*spans'),
    (PAIRS, {'data.format': 'documents'}, 'data.format=documents does not .*=pairs; choose tsv'),
    (PAIRS, {'data.format': 'text'}, 'data.format=text does not go with .*=pairs; choose tsv'),
    (PAIRS, {'data.tokenizer': 'bpe', 'data.target_tokenizer': 'char'},
     'data.tokenizer=bpe and data.target_tokenizer=char do not go together'),
    (PAIRS, {'data.target_tokenizer': 'unigram'},
     'data.tokenizer=char and data.target_tokenizer=unigram do not go together'),
    (PAIRS, {'data.tokenizer': 'bpe', 'data.target_tokenizer': 'unigram'}, 'do not go together'),
    (PAIRS, {'data.tokenizer': 'bytes', 'data.target_tokenizer': 'char'}, 'do not go together'),
    (PAIRS, {'data.vocab_size': 99}, 'data.vocab_size has no effect here; it is for bpe'),
    (PAIRS, {'data.tokenizer': 'bpe', 'data.tokenizer_file': 'x.model', 'data.vocab_size': 99},
     'data.vocab_size has no effect here'),
    (PAIRS, {'data.tokenizer_file': 'x.model'}, 'data.tokenizer_file has no effect with '
     'data.tokenizer=char'),
    (PAIRS | NAMED, {'data.format': 'lines'},
     'data.format has no effect with a named data.dataset'),
    (LABELS, {'train.temperature': 1.0}, 'train.temperature has no effect without train.teacher'),
    (LABELS, {'train.soft_weight': 2.0}, 'train.soft_weight has no effect without train.teacher'),
    (LABELS, {'train.cosine_weight': 1.0}, 'cosine_weight has no effect without train.teacher'),
    (REGRESS, {'train.teacher': 'runs/x'}, 'train.teacher has no effect with .*=regress'),
    (TAUGHT, {'train.temperature': 0.0}, 'train.temperature must be above 0'),
    (TAUGHT, {'train.soft_weight': 0.0}, 'train.soft_weight=0 and train.cosine_weight=0 leave'),
    (LM | {'train.teacher': 'runs/x'}, {'train.cosine_weight': 1.0},
     'train.cosine_weight has no effect with model.family=decoder'),
    (REGRESS, {'optim.label_smoothing': 0.2}, 'label_smoothing has no effect with .*=regress'),
    (LABELS, {'data.format': 'conll'}, 'data.format=conll does not .*; choose tsv or jsonl'),
    (LABELS, {'data.sequence_length': 9}, 'data.sequence_length has no effect'),
    (MLM, {'model.num_labels': 3}, 'model.num_labels has no effect with data.objective=mlm'),
    (MLM, {'data.per_label': 3}, 'data.per_label has no effect .* it is for classify'),
    (PAIRS, {'train.best_by': 'loss'}, 'train.best_by=loss must be dev/METRIC:min or'),
    (PAIRS, {'optim.schedule': 'noam'}, 'optim.peak_learning_rate has no effect .*set '
     'optim.noam_factor instead'),
    (PAIRS, {'optim.peak_learning_rate': 0.0}, 'inverse_sqrt needs optim.peak_learning_rate above'),
    (PAIRS, {'optim.noam_factor': 2.0}, 'optim.noam_factor has no effect'),
    (PAIRS, {'optim.warmup_steps': 0}, 'inverse_sqrt needs optim.warmup_steps above 0'),
    (PAIRS, {'optim.schedule': 'rsqrt', 'optim.warmup_steps': 0},
     'rsqrt needs optim.warmup_steps above 0'),
    (PAIRS, {'optim.schedule': 'noam', 'optim.peak_learning_rate': 0.0, 'optim.warmup_steps': 0},
     'noam needs optim.warmup_steps above 0'),
    (PAIRS, {'optim.schedule': 'cosine', 'train.steps': 100},
     'optim.warmup_steps=100 leaves nothing of train.steps=100'),
    (PAIRS, {'optim.decay_fraction': 0.3}, 'optim.decay_fraction has no effect'),
    (PAIRS, {'optim.final_fraction': 0.3}, 'optim.final_fraction has no effect'),
    (PAIRS, {'optim.optimizer': 'adam', 'optim.weight_decay': 0.1},
     'optim.weight_decay has no effect with optim.optimizer=adam; use adamw'),
    (PAIRS, {'optim.optimizer': 'adafactor', 'optim.beta1': 0.5}, 'optim.beta1, .*adafactor'),
    (PAIRS, {'optim.optimizer': 'adafactor', 'optim.beta2': 0.5}, 'optim.beta2 .*adafactor'),
    (PAIRS, {'optim.optimizer': 'adafactor', 'optim.epsilon': 0.5}, 'optim.epsilon .*adafactor'),
    (PAIRS, {'optim.epsilon': 0.0}, 'optim.epsilon must be above 0'),
    (PAIRS, {'data.max_buckets': 256}, 'data.max_buckets must be from 1 to 255, not 256'),
    (PAIRS, {'train.accumulate': 3}, 'data.batch_multiple=8 is not divisible by '
     'train.accumulate=3; choose a multiple'),
    (PAIRS, {'decode.max_length': 513}, 'decode.max_length=513 is beyond the model.max_length=512'),
    (LM, {'decode.max_new_tokens': 513}, 'decode.max_new_tokens=513 is beyond'),
    (LM, {'decode.min_length': 513}, 'decode.min_length=513 is beyond'),
    (LM, {'decode.max_length': 9, 'decode.max_new_tokens': 9}, 'both limit an output; set one'),
    (LM, {'decode.max_length': 9, 'decode.min_length': 10}, 'decode.min_length=10 is above .* 9'),
    (LM | SAMPLE, {'decode.temperature': 0.0}, 'decode.temperature must be above 0'),
    (LM | SAMPLE, {'decode.top_p': 0.0}, 'decode.top_p must be above 0'),
    (PAIRS, {'decode.repetition_penalty': 0.0}, 'decode.repetition_penalty must be above 0'),
    (PAIRS, {'decode.temperature': 0.5}, 'decode.temperature has no effect .* it is for sample'),
    (PAIRS, {'decode.top_k': 5}, 'decode.top_k has no effect with decode.strategy=beam'),
    (PAIRS, {'decode.top_p': 0.5}, 'decode.top_p has no effect with decode.strategy=beam'),
    (PAIRS, {'decode.min_p': 0.5}, 'decode.min_p has no effect with decode.strategy=beam'),
    (PAIRS, {'decode.seed': 5}, 'decode.seed has no effect with decode.strategy=beam'),
    (LM | SAMPLE, {'decode.beam_groups': 2}, 'decode.beam_groups has no effect'),
    (PAIRS | {'model.vocab_size': 9}, {'decode.first_token': 9},
     'decode.first_token=9 is none of the 9 tokens of the vocabulary'),
    (PAIRS, {'train.seed': 2**32}, 'train.seed must be from 0 to below 4294967296, not 4294967296'),
    (PAIRS, {'train.steps': 2**31}, 'train.steps must be below 2147483648, not 2147483648'),
    (PAIRS, {'train.steps': 10**400}, 'train.steps must be below'),
    (LM, {'decode.first_token': 3}, 'decode.first_token has no effect with model.family=decoder'),
    (PAIRS, {'decode.more_ends': '5,x'}, 'decode.more_ends=5,x must be ids of tokens, as 5,7'),
    (PAIRS, {'decode.beam_groups': 3, 'decode.diversity': 1.0},
     'decode.beam_size=4 is not divisible by decode.beam_groups=3'),
    (PAIRS, {'decode.beam_groups': 2}, 'decode.beam_groups=2 and decode.diversity=0.0 do not go'),
]
FIELD = re.compile(r'\b(?:model|data|optim|train|parallel|decode)\.[a-z]\w*')


@pytest.mark.parametrize(('base', 'changes', 'message'), NONSENSE,
                         ids=[described(base | changes) for base, changes, _ in NONSENSE])
def test_what_makes_no_sense_as_a_whole_is_refused(base, changes, message):
    validate(override(Config(), base))
    with pytest.raises(UserError, match=message) as caught:
        validate(override(Config(), base | changes))
    named = set(FIELD.findall(str(caught.value)))
    assert named & changes.keys() and named <= leaves().keys()
    assert len(str(caught.value).splitlines()) == 1


def test_every_rule_has_an_example():
    """The first rule that each example breaks is the one whose sentence is shown."""
    rules = {number: message
             for number, (_, message) in enumerate(checks._whole_checks(Config()))}
    for base, changes, _ in NONSENSE:
        config = override(Config(), base | changes)
        broken = next((number for number, (holds, _) in enumerate(checks._whole_checks(config))
                       if not holds), None)
        rules.pop(broken, None)
    assert not rules


NUMBERS = sorted(name for name, leaf in leaves().items() if leaf.type in (int, float))


@pytest.mark.parametrize('name', NUMBERS)
def test_every_number_has_a_range_and_its_sentence_names_it(name):
    for value in (-2, math.nan, math.inf) if leaves()[name].type is float else (-2,):
        with pytest.raises(UserError, match=f'^{name} must be .*, not {value}'):
            validate(override(Config(), PAIRS | {name: value}))


@pytest.mark.parametrize(('name', 'value', 'message'), [
    ('model.dropout', 1.0, 'model.dropout must be from 0 to below 1, not 1.0'),
    ('data.noise_rate', 1.0, 'data.noise_rate must be from 0 to below 1, not 1.0'),
    ('data.mean_span', 0.5, 'data.mean_span must be at least 1, not 0.5'),
    ('optim.final_fraction', 1.5, 'optim.final_fraction must be from 0 to 1, not 1.5'),
    ('train.steps', 0, 'train.steps must be at least 1, not 0'),
    ('model.num_heads', 0, 'model.num_heads must be at least 1, not 0'),
    ('model.num_kv_heads', -1, 'model.num_kv_heads must be at least 0, not -1'),
    ('model.pad_id', -2, 'model.pad_id must be at least -1, not -2'),
    ('optim.clip_norm', -0.5, 'optim.clip_norm must be at least 0, not -0.5'),
    ('optim.clip_norm', math.inf, 'optim.clip_norm must be a finite number, not inf')])
def test_ranges(name, value, message):
    with pytest.raises(UserError, match=f'^{message}$'):
        validate(override(Config(), PAIRS | {name: value}))


def test_every_objective_has_its_families():
    assert FAMILIES.keys() == set(leaves()['data.objective'].metadata['choices'])
    assert {family for allowed in FAMILIES.values() for family in allowed} == set(
        leaves()['model.family'].metadata['choices'])
