"""Words to phones in 21 languages (SIGMORPHON 2021, task 1: Ashby et al. 2021).

    g2p_sigmorphon            Bulgarian, 8,000 training words
    g2p_sigmorphon:LANGUAGE   another of the ten with 8,000, or English with 33,000
    g2p_sigmorphon:low        Adyghe, 800 training words; :low-LANGUAGE another of those ten

The word error rate of test is what counts; the task's baseline, an ensemble of neural transducers,
has 18.3 % for Bulgarian, 10.64 % on the mean of the ten medium languages and 25.10 % of the low.
2 + 2 layers, 128 wide, dropout 0.3, pre-norm (the recipe of the Transformers of 2020's task, whose
models have 4 + 4 layers and 256). The ten low languages: 40.1 ± 0.2 % on their mean (seeds 0, 1 and
2), 8 minutes a run on one CPU core; one Transformer learns less from 800 words than those do.

    python -m experiments.train --config=g2p_sigmorphon:dut
    python -m experiments.evaluate --model=runs/g2p_sigmorphon-dut --split=test
    python -m experiments.reproduce --result=sigmorphon_medium
"""

from xformer.config import Config, DataConfig, DecodeConfig, ModelConfig, OptimConfig, TrainConfig
from xformer.data.sources.datasets import SIGMORPHON

CONFIG = Config(
    model=ModelConfig(
        num_encoder_layers=2, num_decoder_layers=2, d_model=128, num_heads=4, d_ff=512,
        max_length=96, norm_position='pre', dropout=0.3, layers='unroll'),
    data=DataConfig(dataset='sigmorphon_bul', tokenizer='char', target_tokenizer='word',
                    batch_tokens=4096),
    optim=OptimConfig(schedule='linear', peak_learning_rate=2e-3, warmup_steps=100, clip_norm=1.0,
                      label_smoothing=0.1),
    train=TrainConfig(steps=1500, log_every=50, eval_every=250, save_every=250, keep_best=1,
                      best_by='dev/sequence_accuracy:max'),
    decode=DecodeConfig(beam_size=4),
)

LOW = {'data.batch_tokens': 1024, 'train.steps': 1200, 'train.eval_every': 200,
       'train.save_every': 200}
VARIANTS = {
    **{language: {'data.dataset': f'sigmorphon_{language}'}
       for size in ('high', 'medium') for language in SIGMORPHON[size]},
    'low': {'data.dataset': 'sigmorphon_ady'} | LOW,
    **{f'low-{language}': {'data.dataset': f'sigmorphon_{language}'} | LOW
       for language in SIGMORPHON['low']},
    'smoke': {'train.steps': 20, 'train.eval_every': 10, 'train.save_every': 10,
              'optim.warmup_steps': 2, 'data.max_buckets': 2},
}
