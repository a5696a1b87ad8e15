"""Grapheme-to-phoneme conversion on CMUdict: spell a word, get its pronunciation.

A small pre-norm Transformer (2 + 2 layers, 128 wide, 0.9 M parameters) on the CMU Pronouncing
Dictionary, 121,670 training pairs, split by a hash of the word. Phones carry stress; the headline
scores disregard it and accept any of a word's pronunciations.

About 3 minutes on 2 CPU cores, for a phoneme error rate of 10.4 % and a word error rate of 39.9 %
on the dev split, means of three seeds. Two epochs are too few to overfit in, so there is no
dropout. Published figures are on other splits: phoneme error rate 5.2 %, word error rate 22.1 %
(Yolchuyeva et al. 2019).

    python -m experiments.train --config=g2p_quickstart
    python -m experiments.evaluate --model=runs/g2p_quickstart --split=dev
"""

from xformer.config import Config, DataConfig, DecodeConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(
        num_encoder_layers=2, num_decoder_layers=2, d_model=128, num_heads=4, d_ff=512,
        max_length=64, norm_position='pre', dropout=0.0, layers='unroll'),
    data=DataConfig(
        dataset='cmudict', lowercase_source=True, tokenizer='char',
        target_tokenizer='word', batch_tokens=4096, score_strip='012'),
    optim=OptimConfig(
        schedule='linear', peak_learning_rate=3e-3, warmup_steps=100, clip_norm=1.0,
        label_smoothing=0.1),
    train=TrainConfig(steps=1000, eval_every=500, save_every=500),
    decode=DecodeConfig(beam_size=4),
)

VARIANTS = {
    'smoke': {'train.steps': 40, 'train.eval_every': 20, 'train.save_every': 20,
              'optim.warmup_steps': 10},
}
