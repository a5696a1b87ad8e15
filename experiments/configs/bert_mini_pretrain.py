"""A small BERT from scratch: masked tokens and next sentences, on two small real corpora.

4 layers, 128 wide, WordPiece (8,000 pieces trained here), 128 tokens; the sentences of Debian's
package descriptions and of LibreOffice's help (English). Objective and heads as Devlin et al.
2019, section 3.1; `:mini` is the BERT-mini of Turc et al. 2019, twice as wide.

About 14 minutes on 2 CPU cores, `:mini` 40. Dev, seed 0: 18.5 % of the masked tokens, where always
the most frequent one is 4.5 %; 71.1 % of next sentences, where a logistic regression on word
overlap reaches 84.4 % (`python -m benchmarks.next_sentence`).

    python -m experiments.train --config=bert_mini_pretrain
    python -m experiments.evaluate --model=runs/bert_mini_pretrain
"""

from xformer.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig

CONFIG = Config(
    model=ModelConfig(
        family='encoder', num_encoder_layers=4, num_decoder_layers=0, d_model=128, num_heads=4,
        d_ff=512, num_segments=2, max_length=128, activation='gelu', norm_epsilon=1e-12,
        embedding_norm=True, positions='learned', embedding_scale='none', pooler=True,
        init='bert', dropout=0.0, layers='unroll'),
    data=DataConfig(
        objective='mlm_nsp', dataset='debian_summaries+libreoffice_help_en_de',
        tokenizer='wordpiece', vocab_size=8000, batch_tokens=2048),
    optim=OptimConfig(
        schedule='linear', peak_learning_rate=1.5e-3, warmup_steps=300, beta2=0.98, epsilon=1e-6,
        weight_decay=0.01, clip_norm=1.0, label_smoothing=0.0),
    train=TrainConfig(steps=4500, log_every=20, eval_every=500, save_every=500),
)

VARIANTS = {
    'mini': {'model.d_model': 256, 'model.d_ff': 1024, 'data.batch_tokens': 4096,
             'optim.peak_learning_rate': 1e-3, 'optim.warmup_steps': 200, 'train.steps': 2500},
    'smoke': {'train.steps': 12, 'train.eval_every': 6, 'train.save_every': 6,
              'optim.warmup_steps': 2, 'model.num_encoder_layers': 2, 'model.d_model': 64,
              'model.d_ff': 256, 'data.vocab_size': 2000, 'data.max_buckets': 2},
}
