"""Text to ids and back: bytes, characters, words or subword pieces; trained or read from a file.

`special` names the special tokens, `symbols` holds characters, words and bytes, `pieces` wraps
sentencepiece, `library` the `tokenizers` library, `published` is how those of published models
read, `vocabulary` trains, saves and loads.
"""

from xformer.data.tokenizers.published import MarianTokenizer, PublishedTokenizer
from xformer.data.tokenizers.special import UNKNOWN, Special, Template, own_template
from xformer.data.tokenizers.vocabulary import (
    Tokenizer,
    Tokenizers,
    encode_following,
    load_tokenizers,
    tokenizer_files,
    train_tokenizers,
)

__all__ = ['UNKNOWN', 'MarianTokenizer', 'PublishedTokenizer', 'Special', 'Template', 'Tokenizer',
           'Tokenizers', 'encode_following', 'load_tokenizers', 'own_template', 'tokenizer_files',
           'train_tokenizers']
