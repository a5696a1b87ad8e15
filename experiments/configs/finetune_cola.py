"""Is it English? Acceptability of sentences (CoLA; Warstadt et al. 2019): a label for a text.

The recipe of finetune_sst2 on 8,551 sentences, measured by Matthews' correlation on dev, in and
out of domain together (the test labels are not public). Always "acceptable" gives 0.

Seed 0: 8.6 (times 100), in 2 minutes on 2 CPU cores; published BERT-mini 0.0, BERT-base 52.1.

    python -m experiments.train --config=finetune_cola \\
        --config.train.init_from=runs/bert_mini_pretrain
    python -m experiments.evaluate --model=runs/finetune_cola
"""

from experiments.configs import finetune_sst2
from xformer.config import override

CONFIG = override(finetune_sst2.CONFIG, {
    'data.dataset': 'cola', 'train.best_by': 'dev/matthews:max'})

VARIANTS = finetune_sst2.VARIANTS
