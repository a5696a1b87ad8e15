"""Suite train-bf16: train-gpt in bfloat16, parameters in float32, against PyTorch's autocast."""

from functools import partial

from benchmarks import train_gpt

measure = partial(train_gpt.measure, dtype='bfloat16')
