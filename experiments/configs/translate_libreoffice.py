"""Translation of software help, English to German: raw text, pieces trained on both sides.

3 + 3 layers, 128 wide, 4,000 sentencepiece units shared by both languages. No published figure
(the data set was built for the project).

About 12 minutes on 2 CPU cores. Test, seed 0: 16.7 BLEU, 43.7 chrF, where copying the source has
2.9 and 21.2.

    python -m experiments.train --config=translate_libreoffice
    python -m experiments.evaluate --model=runs/translate_libreoffice --split=test
"""

from xformer.config import Config, DataConfig, DecodeConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(
        num_encoder_layers=3, num_decoder_layers=3, d_model=128, num_heads=4, d_ff=512,
        max_length=192, norm_position='pre', dropout=0.1, layers='unroll'),
    data=DataConfig(dataset='libreoffice_help_en_de', tokenizer='bpe', vocab_size=4000,
                    batch_tokens=4096, score='bleu', too_long='drop'),
    optim=OptimConfig(schedule='inverse_sqrt', peak_learning_rate=2e-3, warmup_steps=400,
                      clip_norm=1.0, label_smoothing=0.1),
    train=TrainConfig(steps=2500, log_every=20, eval_every=500, save_every=500),
    decode=DecodeConfig(beam_size=4),
)

VARIANTS = {
    'smoke': {'train.steps': 6, 'train.eval_every': 3, 'train.save_every': 3,
              'optim.warmup_steps': 2, 'data.vocab_size': 1000, 'data.batch_tokens': 3072,
              'model.d_model': 64, 'model.d_ff': 128, 'model.num_encoder_layers': 1,
              'model.num_decoder_layers': 1, 'data.max_buckets': 2, 'decode.beam_size': 1},
}
