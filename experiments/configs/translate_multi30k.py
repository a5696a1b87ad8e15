"""Translation of image captions, English to German, in the published tiny setting.

transformer_tiny: 4 + 4 layers, 4 heads, 128 wide, 256 inner, post-norm, all embeddings shared, on
Multi30k's published BPE files (lower-cased, tokenised). Published: 41.02 BLEU on test2016,
lower-cased and tokenised (README-baseline of LividWo/Revisit-MMT), after 8,000 updates of
2 × 4,096 tokens, mean of the last 10 epochs' checkpoints, beam 5: that is `:paper`.

The default form is a shorter run, about 15 minutes on 2 CPU cores. Test, seed 0, beam 5: 13.0 BLEU.

    python -m experiments.train --config=translate_multi30k
    python -m experiments.evaluate --model=runs/translate_multi30k --split=test
    python -m experiments.evaluate --model=runs/translate_multi30k-paper --split=test \\
        --checkpoint=average-last:10
"""

from xformer.config import Config, DataConfig, DecodeConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(
        num_encoder_layers=4, num_decoder_layers=4, d_model=128, num_heads=4, d_ff=256,
        max_length=128, dropout=0.1, layers='unroll'),
    data=DataConfig(dataset='multi30k_en_de_bpe', tokenizer='word', batch_tokens=2048,
                    score='bleu_tokenised', too_long='drop'),
    optim=OptimConfig(schedule='inverse_sqrt', peak_learning_rate=3e-3, warmup_steps=500,
                      clip_norm=1.0, label_smoothing=0.1),
    train=TrainConfig(steps=3000, log_every=20, eval_every=300, save_every=300, keep_last=5),
    decode=DecodeConfig(beam_size=5, length_penalty='length', alpha=1.0),
)

VARIANTS = {
    'smoke': {'train.steps': 10, 'train.eval_every': 5, 'train.save_every': 5,
              'optim.warmup_steps': 2,
              'model.d_model': 64, 'model.d_ff': 128, 'model.num_encoder_layers': 1,
              'model.num_decoder_layers': 1, 'data.max_buckets': 2, 'decode.beam_size': 1},
    'paper': {'model.dropout': 0.3, 'data.batch_tokens': 16_384,
              'optim.peak_learning_rate': 5e-3, 'optim.warmup_steps': 2000,
              'optim.clip_norm': 25.0, 'train.steps': 8000, 'train.eval_every': 110,
              'train.save_every': 55, 'train.keep_last': 10},  # an epoch is 55 updates
}
