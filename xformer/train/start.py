"""What training begins with: parameters of another run, with its tokenizer and architecture."""

from collections import Counter
from typing import NamedTuple

import jax
import numpy as np

from xformer.data.tokenizers import Tokenizers


class Start(NamedTuple):
    """`origin` says which run and checkpoint, and what it was trained on; `objective` what its
    head learnt."""

    tokenizers: Tokenizers
    params: dict
    origin: dict[str, str]
    objective: str = ''

    def for_head(self, objective: str, labels: tuple[str, ...]) -> 'Start':
        """Without the head where its outputs stand for something else, whatever their number; the
        pooler of a head of tags is a layer of that head."""
        same = objective == 'answer' or labels == self.tokenizers.labels  # there they say nothing
        if objective == self.objective and same:
            return self
        params = without(self.params, 'head')
        if (objective == 'tag') != (self.objective == 'tag'):
            params['encoder'] = without(params['encoder'], 'pooler')
        return self._replace(params=params)


def without(tree: dict, name: str) -> dict:
    """A copy that lacks one part, if it has it."""
    return {each: part for each, part in tree.items() if each != name}


def merged(params: dict, given: dict) -> tuple[dict, list[tuple[str, str, int]]]:
    """`params` with those of `given` that have the same path and shape, laid out as before.

    Of a stack with more layers than `params` has, evenly spaced ones are taken (DistilBERT; Sanh
    et al. 2019, section 3).
    Also a table: (what, path, numbers) with what = 'loaded', 'new' (kept from `params`) or 'left'
    (of `given`, without a place), summed by the first two parts of the path.
    """
    there, numbers = dict(jax.tree_util.tree_leaves_with_path(given)), Counter()

    def choose(path, leaf):
        found = there.get(path)
        if found is not None and 'layers' in (part.key for part in path):
            spaced = np.arange(len(leaf)) * len(found) // len(leaf)
            found = found[spaced] if len(leaf) < len(found) else found
        if found is None or found.shape != leaf.shape:
            numbers['new', _group(path)] += leaf.size
            return leaf
        del there[path]
        numbers['loaded', _group(path)] += leaf.size
        return jax.device_put(found.astype(leaf.dtype), leaf.sharding)

    params = jax.tree_util.tree_map_with_path(choose, params)
    for path, leaf in there.items():
        numbers['left', _group(path)] += leaf.size
    return params, [(what, group, count) for (what, group), count in numbers.items()]


def _group(path) -> str:
    return '/'.join(part.key for part in path[:2])
