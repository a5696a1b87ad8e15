"""Summaries with and without pre-training: Debian's descriptions to their synopses, by a small T5.

The model of t5_mini_pretrain; given that run, it begins with its parameters and pieces, else from
scratch.

About 9 minutes on 2 CPU cores. Test, seed 0, from t5_mini_pretrain: ROUGE-1 10.7, ROUGE-L 10.2,
less than the first 8 words have (31.0, 28.2) and than summarize_debian (19.2, 18.2).

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
