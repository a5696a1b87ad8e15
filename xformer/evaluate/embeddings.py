"""Texts as vectors, from a trained model's hidden states; their neighbours, clusters and purity."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from xformer.compiled import Compilations
from xformer.config import Config, UserError
from xformer.data.objectives.rows import padded
from xformer.data.packing import PackedBatch, packed_batches, places
from xformer.evaluate.inputs import Text, segments
from xformer.nn.masks import Packing

BATCH_TOKENS = 4096  # about as many are embedded at once


class Embedder:
    """Vectors of any number of texts, for as many calls as are wanted: shapes are few whatever the
    texts, and what is compiled for one call serves the next.

    A layer's features are its hidden states through the final norm, where there is one; those of
    a seq2seq model are its encoder's. Special tokens count, but for BOS in a decoder, which is the
    same for every text. Texts share rows without seeing each other: a text's embedding does not
    depend on its batch.
    """

    def __init__(self, model: nn.Module, config: Config, params, pool: str,
                 compilations: Compilations, batch_tokens: int = BATCH_TOKENS, first: int = 0):
        self._first = first
        self._model, self._config, self._params, self._pool = model, config, params, pool
        self._batch_tokens = batch_tokens
        self._embed = compilations.wrap('embed', jax.jit(self._embedded))

    def __call__(self, rows: Sequence[Text],
                 progress: Callable[[int], None] = lambda done: None) -> np.ndarray:
        """embeddings_ND, float32, of ids as `encode_texts` gives them; D is 4·d_model for last4."""
        model = self._config.model
        embeddings_ND = np.zeros(
            (len(rows), model.d_model * (4 if self._pool == 'last4' else 1)), np.float32)
        done = 0
        for batch in packed_batches([len(ids) for ids in rows], self._batch_tokens):
            texts = [rows[text] for text in batch.texts_N]
            found_BGD = self._embed(self._params, *self._arrays(batch, texts))
            embeddings_ND[batch.texts_N] = np.asarray(found_BGD)[batch.row_N, batch.place_N]
            done += len(texts)
            progress(done)
        return embeddings_ND

    def _arrays(self, batch: PackedBatch, texts: list[Text]) -> list[np.ndarray]:
        """ids_BT, segments_BT, positions_BT, and of an encoder types_BT."""
        model = self._config.model
        ids_NS, lengths_N = padded(texts, (len(texts), max(map(len, texts))), model.pad_id)
        numbers_NS = np.broadcast_to(batch.place_N[:, None] + 1, ids_NS.shape)
        columns_NS = np.broadcast_to(np.arange(ids_NS.shape[1]), ids_NS.shape)
        values = [(ids_NS, model.pad_id), (numbers_NS, 0), (columns_NS, 0)]
        if model.family == 'encoder':
            values.append((segments(texts, ids_NS.shape, model), 0))
        return [batch.laid_out(values_NS, lengths_N, fill) for values_NS, fill in values]

    def _embedded(self, params, ids_BT, segments_BT, positions_BT, *types_BT):
        packing = Packing(segments_BT, positions_BT)
        decoder = self._config.model.family == 'decoder'
        inputs = (ids_BT,) if decoder else (ids_BT, None, *types_BT)
        features_LBTD = self._model.apply({'params': params}, *inputs, packing=packing,
                                          method='features')
        return pooled(features_LBTD, packing, self._first, places(ids_BT.shape[1]), self._pool)


def pooled(features_LBTD: jax.Array, packing: Packing, first: int, texts: int,
           pool: str) -> jax.Array:
    """embeddings_BGD, float32, of the first `texts` texts of each row, from their tokens at
    positions ≥ first; padding never counts, and where there is no text is noise.

    mean, max   over the tokens, of the last layer
    cls         the last layer at the first token (Devlin et al. 2019: [CLS])
    last4       of the last four layers side by side the mean over the tokens, 4·D wide (the best
                of the features in Devlin et al. 2019, section 5.3)
    """
    layers = features_LBTD[-4:] if pool == 'last4' else features_LBTD[-1:]
    x_BTD = jnp.concatenate(layers.astype(jnp.float32), axis=-1)
    own_BGT = packing.segments_BT[:, None] == jnp.arange(1, texts + 1)[None, :, None]
    own_BGT &= packing.positions_BT[:, None] >= first
    if pool == 'cls':
        return jnp.take_along_axis(x_BTD, own_BGT.argmax(axis=2)[..., None], axis=1)
    if pool == 'max':
        return jnp.where(own_BGT[..., None], x_BTD[:, None], -jnp.inf).max(axis=2)
    total_BGD = jnp.einsum('BGT,BTD->BGD', own_BGT.astype(jnp.float32), x_BTD, precision='highest')
    return total_BGD / jnp.maximum(own_BGT.sum(axis=2), 1)[..., None]


def unit(embeddings_ND: np.ndarray) -> np.ndarray:
    """Each row divided by its length, so that products are cosines; a row of zeros stays."""
    norms_N1 = np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    return embeddings_ND / np.where(norms_N1 == 0, 1, norms_N1)


def nearest(query_D: np.ndarray, embeddings_ND: np.ndarray, count: int) -> list[tuple[int, float]]:
    """(index, cosine) of the most similar rows, best first; of equals the earlier."""
    cosines_N = unit(embeddings_ND) @ unit(query_D[None])[0]
    return [(int(i), float(cosines_N[i])) for i in np.argsort(-cosines_N, kind='stable')[:count]]


def neighbour_accuracy(embeddings_ND: np.ndarray, labels: Sequence[str]) -> float:
    """Share of rows whose most similar other row (by cosine) has their label: leave one out.

    Raises ValueError for fewer than two rows.
    """
    if len(labels) < 2:
        raise ValueError('one row alone has no neighbour')
    unit_ND, names_N = unit(embeddings_ND), np.asarray(labels)
    right = 0
    for start in range(0, len(unit_ND), 1024):  # N² similarities at once could be too many
        cosines_XN = unit_ND[start:start + 1024] @ unit_ND.T
        own_X = np.arange(len(cosines_XN))
        cosines_XN[own_X, start + own_X] = -np.inf
        right += (names_N[cosines_XN.argmax(axis=1)] == names_N[start + own_X]).sum()
    return float(right / len(unit_ND))


def clustered(embeddings_ND: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The cluster, 0 to count - 1, of each row: k-means of the unit vectors, the best of ten starts
    (k-means++; Arthur & Vassilvitskii 2007). Raises UserError for fewer different rows.
    """
    from sklearn.cluster import KMeans
    unit_ND = unit(embeddings_ND)
    different = len(np.unique(unit_ND, axis=0))
    if different < count:
        raise UserError(f'{count} clusters need as many different embeddings; the input has '
                        f'{different}: ask for fewer')
    return KMeans(count, n_init=10, random_state=seed).fit_predict(unit_ND)


def purity(clusters: Sequence[int], labels: Sequence[str]) -> float:
    """Share of rows with the most frequent label of their cluster (Manning et al. 2008, 16.3)."""
    names, numbers_N = np.unique(np.asarray(labels), return_inverse=True)
    counts_CN = np.zeros((max(clusters) + 1, len(names)), int)
    np.add.at(counts_CN, (np.asarray(clusters), numbers_N), 1)
    return float(counts_CN.max(axis=1).sum() / len(numbers_N))


def most_frequent(labels: Sequence[str]) -> float:
    """Share of the most frequent label: the floor of purity and of any guess."""
    return float(np.unique(np.asarray(labels), return_counts=True)[1].max() / len(labels))
