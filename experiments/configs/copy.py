"""Copy: a sequence of letters as it is (the task of The Annotated Transformer).

Generated, 50,000 examples; train, dev and test are disjoint and of the same lengths. Seed 0: 100 %
of the 3,184 test outputs exactly right, in 5 CPU minutes.

    python -m experiments.train --config=copy
    python -m experiments.evaluate --model=runs/copy --split=test
"""

from xformer.config import Config, DataConfig, DecodeConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(
        num_encoder_layers=2, num_decoder_layers=2, d_model=128, num_heads=4, d_ff=512,
        max_length=64, norm_position='pre', dropout=0.0, layers='unroll'),
    data=DataConfig(dataset='copy', tokenizer='char', batch_tokens=4096, score='exact'),
    optim=OptimConfig(schedule='linear', peak_learning_rate=1e-3, warmup_steps=100,
                      clip_norm=1.0, label_smoothing=0.0),
    train=TrainConfig(steps=1500, log_every=20, eval_every=500, save_every=500),
    decode=DecodeConfig(beam_size=1),
)

VARIANTS = {
    'smoke': {'train.steps': 40, 'train.eval_every': 20, 'train.save_every': 20,
              'optim.warmup_steps': 10},
}
