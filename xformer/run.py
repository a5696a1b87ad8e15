"""A run folder, opened: its configuration, tokenizers, model and parameters."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from xformer.config import Config, UserError
from xformer.data.tokenizers import Tokenizers, load_tokenizers
from xformer.models import build, init_params
from xformer.train.checkpoint import read_params


@dataclass(frozen=True)
class Run:
    folder: Path
    config: Config
    manifest: dict
    tokenizers: Tokenizers
    model: nn.Module
    params: dict
    checkpoint: str  # which: 'step 400', 'mean of steps 300, 400'


def open_run(folder: Path, config: Config, checkpoint: str, say: Callable[[str], None]) -> Run:
    """Restore the parameters that `checkpoint` names (see `read_params`) on the first device.

    `config` is the run's own, or that with other settings for decoding. Raises UserError for
    whatever is missing or damaged.
    """
    try:
        manifest = json.loads((folder / 'manifest.json').read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read {folder}/manifest.json ({error}); restore it from a copy'
                        ) from None
    model = build(config)
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    device = SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    description, params = read_params(folder / 'checkpoints', checkpoint, abstract, say,
                                      config.train.best_by)
    return Run(folder, config, manifest, load_tokenizers(folder), model, params, description)


def held_out(folder: Path, split: str) -> list:
    """The pairs or documents of the dev or test split, as they were when the run began."""
    path = folder / 'data' / f'{split}.jsonl'
    try:
        with open(path, encoding='utf-8') as file:  # splitlines would also split at U+2028
            return [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read the {split} split in {path} ({error}); give '
                        '--input=FILE instead') from None
