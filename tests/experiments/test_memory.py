"""A CPU's working memory is made once or twice, not at every step."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = Path('/sys/kernel/mm/transparent_hugepage/enabled')
STEPS = 20
MIB = 64  # of working memory, which is more than glibc keeps by itself
SCRIPT = f'''
import resource, sys
from experiments import cli
import jax
if sys.argv[1:] == ['kept']:
    cli.keep_memory()

@jax.jit
def step(x):  # the loop works on a copy of x
    return jax.lax.fori_loop(0, 2, lambda i, y: y * i, x).sum()

x = jax.numpy.ones({MIB} * 2**18)
for _ in range(2):
    step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({STEPS}):
    step(x).block_until_ready()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
'''


def made(environment, *arguments) -> float:
    """Bytes of the pages that were made in the later steps, per step."""
    done = subprocess.run([sys.executable, '-c', SCRIPT, *arguments], env=environment, text=True,
                          capture_output=True, check=True)
    return int(done.stdout) / STEPS


@pytest.mark.skipif('glibc' not in (os.confstr('CS_GNU_LIBC_VERSION') or ''), reason='needs glibc')
@pytest.mark.skipif('[always]' in PAGES.read_text() if PAGES.exists() else True,
                    reason='one fault makes a huge page, of which many are saved already')
def test_pages_of_the_working_memory_are_made_once(environment):
    plain = {name: value for name, value in environment.items() if name != 'GLIBC_TUNABLES'}
    assert made(plain) > 0.9 * MIB * 2**20
    assert made(plain, 'kept') < 0.15 * MIB * 2**20  # the heap may grow once or twice
