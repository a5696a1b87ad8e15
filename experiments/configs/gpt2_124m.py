"""GPT-2 124M from scratch, as nanoGPT and llm.c reproduce it (Radford et al. 2019).

12 layers, 768 wide, context 1,024, 124,439,808 parameters; batches of 480 × 1,024 tokens, AdamW
6e-4 with warm-up over 2,000 and cosine decay to a tenth over 600,000 updates, weight decay 0.1,
clipping at 1, no dropout. Published: validation loss 2.85 on OpenWebText (README of
karpathy/nanoGPT, 4 days on 8 A100 GPUs).

Needs a GPU or TPU, and OpenWebText from the internet (JSON lines, {"text": ...} each; nanoGPT
measures on one document in 2,000, in a file of their own); not run here. encoder.json and vocab.bpe
are OpenAI's. `:medium`, `:large` and `:xl` are GPT-2's other sizes by the same recipe.

    python -m experiments.train --config=gpt2_124m --estimate
    python -m experiments.train --config=gpt2_124m
"""

from xformer.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig, override
from xformer.presets import preset

CONFIG = override(preset('gpt2', Config(
    model=ModelConfig(dtype='bfloat16', remat=True),
    data=DataConfig(
        objective='lm', train='data/openwebtext.jsonl.gz',
        dev='data/openwebtext_dev.jsonl.gz', test='data/openwebtext_dev.jsonl.gz', format='jsonl',
        tokenizer='byte_bpe',
        tokenizer_file='data/gpt2_tokenizer/encoder.json', batch_tokens=480 * 1024),
    optim=OptimConfig(
        schedule='cosine', peak_learning_rate=6e-4, final_fraction=0.1, warmup_steps=2000,
        beta2=0.95, epsilon=1e-8, weight_decay=0.1, clip_norm=1.0, label_smoothing=0.0),
    train=TrainConfig(steps=600_000, accumulate=8, log_every=100, eval_every=2000,
                      save_every=2000))), {'model.dropout': 0.0, 'model.attention_dropout': 0.0})

VARIANTS = {name: {f'model.{field}': getattr(preset(f'gpt2-{name}').model, field) for field in (
    'num_decoder_layers', 'd_model', 'num_heads', 'd_ff')} for name in ('medium', 'large', 'xl')}
