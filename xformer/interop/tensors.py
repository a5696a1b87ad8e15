"""The tensors of a folder: safetensors files, one or several with an index; read by memory map.

Pickles (.bin, .pt) are refused: opening one can run code.
"""

import json
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401 - lets NumPy know bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from xformer.config import UserError

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
FLOATS = ('F64', 'F32', 'F16', 'BF16')
LONGEST_HEADER = 100_000_000  # bytes, as the library allows
SHARD_BYTES = 5 * 10**9
_CONVERT = ("python -c \"import torch, safetensors.torch as s; s.save_file({{k: v.clone() for k, v "
            "in torch.load('{0}', weights_only=True).items()}}, '{1}')\"")


class Tensors:
    """Arrays by name, each read when it is asked for."""

    def __init__(self, folder: Path):
        """Raises UserError where files are missing, or are no sound safetensors files."""
        self._files = {}
        for path, promised in _files(folder):
            file = _opened(path)
            names = set(file.keys())
            if missing := sorted(promised - names):
                raise UserError(f'{path} lacks {missing[0]}, which {INDEX} says it holds; restore '
                                'it from a copy')
            if twice := sorted(names & self._files.keys()):
                raise UserError(f'{path} and {self._files[twice[0]][1].name} both hold {twice[0]}; '
                                'restore them from a copy')
            self._files |= dict.fromkeys(names, (file, path))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self):
        return iter(self._files)

    def __getitem__(self, name: str) -> np.ndarray:
        """Raises UserError for a tensor that holds no floating-point numbers, or too many axes or
        numbers for an array."""
        file, path = self._files[name]
        kind = file.get_slice(name).get_dtype()
        if kind not in FLOATS:
            raise UserError(f'{name} in {path} is of type {kind}; supported are '
                            f'{", ".join(FLOATS)}')
        try:
            return file.get_tensor(name)
        except (SafetensorError, ValueError) as error:
            raise UserError(f'{name} in {path} cannot be read ({error}); fetch it again') from None


def _files(folder: Path) -> list[tuple[Path, set[str]]]:
    """(path, names that the index promises) of each file."""
    if (folder / SINGLE).is_file():
        return [(folder / SINGLE, set())]
    if (folder / INDEX).is_file():
        return _indexed(folder)
    for path in sorted(folder.glob('*')):
        if path.suffix in ('.bin', '.pt', '.pth', '.ckpt') and path.name != 'training_args.bin':
            raise UserError(f'{path} is a pickle, which can run code when it is opened; where '
                            'PyTorch is, convert it with: '
                            + _CONVERT.format(path, folder / SINGLE))
    raise UserError(f'{folder} holds neither {SINGLE} nor {INDEX}; give the folder of a checkpoint')


def _indexed(folder: Path) -> list[tuple[Path, set[str]]]:
    files: dict[str, set[str]] = {}
    try:
        places = json.loads((folder / INDEX).read_text(encoding='utf-8'))['weight_map']
        for name, file in places.items():
            files.setdefault(file, set()).add(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{folder / INDEX} is no index of safetensors files ({error!r}); restore '
                        'it from a copy') from None
    for file in files:
        if not isinstance(file, str) or Path(file).name != file or not (folder / file).is_file():
            raise UserError(f'{folder / INDEX} names {file!r}, which is no file beside it; restore '
                            'it from a copy')
    return [(folder / file, files[file]) for file in sorted(files)]


def _opened(path: Path):
    """The file, its header checked: the library refuses wrong sizes, offsets and types, and we
    what it takes without a word, names that come twice."""
    try:
        _check_names(path)
        return safe_open(path, 'np')
    except (SafetensorError, OSError, ValueError, RecursionError, struct.error) as error:
        raise UserError(f'{path} is no sound safetensors file ({error}); fetch it again') from None


def _check_names(path: Path) -> None:
    with open(path, 'rb') as file:
        [size] = struct.unpack('<Q', file.read(8))
        if size > min(LONGEST_HEADER, path.stat().st_size):
            raise ValueError(f'its header claims {size:,} bytes')
        header = file.read(size)

    def once(pairs):
        name, times = Counter(name for name, _ in pairs).most_common(1)[0] if pairs else ('', 1)
        if times > 1:
            raise ValueError(f'{name!r} comes {times} times in its header')
        return dict(pairs)
    json.loads(header, object_pairs_hook=once)


def write(folder: Path, tensors: Mapping[str, np.ndarray], shard_bytes: int = SHARD_BYTES) -> None:
    """One file, or several with an index where they would be larger than `shard_bytes`."""
    shards, room = [], 0
    for name, array in tensors.items():
        if not shards or array.nbytes > room:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = array
        room -= array.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / SINGLE, metadata={'format': 'pt'})
        return
    places = {}
    for number, shard in enumerate(shards, start=1):
        file = f'model-{number:05}-of-{len(shards):05}.safetensors'
        save_file(shard, folder / file, metadata={'format': 'pt'})
        places |= dict.fromkeys(shard, file)
    total = sum(array.nbytes for array in tensors.values())
    (folder / INDEX).write_text(json.dumps(
        {'metadata': {'total_size': total}, 'weight_map': places}, indent=2) + '\n')
