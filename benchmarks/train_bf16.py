"""Suite train-bf16: train-gpt in bfloat16, parameters in float32, against PyTorch's autocast.

A round has one batch only: PyTorch takes minutes for it on a CPU without instructions for bfloat16.
"""

from functools import partial

from benchmarks import train_gpt

measure = partial(train_gpt.measure, dtype='bfloat16', batches=1)
