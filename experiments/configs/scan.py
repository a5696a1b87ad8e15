"""SCAN: commands to actions, and whether a model generalises compositionally.

    scan                      the simple split (Lake & Baroni 2018: 99.8 % exact match)
    scan:length               longer outputs than in training (about 14 to 21 %; Transformers ~0)
    scan:addprim_jump         'jump' in combinations never seen (vanilla Transformer 3.4 ± 2.0 %)
    scan:addprim_turn_left    'turn left' likewise (90 %)
    scan:cutoff26             re-split at 26 actions (Csordás et al. 2021: 0.00 with absolute
                              positions)

3 + 3 layers, 128 wide, 8 heads, 256 inner (Csordás et al. 2021, table 7), words as tokens.
About 10 minutes on 2 CPU cores. Test, seed 0: simple 99.3 %, length 3.0 %, addprim_jump 0.1 %,
addprim_turn_left 33.2 %, cutoff26 21.9 %, most of it at 27 actions, one more than in training.

    python -m experiments.train --config=scan
    python -m experiments.evaluate --model=runs/scan --split=test
    python -m experiments.train --config=scan:cutoff26 --config.model.positions=relative
"""

from xformer.config import Config, DataConfig, DecodeConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(
        num_encoder_layers=3, num_decoder_layers=3, d_model=128, num_heads=8, d_ff=256,
        max_length=64, norm_position='pre', dropout=0.1, layers='unroll'),
    data=DataConfig(dataset='scan_simple', tokenizer='word', batch_tokens=4096, score='exact'),
    optim=OptimConfig(schedule='linear', peak_learning_rate=1e-3, warmup_steps=200,
                      clip_norm=5.0, label_smoothing=0.0),
    train=TrainConfig(steps=3000, log_every=20, eval_every=500, save_every=500),
    decode=DecodeConfig(beam_size=1),
)

VARIANTS = {
    'simple': {},
    'length': {'data.dataset': 'scan_length'},
    'addprim_jump': {'data.dataset': 'scan_addprim_jump'},
    'addprim_turn_left': {'data.dataset': 'scan_addprim_turn_left'},
    'cutoff26': {'data.dataset': 'scan_cutoff26'},
    'smoke': {'train.steps': 20, 'train.eval_every': 10, 'train.save_every': 10,
              'optim.warmup_steps': 2, 'data.max_buckets': 2},
    'paper': {'model.dropout': 0.5, 'train.steps': 50_000, 'data.batch_tokens': 16_384,
              'optim.schedule': 'constant', 'optim.warmup_steps': 0, 'model.layers': 'scan'},
}
