"""Timing several ways of doing the same work against each other, and where it was done."""

import importlib.metadata
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable

from xformer.console import counting
from xformer.train.folder import commit_of_code, cpus, processor

WARM_UP = 2  # rounds that are run but not counted
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch', 'transformers',
            'sentence_transformers')


def alternate(works: dict[str, Callable[[], None]], rounds: int,
              title: str) -> list[dict[str, float]]:
    """Run all in turn: the seconds of each, one row a round, in the order in which they ran.

    Another one goes first in every round, so that none always finds the machine warm or
    throttled. A function returns when its work is done, not merely dispatched.
    """
    names, rows = list(works), []
    with counting(title, (WARM_UP + rounds) * len(names)) as show:
        for turn in range(WARM_UP + rounds):
            first, seconds = turn % len(names), {}
            for name in names[first:] + names[:first]:
                start = time.perf_counter()
                works[name]()
                seconds[name] = round(time.perf_counter() - start, 6)
                show(turn * len(names) + len(seconds))
            rows.append(seconds)
    return rows[WARM_UP:]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Least, median and greatest, to six significant digits."""
    values = list(values)
    return {name: float(f'{of(values):.6g}')
            for name, of in (('min', min), ('median', statistics.median), ('max', max))}


def machine() -> dict:
    """Where a measurement was made, by which versions, and how busy the machine already was."""
    return {
        'cpu': processor(),
        'cpus': cpus(),
        'load_average': round(os.getloadavg()[0], 2),
        'platform': platform.platform(),
        'python': platform.python_version(),
        'packages': {name: importlib.metadata.version(name) for name in PACKAGES
                     if importlib.util.find_spec(name)},
        'commit': commit_of_code(),
    }
