"""Attention Is All You Need, big model, WMT14 English to German (Vaswani et al. 2017).

As aiayn_base_wmt14, with 1,024 wide layers, 16 heads, dropout 0.3 and 300,000 updates; the mean of
the last 20 checkpoints. Published: 28.4 BLEU on newstest2014, after 3.5 days on 8 P100 GPUs.

Needs a GPU or TPU, and WMT14's files from the internet; not run here.

    python -m experiments.train --config=aiayn_big_wmt14 --estimate
    python -m experiments.train --config=aiayn_big_wmt14
"""

from experiments.configs import aiayn_base_wmt14
from xformer.config import override
from xformer.presets import preset

CONFIG = override(preset('transformer-big', aiayn_base_wmt14.CONFIG), {
    'train.steps': 300_000, 'train.keep_last': 20})

VARIANTS = {}
