"""Text to ids and back: bytes, characters, words or subword pieces; trained or read from a file.

`special` names the special tokens, `symbols` holds characters, words and bytes, `pieces` wraps
sentencepiece, `library` the `tokenizers` library, `vocabulary` trains, saves and loads.
"""

from xformer.data.tokenizers.special import UNKNOWN, Special
from xformer.data.tokenizers.vocabulary import (
    Tokenizer,
    Tokenizers,
    load_tokenizers,
    tokenizer_files,
    train_tokenizers,
)

__all__ = ['UNKNOWN', 'Special', 'Tokenizer', 'Tokenizers', 'load_tokenizers', 'tokenizer_files',
           'train_tokenizers']
