"""BART in miniature: restore shuffled sentences with holes (Lewis et al. 2020, section 2.2).

3 + 3 layers, 128 wide, learned positions, a norm after the embeddings, 8,000 byte-level BPE
pieces; 30 % of the tokens in spans of Poisson(3) length, each replaced by one mask, and sentences
permuted.

About 8 minutes on 2 CPU cores. Dev, seed 0: 20.7 % of the tokens of the targets, where always the
most frequent one is 3.8 %.

    python -m experiments.train --config=bart_mini_denoise
    python -m experiments.evaluate --model=runs/bart_mini_denoise
"""

from xformer.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(
        num_encoder_layers=3, num_decoder_layers=3, d_model=128, num_heads=4, d_ff=512,
        max_length=128, activation='gelu', norm_epsilon=1e-5, embedding_norm=True,
        positions='learned', embedding_scale='none', init='bert', dropout=0.0, layers='unroll'),
    data=DataConfig(
        objective='denoise', dataset='debian_summaries+libreoffice_help_en_de', noise_rate=0.3,
        tokenizer='byte_bpe', batch_tokens=4096),
    optim=OptimConfig(schedule='linear', peak_learning_rate=1e-3, warmup_steps=200,
                      clip_norm=1.0, label_smoothing=0.0),
    train=TrainConfig(steps=1200, log_every=20, eval_every=400, save_every=400),
)

VARIANTS = {
    'smoke': {'train.steps': 6, 'train.eval_every': 3, 'train.save_every': 3,
              'optim.warmup_steps': 2, 'data.vocab_size': 1000,
              'model.d_model': 64, 'model.d_ff': 128, 'model.num_encoder_layers': 1,
              'model.num_decoder_layers': 1, 'data.max_buckets': 2},
}
