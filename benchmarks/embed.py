"""Suite embed: sentences to mean-pooled vectors, against sentence-transformers' `encode`.

A MiniLM-sized encoder with random weights, and generated sentences. Both sides begin with texts,
so that tokenisation counts. The peer sorts by length; ours packs several sentences into a row and
keeps its compiled functions from one call to the next: the rounds that warm up compile them.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertTokenizerFast
from transformers.utils.logging import disable_progress_bar

from benchmarks.huggingface import bert
from benchmarks.parity import announce, check_close
from benchmarks.results import OURS, compared
from benchmarks.timing import cpus
from benchmarks.work import minilm_config
from xformer.compiled import Compilations
from xformer.config import Config, override, to_flat
from xformer.data.tokenizers import train_tokenizers
from xformer.evaluate.embeddings import Embedder
from xformer.evaluate.inputs import encode_texts
from xformer.models import build, init_params

SENTENCES, VOCAB_SIZE, LONGEST = 2000, 30_522, 128
NAMES = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
TOLERANCE = 1e-4  # relative
BAR = 1.0


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The one case of the suite. Raises RuntimeError where the two sides' vectors differ."""
    torch.set_num_threads(cpus())
    with tempfile.TemporaryDirectory(prefix='embed-') as folder:
        return {f'MiniLM, {SENTENCES:,} sentences': compare_vectors(
            minilm_config(VOCAB_SIZE), sentences(SENTENCES, VOCAB_SIZE), peers, repeats,
            Path(folder))}


def sentences(number: int, vocab_size: int) -> list[str]:
    """Made-up words, one token each: log-normal lengths of 5 to 120 tokens, median 20."""
    random = np.random.default_rng(0)
    lengths_N = np.rint(np.exp(random.normal(3.0, 0.6, number))).clip(5, 120).astype(int)
    return [' '.join(f'w{word}' for word in random.integers(len(NAMES), vocab_size, length))
            for length in lengths_N]


def compare_vectors(config: Config, texts: list[str], peers: Iterable[str], rounds: int,
                    folder: Path) -> dict:
    """The case of these texts; `folder` receives the vocabulary and the peer's model."""
    announce(title := f'{len(texts):,} sentences')
    vocabulary = folder / 'vocab.txt'
    vocabulary.write_text('\n'.join(
        [*NAMES, *(f'w{word}' for word in range(len(NAMES), config.model.vocab_size))]) + '\n')
    config = override(config, {'data.tokenizer_file': str(vocabulary)})
    params = init_params(build(config), jax.random.key(0))
    encoders = {OURS: ours(config, params, texts)}
    model = sentence_transformer(config, jax.device_get(params['encoder']), folder)
    for peer in peers:
        encoders[peer] = theirs(model, texts, batch_size=int(peer.removeprefix('batch-')))
    expected_ND = encoders[OURS]()
    differences = {peer: {'vectors': check_close(f'vectors of {peer}', expected_ND,
                                                 encoders[peer](), TOLERANCE)} for peer in peers}
    return {'config': to_flat(config), 'parity': differences} | compared(
        encoders, len(texts), 'sentences/s', BAR, rounds, title)


def ours(config: Config, params: dict, texts: list[str]) -> Callable[[], np.ndarray]:
    """() -> vectors_ND, by `xformer.evaluate.embeddings`."""
    tokenizers = train_tokenizers(config.data, iter(()))
    embed = Embedder(build(config), config, params, 'mean', Compilations())
    return lambda: embed(encode_texts(texts, config, tokenizers))


def theirs(model: SentenceTransformer, texts: list[str],
           batch_size: int) -> Callable[[], np.ndarray]:
    """() -> vectors_ND, by `encode`."""
    return lambda: model.encode(texts, batch_size=batch_size, show_progress_bar=False)


def sentence_transformer(config: Config, params: dict, folder: Path) -> SentenceTransformer:
    """Our encoder and mean pooling, saved to `folder` and read as users' models are."""
    disable_progress_bar()
    bert(config.model, params).save_pretrained(folder / 'bert')
    BertTokenizerFast(vocab=str(folder / 'vocab.txt')).save_pretrained(folder / 'bert')
    transformer = Transformer(str(folder / 'bert'), max_seq_length=LONGEST)
    pooling = Pooling(config.model.d_model, pooling_mode='mean')
    return SentenceTransformer(modules=[transformer, pooling], device='cpu')
