"""Entities in noisy text (W-NUT 2017; Derczynski et al. 2017): a tag for every word.

The recipe of finetune_sst2 on 3,394 sentences with 1,975 entities of six types; few of dev and
test occur in training, so that names have to be known by their context. F1 of entities; the floor
is no entity at all; a gazetteer of the training entities reaches 3.0 of test
(python -m benchmarks.baselines).

Seed 0: 4.2 of test, from scratch 5.4, in 2.5 minutes on 2 CPU cores.

    python -m experiments.train --config=tag_wnut17 --config.train.init_from=runs/bert_mini_pretrain
    python -m experiments.evaluate --model=runs/tag_wnut17 --split=test
"""

from experiments.configs import finetune_sst2
from xformer.config import override

CONFIG = override(finetune_sst2.CONFIG, {
    'data.objective': 'tag', 'data.dataset': 'wnut17', 'model.pooler': False,
    'train.best_by': 'dev/macro_f1:max'})

VARIANTS = finetune_sst2.VARIANTS
