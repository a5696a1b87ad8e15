"""What may come next, for one text of one row; `vmap` lifts it to all rows.

First what the model says of the next token, changed by the text so far (`log_probabilities`) and
by its length (`forced`); then, for a draw, the most probable part of it (`filtered`). The order is
Hugging Face's, each filter sees what the one before it left.
"""

import math
from functools import partial, reduce
from operator import or_

import jax
import jax.numpy as jnp
import numpy as np

from xformer.config import Config, DecodeConfig, end_ids

NEVER = -1e30  # log-probability of what is not allowed: finite, so that sums stay numbers


def log_probabilities(logits_V, ids_M, start, end, ending, config: Config) -> jax.Array:
    """log p of every next token, float32; what must not come is ruled out, the others' p kept.

    ids_M[start:end] is the text so far, prompt and output. `ending`: whether it may end now.
    Padding and the begin token are never emitted. A text of which every continuation would repeat
    something may end early.
    """
    model, decode = config.model, config.decode
    logits_V = logits_V.astype(jnp.float32)
    penalised = partial(_penalised, ids_M=ids_M, start=start, end=end,
                        penalty=decode.repetition_penalty)
    beams = decode.strategy == 'beam' and decode.beam_size > 1
    if decode.repetition_penalty != 1 and not beams:
        logits_V = penalised(logits_V)
    log_p_V = jax.nn.log_softmax(logits_V)
    if decode.repetition_penalty != 1 and beams:
        log_p_V = penalised(log_p_V)
    ids_V = np.arange(len(log_p_V))
    ends_V = is_end(ids_V, config)
    log_p_V = jnp.where(np.isin(ids_V, [model.pad_id, model.bos_id]) & ~ends_V, NEVER, log_p_V)
    if decode.no_repeat_ngram:
        repeats_V = _repeats(ids_M, start, end, decode.no_repeat_ngram, len(log_p_V))
        log_p_V = jnp.where(repeats_V & ~ends_V, NEVER, log_p_V)
    if decode.min_length:
        goes_on_V = jnp.where(ends_V, NEVER, log_p_V)
        if decode.no_repeat_ngram:
            ending |= goes_on_V.max() == NEVER
        log_p_V = jnp.where(ending, log_p_V, goes_on_V)
    return jax.nn.log_softmax(log_p_V) if decode.renormalise else log_p_V


def is_end(ids, config: Config):
    """Which of the ids, in a NumPy or JAX array of any shape, end an output."""
    return reduce(or_, (ids == end for end in end_ids(config)))


def forced(log_p_V, t, most, config: Config) -> jax.Array:
    """log p of output token t, of at most that many, once decode.first_token and
    decode.end_at_limit have had their say; what they ask for has probability 1."""
    def certain(token):
        return jnp.where(jnp.arange(len(log_p_V)) == token, 0.0, NEVER)

    if config.decode.first_token >= 0:
        log_p_V = jnp.where(t == 0, certain(config.decode.first_token), log_p_V)
    if config.decode.end_at_limit:
        log_p_V = jnp.where(t + 1 == most, certain(config.model.eos_id), log_p_V)
    return log_p_V


def most_probable(log_p_RV: jax.Array) -> jax.Array:
    """`argmax`, faster on a CPU, where XLA looks for a place one number at a time."""
    R, V = log_p_RV.shape
    ids_RV = jax.lax.broadcasted_iota(jnp.int32, (R, V), 1)
    return jnp.where(log_p_RV == log_p_RV.max(-1, keepdims=True), ids_RV, V - 1).min(-1)


def filtered(log_p_V, config: DecodeConfig) -> jax.Array:
    """Logits of a draw: log p ÷ temperature of the tokens that all filters leave, else NEVER.

    top_k: the k most probable tokens (Fan et al. 2018). top_p: the fewest tokens, most probable
    first, that together hold the probability (Holtzman et al. 2020, section 3.1). min_p: those at
    least so probable as this share of the most probable one (Nguyen et al. 2024, section 3).
    Tokens as probable as the last one taken are taken, too.
    """
    logits_V = log_p_V / config.temperature
    if config.top_k:
        least = jax.lax.top_k(logits_V, min(config.top_k, len(logits_V)))[0][-1]
        logits_V = jnp.where(logits_V < least, NEVER, logits_V)
    if config.top_p < 1:
        falling_V = jnp.sort(logits_V, descending=True)
        p_V = jax.nn.softmax(falling_V)
        taken_V = p_V.cumsum() - p_V < config.top_p  # those before it do not yet hold it
        least = jnp.where(taken_V, falling_V, jnp.inf).min()
        logits_V = jnp.where(logits_V < least, NEVER, logits_V)
    if config.min_p:
        logits_V = jnp.where(logits_V < logits_V.max() + math.log(config.min_p), NEVER, logits_V)
    return logits_V


def _penalised(logits_V, ids_M, start, end, penalty: float):
    """Logits of tokens in the text divided by the penalty, or multiplied if negative.

    Source: Keskar et al. 2019 (CTRL), section 4.1; the sign as in Hugging Face, and that in beams
    it is log p, never positive, which is not normalised again.
    """
    columns_M = jnp.arange(len(ids_M))
    inside_M = (start <= columns_M) & (columns_M < end)
    seen_V = jnp.zeros(len(logits_V), bool).at[ids_M].max(inside_M)
    return jnp.where(seen_V, jnp.where(logits_V < 0, logits_V * penalty, logits_V / penalty),
                     logits_V)


def _repeats(ids_M, start, end, n: int, V: int):
    """Which tokens would complete n in sequence that the text already holds (Paulus et al. 2018,
    section 2.5)."""
    firsts = jnp.arange(len(ids_M) - n + 1)  # where n tokens in sequence may begin
    same = (start <= firsts) & (firsts + n <= end)
    for k in range(n - 1):
        same &= ids_M[firsts + k] == ids_M[end - n + 1 + k]
    return jnp.zeros(V, bool).at[ids_M[firsts + n - 1]].max(same)
