"""Attention Is All You Need, base model, WMT14 English to German (Vaswani et al. 2017).

6 + 6 layers, 512 wide, one vocabulary of 37,000 BPE pieces; 100,000 updates of about 25,000 source
and 25,000 target tokens; Adam with the paper's schedule, dropout 0.1, label smoothing 0.1; the
mean of the last 5 checkpoints, beam 4, length penalty 0.6. Published: 27.3 BLEU on newstest2014
(tokenised, compounds split), after 12 hours on 8 P100 GPUs.

Needs a GPU or TPU, and WMT14's files from the internet; not run here. One text a line, in data/:

    python -m experiments.train --config=aiayn_base_wmt14 --estimate
    python -m experiments.train --config=aiayn_base_wmt14
    python -m experiments.evaluate --model=runs/aiayn_base_wmt14 --split=test \\
        --checkpoint=average-last:5
"""

from xformer.config import Config, DataConfig, DecodeConfig, ModelConfig, OptimConfig, TrainConfig
from xformer.presets import preset

CONFIG = preset('transformer-base', Config(
    model=ModelConfig(max_length=256, dtype='bfloat16'),
    data=DataConfig(
        train='data/wmt14/train.en,data/wmt14/train.de',
        dev='data/wmt14/newstest2013.en,data/wmt14/newstest2013.de',
        test='data/wmt14/newstest2014.en,data/wmt14/newstest2014.de', format='parallel',
        tokenizer='bpe', vocab_size=37_000, batch_tokens=50_000, too_long='drop', score='bleu'),
    optim=OptimConfig(optimizer='adam', schedule='noam', warmup_steps=4000, beta2=0.98,
                      epsilon=1e-9, label_smoothing=0.1),
    train=TrainConfig(steps=100_000, log_every=100, eval_every=1500, save_every=1500,
                      keep_last=5),
    decode=DecodeConfig(beam_size=4, length_penalty='gnmt', alpha=0.6)))

VARIANTS = {}
