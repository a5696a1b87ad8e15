"""Character language model on Shakespeare: nanoGPT's setting for a laptop.

4 layers, 4 heads, 128 wide, context 64, no biases, no dropout, on the 1.1 M characters of
tiny_shakespeare; AdamW, 2,000 updates of 12 rows. Published: validation loss 1.88 nats a
character (README of karpathy/nanoGPT, mean of 20 random batches of the validation part). Here, mean
of seeds 0 to 9: 1.909 on 20 batches (1.871 to 1.940), 1.906 over the whole validation part (1.895
to 1.922).

About 1 minute on 2 CPU cores.

    python -m experiments.train --config=lm_shakespeare_char
    python -m experiments.evaluate --model=runs/lm_shakespeare_char
    python -m experiments.evaluate --model=runs/lm_shakespeare_char --batches=20

`:paper` is nanoGPT's setting for one GPU (6 layers, 384 wide, context 256, dropout 0.2), 1.4697.
"""

from xformer.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(
        family='decoder', num_encoder_layers=0, num_decoder_layers=4, d_model=128, num_heads=4,
        d_ff=512, max_length=64, activation='gelu', norm_position='pre', norm_epsilon=1e-5,
        positions='learned', embedding_scale='none', biases=False, init='gpt2', dropout=0.0,
        layers='unroll'),
    data=DataConfig(
        objective='lm', dataset='tiny_shakespeare', tokenizer='char', batch_tokens=12 * 64,
        batch_multiple=4),
    optim=OptimConfig(
        schedule='cosine', peak_learning_rate=1e-3, final_fraction=0.1, warmup_steps=100,
        beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.1, clip_norm=1.0,
        label_smoothing=0.0),
    train=TrainConfig(steps=2000, log_every=20, eval_every=1000, save_every=1000),
)

VARIANTS = {
    'smoke': {'train.steps': 60, 'train.eval_every': 30, 'train.save_every': 30,
              'optim.warmup_steps': 10},
    'paper': {'model.num_decoder_layers': 6, 'model.d_model': 384, 'model.num_heads': 6,
              'model.d_ff': 1536, 'model.max_length': 256, 'model.dropout': 0.2,
              'model.attention_dropout': 0.2, 'model.layers': 'scan',
              'data.batch_tokens': 64 * 256, 'train.steps': 5000, 'train.eval_every': 250,
              'train.save_every': 250},
}
