"""Where each array of ours lies in Hugging Face's tensors: a table, read both ways.

A table maps paths of ours ('encoder/layers/feed_forward/up/kernel') to places among theirs
('encoder.layer.*.intermediate.dense.weight', turned). A `*` counts the layers, which are stacked
in ours.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from xformer.config import UserError


class Place(NamedTuple):
    """A tensor of theirs that holds an array of ours."""

    name: str
    turned: bool = False  # theirs is [out, in], ours [in, out]
    part: int = 0  # of `parts` that theirs joins along its last axis
    parts: int = 1
    skip: int = 0  # rows of theirs that ours is without
    rows: int | None = None  # of theirs after these, that are taken; all
    row: bool = False  # theirs is [1, n], ours [n]
    sigmoid: bool = False  # theirs is one output, ours two, of which the first is 0: a softmax

    def ours(self, theirs: np.ndarray) -> np.ndarray:
        """The array of ours, a view but of a `sigmoid`. Raises ValueError for shapes that do not
        allow it."""
        array = theirs.reshape(-1) if self.row else theirs.T if self.turned else theirs
        if self.sigmoid:
            return np.concatenate([np.zeros_like(array), array], axis=-1)
        return np.split(array[self.skip:][:self.rows], self.parts, axis=-1)[self.part]

    def theirs(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `ours`, but for the other parts; skipped rows are zero."""
        if self.skip:
            array = np.concatenate([np.zeros((self.skip, *array.shape[1:]), array.dtype), array])
        if self.sigmoid:
            array = array[..., 1:] - array[..., :1]
        return array[None] if self.row else array.T if self.turned else array


Table = dict[str, Place]


def linear(ours: str, theirs: str) -> Table:
    """torch.nn.Linear."""
    return {f'{ours}/kernel': Place(f'{theirs}.weight', turned=True),
            f'{ours}/bias': Place(f'{theirs}.bias')}


def sigmoid(ours: str, theirs: str) -> Table:
    """torch.nn.Linear to one output, through a sigmoid."""
    return {path: place._replace(sigmoid=True) for path, place in linear(ours, theirs).items()}


def conv1d(ours: str, theirs: str, part: int = 0, parts: int = 1) -> Table:
    """GPT-2's linear map, laid out as ours; several may be joined in one."""
    return {f'{ours}/kernel': Place(f'{theirs}.weight', part=part, parts=parts),
            f'{ours}/bias': Place(f'{theirs}.bias', part=part, parts=parts)}


def norm(ours: str, theirs: str) -> Table:
    """LayerNorm or RMSNorm."""
    return {f'{ours}/scale': Place(f'{theirs}.weight'), f'{ours}/bias': Place(f'{theirs}.bias')}


def embedding(ours: str, theirs: str, skip: int = 0, rows: int | None = None) -> Table:
    """A table of rows."""
    return {ours: Place(f'{theirs}.weight', skip=skip, rows=rows)}


def within(ours: str, theirs: str, table: Table) -> Table:
    """The table of a part of the model, under the names of that part."""
    return {f'{ours}/{path}': place._replace(name=f'{theirs}.{place.name}')
            for path, place in table.items()}


def by_path(tree: Mapping) -> dict[str, Any]:
    """{'encoder/layers/...': leaf} of nested dictionaries."""
    return {'/'.join((name, *path)): leaf for name, part in tree.items()
            for path, leaf in ([((below,), leaf) for below, leaf in by_path(part).items()]
                               if isinstance(part, Mapping) else [((), part)])}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `by_path`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split('/')
        part = tree
        for parent in parents:
            part = part.setdefault(parent, {})
        part[name] = leaf
    return tree


def read_arrays(table: Table, shapes: Mapping[str, tuple[int, ...]],
                tensor: Callable[[str], np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """(path, float32 array) for every path of ours, of the tensors that `tensor` reads by name.

    Holds one of ours and, if `tensor` copies, one of theirs at a time, where the caller lets go of
    the one before. Raises UserError for a shape that does not fit.
    """
    for path, shape in shapes.items():
        yield path, _filled(shape, table[path], path, tensor)  # no name here holds the array


def _filled(shape: tuple[int, ...], place: Place, path: str,
            tensor: Callable[[str], np.ndarray]) -> np.ndarray:
    array = np.empty(shape, np.float32)
    for name, into in slots(place, path, array):
        theirs = tensor(name)
        try:
            found = place.ours(theirs)
        except ValueError:
            found = theirs
        if found.shape != into.shape:
            raise UserError(f'{name} has the shape {list(theirs.shape)}, which does not fit '
                            f'{path} of {list(into.shape)}; is config.json of another model?')
        into[...] = found
    return array


def write_tensors(table: Table, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of theirs, by name, of all arrays of ours by path."""
    parts: dict[str, dict[int, np.ndarray]] = {}
    for path, array in params.items():
        for name, each in slots(table[path], path, np.asarray(array)):
            parts.setdefault(name, {})[table[path].part] = table[path].theirs(each)
    return {name: np.ascontiguousarray(np.concatenate([found[i] for i in sorted(found)], axis=-1))
            for name, found in parts.items()}


def slots(place: Place, path: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(name of theirs, the part of our array that it holds): one for each layer, if it has layers.
    """
    if '/layers/' not in f'/{path}':
        return [(place.name, array)]
    return [(place.name.replace('*', str(layer)), array[layer]) for layer in range(len(array))]
