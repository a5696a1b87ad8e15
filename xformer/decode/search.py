"""Greedy search, sampling and beam search as jitted loops over a function that extends a cache.

`extend(ids_R1, cache) -> (logits_R1V, cache)` runs the model on one more token of each of R rows.
A row's text is its prompt and what is written after it: prompts of any lengths end together in
column P - 1 of ids_RM, and outputs begin in column P. The score of an output is its
log-probability (before temperature and filters) divided by `length_penalty`; the end token, where
an output has one, counts. Suffixes: R rows, P columns of prompts, T of outputs, M = P + T; of beams
K hypotheses an example, k in a group, C candidates.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from xformer.config import Config, DecodeConfig, ModelConfig, end_ids
from xformer.decode.sampling import (
    NEVER,
    filtered,
    forced,
    is_end,
    log_probabilities,
    most_probable,
)


class Prompts(NamedTuple):
    """What B outputs continue, and how long they may be, in tokens, the end token included."""

    ids_BP: jax.Array  # the last tokens of the columns; padding comes before them
    lengths_B: jax.Array
    least_B: jax.Array  # fewest tokens of an output
    most_B: jax.Array  # most; 0 in rows that only fill up the batch

    def repeated(self, times: int) -> 'Prompts':
        """Each example that many times, one below the other."""
        return Prompts(*(jnp.repeat(each, times, axis=0) for each in self))


def length_penalty(length, config: DecodeConfig):
    """What a log-probability is divided by: ((5+n)/6)^α (Wu et al. 2016, eq. 14) or n^α."""
    if config.length_penalty == 'gnmt':
        return ((5.0 + length) / 6.0) ** config.alpha
    return (1.0 * length) ** config.alpha


def with_room(ids_BP, T: int, model: ModelConfig):
    """ids_BM: T empty columns after the prompts'."""
    return jnp.pad(ids_BP, ((0, 0), (0, T)), constant_values=model.pad_id)


def extended(extend: Callable, cache, ids_RM, prompts: Prompts, t, P: int, config: Config):
    """(log p_RV of output token t, cache that holds the one before it)."""
    logits, cache = extend(jax.lax.dynamic_slice_in_dim(ids_RM, P + t - 1, 1, axis=1), cache)
    one = partial(log_probabilities, config=config)
    log_p_RV = jax.vmap(one, in_axes=(0, 0, 0, None, 0))(
        logits[:, 0], ids_RM, P - prompts.lengths_B, P + t, t + 1 >= prompts.least_B)
    return jax.vmap(partial(forced, config=config), (0, None, 0))(
        log_p_RV, t, prompts.most_B), cache


@struct.dataclass
class Rows:
    """One output a row, written token by token: greedy search and sampling."""

    t: jax.Array  # tokens written so far
    prompts: Prompts
    keys_R: jax.Array | None  # of the draws; None takes the most probable token
    ids_RM: jax.Array
    log_p_RT: jax.Array
    lengths_R: jax.Array
    done: jax.Array  # R
    cache: Any

    @classmethod
    def start(cls, prompts: Prompts, T: int, cache, config: Config, keys_R=None) -> 'Rows':
        R = len(prompts.lengths_B)
        return cls(jnp.int32(0), prompts, keys_R, with_room(prompts.ids_BP, T, config.model),
                   jnp.zeros((R, T)), jnp.zeros(R, jnp.int32), prompts.most_B < 1, cache)

    def write(self, extend: Callable, until, config: Config) -> 'Rows':
        """Until `until` tokens are written, or all rows have ended or are full."""
        return jax.lax.while_loop(lambda rows: (rows.t < until) & ~rows.done.all(),
                                  lambda rows: rows._step(extend, config), self)

    def _step(self, extend: Callable, config: Config) -> 'Rows':
        t, P, done_R = self.t, self.prompts.ids_BP.shape[1], self.done
        log_p_RV, cache = extended(extend, self.cache, self.ids_RM, self.prompts, t, P, config)
        if self.keys_R is None:
            next_R = most_probable(log_p_RV)
        else:
            next_R = jax.vmap(lambda key, log_p_V: jax.random.categorical(
                jax.random.fold_in(key, t), filtered(log_p_V, config.decode)))(
                self.keys_R, log_p_RV)
        log_p_R = jnp.take_along_axis(log_p_RV, next_R[:, None], axis=1)[:, 0]
        return self.replace(
            t=t + 1, cache=cache,
            ids_RM=self.ids_RM.at[:, P + t].set(jnp.where(done_R, config.model.pad_id, next_R)),
            log_p_RT=self.log_p_RT.at[:, t].set(jnp.where(done_R, 0.0, log_p_R)),
            lengths_R=jnp.where(done_R, self.lengths_R, t + 1),
            done=done_R | is_end(next_R, config) | (t + 1 >= self.prompts.most_B))

    def outputs(self):
        """(ids_RT, lengths_R, log_p_RT): what is written, and how probable each token was."""
        return self.ids_RM[:, self.prompts.ids_BP.shape[1]:], self.lengths_R, self.log_p_RT


