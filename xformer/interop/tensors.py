"""The tensors of a folder: safetensors files, one or several with an index; read by memory map.

Pickles (.bin, .pt) are refused: opening one can run code.
"""

import glob
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from xformer.config import UserError

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
FLOATS = {'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'BF16': ml_dtypes.bfloat16}
PICKLES = 'pytorch_model*.bin'
SHARD_BYTES = 5 * 10**9
_CONVERT = ("python -c \"import glob, torch, safetensors.torch as s; s.save_file({{k: "
            "v.contiguous().clone() for f in sorted(glob.glob('{0}')) for k, v in "
            "torch.load(f, weights_only=True).items()}}, '{1}', {{'format': 'pt'}})\"")


class Tensors:
    """Arrays by name: views of the files, of which memory holds what is looked at."""

    def __init__(self, folder: Path):
        """Raises UserError where files are missing, or are no sound safetensors files."""
        self._entries: dict[str, tuple[Path, np.ndarray, dict]] = {}  # path, data, its header's
        for path, promised in _files(folder):
            header, data = _opened(path)
            if missing := sorted(promised - header.keys()):
                raise UserError(f'{path} lacks {missing[0]}, which {INDEX} says it holds; restore '
                                'it from a copy')
            if twice := sorted(header.keys() & self._entries.keys()):
                raise UserError(f'{path} and {self._entries[twice[0]][0].name} both hold '
                                f'{twice[0]}; restore them from a copy')
            self._entries |= {name: (path, data, entry) for name, entry in header.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self):
        return iter(self._entries)

    def __getitem__(self, name: str) -> np.ndarray:
        """Raises UserError for a tensor that holds no floating-point numbers, or whose shape is
        too large for an array."""
        path, data, entry = self._entries[name]
        if entry['dtype'] not in FLOATS:
            raise UserError(f'{name} in {path} is of type {entry["dtype"]}; supported are '
                            f'{", ".join(FLOATS)}')
        start, stop = entry['data_offsets']
        try:
            return np.ndarray(entry['shape'], FLOATS[entry['dtype']], data[start:stop])
        except (ValueError, TypeError, OverflowError) as error:
            raise UserError(f'{name} in {path} cannot be read ({error}); fetch it again') from None


def _files(folder: Path) -> list[tuple[Path, set[str]]]:
    """(path, names that the index promises) of each file."""
    if (folder / SINGLE).is_file():
        return [(folder / SINGLE, set())]
    if (folder / INDEX).is_file():
        return _indexed(folder)
    published = sorted(folder.glob(PICKLES))  # one, or its parts
    for path in published or sorted(folder.glob('*')):
        if path.suffix in ('.bin', '.pt', '.pth', '.ckpt') and path.name != 'training_args.bin':
            raise UserError(f'{path} is a pickle, which can run code when it is opened; where '
                            'PyTorch is, convert it with: ' + _CONVERT.format(
                                Path(glob.escape(str(folder))) / (
                                    PICKLES if published else glob.escape(path.name)),
                                folder / SINGLE))
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


def _opened(path: Path) -> tuple[dict[str, dict], np.ndarray]:
    """(what the header says of each tensor, the bytes after it) of a file whose header is sound:
    the library refuses wrong sizes, offsets and types, and we what it takes without a word, names
    that come twice."""
    def once(pairs):
        name, times = Counter(name for name, _ in pairs).most_common(1)[0] if pairs else ('', 1)
        if times > 1:
            raise ValueError(f'{name!r} comes {times} times in its header')
        return dict(pairs)

    try:
        safe_open(path, 'np')
        data = np.memmap(path, np.uint8, 'r')
        size = 8 + int(data[:8].view('<u8')[0])
        header = json.loads(data[8:size].tobytes(), object_pairs_hook=once)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f'{path} is no sound safetensors file ({error}); fetch it again') from None
    header.pop('__metadata__', None)
    return header, data[size:]


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
