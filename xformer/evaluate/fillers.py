"""What a masked language model puts in the place of [MASK], and whether a sentence follows."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from xformer.compiled import Compilations
from xformer.config import Config, UserError
from xformer.data.objectives.rows import padded
from xformer.data.sources import Labelled
from xformer.data.tokenizers import Tokenizers
from xformer.decode.generate import batches_by_length
from xformer.models.encoder import MaskedLM

MARK = '[MASK]'  # in a text, whatever the vocabulary calls it
BATCH_TOKENS = 4096


def fill_masks(examples: Sequence[Labelled], config: Config, model: MaskedLM, params,
               tokenizers: Tokenizers, compilations: Compilations, top: int,
               progress: Callable[[int], None] = lambda done: None) -> list[dict]:
    """For each MARK of each text its `top` fillers with their probabilities:
    {'masks': [[{'token', 'p'}, ...], ...]}. Raises UserError for a text without one."""
    rows = []
    for number, example in enumerate(examples, start=1):
        if MARK not in example.first + example.second:
            raise UserError(f'input {number} has no {MARK} to fill; put one where a token is to '
                            'be found')
        rows.append(_row(number, example, config, tokenizers))
    found: list[dict] = [{}] * len(rows)
    for indices, masked, log_p_BPV, _ in _run(rows, config, model, params, tokenizers,
                                              compilations, progress):
        for row, index in enumerate(indices):
            best_PK = np.argsort(-log_p_BPV[row], axis=-1, kind='stable')[:, :top]
            found[index] = {'masks': [
                [{'token': tokenizers.source.tokens([i])[0],
                  'p': round(float(np.exp(log_p_BPV[row, p, i])), 6)} for i in best_PK[p]]
                for p in range(len(masked[row]))]}
    return found


def next_sentence(examples: Sequence[Labelled], config: Config, model: MaskedLM, params,
                  tokenizers: Tokenizers, compilations: Compilations,
                  progress: Callable[[int], None] = lambda done: None) -> list[dict]:
    """{'follows': probability that the second text follows the first} of each pair."""
    rows = [_row(number, example, config, tokenizers)
            for number, example in enumerate(examples, start=1)]
    found: list[dict] = [{}] * len(rows)
    for indices, _, _, log_p_B2 in _run(rows, config, model, params, tokenizers, compilations,
                                        progress):
        for row, index in enumerate(indices):
            found[index] = {'follows': round(float(np.exp(log_p_B2[row, 0])), 6)}
    return found


def _row(number: int, example: Labelled, config: Config, tokenizers: Tokenizers
         ) -> tuple[list[int], int]:
    """(ids of [BOS] first [EOS] (second [EOS]), where the second begins)."""
    special = tokenizers.special
    ids, begin = [special.bos], 0
    for text in filter(None, example[:2]):
        begin = len(ids)
        for i, part in enumerate(text.split(MARK)):
            ids += [special.mask] if i else []
            ids += tokenizers.source.encode(part)
        ids.append(special.eos)
    if len(ids) > config.model.max_length:
        raise UserError(f'input {number} ({example.first[:40]!r}...) has {len(ids):,} tokens, '
                        f'special ones included; the model takes {config.model.max_length}: '
                        'shorten it')
    return ids, begin if example.second else len(ids)


def _run(rows: list, config: Config, model: MaskedLM, params, tokenizers: Tokenizers,
         compilations: Compilations, progress: Callable[[int], None]):
    """(indices, columns of the masks, log_p_BPV, log_p_B2 or None) of each batch by length."""
    def apply(params, *inputs):
        logits = model.apply({'params': params}, *inputs)
        return jax.tree.map(jax.nn.log_softmax, logits)

    compiled, done = compilations.wrap('fill', jax.jit(apply)), 0
    most = max((ids.count(tokenizers.special.mask) for ids, _ in rows), default=0)
    for indices, (count, width) in batches_by_length([len(ids) for ids, _ in rows], BATCH_TOKENS):
        width = min(width, config.model.max_length)
        batch = [rows[index] for index in indices]
        masked = [np.flatnonzero(np.array(ids) == tokenizers.special.mask) for ids, _ in batch]
        inputs_BS, lengths_B = padded([ids for ids, _ in batch], (count, width),
                                      tokenizers.special.pad)
        masked_BP, _ = padded(masked, (count, max(most, 1)), 0)
        types_BS = np.zeros_like(inputs_BS)
        for row, (ids, begin) in enumerate(batch):
            types_BS[row, begin:len(ids)] = config.model.num_segments > 1
        log_p_BPV, log_p_B2 = jax.device_get(
            compiled(params, inputs_BS, lengths_B, types_BS, masked_BP))
        yield indices, masked, log_p_BPV, log_p_B2
        done += len(indices)
        progress(done)
