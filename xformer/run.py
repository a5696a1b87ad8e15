"""A run folder, opened: its configuration, tokenizers, model and parameters."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from xformer.config import Config, UserError
from xformer.data.sources import Pair
from xformer.data.tokenizers import Tokenizers, load_tokenizers
from xformer.models.seq2seq import Seq2Seq
from xformer.train.checkpoint import read_params


@dataclass(frozen=True)
class Run:
    folder: Path
    config: Config
    manifest: dict
    tokenizers: Tokenizers
    model: Seq2Seq
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
    model = Seq2Seq(config.model)
    ids, lengths = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids, lengths, ids)['params']
    device = SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    description, params = read_params(folder / 'checkpoints', checkpoint, abstract, say)
    return Run(folder, config, manifest, load_tokenizers(folder), model, params, description)


def held_out_pairs(folder: Path, split: str) -> list[Pair]:
    """The pairs of the dev or test split, as they were when the run began."""
    path = folder / 'data' / f'{split}.jsonl'
    try:
        return [tuple(json.loads(line)) for line in path.read_text(encoding='utf-8').splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f'cannot read the {split} split in {path} ({error}); give '
                        '--input=FILE instead') from None
