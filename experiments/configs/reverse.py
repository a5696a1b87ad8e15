"""Reverse: a sequence of letters backwards (the task of Joey NMT's tutorial).

Generated like `copy`, same model and recipe. Seed 0: 100 % of the test outputs exactly right, in
about 3 minutes on 2 CPU cores.

    python -m experiments.train --config=reverse
    python -m experiments.evaluate --model=runs/reverse --split=test
"""

from experiments.configs import copy
from xformer.config import override

CONFIG = override(copy.CONFIG, {'data.dataset': 'reverse'})

VARIANTS = copy.VARIANTS
