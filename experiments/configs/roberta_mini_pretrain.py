"""RoBERTa in miniature: dynamic masking alone, no next sentences (Liu et al. 2019, section 4).

As bert_mini_pretrain, with byte-level BPE, one segment and whole chunks of a document.

About 9 minutes on 2 CPU cores. Dev, seed 0: 14.1 % of the masked tokens, where always the most
frequent one is 4.0 %.

    python -m experiments.train --config=roberta_mini_pretrain
    python -m experiments.evaluate --model=runs/roberta_mini_pretrain
"""

from experiments.configs import bert_mini_pretrain
from xformer.config import override

CONFIG = override(bert_mini_pretrain.CONFIG, {
    'data.objective': 'mlm', 'data.tokenizer': 'byte_bpe', 'model.num_segments': 0,
    'model.pooler': False, 'model.norm_epsilon': 1e-5, 'train.steps': 3000})

VARIANTS = bert_mini_pretrain.VARIANTS
