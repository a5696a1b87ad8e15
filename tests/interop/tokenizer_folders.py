"""Small folders of every kind of tokenizer, learnt from sentences made here, and odd texts."""

import io
import json
import random
from pathlib import Path

import sentencepiece
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from xformer.interop.vocabularies import from_proto, parse_proto

ODD = ['', ' ', '   ', '\n', ' a', 'a ', '  two  spaces ', ' a\u00a0b  c\n\n\td', 'naïve café',
       'NAÏVE É', 'e\u0301', 'ﬁ ｆｕｌｌ Å', '👩\u200d👩\u200d👧 ♥\ufe0f', '東京 т', 'a東b',
       '\u202eright', '\0\x7f\x1c', "I'll we're  ", '\ufffd', '▁', ' ▁a▁', 'don’t ``quote\'\'',
       'tarimi' * 60, '9, 1,000.5', 'a\u2028b\x85c', '각\u1100\u1161', 'İstanbul ẞ ß']
NAMES = ['[MASK]', 'a [SEP] b', 'a</s>b', ' <mask> ta', 'ta <mask>', '<unk>', '<pad> x',
         '<s>ta</s>', '<|endoftext|>ta', 'ta<extra_id_0> ro <extra_id_1>.', '>>de<< taro', '>>ta']


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Characters of all planes, words of the corpus, and marks of special tokens."""
    rng = random.Random(seed)
    planes = [range(128), range(0x180), range(0x300, 0x370), range(0x4e00, 0x9fff), range(0xd800),
              range(0xe000, 0x110000)]
    words = [word for sentence in english()[:20] for word in sentence.split()] + ODD

    def part() -> str:
        if rng.random() < 0.5:
            return rng.choice(words) + ' ' * rng.choice([0, 1, 1, 1, 2])
        return ''.join(chr(rng.choice(rng.choice(planes))) for _ in range(rng.randrange(1, 6)))
    return [''.join(part() for _ in range(rng.randrange(1, 8))) for _ in range(count)]


def english() -> list[str]:
    """Sentences of words made of a few syllables."""
    rng = random.Random(1)
    words = [''.join(rng.choices(['ta', 'ro', 'mi', 'sel', 'un', 'd'], k=3)) for _ in range(99)]
    return [(' '.join(rng.choices(words, k=8)) + rng.choice(['.', '!', ' 9, 10'])).capitalize()
            for _ in range(300)]


def pieces(kind: str, **options) -> bytes:
    """A sentencepiece model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(english()), model_writer=model, model_type=kind,
        **{'vocab_size': 150, 'hard_vocab_limit': False, 'minloglevel': 2} | options)
    return model.getvalue()


def wordpiece(lowercase: bool) -> list[str]:
    library = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    library.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.train_from_iterator(english(), trainers.WordPieceTrainer(
        vocab_size=150, show_progress=False,
        special_tokens=['[PAD]', '[unused0]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']))
    ids = library.get_vocab()
    return sorted(ids, key=ids.get)


def byte_bpe(special: list[str]) -> Tokenizer:
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator(english(), trainers.BpeTrainer(
        vocab_size=400, show_progress=False, special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return library


def _write(folder: Path, family: str, files: dict) -> str:
    for name, content in ({'config.json': {'model_type': family}} | files).items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text, encoding='utf-8')
    return family


def bert(folder: Path) -> str:
    return _write(folder, 'bert', {'vocab.txt': '\n'.join(wordpiece(True)) + '\n'})


def cased_distilbert(folder: Path) -> str:
    return _write(folder, 'distilbert', {
        'vocab.txt': '\n'.join(wordpiece(False)) + '\n',
        'tokenizer_config.json': {'do_lower_case': False, 'strip_accents': False,
                                  'tokenize_chinese_chars': False}})


def electra_json(folder: Path) -> str:
    """A tokenizer.json that cuts and pads, and names its tokens as another BERT would."""
    names = ['<pad>' if name == '[PAD]' else name for name in wordpiece(True)]
    library = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)},
                                         unk_token='[UNK]'))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.post_processor = processors.BertProcessing(('[SEP]', 4), ('[CLS]', 3))
    library.add_special_tokens(['<pad>', '[UNK]', '[CLS]', '[SEP]', '[MASK]'])
    library.enable_padding(pad_token='<pad>', length=7)
    library.enable_truncation(5)
    return _write(folder, 'electra', {'tokenizer.json': library.to_str(), 'tokenizer_config.json': {
        'do_lower_case': True, 'pad_token': '<pad>', 'tokenizer_class': 'ElectraTokenizer'}})


_FAIRSEQ = ['<s>', '<pad>', '</s>', '<unk>', '<mask>']


def _bpe_files(special: list[str]) -> dict:
    model = json.loads(byte_bpe(special).to_str())['model']
    merges = ['#version: 0.2', *(' '.join(pair) for pair in model['merges'])]
    return {'vocab.json': model['vocab'], 'merges.txt': '\n'.join(merges) + '\n'}


