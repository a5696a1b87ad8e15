"""Speculative decoding: a small model drafts, the model checks several tokens in one pass.

Source: Leviathan et al. 2023, section 2, in the greedy case: the output is the model's own greedy
one, whatever the draft.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from xformer.config import Config
from xformer.decode.sampling import forced, is_end, log_probabilities, most_probable
from xformer.decode.search import Prompts, extended, with_room


@struct.dataclass
class Drafted:
    """The output of a single prompt (a batch of one row), a few tokens a step.

    Both caches hold the text but for its last token. What they hold beyond, of drafts that were
    not kept, is overwritten before it is seen.
    """

    t: jax.Array  # tokens written so far
    prompts: Prompts
    ids_1M: jax.Array
    log_p_T: jax.Array
    done: jax.Array  # of shape [1]
    cache: Any
    draft_cache: Any
    drafted: jax.Array  # tokens proposed by the draft model so far
    kept: jax.Array  # and how many of them were the model's own choice

    @classmethod
    def start(cls, prompts: Prompts, T: int, cache, draft_cache, config: Config) -> 'Drafted':
        nothing = jnp.int32(0)
        return cls(nothing, prompts, with_room(prompts.ids_BP, T, config.model), jnp.zeros(T),
                   prompts.most_B < 1, cache, draft_cache, nothing, nothing)

    def write(self, extend: Callable, extend_draft: Callable, size: int, until,
              config: Config) -> 'Drafted':
        """Until `until` tokens or up to `size` more are written, or the output has ended."""
        return jax.lax.while_loop(
            lambda text: (text.t < until) & ~text.done.all(),
            lambda text: text._step(extend, extend_draft, size, config), self)

    def _step(self, extend: Callable, extend_draft: Callable, size: int,
              config: Config) -> 'Drafted':
        t, P = self.t, self.prompts.ids_BP.shape[1]

        def propose(text, i):
            ids_1M, cache = text
            log_p_1V, cache = extended(extend_draft, cache, ids_1M, self.prompts, t + i, P, config)
            return (ids_1M.at[:, P + t + i].set(most_probable(log_p_1V)), cache), None

        # one more than is proposed, so that the draft's cache holds all of the proposal
        (ids_1M, draft_cache), _ = jax.lax.scan(
            propose, (self.ids_1M, self.draft_cache), jnp.arange(size + 1))
        inputs_1I = jax.lax.dynamic_slice_in_dim(ids_1M, P + t - 1, size + 1, axis=1)
        logits_1IV, cache = extend(inputs_1I, self.cache)

        step_I = jnp.arange(size + 1)
        log_p_IV = jax.vmap(partial(log_probabilities, config=config), (0, None, None, 0, 0))(
            logits_1IV[0], ids_1M[0], P - self.prompts.lengths_B[0], P + t + step_I,
            t + step_I + 1 >= self.prompts.least_B[0])
        log_p_IV = jax.vmap(partial(forced, config=config), (0, 0, None))(
            log_p_IV, t + step_I, self.prompts.most_B[0])
        own_I = most_probable(log_p_IV)
        kept = (own_I[:-1] == inputs_1I[0, 1:]).cumprod().sum()
        ends_I = is_end(own_I, config)
        written = jnp.minimum(kept + 1, self.prompts.most_B[0] - t)
        written = jnp.minimum(written, jnp.where(ends_I, step_I + 1, size + 1).min())
        log_p_I = jnp.where(step_I < written, log_p_IV.max(-1), 0.0)
        back = written - (size + 1)
        return self.replace(
            t=t + written, ids_1M=jax.lax.dynamic_update_slice(ids_1M, own_I[None], (0, P + t)),
            log_p_T=jax.lax.dynamic_update_slice(self.log_p_T, log_p_I, (t,)),
            done=(t + written >= self.prompts.most_B) | ends_I[written - 1],
            cache=cache.replace(position=cache.position + back),
            draft_cache=draft_cache.replace(position=draft_cache.position + back),
            drafted=self.drafted + size, kept=self.kept + jnp.minimum(kept, written))

    def outputs(self):
        """(ids_RT, lengths_R, log_p_RT) of the one row: what is written, and how probable."""
        return (self.ids_1M[:, self.prompts.ids_BP.shape[1]:], self.t[None], self.log_p_T[None])
