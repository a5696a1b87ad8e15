"""Writes tokenizers.json: small tokenizers of every kind, and the ids that transformers gives.

    PYTHONPATH=tests/interop python tests/golden/make_tokenizers.py
"""

import base64
import json
import tempfile
from pathlib import Path

import transformers
from tokenizer_folders import KINDS, NAMES, ODD, random_texts

TEXTS = [*ODD, *NAMES, *random_texts(20)]
PAIRS = [(TEXTS[i], TEXTS[i + 7]) for i in range(0, len(TEXTS) - 7, 5) if TEXTS[i + 7]]


def expected(tokenizer) -> dict:
    """`segments` where the model reads any: 1 for the second text."""
    def decoded(ids):
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    ids = [tokenizer(text)['input_ids'] for text in TEXTS]
    pairs = [tokenizer(*pair) for pair in PAIRS]
    found = {'ids': ids, 'decoded': [decoded(each) for each in ids]}
    if type(tokenizer).__name__ == 'MarianTokenizer':
        return found | {'targets': tokenizer(text_target=TEXTS)['input_ids']}
    found['pairs'] = [pair['input_ids'] for pair in pairs]
    if 'token_type_ids' in tokenizer.model_input_names:
        found['segments'] = [pair['token_type_ids'] for pair in pairs]
    return found


def main() -> None:
    kinds = {}
    for name, make in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            family = make(Path(folder))
            files = {path.name: base64.b64encode(path.read_bytes()).decode()
                     for path in sorted(Path(folder).iterdir())}
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            kinds[name] = {'family': family, 'files': files, **expected(tokenizer)}
    golden = {'transformers': transformers.__version__, 'texts': TEXTS, 'pairs': PAIRS,
              'kinds': kinds}
    path = Path(__file__).with_name('tokenizers.json')
    path.write_text(json.dumps(golden, separators=(',', ':')) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
