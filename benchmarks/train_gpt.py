"""Suite train-gpt: the training step of small character language models (nanoGPT's settings)."""

from collections.abc import Iterable, Mapping

import torch
from torch.nn import functional as F

from benchmarks.huggingface import gpt2
from benchmarks.training import Peer, compare_steps
from benchmarks.work import gpt_batches, gpt_config
from xformer.config import Config

SIZES = {  # layers, width, heads, context, rows of a batch
    '6 layers, 384 wide': (6, 384, 6, 256, 8),
    '4 layers, 128 wide': (4, 128, 4, 64, 12),
}
BATCHES = 8  # of a round
BAR = 1.0


def measure(repeats: int, peers: Iterable[str], dtype: str = 'float32',
            batches: int = BATCHES, sizes: Mapping = SIZES) -> dict:
    """The cases of the suite by size. Raises RuntimeError if the two sides are not the same."""
    return {title: compare_steps(
        gpt_config(*size[:4], dtype), make_peer, peers, gpt_batches(*size[3:], batches),
        lambda batch: batch['labels_BT'].size, 'tokens/s', BAR, repeats, title)
        for title, size in sizes.items()}


def make_peer(config: Config, params: dict, peer: str) -> Peer:
    """transformers' GPT-2 with our weights, eager or compiled."""
    loss = torch.compile(loss_of) if peer == 'compile' else loss_of
    return Peer(config, gpt2(config.model, params), loss)


def loss_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The mean cross-entropy of the next tokens, from float32 logits."""
    logits_BTV = model(batch['inputs_BT'], use_cache=False).logits
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), batch['labels_BT'].flatten().long())
