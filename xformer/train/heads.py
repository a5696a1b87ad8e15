"""The losses of heads on an encoder, as (sum, weight) pairs, and sums that scores are made of.

Beside the loss, sums hold what scores of a whole split are made of: counts of (label, guess) for
classes, moments for numbers. They add over devices and batches; `scores` is taken at the end.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from xformer.models.heads import answer_logits
from xformer.train.loss import MAIN, Batch, Sums, Task, count, term


def _inputs(batch: Batch):
    return batch['inputs_BS'], batch['lengths_B'], batch['types_BS']


def _rows(batch: Batch) -> jax.Array:
    """Rows that hold an example."""
    return batch['lengths_B'] > 0


def _words(batch: Batch) -> jax.Array:
    """The first token of each word."""
    return (batch['labels_BS'] >= 0) & _rows(batch)[:, None]


def _classes(logits, labels, real, smoothing) -> Sums:
    """The loss, and counts_CC of (label, guess)."""
    C = logits.shape[-1]
    guesses = logits.argmax(-1)
    pairs = jnp.where(real, labels * C + guesses, C * C)  # what is not real falls outside
    counts_CC = jnp.bincount(pairs.reshape(-1), length=C * C + 1)[:-1].reshape(C, C)
    return {MAIN: term(logits, jnp.maximum(labels, 0), real, smoothing)
            | {'counts_CC': counts_CC.astype(jnp.float32)}}


def _class_sums(logits_BC, batch: Batch, smoothing: float) -> Sums:
    """Of the label of each text or pair."""
    return _classes(logits_BC, batch['labels_B'], _rows(batch), smoothing)


def _tag_sums(logits_BSC, batch: Batch, smoothing: float) -> Sums:
    """Of the tag of each word, at its first token."""
    return _classes(logits_BSC, batch['labels_BS'], _words(batch), smoothing)


def _number_sums(outputs_B1, batch: Batch, smoothing: float) -> Sums:
    """The squared error of each number, and the moments that a correlation is made of."""
    x_B, y_B, real_B = outputs_B1[:, 0], batch['numbers_B'], _rows(batch)
    moments_6 = jnp.stack([jnp.where(real_B, each, 0.0).sum() for each in (
        jnp.ones_like(x_B), x_B, y_B, x_B * x_B, y_B * y_B, x_B * y_B)])
    return {MAIN: {'loss': jnp.where(real_B, (x_B - y_B) ** 2, 0.0).sum(), 'moments_6': moments_6}}


def _answer_sums(outputs_BS2, batch: Batch, smoothing: float) -> Sums:
    """The mean of the losses of the first and the last token; right where both are."""
    logits_B2S = answer_logits(outputs_BS2, batch['types_BS'])
    labels_B2, real_B = batch['labels_B2'], _rows(batch)
    sums = term(logits_B2S, labels_B2, real_B[:, None], 0.0)
    right_B = (logits_B2S.argmax(-1) == labels_B2).all(-1)
    return {MAIN: {'loss': sums['loss'] / 2, 'nll': sums['nll'] / 2,
                   'correct': count(right_B & real_B)}}


def class_scores(sums: Sums) -> dict[str, float]:
    """'macro_f1' over the classes that occur, and 'matthews' (Gorodkin 2004)."""
    counts_CC = np.asarray(sums[MAIN]['counts_CC'], np.float64)
    right_C, true_C, guessed_C = np.diag(counts_CC), counts_CC.sum(1), counts_CC.sum(0)
    occurs_C = true_C + guessed_C > 0
    f1_C = 2 * right_C[occurs_C] / (true_C + guessed_C)[occurs_C]
    total = counts_CC.sum()
    spread = (total**2 - (true_C**2).sum()) * (total**2 - (guessed_C**2).sum())
    covariance = right_C.sum() * total - (true_C * guessed_C).sum()
    return {'macro_f1': float(f1_C.mean()) if len(f1_C) else 0.0,
            'matthews': float(covariance / np.sqrt(spread)) if spread > 0 else 0.0}


def number_scores(sums: Sums) -> dict[str, float]:
    """'pearson', 0 where one side does not vary."""
    n, x, y, xx, yy, xy = np.asarray(sums[MAIN]['moments_6'], np.float64)
    spread = (n * xx - x * x) * (n * yy - y * y)
    return {'pearson': float((n * xy - x * y) / np.sqrt(spread)) if spread > 0 else 0.0}


def _head(real: Callable, sums: Callable, scores: Callable = lambda sums: {}) -> Task:
    """A task whose one term counts what is real."""
    return Task(_inputs, real, lambda batch: {MAIN: count(real(batch))}, sums, scores)


HEADS = {'classify': _head(_rows, _class_sums, class_scores),
         'regress': _head(_rows, _number_sums, number_scores),
         'tag': _head(_words, _tag_sums, class_scores),
         'answer': _head(_rows, _answer_sums)}
