"""Our jitted functions, compiled ahead of time: once per shape, counted and timed.

A call with shapes not seen before compiles. Nothing else that a command does over and over ever
compiles, so `Compilations.rows` tells whether a run compiles again and again.
"""

import time
from collections.abc import Callable
from typing import Any

import jax


class Compilations:
    """The compilations of one process, in order."""

    def __init__(self):
        self.rows: list[dict[str, Any]] = []  # {'function', 'shapes', 'seconds'}

    @property
    def seconds(self) -> float:
        return sum(row['seconds'] for row in self.rows)

    def wrap(self, name: str, jitted: Callable) -> Callable:
        """`jitted` (a result of jax.jit or jax.pmap) with its compilations recorded."""
        executables: dict[Any, Callable] = {}

        def call(*args):
            leaves, structure = jax.tree.flatten(args)
            signature = (structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
            if signature not in executables:
                executables[signature] = self._compile(name, jitted, args)
            return executables[signature](*args)

        return call

    def _compile(self, name: str, jitted: Callable, args: tuple) -> Callable:
        start = time.perf_counter()
        executable = jitted.lower(*args).compile()
        self.rows.append({'function': name, 'shapes': _shapes(args),
                          'seconds': round(time.perf_counter() - start, 3)})
        return executable


def _shapes(args: tuple) -> list[str]:
    """Shapes of the arrays that tell one compilation of a function from another: small trees'."""
    trees = [jax.tree.leaves(arg) for arg in args]
    return list(dict.fromkeys('x'.join(map(str, leaf.shape)) for leaves in trees
                              if len(leaves) <= 8 for leaf in leaves if leaf.ndim > 1))
