"""Greedy and beam search as jitted loops over a function that extends a cache.

`extend(ids_R1, cache) -> (logits_R1V, cache)` runs the model on one more token of each of R rows.
Both searches return (ids_BKT, lengths_BK, scores_BK): the K best outputs of each example, best
first, padding beyond their length; the end token, where an output has one, counts. The score is
the log-probability divided by `length_penalty`. Padding and the begin token are never emitted.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from xformer.config import Config, DecodeConfig, ModelConfig

NEVER = -1e30  # log-probability of what is not allowed: finite, so that sums stay numbers


def length_penalty(length, config: DecodeConfig):
    """What a log-probability is divided by: ((5+n)/6)^α (Wu et al. 2016, eq. 14) or n^α."""
    if config.length_penalty == 'gnmt':
        return ((5.0 + length) / 6.0) ** config.alpha
    return jnp.asarray(length, jnp.float32) ** config.alpha


def _log_probabilities(logits_R1V, model: ModelConfig):
    """log p of every next token, RV, with what is never emitted ruled out, the others' p kept."""
    log_p_RV = jax.nn.log_softmax(logits_R1V[:, 0].astype(jnp.float32), axis=-1)
    never = sorted({model.pad_id, model.bos_id} - {model.eos_id})
    return log_p_RV.at[:, jnp.array(never, jnp.int32)].set(NEVER)


def greedy(extend: Callable, cache, limits_B, max_length: int, config: Config):
    """The most probable token at each step, until the end token or `limits_B` tokens."""
    B, model = limits_B.shape[0], config.model

    def step(state):
        t, last_B, ids_BT, lengths_B, log_p_B, done_B, cache = state
        logits, cache = extend(last_B[:, None], cache)
        log_p_BV = _log_probabilities(logits, model)
        next_B = jnp.where(done_B, model.pad_id, log_p_BV.argmax(-1))
        log_p_B = log_p_B + jnp.where(done_B, 0.0, log_p_BV.max(-1))
        lengths_B = jnp.where(done_B, lengths_B, t + 1)
        done_B = done_B | (next_B == model.eos_id) | (t + 1 >= limits_B)
        return t + 1, next_B, ids_BT.at[:, t].set(next_B), lengths_B, log_p_B, done_B, cache

    def unfinished(state):
        return (state[0] < max_length) & ~state[5].all()

    state = (0, jnp.full(B, model.bos_id), jnp.full((B, max_length), model.pad_id),
             jnp.zeros(B, jnp.int32),
             jnp.zeros(B), limits_B < 1, cache)
    _, _, ids_BT, lengths_B, log_p_B, _, _ = jax.lax.while_loop(unfinished, step, state)
    scores_B = log_p_B / length_penalty(jnp.maximum(lengths_B, 1), config.decode)
    return ids_BT[:, None], lengths_B[:, None], scores_B[:, None]


def beam_search(extend: Callable, reorder: Callable, cache, limits_B, max_length: int,
                config: Config):
    """The K best outputs found by extending the K most probable prefixes of each example.

    Row b·K + k of the cache is prefix k of example b; `reorder(cache, rows_R)` makes row r a copy
    of rows_R[r]. A prefix whose best continuations include the end token among the K best of all is
    complete; K complete outputs end an example's search (the rule of fairseq, and of Hugging
    Face's early_stopping=True), so a beam of one is greedy. At `limits_B` tokens the prefixes
    left count as outputs without one.
    """
    B, K, T = limits_B.shape[0], config.decode.beam_size, max_length
    model = config.model
    first_row_B1 = jnp.arange(B)[:, None] * K

    def step(state):
        t, alive, finished, done_B, cache = state
        last_BK = jnp.where(t == 0, model.bos_id, alive['ids'][:, :, t - 1])
        logits, cache = extend(last_BK.reshape(B * K, 1), cache)
        V = logits.shape[-1]
        log_p_BKV = alive['log_p'][..., None] + _log_probabilities(
            logits, model).reshape(B, K, V)

        # 2K candidates: even if K of them end, K prefixes remain
        log_p_BC, flat_BC = jax.lax.top_k(log_p_BKV.reshape(B, K * V), 2 * K)
        parent_BC, token_BC = flat_BC // V, flat_BC % V
        ids_BCT = _take(alive['ids'], parent_BC).at[:, :, t].set(token_BC)
        score_BC = log_p_BC / length_penalty(t + 1, config.decode)

        possible_BC = log_p_BC > NEVER / 2
        ends_BC = (token_BC == model.eos_id) & possible_BC
        completes_BC = ends_BC & (jnp.arange(2 * K) < K)[None]
        kept_BK = jax.lax.top_k(jnp.where(ends_BC, NEVER, log_p_BC), K)[1]

        at_limit_B = t + 1 >= limits_B
        cut_off_BC = jnp.zeros_like(ends_BC).at[jnp.arange(B)[:, None], kept_BK].set(True)
        cut_off_BC &= at_limit_B[:, None] & possible_BC & ~ends_BC
        complete = {'ids': ids_BCT, 'score': jnp.where(completes_BC | cut_off_BC, score_BC, NEVER),
                    'length': jnp.full((B, 2 * K), t + 1)}
        finished = _where(done_B, finished, _best(finished, complete, K))

        alive = {'ids': _take(ids_BCT, kept_BK), 'log_p': jnp.take_along_axis(
            jnp.where(ends_BC, NEVER, log_p_BC), kept_BK, axis=1)}
        cache = reorder(cache, (first_row_B1 + jnp.take_along_axis(
            parent_BC, kept_BK, axis=1)).reshape(-1))
        done_B = done_B | at_limit_B | (finished['score'] > NEVER / 2).all(-1)
        return t + 1, alive, finished, done_B, cache

    def unfinished(state):
        return (state[0] < T) & ~state[3].all()

    alive = {'ids': jnp.full((B, K, T), model.pad_id),
             'log_p': jnp.tile(jnp.where(jnp.arange(K) == 0, 0.0, NEVER)[None], (B, 1))}
    finished = {'ids': jnp.full((B, K, T), model.pad_id), 'score': jnp.full((B, K), NEVER),
                'length': jnp.zeros((B, K), jnp.int32)}
    state = (0, alive, finished, limits_B < 1, cache)
    finished = jax.lax.while_loop(unfinished, step, state)[2]
    return finished['ids'], finished['length'], finished['score']


def _take(values_BC, index_BK):
    """values[b, index[b, k]] for arrays with any further axes."""
    index = index_BK.reshape(*index_BK.shape, *(1,) * (values_BC.ndim - 2))
    return jnp.take_along_axis(values_BC, index, axis=1)


def _best(old: dict, new: dict, K: int) -> dict:
    """The K outputs with the highest score among both, best first; the older one on a tie."""
    both = {name: jnp.concatenate([old[name], new[name]], axis=1) for name in old}
    order_BK = jax.lax.top_k(both['score'], K)[1]
    return {name: _take(value, order_BK) for name, value in both.items()}


def _where(condition_B, old: dict, new: dict) -> dict:
    """Per example, `old` where the condition holds, else `new`."""
    return {name: jnp.where(condition_B.reshape(-1, *(1,) * (old[name].ndim - 1)),
                            old[name], new[name]) for name in old}
