"""Suite train-bert: BERT-mini's pre-training step, masked tokens and next sentences."""

from collections.abc import Iterable

import torch

from benchmarks import training
from benchmarks.huggingface import bert_for_pretraining
from benchmarks.training import Peer, compare_steps
from benchmarks.work import BERT_SPECIAL, bert_batches, bert_config
from xformer.config import Config

ROWS, LENGTH, VOCAB_SIZE = 32, 128, 30_522
NEVER = -100  # the label that the peer leaves out
BATCHES = 2  # of a round
BAR = 3.0
# PyTorch's float32 norm of the gradient of so large a table is itself 8e-4 off: in float64 both
# sides' agree to 2e-8.
TOLERANCE = training.TOLERANCES['float32'] | {'gradient norm': 1e-3}


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The one case of the suite. Raises RuntimeError if the two sides are not the same."""
    batches = bert_batches(LENGTH, ROWS, BATCHES, VOCAB_SIZE)
    return {'BERT-mini': compare_steps(
        bert_config('bert-mini', LENGTH, VOCAB_SIZE), make_peer, peers, batches,
        lambda batch: int(batch['lengths_B'].sum()), 'tokens/s', BAR, repeats, 'BERT-mini',
        TOLERANCE)}


def make_peer(config: Config, params: dict, peer: str) -> Peer:
    """transformers' BertForPreTraining with our weights, eager or compiled."""
    loss = torch.compile(loss_of) if peer == 'compile' else loss_of
    return Peer(config, bert_for_pretraining(config.model, params), loss)


def loss_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Both losses as the model itself computes them, from a label for every token."""
    labels_BP = batch['masked_labels_BP']
    labels_BP = labels_BP.where(labels_BP != BERT_SPECIAL.pad, NEVER)  # unused slots point at [CLS]
    labels_BS = torch.full_like(batch['inputs_BS'], NEVER).scatter(
        1, batch['masked_BP'].long(), labels_BP)
    return model(batch['inputs_BS'], token_type_ids=batch['types_BS'], labels=labels_BS.long(),
                 next_sentence_label=batch['nsp_labels_B'].long()).loss
