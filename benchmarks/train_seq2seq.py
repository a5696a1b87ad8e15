"""Suite train-seq2seq: a small translation model on Multi30k, batched as each side does it best.

Both have the same budget of token slots, source and target, padding included; what counts are
real target tokens. Ours takes the buckets of its plan, asked for 93 % in at most 40. The peer
sorts the pairs by length, fills batches up to the budget and pads each to its longest (fairseq's
batching).
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.huggingface import marian
from benchmarks.results import OURS
from benchmarks.training import LossOf, Peer, compare_steps
from benchmarks.work import PAIR_SPECIAL, PAIR_VOCAB_SIZE, TRANSLATION, Batch
from xformer.config import Config, UserError
from xformer.console import say
from xformer.data.objectives import make_objective
from xformer.data.objectives.pairs import Pairs
from xformer.data.pipeline import prepare
from xformer.data.plan import make_plan, random_numbers
from xformer.data.store import Column

EVERY = 16  # of the batches of an epoch, in order of length, the middle ones of so many are taken
BAR = 1.3


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The one case of the suite. Raises RuntimeError if the two sides are not the same."""
    pairs = multi30k()
    budget = TRANSLATION.data.batch_tokens
    theirs = sorted_batches(pairs, budget)[EVERY // 2::EVERY]
    batches = {OURS: planned_batches(pairs), **dict.fromkeys(peers, theirs)}
    fill = {side: fill_of(made) for side, made in batches.items()}
    title = f'3 + 3 layers, 256 wide, {budget} slots'
    return {title: {'fill': fill} | compare_steps(
        TRANSLATION, make_peer, peers, batches,
        lambda batch: int(batch['target_lengths_B'].sum()), 'target tokens/s', BAR, repeats,
        title)}


def multi30k() -> Pairs:
    """The train split, or generated ids of the same lengths where there is no Multi30k."""
    try:
        corpus = prepare(TRANSLATION, say)
    except UserError as error:
        say(f'generated pairs of the same lengths stand in for Multi30k: {error}')
        return generated(29_000)
    return make_objective(TRANSLATION, corpus.stores['train'], corpus.tokenizers)


def generated(number: int) -> Pairs:
    """Random ids whose lengths have Multi30k's log-normal distribution, EOS included."""
    random = np.random.default_rng(0)
    logs_N2 = random.multivariate_normal(
        [2.685, 2.709], [[0.0874, 0.0844], [0.0844, 0.1107]], number)
    sides = []
    for lengths_N in np.rint(np.exp(logs_N2)).clip(4, 60).astype(np.int64).T:
        offsets = np.concatenate([[0], lengths_N.cumsum()])
        ids = random.integers(PAIR_SPECIAL.unk + 1, PAIR_VOCAB_SIZE, offsets[-1])
        ids[offsets[1:] - 1] = PAIR_SPECIAL.eos
        sides.append(Column(ids, offsets))
    return Pairs(*sides, PAIR_SPECIAL)


def planned_batches(pairs: Pairs) -> list[Batch]:
    """Some batches of our plan, in the order of its buckets."""
    plan = make_plan(pairs, '', TRANSLATION.data, TRANSLATION.train.seed)
    chosen = map(plan.buckets.batch, range(EVERY // 2, plan.num_batches, EVERY))
    return [pairs.batch(plan.buckets.examples(k, ordinals), plan.shapes[k],
                        random_numbers(0, '', 0)) for k, ordinals in chosen]


def sorted_batches(pairs: Pairs, budget: int) -> list[Batch]:
    """All pairs by target, then source length, as many a batch as the budget of slots holds."""
    lengths_N2 = pairs.lengths(0, len(pairs))
    groups, group, widest = [], [], np.zeros(2, int)
    for index in np.lexsort(lengths_N2.T):
        wider = np.maximum(widest, lengths_N2[index])
        if wider.sum() * (len(group) + 1) > budget:
            groups.append(group)
            group, wider = [], lengths_N2[index]
        group.append(index)
        widest = wider
    return [pairs.batch(np.array(group), (len(group), *lengths_N2[group].max(axis=0).tolist()),
                        random_numbers(0, '', 0)) for group in [*groups, group]]


def fill_of(batches: list[Batch]) -> float:
    """The share of slots that hold tokens."""
    real = sum(int(batch[f'{side}_lengths_B'].sum()) for batch in batches
               for side in ('source', 'target'))
    return round(real / sum(batch['source_BS'].size + batch['labels_BT'].size
                            for batch in batches), 3)


def make_peer(config: Config, params: dict, peer: str) -> Peer:
    """transformers' Marian with our weights; compiled once for batches of all shapes."""
    loss = make_loss(config.optim.label_smoothing)
    return Peer(config, marian(config.model, params),
                torch.compile(loss, dynamic=True) if peer == 'compile' else loss)


def make_loss(smoothing: float) -> LossOf:
    """The mean smoothed cross-entropy of the target tokens."""
    def loss_of(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        slots_S = torch.arange(batch['source_BS'].shape[1], device=batch['source_BS'].device)
        real_BS = slots_S < batch['source_lengths_B'][:, None]
        logits_BTV = model(input_ids=batch['source_BS'], attention_mask=real_BS,
                           decoder_input_ids=batch['inputs_BT'], use_cache=False).logits
        return F.cross_entropy(logits_BTV.flatten(0, 1), batch['labels_BT'].flatten().long(),
                               ignore_index=PAIR_SPECIAL.pad, label_smoothing=smoothing)
    return loss_of
