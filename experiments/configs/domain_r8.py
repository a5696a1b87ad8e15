"""Go on with pre-training on the texts of a domain, before fine-tuning (Gururangan et al. 2020).

Masked tokens in the news of Reuters-21578 (R8, training part), from the encoder of
bert_mini_pretrain; then finetune_r8 begins with the result.

    python -m experiments.train --config=domain_r8 --config.train.init_from=runs/bert_mini_pretrain
    python -m experiments.evaluate --model=runs/domain_r8
    python -m experiments.train --config=finetune_r8 --config.train.init_from=runs/domain_r8 \\
        --workdir=runs/r8_from_domain
"""

from experiments.configs import bert_mini_pretrain
from xformer.config import override

CONFIG = override(bert_mini_pretrain.CONFIG, {
    'data.objective': 'mlm', 'data.dataset': 'reuters_r8', 'model.pooler': False,
    'optim.peak_learning_rate': 5e-4, 'optim.warmup_steps': 100, 'train.steps': 1500})

VARIANTS = bert_mini_pretrain.VARIANTS
