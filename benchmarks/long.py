"""Suite long: causal attention alone, forward and backward, from 1,024 to 32,768 tokens.

One row, 4 heads of 64, float32, against PyTorch's scaled_dot_product_attention. Memory is what a
process of its own takes beyond inputs (most private memory while it computes), and of ours also
what XLA has reserved for intermediate values; `growth` is the power of the length with which the
latter grows from half the greatest length, 1 for linear.

    python -m benchmarks.long xformer 8192     the memory of one side, in MiB, as JSON
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

import jax
import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.parity import announce, check_close
from benchmarks.prepare_memory import private_mb, watched
from benchmarks.results import OURS, compared, measured
from benchmarks.timing import cpus
from experiments import cli
from xformer.console import say
from xformer.nn.backends import attend
from xformer.nn.masks import Mask

LENGTHS = [1024 << power for power in range(6)]
HEADS, WIDTH = 4, 64
BACKEND = 'blockwise'
BARS = {8192: 0.6}
GROWTH = 1.1
TOLERANCE = 1e-4  # relative
MEMORY_SECONDS = 0.5  # of computing, in which memory is looked at 50 times a second


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The cases of the suite by length. Raises RuntimeError where outputs or gradients differ."""
    torch.set_num_threads(cpus())
    cases, reserved = {}, {}
    for length in LENGTHS:
        reserved[length] = ours(length)[1]
        title = f'{length:,} tokens'
        if reserved[length] > 0.8 * available_mib():
            say(f'{title}: left out, {BACKEND} needs {reserved[length]:,.0f} MiB')
            continue
        cases[title] = compare_attention(length, peers, repeats, title)
        for side in (OURS, *peers):
            cases[f'{title}, memory of {side}'] = measured([memory(side, length)], 'MiB', None)
    cases |= {f'{length:,} tokens, reserved by {BACKEND}': measured([size], 'MiB', None)
              for length, size in reserved.items()}
    growth = math.log2(reserved[LENGTHS[-1]] / reserved[LENGTHS[-2]])
    return cases | {f'growth of {BACKEND}': measured([round(growth, 3)], 'power', GROWTH)}


def compare_attention(length: int, peers: Iterable[str], rounds: int, title: str) -> dict:
    """The case of one length."""
    announce(title)
    works = {OURS: ours(length)[0]} | {peer: sdpa(length) for peer in peers}
    expected = works[OURS]()
    names = ('output', 'query gradient', 'key gradient', 'value gradient')
    differences = {peer: {name: check_close(f'{name} of {peer}', a, b, TOLERANCE)
                          for name, a, b in zip(names, expected, works[peer]())}
                   for peer in peers}
    return {'backend': BACKEND, 'parity': differences} | compared(
        works, length, 'tokens/s', BARS.get(length), rounds, title)


def ours(length: int) -> tuple[Callable[[], list], float]:
    """(() -> output and gradients, MiB that XLA reserves for what is in between)."""
    def step(q, k, v, g):
        out, back = jax.vjp(partial(attend, BACKEND, mask=Mask(causal=True)), q, k, v)
        return out, *back(g)

    inputs = [jax.numpy.asarray(each) for each in random_inputs(length)]
    compiled = jax.jit(step).lower(*inputs).compile()
    return (lambda: jax.block_until_ready(compiled(*inputs)),
            compiled.memory_analysis().temp_size_in_bytes / 2**20)


def sdpa(length: int) -> Callable[[], list]:
    """() -> the same of PyTorch's function, in our layout [B, T, N, H]."""
    *inputs, g = (torch.from_numpy(each).transpose(1, 2) for each in random_inputs(length))
    inputs = [each.requires_grad_() for each in inputs]

    def step():
        out = F.scaled_dot_product_attention(*inputs, is_causal=True)
        gradients = torch.autograd.grad(out, inputs, g)
        return [each.detach().transpose(1, 2) for each in (out, *gradients)]
    return step


def random_inputs(length: int) -> list[np.ndarray]:
    """q, k, v and the gradient of the output, each [1, T, N, H]."""
    random = np.random.default_rng(0)
    return [random.standard_normal((1, length, HEADS, WIDTH), np.float32) for _ in range(4)]


def memory(side: str, length: int) -> float:
    """MiB that computing takes in a process of its own."""
    done = subprocess.run([sys.executable, '-m', 'benchmarks.long', side, str(length)],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def own_memory(side: str, length: int) -> float:
    """MiB of private memory that computing takes in this process, beyond what it has already."""
    torch.set_num_threads(cpus())
    make = (lambda length: ours(length)[0]) if side == OURS else sdpa
    make(64)()  # takes what the libraries keep for good
    work = make(length)
    before, until = private_mb(), time.perf_counter() + MEMORY_SECONDS

    def repeatedly() -> None:
        work()
        while time.perf_counter() < until:
            work()
    return round(watched(repeatedly)[1]['peak_mb'] - before, 1)


def available_mib() -> float:
    """Memory of this machine that is free now."""
    return os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**20


if __name__ == '__main__':
    jax.config.update('jax_platforms', 'cpu')
    if sys.argv[1] == OURS:
        cli.keep_memory()
    print(json.dumps(own_memory(sys.argv[1], int(sys.argv[2]))))
