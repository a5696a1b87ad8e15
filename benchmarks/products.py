"""Suite products: the matrix products of a training step alone, XLA's against PyTorch's.

Those of the linear maps of train-gpt, forward and both gradients. A step can hardly have a better
ratio than its products have: nothing is asked here, it says what limits train-gpt.
"""

from collections.abc import Iterable

import jax
import torch

from benchmarks.parity import announce, check_close
from benchmarks.results import OURS, compared
from benchmarks.timing import cpus
from benchmarks.train_gpt import SIZES

TOLERANCE = 1e-5  # relative


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The cases of the suite by size. Raises RuntimeError if the two sides differ."""
    torch.set_num_threads(cpus())
    return {title: compare_products(layers, width, context * rows, peers, repeats, title)
            for title, (layers, width, _, context, rows) in SIZES.items()}


def compare_products(layers: int, width: int, tokens: int, peers: Iterable[str], repeats: int,
                     title: str) -> dict:
    """A round has the products of all layers: queries, keys and values, output, feed-forward."""
    announce(title)
    maps = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    operands = [tuple(jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(
        [(tokens, k), (k, n), (tokens, n)])) for k, n in maps]
    copied = jax.tree.map(lambda x: torch.from_numpy(jax.device_get(x).copy()), operands)
    compiled = jax.jit(products)
    difference = max(check_close('a product', ours, theirs, TOLERANCE)
                     for ours, theirs in zip(compiled(operands), products(copied)))

    def ours() -> None:
        jax.block_until_ready([compiled(operands) for _ in range(layers)])

    def theirs() -> None:
        for _ in range(layers):
            products(copied)

    flops = layers * sum(6 * tokens * k * n for k, n in maps)
    return {'parity': {peer: {'products': difference} for peer in peers}} | compared(
        {OURS: ours} | dict.fromkeys(peers, theirs), flops / 1e9, 'GFLOP/s', None, repeats, title)


def products(operands):
    """x w, and of its gradient g the products g wᵀ and xᵀ g."""
    return [product for x_TK, w_KN, g_TN in operands
            for product in (x_TK @ w_KN, g_TN @ w_KN.T, x_TK.T @ g_TN)]
