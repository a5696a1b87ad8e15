"""The same model on Shakespeare cut into byte-level BPE pieces, trained on the text itself.

1,024 pieces, so a context of 64 tokens reads about 150 characters. Compare bits_per_byte with
lm_shakespeare_char's: a loss per token means nothing across vocabularies.

About 2 minutes on 2 CPU cores.

    python -m experiments.train --config=lm_shakespeare_bpe
    python -m experiments.evaluate --model=runs/lm_shakespeare_bpe
"""

from experiments.configs import lm_shakespeare_char
from xformer.config import override

CONFIG = override(lm_shakespeare_char.CONFIG, {
    'data.tokenizer': 'byte_bpe', 'data.vocab_size': 1024, 'model.dropout': 0.1})

VARIANTS = {'smoke': lm_shakespeare_char.VARIANTS['smoke']}
