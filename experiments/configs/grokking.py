"""Grokking: addition modulo 97, learnt by heart early and understood late (Power et al. 2022).

Half of all 97 · 97 equations `a + b =` to `c` train a decoder (2 layers, 4 heads, 128 wide, no
biases); AdamW with weight decay 1. Training accuracy reaches 100 % within some hundred updates,
validation accuracy stays low for thousands and then jumps to ≥ 99 %: look at sequence_accuracy
and dev/sequence_accuracy in report.html or metrics.jsonl.

About 12 minutes on 2 CPU cores. `:paper` goes on to 100,000 updates.

    python -m experiments.train --config=grokking
"""

from xformer.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(
        family='decoder', num_encoder_layers=0, num_decoder_layers=2, d_model=128, num_heads=4,
        d_ff=512, max_length=8, biases=False, dropout=0.0, layers='unroll'),
    data=DataConfig(dataset='modular_addition', tokenizer='word', batch_tokens=512 * 6),
    optim=OptimConfig(
        schedule='constant', peak_learning_rate=1e-3, warmup_steps=10, beta2=0.98, epsilon=1e-8,
        weight_decay=1.0, label_smoothing=0.0),
    train=TrainConfig(steps=12_000, log_every=50, eval_every=200, save_every=4000),
)

VARIANTS = {
    'smoke': {'train.steps': 40, 'train.eval_every': 20, 'train.save_every': 20},
    'paper': {'train.steps': 100_000},
}
