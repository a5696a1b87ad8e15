"""T5-small on C4 as published: span corruption with Adafactor (Raffel et al. 2020, section 3.1).

6 + 6 layers, 512 wide, 60,506,624 parameters; 524,288 updates of 128 × 512 tokens, which become
sources of 462 and targets of 105 (theirs: 568 tokens, 512 and 114); Adafactor with the rate
1/√max(n, 10,000); 15 % of the tokens in spans of 3; dropout 0.1. Their code leaves out the last
sentinel of a target where the chunk ends in a hidden span; here it always stands.

Needs a GPU or TPU, and C4 from the internet, with its validation part (JSON lines, {"text": ...}
each); not run here.
spiece.model is T5's vocabulary. Adafactor's factors and scales are per stacked parameter: the
layers of a stack share one root mean square.

    python -m experiments.train --config=t5_small_c4 --estimate
    python -m experiments.train --config=t5_small_c4
"""

from xformer.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from xformer.presets import preset

CONFIG = preset('t5-small', Config(
    model=ModelConfig(dtype='bfloat16'),
    data=DataConfig(
        objective='spans', train='data/c4.jsonl.gz', dev='data/c4_validation.jsonl.gz',
        test='data/c4_validation.jsonl.gz', format='jsonl', tokenizer='unigram',
        tokenizer_file='data/t5/spiece.model', batch_tokens=128 * (462 + 105)),
    optim=OptimConfig(optimizer='adafactor', schedule='rsqrt', peak_learning_rate=1e-2,
                      warmup_steps=10_000, label_smoothing=0.0),
    train=TrainConfig(steps=524_288, log_every=100, eval_every=50_000, save_every=5000)))

VARIANTS = {}
