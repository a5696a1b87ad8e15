"""Summarisation: a Debian package's long description to its one-line synopsis.

3 + 3 layers, 128 wide, 8,000 unigram pieces; sources are cut at 128 tokens. No published figure
(the data set was built for the project).

About 12 minutes on 2 CPU cores. Test, seed 0: ROUGE-1 19.2, ROUGE-L 18.2, less than the first 8
words have (31.0, 28.2): from 20,000 pairs a model of this size does not learn to copy names.

    python -m experiments.train --config=summarize_debian
    python -m experiments.evaluate --model=runs/summarize_debian --split=test
"""

from xformer.config import Config, DataConfig, DecodeConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(
        num_encoder_layers=3, num_decoder_layers=3, d_model=128, num_heads=4, d_ff=512,
        max_length=128, norm_position='pre', dropout=0.1, layers='unroll'),
    data=DataConfig(dataset='debian_summaries', tokenizer='unigram', vocab_size=8000,
                    batch_tokens=4096, score='rouge', too_long='cut'),
    optim=OptimConfig(schedule='inverse_sqrt', peak_learning_rate=2e-3, warmup_steps=300,
                      clip_norm=1.0, label_smoothing=0.1),
    train=TrainConfig(steps=2000, log_every=20, eval_every=400, save_every=400),
    decode=DecodeConfig(beam_size=4),
)

VARIANTS = {
    'smoke': {'train.steps': 6, 'train.eval_every': 3, 'train.save_every': 3,
              'optim.warmup_steps': 2, 'data.vocab_size': 2000,
              'model.d_model': 64, 'model.d_ff': 128, 'model.num_encoder_layers': 1,
              'model.num_decoder_layers': 1, 'data.max_buckets': 2, 'decode.beam_size': 1},
}
