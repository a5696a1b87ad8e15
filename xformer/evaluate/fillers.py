"""What a masked language model puts in the place of [MASK], and whether a sentence follows."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from xformer.compiled import Compilations
from xformer.config import Config, UserError
from xformer.data.objectives.rows import padded
from xformer.data.packing import batches_by_length, power_of_two
from xformer.data.tokenizers import Tokenizers
from xformer.evaluate.inputs import MARK, encode_texts, segments
from xformer.models.encoder import MaskedLM

BATCH_TOKENS = 4096


def fill_masks(texts: Sequence[str], config: Config, model: MaskedLM, params,
               tokenizers: Tokenizers, compilations: Compilations, top: int,
               progress: Callable[[int], None] = lambda done: None) -> list[dict]:
    """For each MARK of each text (or two, separated by a tab) its `top` fillers with their
    probabilities: {'masks': [[{'token', 'p'}, ...], ...]}. Raises UserError for a text without
    one."""
    for number, text in enumerate(texts, start=1):
        if MARK not in text:
            raise UserError(f'input {number} has no {MARK} to fill; put one where a token is to '
                            'be found')
    found: list[dict] = [{}] * len(texts)
    for indices, masked, log_p_BPV, _ in _run(texts, config, model, params, tokenizers,
                                              compilations, progress):
        for row, index in enumerate(indices):
            if not len(masked[row]):
                raise UserError(f'input {index + 1} has no {MARK} where the model still reads it; '
                                'shorten it')
            best_PK = np.argsort(-log_p_BPV[row], axis=-1, kind='stable')[:, :top]
            found[index] = {'masks': [
                [{'token': tokenizers.source.tokens([i])[0],
                  'p': round(float(np.exp(log_p_BPV[row, p, i])), 6)} for i in best_PK[p]]
                for p in range(len(masked[row]))]}
    return found


def next_sentence(texts: Sequence[str], config: Config, model: MaskedLM, params,
                  tokenizers: Tokenizers, compilations: Compilations,
                  progress: Callable[[int], None] = lambda done: None) -> list[dict]:
    """{'follows': probability that the second text follows the first} of each two, separated by a
    tab."""
    found: list[dict] = [{}] * len(texts)
    for indices, _, _, log_p_B2 in _run(texts, config, model, params, tokenizers, compilations,
                                        progress):
        for row, index in enumerate(indices):
            found[index] = {'follows': round(float(np.exp(log_p_B2[row, 0])), 6)}
    return found


def _run(texts: Sequence[str], config: Config, model: MaskedLM, params, tokenizers: Tokenizers,
         compilations: Compilations, progress: Callable[[int], None]):
    """(indices, columns of the masks, log_p_BPV, log_p_B2 or None) of each batch by length."""
    def apply(params, *inputs):
        logits = model.apply({'params': params}, *inputs)
        return jax.tree.map(jax.nn.log_softmax, logits)

    compiled, done = compilations.wrap('fill', jax.jit(apply)), 0
    rows, mask = encode_texts(texts, config, tokenizers), tokenizers.special.mask
    for indices, (count, width) in batches_by_length([len(ids) for ids in rows], BATCH_TOKENS):
        batch = [rows[index] for index in indices]
        masked = [np.flatnonzero(np.array(ids) == mask) for ids in batch]
        inputs_BS, lengths_B = padded(batch, (count, min(width, config.model.max_length)),
                                      tokenizers.special.pad)
        most = power_of_two(max(map(len, masked)))
        masked_BP, _ = padded(masked, (count, most), 0)
        log_p_BPV, log_p_B2 = jax.device_get(compiled(
            params, inputs_BS, lengths_B, segments(batch, inputs_BS.shape, config.model),
            masked_BP))
        yield indices, masked, log_p_BPV, log_p_B2
        done += len(indices)
        progress(done)
