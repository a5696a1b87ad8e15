"""T5 in miniature: span corruption on two small real corpora (Raffel et al. 2020, section 3.1.4).

3 + 3 layers, 128 wide, relative position bias, RMSNorm, no biases in linear maps, 4,000 unigram
pieces and 100 sentinels; 15 % of the tokens hidden in spans of 3.

About 13 minutes on 2 CPU cores. Dev, seed 0: 39.0 % of the tokens of the targets, where always the
most frequent one is 5.9 %.

    python -m experiments.train --config=t5_mini_pretrain
    python -m experiments.evaluate --model=runs/t5_mini_pretrain
"""

from xformer.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(
        num_encoder_layers=3, num_decoder_layers=3, d_model=128, num_heads=4, d_ff=512,
        max_length=128, norm='rms', norm_position='pre', positions='relative',
        embedding_scale='output', scale_scores=False, biases=False, init='t5', dropout=0.0,
        layers='unroll'),
    data=DataConfig(
        objective='spans', dataset='debian_summaries+libreoffice_help_en_de',
        tokenizer='unigram', vocab_size=4000, batch_tokens=4096),
    # Adafactor steps in proportion to the size of each matrix, as T5's large embeddings need
    optim=OptimConfig(optimizer='adafactor', schedule='cosine', peak_learning_rate=3e-2,
                      warmup_steps=100, label_smoothing=0.0),
    train=TrainConfig(steps=2400, log_every=20, eval_every=500, save_every=500),
)

VARIANTS = {
    'smoke': {'train.steps': 6, 'train.eval_every': 3, 'train.save_every': 3,
              'optim.warmup_steps': 2, 'data.vocab_size': 1000,
              'model.d_model': 64, 'model.d_ff': 128, 'model.num_encoder_layers': 1,
              'model.num_decoder_layers': 1, 'data.max_buckets': 2},
}
