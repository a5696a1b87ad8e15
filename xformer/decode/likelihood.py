"""How probable given outputs are: all their tokens in one pass, without a cache."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from xformer.compiled import Compilations
from xformer.config import Config
from xformer.data.objectives.rows import padded
from xformer.data.packing import batches_by_length


def log_likelihoods(model: nn.Module, config: Config, params, compilations: Compilations,
                    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
                    progress: Callable[[int], None] = lambda done: None,
                    batch_tokens: int = 4096) -> list[float]:
    """log p(output | source), in nats, for each pair (ids of the source, ids of the output).

    In a decoder the source, which may be empty, comes after BOS and the output after it.
    """
    whole = config.model.family == 'decoder'
    measure = compilations.wrap('log_likelihoods', jax.jit(partial(_log_likelihoods, model)))
    widths = [len(source) + len(output) if whole else max(len(source), len(output))
              for source, output in pairs]
    found, done = [0.0] * len(pairs), 0
    for indices, (rows, width) in batches_by_length(widths, batch_tokens):
        sources, outputs = zip(*(pairs[index] for index in indices))
        labels = [[*pair[0], *pair[1]] for pair in zip(sources, outputs)] if whole else outputs
        (source_BS, source_lengths_B), (labels_BT, lengths_B) = (
            padded(side, (rows, width), config.model.pad_id) for side in (sources, labels))
        values_B = jax.device_get(
            measure(params, source_BS, source_lengths_B, lengths_B, labels_BT))
        for index, value in zip(indices, values_B):
            found[index] = float(value)
        done += len(indices)
        progress(done)
    return found


def _log_likelihoods(model: nn.Module, params, source_BS, source_lengths_B, lengths_B, labels_BT):
    """Sums of log p over the labels, in a decoder over those after the source, of shape [B]."""
    bos_B1 = jnp.full_like(labels_BT[:, :1], model.config.bos_id)
    inputs_BT = jnp.concatenate([bos_B1, labels_BT[:, :-1]], axis=1)
    columns_1T = jnp.arange(labels_BT.shape[1])[None]
    scored_BT = columns_1T < lengths_B[:, None]
    if model.config.family == 'decoder':
        logits_BTV = model.apply({'params': params}, inputs_BT)
        scored_BT &= columns_1T >= source_lengths_B[:, None]
    else:
        logits_BTV = model.apply({'params': params}, source_BS, source_lengths_B, inputs_BT)
    log_p_BTV = jax.nn.log_softmax(logits_BTV, axis=-1)
    log_p_BT = jnp.take_along_axis(log_p_BTV, labels_BT[..., None], axis=-1)[..., 0]
    return jnp.where(scored_BT, log_p_BT, 0.0).sum(axis=1)
