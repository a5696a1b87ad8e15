"""Small stores and tokenizers in memory, for the tests of the objectives."""

from types import SimpleNamespace

import numpy as np

from xformer.config import Config, override
from xformer.data.objectives import make_objective
from xformer.data.store import Column, TokenStore
from xformer.data.tokenizers import Special


def text_store(documents, first: int, special: Special) -> TokenStore:
    """A store of documents given as sentence lengths; token i of the stream has id first + i."""
    sizes = [size + (i == len(document) - 1) for document in documents
             for i, size in enumerate(document)]
    offsets = np.cumsum([0, *sizes])
    starts = np.cumsum([0, *map(len, documents)])
    ids = first + np.arange(offsets[-1])
    ids[offsets[starts[1:]] - 1] = special.eos
    return TokenStore({'text': Column(ids, offsets)}, starts, manifest={})


def pair_store(pairs, special: Special) -> TokenStore:
    """A store of pairs of lists of ids."""
    columns = {}
    for side, texts in zip(('source', 'target'), zip(*pairs)):
        ids = [[*text, special.eos] for text in texts]
        columns[side] = Column(np.concatenate(ids), np.cumsum([0, *map(len, ids)]))
    return TokenStore(columns, None, manifest={})


def objective_of(name: str, store: TokenStore, special: Special, starts_V: np.ndarray, **options):
    """The objective `name` over a store, with options of data (and model.max_length)."""
    config = override(Config(), {'data.objective': name, **{
        'model.max_length' if option == 'max_length' else f'data.{option}': value
        for option, value in options.items()}})
    source = SimpleNamespace(word_starts=lambda: starts_V)
    return make_objective(config, store, SimpleNamespace(
        special=special, vocab_size=len(starts_V), source=source))
