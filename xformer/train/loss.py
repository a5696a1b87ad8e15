"""Losses as (sum, weight) pairs.

A loss of a batch is Σ over its tokens ÷ their number. The sums are over whatever part of the
batch a device or micro-batch holds; the weights depend on data only, so they can be added up over
all parts before anything is differentiated. Dividing each part's sum by the whole weight makes
4 micro-batches, 4 devices and one big batch the same loss with the same gradient.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

Batch = dict[str, jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float):
    """Per token, in nats: (smoothed, plain) cross-entropy, each of the shape of `labels`.

    logits [..., V] float32, labels [...] int. Smoothing spreads `label_smoothing` of the
    probability evenly over all V entries (Szegedy et al. 2016, section 7).
    """
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    plain = log_normaliser - label_logits
    uniform = log_normaliser - logits.mean(axis=-1)
    return (1.0 - label_smoothing) * plain + label_smoothing * uniform, plain


def pair_weights(batch: Batch) -> dict[str, jax.Array]:
    """Weight of each loss term: the number of target tokens, end tokens included."""
    return {'loss': batch['target_lengths_B'].sum().astype(jnp.float32)}


def pair_sums(model: nn.Module, params, batch: Batch, rngs: dict, label_smoothing: float):
    """Sums over the batch's target tokens: ({'loss': to differentiate}, {'nll', 'correct'})."""
    labels_BT = batch['labels_BT']
    logits_BTV = model.apply({'params': params}, batch['source_BS'], batch['source_lengths_B'],
                             batch['inputs_BT'], rngs=rngs)
    smoothed_BT, plain_BT = cross_entropy(logits_BTV, labels_BT, label_smoothing)
    real_BT = jnp.arange(labels_BT.shape[1])[None] < batch['target_lengths_B'][:, None]
    correct_BT = (logits_BTV.argmax(-1) == labels_BT) & real_BT

    def total(values_BT):
        return jnp.where(real_BT, values_BT, 0.0).sum()
    return {'loss': total(smoothed_BT)}, {'nll': total(plain_BT), 'correct': correct_BT.sum()}
