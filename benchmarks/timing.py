"""Timing two ways of doing the same work against each other, and where it was done."""

import importlib.metadata
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from xformer.train.folder import commit_of_code

WARM_UP = 2  # pairs that are run but not counted
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch')


def alternate(ours: Callable[[], None], peer: Callable[[], None], pairs: int) -> list[dict]:
    """Run both in turn: [{'first', 'ours_seconds', 'peer_seconds'}, ...], one row a pair.

    Who goes first alternates, so that neither always finds the machine warm or throttled. A
    function returns when its work is done, not merely dispatched.
    """
    rows = []
    for pair in range(WARM_UP + pairs):
        seconds = {}
        order = [('ours', ours), ('peer', peer)][::-1 if pair % 2 else 1]
        for name, work in order:
            start = time.perf_counter()
            work()
            seconds[name] = time.perf_counter() - start
        rows.append({'first': order[0][0], 'ours_seconds': round(seconds['ours'], 5),
                     'peer_seconds': round(seconds['peer'], 5)})
    return rows[WARM_UP:]


def spread(values: Iterable[float], digits: int) -> dict[str, float]:
    values = list(values)
    return {name: round(of(values), digits)
            for name, of in (('min', min), ('median', statistics.median), ('max', max))}


def cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def machine() -> dict:
    """Where a measurement was made, by which versions, and how busy the machine already was."""
    return {
        'cpu': _cpu_model(),
        'cpus': cpus(),
        'load_average': round(os.getloadavg()[0], 2),
        'platform': platform.platform(),
        'glibc_tunables': os.environ.get('GLIBC_TUNABLES', ''),
        'python': platform.python_version(),
        'packages': {name: importlib.metadata.version(name) for name in PACKAGES},
        'commit': commit_of_code(),
    }


def _cpu_model() -> str:
    cpuinfo = Path('/proc/cpuinfo')
    named = re.search(r'model name\s*: (.+)', cpuinfo.read_text() if cpuinfo.exists() else '')
    return named[1] if named else platform.processor() or platform.machine()