def roberta(folder: Path) -> str:
    return _write(folder, 'roberta', _bpe_files(_FAIRSEQ) | {'special_tokens_map.json': {
        'mask_token': {'content': '<mask>', 'lstrip': True, 'rstrip': False, 'normalized': False,
                       'single_word': False}}})


def bart_json(folder: Path) -> str:
    library = byte_bpe(_FAIRSEQ)
    library.post_processor = processors.RobertaProcessing(('</s>', 2), ('<s>', 0), True, False)
    return _write(folder, 'bart', {'tokenizer.json': library.to_str(), 'config.json': {
        'model_type': 'bart', 'decoder_start_token_id': 2}})


def gpt2(folder: Path) -> str:
    return _write(folder, 'gpt2', _bpe_files(['<|endoftext|>']))


def llama_json(folder: Path) -> str:
    """Llama 3's way: bytes, and a beginning that the post-processor puts."""
    library = byte_bpe(['<|begin|>', '<|end|>', '<|turn|>'])
    library.post_processor = processors.TemplateProcessing(
        single='<|begin|> $A', pair='<|begin|> $A <|begin|>:1 $B:1',
        special_tokens=[('<|begin|>', 0)])
    return _write(folder, 'llama', {'tokenizer.json': library.to_str(), 'tokenizer_config.json': {
        'tokenizer_class': 'PreTrainedTokenizerFast', 'bos_token': '<|begin|>',
        'eos_token': '<|end|>'}})


def llama(folder: Path) -> str:
    file = pieces('bpe', vocab_size=400, byte_fallback=True, normalization_rule_name='identity',
                  remove_extra_whitespaces=False)
    return _write(folder, 'llama', {'tokenizer.model': file, 'tokenizer_config.json': {
        'tokenizer_class': 'LlamaTokenizer', 'add_bos_token': True, 'add_eos_token': False,
        'legacy': False}})


def llama_prepend(folder: Path) -> str:
    """Llama 2's tokenizer.json, whose normalizer transformers does not take as it is."""
    llama(folder)
    library = from_proto(parse_proto((folder / 'tokenizer.model').read_bytes()))
    library.post_processor = processors.TemplateProcessing(
        single='<s> $A', pair='<s> $A <s>:1 $B:1', special_tokens=[('<s>', 1)])
    library.add_special_tokens(['<unk>', '<s>', '</s>'])
    (folder / 'tokenizer.model').unlink()
    return _write(folder, 'llama', {'tokenizer.json': library.to_str(), 'tokenizer_config.json': {
        'tokenizer_class': 'LlamaTokenizerFast', 'bos_token': '<s>', 'eos_token': '</s>',
        'unk_token': '<unk>', 'legacy': True}})


def _t5_pieces(rules: str, **options) -> bytes:
    return pieces('unigram', pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
                  normalization_rule_name=rules, **options)


def t5(folder: Path, rules: str = 'identity') -> str:
    return _write(folder, 't5', {'spiece.model': _t5_pieces(rules)})


def mt5(folder: Path) -> str:
    return _write(folder, 'mt5', {
        'spiece.model': _t5_pieces('identity'), 'tokenizer_config.json': {'extra_ids': 0},
        'special_tokens_map.json': {'eos_token': '</s>', 'unk_token': '<unk>',
                                    'pad_token': '<pad>'}})


def albert(folder: Path, rules: str = 'identity') -> str:
    file = pieces('unigram', pad_id=0, unk_id=1, bos_id=-1, eos_id=-1,
                  control_symbols=['[CLS]', '[SEP]', '[MASK]'], normalization_rule_name=rules)
    return _write(folder, 'albert', {'spiece.model': file})


def xlm_roberta(folder: Path, rules: str = 'identity') -> str:
    file = pieces('unigram', unk_id=0, bos_id=1, eos_id=2, normalization_rule_name=rules)
    return _write(folder, 'xlm-roberta', {'sentencepiece.bpe.model': file})


def marian(folder: Path, rules: str = 'identity') -> str:
    """Two models over one vocabulary, which lacks a piece of each."""
    sides = [pieces('unigram', vocab_size=size, normalization_rule_name=rules)
             for size in (120, 90)]
    names = ['</s>', '<unk>']
    for file in sides:
        processor = sentencepiece.SentencePieceProcessor(model_proto=file)
        names += [processor.id_to_piece(i) for i in range(3, processor.get_piece_size() - 1)]
    names = [*dict.fromkeys(names), '>>de<<', '<pad>']
    return _write(folder, 'marian', {
        'source.spm': sides[0], 'target.spm': sides[1],
        'vocab.json': {name: i for i, name in enumerate(names)},
        'config.json': {'model_type': 'marian', 'decoder_start_token_id': len(names) - 1}})


KINDS = {make.__name__: make for make in (
    bert, cased_distilbert, electra_json, roberta, bart_json, gpt2, llama_json, llama,
    llama_prepend, t5, mt5, albert, xlm_roberta, marian)}
