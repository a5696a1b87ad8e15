"""Suite train-bf16: train-gpt in bfloat16, parameters in float32, against PyTorch's autocast.

On a CPU without instructions for bfloat16 PyTorch's products are so slow that a round has one batch
only, and sizes of which a step would take it PATIENCE seconds are left out.
"""

import time
from collections.abc import Iterable

import torch

from benchmarks import train_gpt
from benchmarks.timing import cpus
from xformer.console import say

PATIENCE = 60


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The cases of the suite by size. Raises RuntimeError if the two sides are not the same."""
    torch.set_num_threads(cpus())
    sizes = {}
    for title, size in train_gpt.SIZES.items():
        if (seconds := of_products(*size)) < PATIENCE:
            sizes[title] = size
        else:
            say(f"{title}: left out, PyTorch's products of bfloat16 alone would take {seconds:.0f} "
                's a step')
    return train_gpt.measure(repeats, peers, 'bfloat16', batches=1, sizes=sizes)


def of_products(layers: int, width: int, heads: int, context: int, rows: int) -> float:
    """Seconds that PyTorch takes for the linear maps of a step's blocks, forward and backward."""
    tokens = context * rows
    x_NI, kernel_IO = (torch.ones(shape, dtype=torch.bfloat16)
                       for shape in ((tokens, width), (width, 4 * width)))
    start = time.perf_counter()
    torch.matmul(x_NI, kernel_IO)
    return 3 * layers * 3 * (time.perf_counter() - start)  # a block has 12 · width² parameters