@struct.dataclass
class Beams:
    """The K best outputs found by extending the K most probable prefixes of each example.

    Row b·K + k that `extend` takes is prefix k of example b; `reorder(cache, parents_BK)` makes
    that row continue prefix parents_BK[b, k]. In the cache of a model the prefixes of an example
    are side by side: slot m·K + k is what hypothesis k wrote at position m, and stays there;
    `reorder` changes the lines alone, which say whose slot each prefix sees at a position.

    A prefix whose best continuations include the end token among the K best of all is complete; K
    complete outputs end an example's search (the rule of fairseq, and of Hugging Face's
    early_stopping=True), so a beam of one is greedy; with another decode.early_stopping the best
    prefix must besides be no better than the worst of them. At most_B tokens the prefixes left
    count as outputs without an end token.

    Diverse beam search (Vijayakumar et al. 2018, section 3) splits the K hypotheses into groups,
    each a beam search of its own that chooses by log p minus `diversity` for each time an
    earlier group has chosen the token in this step. Scores are without it; two groups may find
    the same output.
    """

    t: jax.Array  # tokens written so far
    prompts: Prompts
    groups: list['Group']
    cache: Any

    @classmethod
    def start(cls, prompts: Prompts, T: int, cache, config: Config) -> 'Beams':
        G = config.decode.beam_groups
        group = Group.start(prompts, T, config.decode.beam_size // G, config.model)
        return cls(jnp.int32(0), prompts, [group] * G, cache)

    def write(self, extend: Callable, reorder: Callable, until, config: Config) -> 'Beams':
        """Until `until` tokens are written, or all examples have their outputs."""
        def unfinished(beams):
            return (beams.t < until) & ~jnp.stack([g.done_B for g in beams.groups]).all()
        return jax.lax.while_loop(unfinished, lambda beams: beams._step(extend, reorder, config),
                                  self)

    def _step(self, extend: Callable, reorder: Callable, config: Config) -> 'Beams':
        t, (B, P), K = self.t, self.prompts.ids_BP.shape, config.decode.beam_size
        ids_BKM = jnp.concatenate([group.ids_BkM for group in self.groups], axis=1)
        log_p_RV, cache = extended(extend, self.cache, ids_BKM.reshape(B * K, -1),
                                    self.prompts.repeated(K), t, P, config)
        log_p_BKV = log_p_RV.reshape(B, K, -1)
        groups, parents, chosen_BV = [], [], jnp.zeros_like(log_p_BKV[:, 0])
        for g, group in enumerate(self.groups):
            k = K // len(self.groups)
            group, parent_Bk, taken_BV = group.step(
                log_p_BKV[:, g * k:(g + 1) * k], config.decode.diversity * chosen_BV, t, P,
                self.prompts.most_B, config)
            groups.append(group)
            parents.append(parent_Bk + g * k)
            chosen_BV = chosen_BV + taken_BV
        parents_BK = jnp.concatenate(parents, axis=1)
        return self.replace(t=t + 1, groups=groups, cache=reorder(cache, parents_BK))

    def outputs(self):
        """(ids_BKT, lengths_BK, scores_BK), best first; length 0 where there are fewer than K."""
        found, *others = [group.finished for group in self.groups]
        for other in others:
            found = _best(found, other, found['score'].shape[1] + other['score'].shape[1])
        return found['ids'][:, :, self.prompts.ids_BP.shape[1]:], found['length'], found['score']


@struct.dataclass
class Group:
    """k prefixes of each example that are alive, and its k best complete outputs so far."""

    ids_BkM: jax.Array
    log_p_Bk: jax.Array
    finished: dict[str, jax.Array]  # 'ids': BkM, 'length' and 'score': Bk, best first
    done_B: jax.Array

    @classmethod
    def start(cls, prompts: Prompts, T: int, k: int, model: ModelConfig) -> 'Group':
        B = len(prompts.lengths_B)
        ids_BkM = jnp.repeat(with_room(prompts.ids_BP, T, model)[:, None], k, axis=1)
        first_alone_Bk = jnp.tile(jnp.where(jnp.arange(k) == 0, 0.0, NEVER)[None], (B, 1))
        nothing = {'ids': jnp.full_like(ids_BkM, model.pad_id), 'score': jnp.full((B, k), NEVER),
                   'length': jnp.zeros((B, k), jnp.int32)}
        return cls(ids_BkM, first_alone_Bk, nothing, prompts.most_B < 1)

    def step(self, log_p_BkV, penalty_BV, t, P: int, most_B, config: Config):
        """(the group after token t, parent_Bk of its prefixes, taken_BV: how often each token)."""
        B, k, V = log_p_BkV.shape
        log_p_BkV = self.log_p_Bk[..., None] + log_p_BkV

        # of these candidates k go on, even if all that may end are among them
        count = k * (1 + len(end_ids(config)))
        choice_BkV = log_p_BkV - penalty_BV[:, None]
        choice_BC, flat_BC = largest(choice_BkV.reshape(B, k * V), count)
        log_p_BC = jnp.take_along_axis(log_p_BkV.reshape(B, k * V), flat_BC, axis=1)
        parent_BC, token_BC = flat_BC // V, flat_BC % V
        ids_BCM = _take(self.ids_BkM, parent_BC).at[:, :, P + t].set(token_BC)
        score_BC = log_p_BC / length_penalty(t + 1, config.decode)

        possible_BC = log_p_BC > NEVER / 2
        ends_BC = is_end(token_BC, config) & possible_BC
        completes_BC = ends_BC & (jnp.arange(count) < k)[None]
        kept_Bk = jax.lax.top_k(jnp.where(ends_BC, NEVER, choice_BC), k)[1]

        at_limit_B = t + 1 >= most_B
        cut_off_BC = jnp.zeros_like(ends_BC).at[jnp.arange(B)[:, None], kept_Bk].set(True)
        cut_off_BC &= at_limit_B[:, None] & possible_BC & ~ends_BC
        complete = {'ids': ids_BCM, 'score': jnp.where(completes_BC | cut_off_BC, score_BC, NEVER),
                    'length': jnp.full((B, count), t + 1)}
        finished = _where(self.done_B, self.finished, _best(self.finished, complete, k))
        log_p_Bk = jnp.take_along_axis(jnp.where(ends_BC, NEVER, log_p_BC), kept_Bk, axis=1)
        done_B = self.done_B | at_limit_B | (finished['score'] > NEVER / 2).all(-1) & ~_hopeful(
            log_p_Bk, finished, t + 1, most_B, config.decode)
        counts_Bk = (log_p_Bk > NEVER / 2) & ~self.done_B[:, None]
        taken_BV = jnp.zeros((B, V)).at[
            jnp.arange(B)[:, None], jnp.take_along_axis(token_BC, kept_Bk, axis=1)].add(counts_Bk)
        group = Group(_take(ids_BCM, kept_Bk), log_p_Bk, finished, done_B)
        return group, jnp.take_along_axis(parent_BC, kept_Bk, axis=1), taken_BV


def _hopeful(log_p_Bk, finished: dict, t, most_B, config: DecodeConfig) -> jax.Array:
    """Per example, whether the best prefix of t tokens may still make a better output than the
    worst finished one. Source: Hugging Face's heuristics of early_stopping."""
    if config.early_stopping == 'true':
        return jnp.zeros(len(log_p_Bk), bool)
    longest = config.early_stopping == 'never' and config.alpha > 0
    best_B = log_p_Bk.max(-1) / length_penalty(most_B if longest else t, config)
    return best_B > finished['score'].min(-1)


def largest(values_BN: jax.Array, count: int, block: int = 256) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k`, several times faster on a CPU: (values_BC, index_BC), of equals the first.

    The largest are in the blocks with the largest maxima: if one were in another, each of these
    blocks would hold one that comes before it.
    """
    B, N = values_BN.shape
    if N <= block * count:
        return jax.lax.top_k(values_BN, count)
    blocks_BXb = jnp.pad(values_BN, ((0, 0), (0, -N % block)), constant_values=-jnp.inf
                         ).reshape(B, -1, block)
    chosen_BC = jnp.sort(jax.lax.top_k(blocks_BXb.max(axis=-1), count)[1], axis=1)
    found_BC, index_BC = jax.lax.top_k(_take(blocks_BXb, chosen_BC).reshape(B, -1), count)
    chosen_BC = jnp.take_along_axis(chosen_BC, index_BC // block, axis=1)
    return found_BC, chosen_BC * block + index_BC % block


def _take(values_BC, index_BK):
    """values[b, index[b, k]] for arrays with any further axes."""
    index = index_BK.reshape(*index_BK.shape, *(1,) * (values_BC.ndim - 2))
    return jnp.take_along_axis(values_BC, index, axis=1)


def _best(old: dict, new: dict, k: int) -> dict:
    """The k outputs with the highest score among both, best first; the older one on a tie."""
    both = {name: jnp.concatenate([old[name], new[name]], axis=1) for name in old}
    order_Bk = jax.lax.top_k(both['score'], k)[1]
    return {name: _take(value, order_Bk) for name, value in both.items()}


def _where(condition_B, old: dict, new: dict) -> dict:
    """Per example, `old` where the condition holds, else `new`."""
    return {name: jnp.where(condition_B.reshape(-1, *(1,) * (old[name].ndim - 1)),
                            old[name], new[name]) for name in old}
