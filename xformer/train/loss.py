"""Losses as (sum, weight) pairs.

A loss is made of terms, each a sum over what it counts (tokens, masked tokens, sentence pairs) ÷
their number. The sums are over whatever part of the batch a device or micro-batch holds; the
weights depend on data only, so they can be added up over all parts before anything is
differentiated. Dividing each part's sum by the whole weight makes 4 micro-batches, 4 devices and
one big batch the same loss with the same gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from xformer.nn.masks import Packing

Batch = dict[str, jax.Array]
Sums = dict[str, dict[str, jax.Array]]  # of each term: 'loss' to differentiate, 'nll', 'correct'
MAIN, SEQUENCE, NEXT_SENTENCE = 'tokens', 'sequence', 'nsp'


class Task(NamedTuple):
    """What a model is trained on."""

    inputs: Callable  # (batch) -> what the model is applied to
    real: Callable  # (batch) -> which of the main term's labels count
    weights: Callable  # (batch) -> {term: how many it counts}
    sums: Callable  # (outputs, batch, label_smoothing) -> Sums
    scores: Callable = lambda sums: {}  # of a whole split, what is more than a mean


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float):
    """Per token, in nats: (smoothed, plain) cross-entropy, each of the shape of `labels`.

    logits [..., V] float32, labels [...] int. Smoothing spreads `label_smoothing` of the
    probability evenly over all V entries (Szegedy et al. 2016, section 7).
    """
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    plain = log_normaliser - label_logits
    if not label_smoothing:
        return plain, plain
    uniform = log_normaliser - logits.mean(axis=-1)
    return (1.0 - label_smoothing) * plain + label_smoothing * uniform, plain


def term(logits, labels, real, label_smoothing: float = 0.0) -> dict[str, jax.Array]:
    """Sums over the labels that are real: 'loss', 'nll' and how many are 'correct'."""
    smoothed, plain = cross_entropy(logits, labels, label_smoothing)
    return {'loss': jnp.where(real, smoothed, 0.0).sum(), 'nll': jnp.where(real, plain, 0.0).sum(),
            'correct': ((logits.argmax(-1) == labels) & real).sum().astype(jnp.float32)}


def below(lengths_B: jax.Array, slots: int) -> jax.Array:
    """True in the first lengths_B of each row's slots."""
    return jnp.arange(slots)[None] < lengths_B[:, None]


def count(real: jax.Array) -> jax.Array:
    """How many are true, as a float."""
    return real.sum().astype(jnp.float32)


def _sequences(logits_BTV, labels_BT, real_BT) -> dict[str, jax.Array]:
    """How many rows have every label right. As each then follows from right ones before it,
    this is the number of rows that greedy decoding gets exactly right."""
    right_BT = (logits_BTV.argmax(-1) == labels_BT) | ~real_BT
    return {'correct': count(right_BT.all(-1) & real_BT.any(-1))}


# encoder-decoder: the target, given the source and the target so far

def _pair_inputs(batch: Batch):
    return batch['source_BS'], batch['source_lengths_B'], batch['inputs_BT']


def _pair_real(batch: Batch) -> jax.Array:
    return below(batch['target_lengths_B'], batch['labels_BT'].shape[1])


def _pair_weights(batch: Batch):
    """The number of target tokens, end tokens included, and of targets."""
    lengths_B = batch['target_lengths_B']
    return {MAIN: count(lengths_B), SEQUENCE: count(lengths_B > 0)}


def _pair_sums(logits_BTV, batch: Batch, label_smoothing: float) -> Sums:
    labels_BT, real_BT = batch['labels_BT'], _pair_real(batch)
    return {MAIN: term(logits_BTV, labels_BT, real_BT, label_smoothing),
            SEQUENCE: _sequences(logits_BTV, labels_BT, real_BT)}


# decoder: every token, given those before it in its document

def _language_inputs(batch: Batch):
    return batch['inputs_BT'], Packing(batch['segments_BT'], batch['positions_BT'])


def _language_real(batch: Batch) -> jax.Array:
    """Everywhere in a text, but in a pair only in its target."""
    return batch['scored_BT'] > 0 if 'scored_BT' in batch else batch['segments_BT'] > 0


def _language_weights(batch: Batch):
    """The number of tokens and, of pairs, of targets."""
    real_BT = _language_real(batch)
    weights = {MAIN: count(real_BT)}
    if 'scored_BT' in batch:
        weights[SEQUENCE] = count(real_BT.any(-1))
    return weights


def _language_sums(logits_BTV, batch: Batch, label_smoothing: float) -> Sums:
    labels_BT, real_BT = batch['labels_BT'], _language_real(batch)
    sums = {MAIN: term(logits_BTV, labels_BT, real_BT, label_smoothing)}
    if 'scored_BT' in batch:
        sums[SEQUENCE] = _sequences(logits_BTV, labels_BT, real_BT)
    return sums


# encoder: the masked tokens, and whether B follows A (Devlin et al. 2019, section 3.1)

def _masked_inputs(batch: Batch):
    return batch['inputs_BS'], batch['lengths_B'], batch['types_BS'], batch['masked_BP']


def _masked_real(batch: Batch) -> jax.Array:
    return below(batch['masked_lengths_B'], batch['masked_BP'].shape[1])


def _masked_weights(batch: Batch):
    """The number of masked tokens and, for next sentences, of rows."""
    weights = {MAIN: count(batch['masked_lengths_B'])}
    if 'nsp_labels_B' in batch:
        weights[NEXT_SENTENCE] = count(batch['lengths_B'] > 0)
    return weights


def _masked_sums(logits, batch: Batch, label_smoothing: float) -> Sums:
    logits_BPV, logits_B2 = logits
    sums = {MAIN: term(logits_BPV, batch['masked_labels_BP'], _masked_real(batch),
                       label_smoothing)}
    if logits_B2 is not None:
        sums[NEXT_SENTENCE] = term(logits_B2, batch['nsp_labels_B'], batch['lengths_B'] > 0)
    return sums


FAMILIES = {'seq2seq': Task(_pair_inputs, _pair_real, _pair_weights, _pair_sums),
            'decoder': Task(_language_inputs, _language_real, _language_weights, _language_sums),
            'encoder': Task(_masked_inputs, _masked_real, _masked_weights, _masked_sums)}


def summary(sums: Sums, weights: dict) -> dict:
    """'loss' (of all terms together), and 'nll', 'accuracy' and 'distance' of each that has them:
    'nll', 'nsp_nll', ...; 'sequence_accuracy' is the share of outputs that greedy decoding gets
    exactly right.

    Works on JAX's and on NumPy's numbers. An empty term counts 0.
    """
    def mean(term, name):
        return sums[term][name] / weights[term].clip(1.0)

    values = {'loss': sum(mean(term, 'loss') for term in sums if 'loss' in sums[term])}
    for term in sorted(sums, key=lambda term: term != MAIN):
        prefix = '' if term == MAIN else f'{term}_'
        values |= {prefix + name: mean(term, key) for name, key in (
            ('nll', 'nll'), ('accuracy', 'correct'), ('distance', 'distance')) if key in sums[term]}
    return values
