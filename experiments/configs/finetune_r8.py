"""Topics of news (Reuters-21578, R8): one of eight labels for a text, cut at 128 tokens.

The recipe of finetune_sst2, three times as long, on 5,485 documents; dev is held out of them by
hash. Always "earn" is right in 49.5 % of test; TF-IDF of whole documents and a linear SVM in 97.4 %
(python -m benchmarks.baselines); here seed 0 in 93.2 %, seeds 0 to 2 in 92.6 % from scratch and
93.9 % from bert_mini_pretrain, in 2 to 4 minutes on 2 CPU cores. With few labels,
--config.data.per_label=20 keeps twenty documents of each.

    python -m experiments.train --config=finetune_r8 \\
        --config.train.init_from=runs/bert_mini_pretrain
    python -m experiments.evaluate --model=runs/finetune_r8 --split=test
"""

from experiments.configs import finetune_sst2
from xformer.config import override

CONFIG = override(finetune_sst2.CONFIG, {
    'data.dataset': 'reuters_r8', 'optim.warmup_steps': 180, 'train.steps': 1800,
    'train.eval_every': 120, 'train.save_every': 120})

VARIANTS = finetune_sst2.VARIANTS
