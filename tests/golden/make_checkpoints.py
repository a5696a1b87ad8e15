"""Writes checkpoint-*.npz: a small model of each family, and what transformers compute with it.

    PYTHONPATH=.:tests/interop python tests/golden/make_checkpoints.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch_models
import transformers
from parity import draw_batch, opened
from safetensors.numpy import save

HERE = Path(__file__).parent
LAYERS = {'num_hidden_layers': 2, 'num_decoder_layers': 2, 'decoder_layers': 2, 'n_layer': 2}
LENGTH = 8
GRADIENTS = 12  # one of so many is kept


def golden(kind: str) -> tuple[str, dict[str, np.ndarray]]:
    """(model_type, {'config', 'tensors', 'batch/NAME', 'theirs/NAME'}); the
    tensors are a safetensors file of float16."""
    options = torch_models.KINDS[kind][1]
    model = torch_models.make(kind, **{name: LAYERS[name] for name in LAYERS if name in options})
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found, _ = opened(Path(folder))
        batch = draw_batch(found.config, found.name, LENGTH)
        theirs = torch_models.measured(model, batch, found.config.data.objective)
        arrays = {'config': np.array(Path(folder, 'config.json').read_text())}
        tensors = save({name: found.tensors[name].astype(np.float16) for name in found.tensors})
        arrays['tensors'] = np.frombuffer(tensors, np.uint8)
    gradients = sorted(name for name in theirs if name.startswith('gradients/'))
    dropped = {name for i, name in enumerate(gradients) if i % GRADIENTS}
    arrays |= {f'batch/{name}': np.asarray(array) for name, array in batch.items()}
    return found.family.model_type, arrays | {
        f'theirs/{name}': array for name, array in theirs.items() if name not in dropped}


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for kind in torch_models.ONE_OF_EACH:
        name, arrays = golden(kind)
        np.savez_compressed(HERE / f'checkpoint-{name}.npz', **arrays)


if __name__ == '__main__':
    main()
