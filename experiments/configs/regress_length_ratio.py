"""How much longer will its translation be? A number for a text, learnt from real translations.

The target is characters of the German ÷ characters of the English sentence in LibreOffice's help:
a real-valued property of the text's content, made without any labelling. Pearson and Spearman
correlation; the mean as a guess gives 0.

Seed 0: Pearson 0.47, Spearman 0.48 of test, in 4 minutes on 2 CPU cores.

    python -m experiments.train --config=regress_length_ratio \\
        --config.train.init_from=runs/bert_mini_pretrain
    python -m experiments.evaluate --model=runs/regress_length_ratio --split=test
"""

from experiments.configs import finetune_sst2
from xformer.config import override

CONFIG = override(finetune_sst2.CONFIG, {
    'data.objective': 'regress', 'data.dataset': 'libreoffice_help_en_de',
    'train.best_by': 'dev/pearson:max', 'train.steps': 1500, 'train.eval_every': 150,
    'train.save_every': 150})

VARIANTS = finetune_sst2.VARIANTS
