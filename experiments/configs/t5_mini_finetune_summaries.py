"""Summaries with and without pre-training: Debian's descriptions to their synopses, by a small T5.

The model of t5_mini_pretrain; given that run, it begins with its parameters and pieces, else from
scratch.

About 12 minutes on 2 CPU cores. Test, seed 0: ROUGE-1 15.2 and ROUGE-L 14.4 from t5_mini_pretrain,
15.9 and 15.3 from scratch, so that 13 minutes of pre-training gain nothing; the first 8 words have
31.0 and 28.2, summarize_debian, with twice the pieces, 19.2 and 18.2.

    python -m experiments.train --config=t5_mini_finetune_summaries \\
        --config.train.init_from=runs/t5_mini_pretrain
    python -m experiments.evaluate --model=runs/t5_mini_finetune_summaries --split=test
    python -m experiments.generate --model=runs/t5_mini_finetune_summaries --task=summarize \\
        --input=descriptions.txt
"""

from experiments.configs import t5_mini_pretrain
from xformer.config import override

CONFIG = override(t5_mini_pretrain.CONFIG, {
    'data.objective': 'pairs', 'data.dataset': 'debian_summaries', 'data.score': 'rouge',
    'data.too_long': 'cut', 'model.dropout': 0.1, 'optim.label_smoothing': 0.1,
    'optim.peak_learning_rate': 3e-2, 'train.steps': 1500, 'train.eval_every': 300,
    'train.save_every': 300})

VARIANTS = t5_mini_pretrain.VARIANTS | {
    'smoke': t5_mini_pretrain.VARIANTS['smoke'] | {'decode.beam_size': 1}}
