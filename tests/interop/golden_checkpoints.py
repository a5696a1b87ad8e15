"""The small checkpoints of tests/golden, and folders made of them."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from xformer.interop.tensors import write

FILES = {path.stem.removeprefix('checkpoint-'): path for path in sorted(
    (Path(__file__).parents[1] / 'golden').glob('checkpoint-*.npz'))}


def read(name: str) -> tuple[dict, dict, dict, dict]:
    """(config.json, tensors in float32, batch, what transformers compute with them)."""
    with np.load(FILES[name]) as file:
        parts = {'batch': {}, 'theirs': {}}
        for path in file.files:
            part, _, rest = path.partition('/')
            if rest:
                parts[part][rest] = file[path]
        tensors = {path: array.astype(np.float32)
                   for path, array in load(file['tensors'].tobytes()).items()}
        return json.loads(str(file['config'])), tensors, parts['batch'], parts['theirs']


def make_folder(folder: Path, config: dict, tensors: dict, **options) -> Path:
    """A Hugging Face folder; `options` go to `tensors.write`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(config))
    write(folder, tensors, **options)
    return folder


