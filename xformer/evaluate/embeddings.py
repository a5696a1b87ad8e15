"""Texts as vectors, from a trained model's hidden states; their neighbours, clusters and purity."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from xformer.compiled import Compilations
from xformer.config import Config, UserError
from xformer.data.objectives.rows import padded
from xformer.decode.generate import batches_by_length
from xformer.evaluate.inputs import segments

POOLS = ('mean', 'cls', 'max', 'last4')


def pooled(features_LBTD: jax.Array, first: int, lengths_B: jax.Array, pool: str) -> jax.Array:
    """embeddings_BD, float32, of tokens first ≤ t < length; padding never counts.

    mean, max   over the tokens, of the last layer
    cls         the last layer at the first token (Devlin et al. 2019: [CLS])
    last4       of the last four layers side by side the mean over the tokens, 4·D wide (the best
                of the features in Devlin et al. 2019, section 5.3)
    """
    if pool == 'cls':
        return features_LBTD[-1, :, 0].astype(jnp.float32)
    layers = features_LBTD[-4:] if pool == 'last4' else features_LBTD[-1:]
    x_BTD = jnp.concatenate(layers.astype(jnp.float32), axis=-1)
    at_T = jnp.arange(x_BTD.shape[1])[None]
    real_BT1 = ((at_T >= first) & (at_T < lengths_B[:, None]))[..., None]
    if pool == 'max':
        return jnp.where(real_BT1, x_BTD, -jnp.inf).max(axis=1)
    return jnp.where(real_BT1, x_BTD, 0).sum(axis=1) / jnp.maximum(real_BT1.sum(axis=1), 1)


def embed(rows: Sequence[Sequence[int]], model: nn.Module, config: Config, params, pool: str,
          compilations: Compilations, progress: Callable[[int], None] = lambda done: None,
          batch_tokens: int = 4096) -> np.ndarray:
    """embeddings_ND, float32, of ids as `encode_texts` gives them; D is 4·d_model for last4.

    A layer's features are its hidden states through the final norm, where there is one; those of
    a seq2seq model are its encoder's. Special tokens count, but for BOS in a decoder, which is the
    same for every text. Batched by length: a text's embedding does not depend on its batch.
    """
    decoder = config.model.family == 'decoder'

    def embed_batch(params, ids_BT, lengths_B, *types_BT):
        inputs = (ids_BT,) if decoder else (ids_BT, lengths_B, *types_BT)
        features_LBTD = model.apply({'params': params}, *inputs, method='features')
        return pooled(features_LBTD, int(decoder), lengths_B, pool)

    compiled = compilations.wrap('embed', jax.jit(embed_batch))
    embeddings_ND = np.zeros(
        (len(rows), config.model.d_model * (4 if pool == 'last4' else 1)), np.float32)
    done = 0
    for indices, (count, width) in batches_by_length([len(ids) for ids in rows], batch_tokens):
        shape = count, min(width, config.model.max_length)
        batch = padded([rows[i] for i in indices], shape, config.model.pad_id)
        if config.model.family == 'encoder':
            batch += (segments(*batch, config.model),)
        embeddings_ND[indices] = compiled(params, *batch)[:len(indices)]
        done += len(indices)
        progress(done)
    return embeddings_ND


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
