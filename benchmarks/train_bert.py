"""Suite train-bert: BERT-mini's pre-training step, masked tokens and next sentences."""

from collections.abc import Iterable

import numpy as np
import torch

from benchmarks import training
from benchmarks.huggingface import bert_for_pretraining
from benchmarks.training import Batch, Peer, compare_steps
from xformer.config import Config, override
from xformer.data.objectives.masked import Masking
from xformer.data.tokenizers.special import Special
from xformer.presets import preset

ROWS, LENGTH, VOCAB_SIZE = 32, 128, 30_522
SPECIAL = Special(pad=0, bos=101, eos=102, unk=100, mask=103)  # bert-base-uncased's
NEVER = -100  # the label that the peer leaves out
BATCHES = 2  # of a round
BAR = 3.0
# PyTorch's float32 norm of the gradient of so large a table is itself 8e-4 off: in float64 both
# sides' agree to 2e-8.
TOLERANCE = training.TOLERANCES['float32'] | {'gradient norm': 1e-3}


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The one case of the suite. Raises RuntimeError if the two sides are not the same."""
    batches = random_batches(ROWS, LENGTH, VOCAB_SIZE)
    return {'BERT-mini': compare_steps(
        bert_config(VOCAB_SIZE), make_peer, peers, batches,
        lambda batch: int(batch['lengths_B'].sum()), 'tokens/s', BAR, repeats, 'BERT-mini',
        TOLERANCE)}


def bert_config(vocab_size: int) -> Config:
    """BERT-mini without dropout, with the recipe of bert_mini_pretrain:mini."""
    return override(preset('bert-mini'), {
        'model.vocab_size': vocab_size, 'model.max_length': LENGTH, 'model.dropout': 0.0,
        'model.attention_dropout': 0.0, 'model.layers': 'unroll', 'model.pad_id': SPECIAL.pad,
        'model.bos_id': SPECIAL.bos, 'model.eos_id': SPECIAL.eos, 'data.objective': 'mlm_nsp',
        'optim.schedule': 'linear', 'optim.peak_learning_rate': 1e-3, 'optim.warmup_steps': 200,
        'optim.epsilon': 1e-6, 'optim.weight_decay': 0.01, 'optim.clip_norm': 1.0,
        'optim.label_smoothing': 0.0, 'train.steps': 2500})


def random_batches(rows: int, length: int, vocab_size: int, number: int = BATCHES) -> list[Batch]:
    """Random full rows [CLS] A [SEP] B [SEP], as `xformer.data.objectives.masked` hides them."""
    random = np.random.Generator(np.random.Philox(0))
    masking = Masking(SPECIAL, vocab_size, rate=0.15, word_starts_V=None)
    batches = []
    for _ in range(number):
        ids_BS = random.integers(SPECIAL.mask + 1, vocab_size, (rows, length), np.int32)
        middle_B1 = random.integers(length // 4, 3 * length // 4, (rows, 1))
        ids_BS[:, 0], ids_BS[:, -1] = SPECIAL.bos, SPECIAL.eos
        np.put_along_axis(ids_BS, middle_B1, SPECIAL.eos, axis=1)
        arrays = masking.arrays(ids_BS, np.full(rows, length), np.arange(length) > middle_B1,
                                rows, random)
        batches.append(arrays | {'nsp_labels_B': random.integers(0, 2, rows, np.int32)})
    return batches


def make_peer(config: Config, params: dict, peer: str) -> Peer:
    """transformers' BertForPreTraining with our weights, eager or compiled."""
    loss = torch.compile(loss_of) if peer == 'compile' else loss_of
    return Peer(config, bert_for_pretraining(config.model, params), loss)


def loss_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Both losses as the model itself computes them, from a label for every token."""
    labels_BP = batch['masked_labels_BP']
    labels_BP = labels_BP.where(labels_BP != SPECIAL.pad, NEVER)  # unused slots point at [CLS]
    labels_BS = torch.full_like(batch['inputs_BS'], NEVER).scatter(
        1, batch['masked_BP'].long(), labels_BP)
    return model(batch['inputs_BS'], token_type_ids=batch['types_BS'], labels=labels_BS.long(),
                 next_sentence_label=batch['nsp_labels_B'].long()).loss
