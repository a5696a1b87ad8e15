"""What the training suites compute: configurations and random batches, made without PyTorch."""

import math

import numpy as np

from xformer.config import Config, override
from xformer.data.objectives.masked import Masking
from xformer.data.plan import Shape
from xformer.data.tokenizers.special import Special
from xformer.presets import preset

Batch = dict[str, np.ndarray]
PLAIN = {'model.dropout': 0.0, 'model.attention_dropout': 0.0, 'model.activation_dropout': 0.0}

GPT_SPECIAL = {'model.pad_id': 0, 'model.bos_id': 1, 'model.eos_id': 2}
CHARACTERS = 65  # of tiny_shakespeare
BERT_SPECIAL = Special(pad=0, bos=101, eos=102, unk=100, mask=103)  # bert-base-uncased's
PAIR_SPECIAL = Special(pad=0, bos=1, eos=2, unk=3)
PAIR_VOCAB_SIZE = 8000
TRANSLATION = override(Config(), {
    'model.num_encoder_layers': 3, 'model.num_decoder_layers': 3, 'model.d_model': 256,
    'model.num_heads': 4, 'model.d_ff': 1024, 'model.max_length': 128, 'model.dropout': 0.1,
    'model.norm_epsilon': 1e-5, 'model.layers': 'unroll', 'model.vocab_size': PAIR_VOCAB_SIZE,
    'model.pad_id': PAIR_SPECIAL.pad, 'model.bos_id': PAIR_SPECIAL.bos,
    'model.eos_id': PAIR_SPECIAL.eos, 'data.dataset': 'multi30k_en_de', 'data.tokenizer': 'bpe',
    'data.vocab_size': PAIR_VOCAB_SIZE, 'data.batch_tokens': 4096, 'data.batch_multiple': 1,
    'data.max_buckets': 40, 'data.min_fill': 0.93, 'data.too_long': 'drop', 'parallel.devices': 1,
    'optim.peak_learning_rate': 1e-3, 'optim.warmup_steps': 500, 'optim.clip_norm': 1.0})


def gpt_config(layers: int, width: int, heads: int, context: int,
               dtype: str = 'float32') -> Config:
    """GPT-2's architecture without dropout, with the recipe of lm_shakespeare_char."""
    return override(preset('gpt2'), PLAIN | GPT_SPECIAL | {
        'model.num_decoder_layers': layers, 'model.d_model': width, 'model.num_heads': heads,
        'model.d_ff': 4 * width, 'model.max_length': context, 'model.vocab_size': CHARACTERS,
        'model.layers': 'unroll', 'model.dtype': dtype, 'data.objective': 'lm',
        'optim.schedule': 'cosine', 'optim.peak_learning_rate': 1e-3,
        'optim.warmup_steps': 100, 'optim.beta2': 0.99, 'optim.epsilon': 1e-8,
        'optim.weight_decay': 0.1, 'optim.clip_norm': 1.0, 'optim.label_smoothing': 0.0,
        'train.steps': 2000})


def gpt_batches(context: int, rows: int, number: int, vocab_size: int = CHARACTERS) -> list[Batch]:
    """Random ids as `xformer.data.objectives.language.NextToken` lays out one long text."""
    random = np.random.default_rng(0)
    places_BT = np.tile(np.arange(context, dtype=np.int32), (rows, 1))
    streams = random.integers(3, vocab_size, (number, rows, context + 1), np.int32)
    return [{'inputs_BT': ids[:, :-1].copy(), 'labels_BT': ids[:, 1:].copy(),
             'segments_BT': np.ones_like(places_BT), 'positions_BT': places_BT}
            for ids in streams]


def minilm_config(vocab_size: int) -> Config:
    """The size of MiniLM-L6-H384: 6 layers, 12 heads, 384 wide."""
    return override(preset('bert-mini'), {
        'model.num_encoder_layers': 6, 'model.d_model': 384, 'model.num_heads': 12,
        'model.d_ff': 1536, 'model.vocab_size': vocab_size, 'model.layers': 'unroll',
        'model.pad_id': 0, 'model.bos_id': 2, 'model.eos_id': 3,
        'data.objective': 'mlm_nsp', 'data.tokenizer': 'wordpiece'})


def bert_config(name: str, length: int, vocab_size: int) -> Config:
    """That preset without dropout, with the recipe of bert_mini_pretrain:mini."""
    return override(preset(name), PLAIN | {
        'model.vocab_size': vocab_size, 'model.max_length': length, 'model.layers': 'unroll',
        'model.pad_id': BERT_SPECIAL.pad, 'model.bos_id': BERT_SPECIAL.bos,
        'model.eos_id': BERT_SPECIAL.eos, 'data.objective': 'mlm_nsp',
        'optim.schedule': 'linear', 'optim.peak_learning_rate': 1e-3, 'optim.warmup_steps': 200,
        'optim.epsilon': 1e-6, 'optim.weight_decay': 0.01, 'optim.clip_norm': 1.0,
        'optim.label_smoothing': 0.0, 'train.steps': 2500})


def bert_batches(length: int, rows: int, number: int, vocab_size: int) -> list[Batch]:
    """Random full rows [CLS] A [SEP] B [SEP], as `xformer.data.objectives.masked` hides them."""
    random = np.random.Generator(np.random.Philox(0))
    masking = Masking(BERT_SPECIAL, vocab_size, rate=0.15, mask_share=0.8, random_share=0.1,
                      word_starts_V=None)
    batches = []
    for _ in range(number):
        ids_BS = random.integers(BERT_SPECIAL.mask + 1, vocab_size, (rows, length), np.int32)
        middle_B1 = random.integers(length // 4, 3 * length // 4, (rows, 1))
        ids_BS[:, 0], ids_BS[:, -1] = BERT_SPECIAL.bos, BERT_SPECIAL.eos
        np.put_along_axis(ids_BS, middle_B1, BERT_SPECIAL.eos, axis=1)
        arrays = masking.arrays(ids_BS, np.full(rows, length), np.arange(length) > middle_B1,
                                rows, random)
        batches.append(arrays | {'nsp_labels_B': random.integers(0, 2, rows, np.int32)})
    return batches


def pair_batch(random: np.random.Generator, shape: Shape, vocab_size: int) -> Batch:
    """Random ids as `xformer.data.objectives.pairs.Pairs` lays them out.

    Lengths are 70 to 100 % of the slots, which makes 87 % of them real, as in CMUdict.
    """
    rows, S, T = shape
    pad = PAIR_SPECIAL.pad

    def side(slots):
        lengths_B = random.integers(math.ceil(0.7 * slots), slots, rows, np.int32, endpoint=True)
        ids = random.integers(PAIR_SPECIAL.unk + 1, vocab_size, (rows, slots), np.int32)
        return np.where(np.arange(slots) < lengths_B[:, None], ids, np.int32(pad)), lengths_B

    (source_BS, source_lengths_B), (labels_BT, target_lengths_B) = side(S), side(T)
    inputs_BT = np.where(labels_BT == pad, labels_BT, np.roll(labels_BT, 1, axis=1))
    inputs_BT[:, 0] = PAIR_SPECIAL.bos
    return {'source_BS': source_BS, 'source_lengths_B': source_lengths_B, 'inputs_BT': inputs_BT,
            'labels_BT': labels_BT, 'target_lengths_B': target_lengths_B}
