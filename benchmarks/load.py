"""Suite load: published sizes of models read from Hugging Face folders, against `from_pretrained`.

Folders are made by transformers from the published configurations, with random weights and the
published number of parameters. Both sides have read the files before, so that the disk does not
count. Memory is the most private memory of a process of its own while it reads, beyond what it had.

    python -m benchmarks.load xformer FOLDER     that of one side, in MiB
"""

import functools
import gc
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers

from benchmarks.parity import announce, check_close
from benchmarks.prepare_memory import private_mb, watched
from benchmarks.results import OURS, compared, measured
from benchmarks.timing import cpus
from experiments import cli
from xformer.console import say
from xformer.interop.folder import open_checkpoint
from xformer.models import build
from xformer.run import read_checkpoint

# name of the class, what differs from its own size, number of parameters
SIZES: dict[str, tuple[str, dict[str, Any], int]] = {
    'bert-base-uncased': ('BertModel', {}, 109_482_240),
    'gpt2': ('GPT2LMHeadModel', {}, 124_439_808),
    't5-small': ('T5ForConditionalGeneration', {}, 60_506_624),
    'bart-base': ('BartForConditionalGeneration', {
        'd_model': 768, 'encoder_layers': 6, 'decoder_layers': 6, 'encoder_attention_heads': 12,
        'decoder_attention_heads': 12, 'encoder_ffn_dim': 3072, 'decoder_ffn_dim': 3072},
        139_420_416),
    'opus-mt-en-de': ('MarianMTModel', {
        'd_model': 512, 'encoder_layers': 6, 'decoder_layers': 6, 'encoder_attention_heads': 8,
        'decoder_attention_heads': 8, 'encoder_ffn_dim': 2048, 'decoder_ffn_dim': 2048,
        'max_position_embeddings': 512, 'activation_function': 'swish', 'scale_embedding': True,
        'static_position_embeddings': True}, 74_410_496)}
TOLERANCE = 1e-4  # relative


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The cases of the suite. Raises RuntimeError for another number of parameters, or other
    outputs."""
    torch.set_num_threads(cpus())
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    cases = {}
    for title in SIZES:
        with tempfile.TemporaryDirectory(prefix='load-') as folder:
            cases[title] = compare_reading(title, Path(folder), peers, repeats)
            for side in (OURS, *peers):
                cases[f'{title}, memory of {side}'] = measured(
                    [memory(side, Path(folder))], 'MiB', None)
    return cases


def compare_reading(title: str, folder: Path, peers: Iterable[str], rounds: int) -> dict:
    """The case of one folder, which is filled first."""
    announce(title)
    make(title, folder)
    works = {OURS: functools.partial(ours, folder)} | {
        peer: functools.partial(theirs, folder) for peer in peers}
    expected = outputs_of_ours(folder)
    differences = {peer: {'outputs': check_close(f'outputs of {title}', expected,
                                                 outputs_of_theirs(folder), TOLERANCE)}
                   for peer in peers}
    gc.collect()
    return {'parity': differences} | compared(works, 1, 'folders/s', None, rounds, title)


def make(title: str, folder: Path) -> None:
    """Raises RuntimeError where it has another number of parameters than the published one."""
    name, options, published = SIZES[title]
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**options))
    if model.num_parameters() != published:
        raise RuntimeError(f'{title} has {model.num_parameters():,} parameters here, published are '
                           f'{published:,}')
    model.save_pretrained(folder)


def ours(folder: Path) -> dict:
    """The parameters, on the device."""
    found = open_checkpoint(folder)
    return jax.block_until_ready(read_checkpoint(found, build(found.config), say))


def theirs(folder: Path) -> torch.nn.Module:
    """The model, every parameter of it in memory."""
    name = open_checkpoint(folder).name
    model = getattr(transformers, name).from_pretrained(folder)
    for parameter in model.parameters():
        parameter.data.sum()  # files are mapped, and read when they are used
    return model


def outputs_of_ours(folder: Path) -> np.ndarray:
    """Logits, or without a head hidden states, for two rows of tokens."""
    found = open_checkpoint(folder)
    apply = functools.partial(build(found.config).apply, {'params': ours(folder)})
    ids_BT, lengths_B = some_tokens(found.config.model.vocab_size)
    match found.config.model.family:
        case 'decoder':
            return np.asarray(apply(ids_BT))
        case 'seq2seq':
            return np.asarray(apply(ids_BT, lengths_B, ids_BT))
    return np.asarray(apply(ids_BT, lengths_B, method='features')[-1])


def outputs_of_theirs(folder: Path) -> np.ndarray:
    model = theirs(folder).eval()
    ids_BT = torch.from_numpy(some_tokens(model.config.vocab_size)[0]).long()
    more = {'decoder_input_ids': ids_BT} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), **more)[0].numpy()


def some_tokens(vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """ids_BT and lengths_B."""
    ids_BT = np.random.default_rng(0).integers(vocab_size, size=(2, 16), dtype=np.int32)
    return ids_BT, np.full(2, 16, np.int32)


def memory(side: str, folder: Path) -> float:
    """MiB that reading takes in a process of its own."""
    done = subprocess.run([sys.executable, '-m', 'benchmarks.load', side, str(folder)],
                          capture_output=True, text=True, check=True)
    return float(done.stdout)


def own_memory(side: str, folder: Path) -> float:
    """MiB of private memory that reading takes in this process, beyond what it has already."""
    read: Callable[[Path], Any] = ours if side == OURS else theirs
    jax.numpy.zeros(1).block_until_ready()  # takes what the library keeps for good
    before = private_mb()
    return round(watched(lambda: read(folder))[1]['peak_mb'] - before, 1)


if __name__ == '__main__':
    jax.config.update('jax_platforms', 'cpu')
    if sys.argv[1] == OURS:
        cli.keep_memory()
    transformers.utils.logging.disable_progress_bar()
    print(own_memory(sys.argv[1], Path(sys.argv[2])))
