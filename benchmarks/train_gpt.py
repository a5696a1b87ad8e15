"""Suite train-gpt: the training step of small character language models (nanoGPT's settings)."""

from collections.abc import Iterable

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.huggingface import gpt2
from benchmarks.training import Batch, Peer, compare_steps
from xformer.config import Config, override
from xformer.presets import preset

VOCAB_SIZE = 65  # characters of tiny_shakespeare
SIZES = {  # layers, width, heads, context, rows of a batch
    '6 layers, 384 wide': (6, 384, 6, 256, 8),
    '4 layers, 128 wide': (4, 128, 4, 64, 12),
}
BATCHES = 8  # of a round
BAR = 1.0


def measure(repeats: int, peers: Iterable[str], dtype: str = 'float32') -> dict:
    """The cases of the suite by size. Raises RuntimeError if the two sides are not the same."""
    return {title: compare_steps(
        gpt_config(*size[:4], dtype), make_peer, peers, random_batches(*size[3:]),
        lambda batch: batch['labels_BT'].size, 'tokens/s', BAR, repeats, title)
        for title, size in SIZES.items()}


def gpt_config(layers: int, width: int, heads: int, context: int,
               dtype: str = 'float32') -> Config:
    """GPT-2's architecture without dropout, with the recipe of lm_shakespeare_char."""
    return override(preset('gpt2'), {
        'model.num_decoder_layers': layers, 'model.d_model': width, 'model.num_heads': heads,
        'model.d_ff': 4 * width, 'model.max_length': context, 'model.vocab_size': VOCAB_SIZE,
        'model.dropout': 0.0, 'model.attention_dropout': 0.0, 'model.layers': 'unroll',
        'model.dtype': dtype, 'model.pad_id': 0, 'model.bos_id': 1, 'model.eos_id': 2,
        'data.objective': 'lm', 'optim.schedule': 'cosine', 'optim.peak_learning_rate': 1e-3,
        'optim.warmup_steps': 100, 'optim.beta2': 0.99, 'optim.epsilon': 1e-8,
        'optim.weight_decay': 0.1, 'optim.clip_norm': 1.0, 'optim.label_smoothing': 0.0,
        'train.steps': 2000})


def random_batches(context: int, rows: int, number: int = BATCHES) -> list[Batch]:
    """Random ids as `xformer.data.objectives.language.NextToken` lays out one long text."""
    random = np.random.default_rng(0)
    places_BT = np.tile(np.arange(context, dtype=np.int32), (rows, 1))
    streams = random.integers(3, VOCAB_SIZE, (number, rows, context + 1), np.int32)
    return [{'inputs_BT': ids[:, :-1].copy(), 'labels_BT': ids[:, 1:].copy(),
             'segments_BT': np.ones_like(places_BT), 'positions_BT': places_BT}
            for ids in streams]


def make_peer(config: Config, params: dict, peer: str) -> Peer:
    """transformers' GPT-2 with our weights, eager or compiled."""
    loss = torch.compile(loss_of) if peer == 'compile' else loss_of
    return Peer(config, gpt2(config.model, params), loss)


def loss_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean cross-entropy of the next tokens, from float32 logits."""
    logits_BTV = model(batch['inputs_BT'], use_cache=False).logits
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), batch['labels_BT'].flatten().long())
