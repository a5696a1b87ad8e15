"""Documents cut into chunks that a model can take, found by arithmetic instead of stored."""

from dataclasses import dataclass

import numpy as np

from xformer.config import UserError
from xformer.data.objectives.rows import ragged
from xformer.data.store import TokenStore

BLOCK = 2**18  # documents or chunks looked at together, to bound the memory


@dataclass(frozen=True, eq=False)
class Chunks:
    """The text of every document, its EOS left out, in the fewest pieces of nearly equal length.

    The memory taken is that of `first_chunk`; all other arrays are views of the store.
    """

    ids: np.ndarray  # the stream: documents end to end
    sentences: np.ndarray  # sentence s is ids[sentences[s]:sentences[s + 1]]
    documents: np.ndarray  # document d is the sentences documents[d]:documents[d + 1]
    first_chunk: np.ndarray  # int64: of document d are the chunks first_chunk[d]:first_chunk[d + 1]

    def __len__(self) -> int:
        return int(self.first_chunk[-1])

    def document(self, chunks_N: np.ndarray) -> np.ndarray:
        """The document of each chunk."""
        return np.searchsorted(self.first_chunk, chunks_N, side='right') - 1

    def text(self, documents_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and stop of each document in the stream, its EOS left out."""
        return (self.sentences[self.documents[documents_N]],
                self.sentences[self.documents[documents_N + 1]] - 1)

    def bounds(self, chunks_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Start and stop of each chunk in the stream."""
        chunks_N = np.asarray(chunks_N, np.int64)
        documents_N = self.document(chunks_N)
        starts_N, stops_N = self.text(documents_N)
        lengths_N, first_N = stops_N - starts_N, self.first_chunk[documents_N]
        pieces_N, piece_N = self.first_chunk[documents_N + 1] - first_N, chunks_N - first_N
        return (starts_N + lengths_N * piece_N // pieces_N,
                starts_N + lengths_N * (piece_N + 1) // pieces_N)

    def sizes(self, start: int, stop: int) -> np.ndarray:
        """Tokens in the chunks start <= c < stop, int64."""
        starts_N, stops_N = self.bounds(np.arange(start, stop))
        return stops_N - starts_N

    def inner_sentences(self, starts_N: np.ndarray,
                        stops_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sentences first <= s < last that begin inside start < position < stop."""
        first_N = np.searchsorted(self.sentences, starts_N, side='right')
        return first_N, np.searchsorted(self.sentences, stops_N, side='left')

    def sentence_start(self, positions_N: np.ndarray) -> np.ndarray:
        """Where the sentence of each position begins."""
        return self.sentences[np.searchsorted(self.sentences, positions_N, side='right') - 1]

    def sentence_numbers(self, starts_N: np.ndarray, stops_N: np.ndarray,
                         width: int) -> np.ndarray:
        """(N, width): the number of each token's sentence within its chunk, from 0."""
        row, sentence = ragged(*self.inner_sentences(starts_N, stops_N))
        begins = np.zeros((len(starts_N), width), np.int64)
        begins[row, self.sentences[sentence] - starts_N[row]] = 1
        return begins.cumsum(axis=1)


def cut_documents(store: TokenStore, size: int, least: int = 1) -> Chunks:
    """Chunks of at most `size` tokens of the documents that have `least` tokens or more.

    Raises UserError when there is no such document, or no room.
    """
    if size < least:
        raise UserError('data.sequence_length (or model.max_length) has no room for a text '
                        f'beside the special tokens; give at least {least - size} more')
    column = store.columns['text']
    sentences, documents = np.asarray(column.offsets), np.asarray(store.documents)
    first_chunk = np.zeros(len(documents), np.int64)
    for d in range(0, len(documents) - 1, BLOCK):
        tokens = np.diff(sentences[documents[d:d + BLOCK + 1]]) - 1
        first_chunk[d + 1:d + 1 + len(tokens)] = np.where(tokens >= least, -(-tokens // size), 0)
    np.cumsum(first_chunk, out=first_chunk)
    if not first_chunk[-1]:
        raise UserError(f'the data has no text of {least} or more tokens; give longer texts')
    return Chunks(np.asarray(column.ids), sentences, documents, first_chunk)
