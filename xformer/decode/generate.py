"""From token ids of sources to token ids of outputs, batched by length."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from xformer.compiled import Compilations
from xformer.config import Config
from xformer.decode.search import beam_search, greedy
from xformer.models.seq2seq import Cache, Seq2Seq

EXTRA_LENGTH = 50  # longest output: source + 50 tokens (Vaswani et al. 2017, section 6.1)


class Output(NamedTuple):
    ids: list[int]  # the end token included where there is one
    score: float  # log-probability ÷ length penalty


def output_limit(config: Config, source_length):
    """Most tokens an output may have, for a source of that many tokens (a number or an array)."""
    most = config.decode.max_length or np.minimum(source_length + EXTRA_LENGTH,
                                                  config.model.max_length)
    return np.broadcast_to(most, np.shape(source_length))


def search(model: Seq2Seq, config: Config, params, source_BS, source_lengths_B, limits_B,
           max_length: int):
    """(ids_BKT, lengths_BK, scores_BK) of the configured search; jit this over `params` on."""
    beam_size = config.decode.beam_size

    def extend(ids_R1, cache):
        return model.apply({'params': params}, ids_R1, cache, method='extend')

    cache = model.apply({'params': params}, source_BS, source_lengths_B, beam_size, max_length,
                        method='start')
    if beam_size == 1:
        return greedy(extend, cache, limits_B, max_length, config)
    return beam_search(extend, _reorder, cache, limits_B, max_length, config)


def _reorder(cache: Cache, rows_R) -> Cache:
    """The cache with row r a copy of row rows_R[r]; the memory is shared and stays."""
    return cache.replace(layers=[
        layer.replace(k_BMKH=layer.k_BMKH[rows_R], v_BMKH=layer.v_BMKH[rows_R])
        for layer in cache.layers])


class Generator:
    """Decodes any number of sources with few compilations: shapes are powers of two."""

    def __init__(self, model: Seq2Seq, config: Config, params, compilations: Compilations,
                 batch_tokens: int = 4096):
        self._config, self._params = config, params
        self._source_tokens = batch_tokens // config.decode.beam_size
        self._search = {}
        self._make = lambda max_length: compilations.wrap('search', jax.jit(partial(
            search, model, config, max_length=max_length)))

    def __call__(self, sources: Sequence[Sequence[int]],
                 progress: Callable[[int], None] = lambda done: None) -> list[list[Output]]:
        """The n-best outputs of each source (token ids, end token included), in the order given."""
        outputs: list[list[Output]] = [[] for _ in sources]
        done = 0
        for indices, shape in batches_by_length([len(ids) for ids in sources],
                                                self._source_tokens):
            for index, best in zip(indices, self._decode([sources[i] for i in indices], shape)):
                outputs[index] = best
            done += len(indices)
            progress(done)
        return outputs

    def _decode(self, sources: list[Sequence[int]], shape: tuple[int, int]):
        rows, S = shape
        source_BS = np.full((rows, S), self._config.model.pad_id, np.int32)
        lengths_B = np.zeros(rows, np.int32)
        for row, ids in enumerate(sources):
            source_BS[row, :len(ids)] = ids
            lengths_B[row] = len(ids)
        limits_B = np.where(lengths_B > 0, output_limit(self._config, lengths_B), 0)
        max_length = int(output_limit(self._config, S))
        if max_length not in self._search:
            self._search[max_length] = self._make(max_length)
        ids_BKT, lengths_BK, scores_BK = jax.device_get(self._search[max_length](
            self._params, source_BS, lengths_B, limits_B.astype(np.int32)))
        for row in range(len(sources)):
            yield [Output(ids_BKT[row, k, :length].tolist(), float(scores_BK[row, k]))
                   for k, length in enumerate(lengths_BK[row]) if length > 0]


def batches_by_length(lengths: Sequence[int], batch_tokens: int
                      ) -> Iterator[tuple[list[int], tuple[int, int]]]:
    """(indices, (rows, S)) with S and rows powers of two, and rows·S ≤ batch_tokens if rows > 1.

    The longest come first, so that a batch too big for the memory fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        S = _power_of_two(lengths[order[0]], least=16)
        rows = 1 << max(batch_tokens // S, 1).bit_length() - 1
        rows = min(rows, _power_of_two(len(lengths)))
        yield order[:rows], (rows, S)
        order = order[rows:]


def _power_of_two(value: int, least: int = 1) -> int:
    return max(least, 1 << (max(value, 1) - 1).bit_length())
