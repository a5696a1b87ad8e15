"""A run folder or a Hugging Face folder, opened: configuration, tokenizers, model, parameters."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
from flax import linen as nn
from jax.sharding import SingleDeviceSharding

from xformer.config import Config, UserError, override
from xformer.data.tokenizers import Tokenizers, load_tokenizers
from xformer.interop.folder import Checkpoint, is_checkpoint, open_checkpoint
from xformer.interop.tables import by_path, nested
from xformer.interop.tokenizers import read_tokenizers
from xformer.models import build, init_params
from xformer.train.checkpoint import read_params
from xformer.train.folder import read_manifest


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
    if is_checkpoint(folder):
        return _open_checkpoint(folder, config, checkpoint, say)
    manifest = read_manifest(folder)
    model = build(config)
    shapes = _shapes(model)
    device = SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)
    description, params = read_params(folder / 'checkpoints', checkpoint, abstract, say,
                                      config.train.best_by)
    return Run(folder, config, manifest, load_tokenizers(folder), model, params, description)


def _shapes(model: nn.Module) -> dict:
    return jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))


def _open_checkpoint(folder: Path, config: Config, checkpoint: str, say) -> Run:
    """Of a Hugging Face folder; tells of tensors that have no place in the model."""
    if checkpoint != 'best':
        raise UserError(f'--checkpoint={checkpoint} is for a run; {folder} holds one set of '
                        'parameters: leave it out')
    found = open_checkpoint(folder)
    tokenizers = _tokenizers(found)
    config = override(config, {
        f'model.{name}': getattr(tokenizers.special, name.removesuffix('_id'))
        for name in ('pad_id', 'bos_id', 'eos_id') if getattr(config.model, name) < 0})
    if config.model.family == 'decoder' and tokenizers.template.before:  # of what is read there
        config = override(config, {'model.bos_id': tokenizers.template.before[0]})
    model = build(config)
    if found.aside:
        say(f'{found.folder} says what is not understood here, and left aside: '
            + ', '.join(found.aside))
    return Run(folder, config, {'data_fingerprint': ''}, tokenizers, model,
               read_checkpoint(found, model, say), found.name)


def read_checkpoint(found: Checkpoint, model: nn.Module, say: Callable[[str], None]) -> dict:
    """The parameters of a Hugging Face folder, on the first device."""
    shapes = {path: leaf.shape for path, leaf in by_path(_shapes(model)).items()}
    if unused := found.unused(shapes):
        say(f'{found.name} has no place for {len(unused)} tensors of {found.folder}: '
            + ', '.join(unused[:8]) + (', ...' if len(unused) > 8 else ''))
    return nested(dict(map(_placed, found.arrays(shapes))))


def tokenizers_in(folder: Path) -> Tokenizers:
    """Of a run, or of a Hugging Face folder."""
    if is_checkpoint(folder):
        return _tokenizers(open_checkpoint(folder))
    return load_tokenizers(folder)


def _tokenizers(found: Checkpoint) -> Tokenizers:
    return replace(read_tokenizers(found.folder, found.family.model_type), labels=found.labels)


def _placed(item: tuple):
    """(path, array on the device); a loop in its place would hold each array until the next."""
    path, array = item
    return path, jax.device_put(array)
