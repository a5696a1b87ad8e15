"""BERT-Base, pre-trained as published (Devlin et al. 2019, appendix A.2).

12 layers, 768 wide, 109 M parameters with the pooler; masked tokens and next sentences; 1,000,000
updates of 256 sequences, Adam 1e-4 with warm-up over 10,000 and linear decay, weight decay 0.01,
dropout 0.1, GELU. The paper trains 90 % of the updates at 128 tokens: that is this file, which ends
at a tenth of the rate. `:long` goes on from there with the others, at 512; Adam's moments begin
anew.

Needs a GPU or TPU, and the books and Wikipedia texts from the internet (JSON lines, one document
{"text": ...} each, a sentence a line in it; some thousand documents in a file of their own, to
measure on); not run here. vocab.txt is bert-base-uncased's.

    python -m experiments.train --config=bert_base_pretrain --estimate
    python -m experiments.train --config=bert_base_pretrain
    python -m experiments.train --config=bert_base_pretrain:long \
        --config.train.init_from=runs/bert_base_pretrain
"""

from xformer.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from xformer.presets import preset

CONFIG = preset('bert-base', Config(
    model=ModelConfig(dtype='bfloat16'),
    data=DataConfig(
        objective='mlm_nsp', train='data/books_wiki.jsonl.gz',
        dev='data/books_wiki_dev.jsonl.gz', test='data/books_wiki_dev.jsonl.gz', format='jsonl',
        tokenizer='wordpiece', tokenizer_file='data/bert_vocab/vocab.txt', sequence_length=128,
        batch_tokens=256 * 128),
    optim=OptimConfig(schedule='linear', peak_learning_rate=1e-4, warmup_steps=10_000,
                      final_fraction=0.1, beta2=0.999, epsilon=1e-6, weight_decay=0.01,
                      clip_norm=1.0, label_smoothing=0.0),
    train=TrainConfig(steps=900_000, log_every=100, eval_every=10_000, save_every=10_000)))

VARIANTS = {'long': {
    'data.sequence_length': 512, 'data.batch_tokens': 256 * 512, 'train.steps': 100_000,
    'optim.peak_learning_rate': 1e-5, 'optim.warmup_steps': 0, 'optim.final_fraction': 0.0}}
