"""Strict arithmetic, four simulated devices, and a cache of its own for every test session."""

import os
from pathlib import Path

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
SHARED_DATA = Path(__file__).parents[2] / 'shared' / 'data'
if 'XFORMER_DATA' not in os.environ and SHARED_DATA.is_dir():
    os.environ['XFORMER_DATA'] = str(SHARED_DATA)

import jax  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_disable_most_optimizations', True)  # LLVM would take most of the time


@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
    """$XFORMER_CACHE for this session, so that nothing of the user's is read or written."""
    folder = tmp_path_factory.mktemp('cache')
    os.environ['XFORMER_CACHE'] = str(folder)
    return folder


@pytest.fixture(scope='module', autouse=True)
def compiled_programs():
    """Those of a module are dropped after it: all together they take gigabytes."""
    yield
    jax.clear_caches()
