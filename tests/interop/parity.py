"""What our models compute with the tensors of a Hugging Face folder, named as `torch_models` names
what theirs compute, and how far the two are apart. Needs no PyTorch."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from xformer.config import Config, override
from xformer.interop.folder import Checkpoint, open_checkpoint
from xformer.interop.tables import by_path, nested, write_tensors
from xformer.models import build, init_params
from xformer.train.loss import summary
from xformer.train.tasks import task_of

DISCRIMINATOR = 'ElectraForPreTraining'  # whose loss counts all real tokens


def opened(folder: Path) -> tuple[Checkpoint, dict]:
    """The checkpoint, and our parameters."""
    found = open_checkpoint(folder)
    shapes = by_path(jax.eval_shape(
        lambda: init_params(build(found.config), jax.random.key(0))))
    return found, nested(dict(found.arrays({path: leaf.shape for path, leaf in shapes.items()})))


def draw_batch(config: Config, name: str, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch for the architecture `name`: three rows, one of them full, the others padded; of
    questions, for which padding counts in transformers' loss, three full ones."""
    draw, model, objective = np.random.default_rng(seed), config.model, config.data.objective
    plain = [i for i in range(model.vocab_size)
             if i not in (model.pad_id, model.bos_id, model.eos_id)]
    lengths_B = np.array([length] * 3 if objective == 'answer' else [length - 4, length, 3])
    columns = np.arange(length)[None]
    real = columns < lengths_B[:, None]

    def rows(real):
        ids = np.where(real, draw.choice(plain, real.shape), max(model.pad_id, 0))
        return ids.astype(np.int32)

    ids, batch = rows(real), {'real': real, 'head': _has_head(name)}
    if name.startswith('Marian'):
        batch['padding_row'] = model.pad_id
    if objective == 'pairs':
        wanted = real[::-1]
        labels_BT = rows(wanted)
        inputs_BT = np.where(columns, np.roll(labels_BT, 1, axis=1), model.bos_id)
        return batch | {
            'source_BS': ids, 'source_lengths_B': lengths_B, 'source_real': real, 'real': wanted,
            'inputs_BT': inputs_BT.astype(np.int32), 'labels_BT': labels_BT,
            'target_lengths_B': lengths_B[::-1].copy()}
    if objective == 'lm':
        positions = np.broadcast_to(columns, ids.shape).astype(np.int32)
        return batch | {
            'ids_BT': ids, 'inputs_BT': ids[:, :-1], 'labels_BT': ids[:, 1:],
            'segments_BT': real[:, 1:].astype(np.int32), 'positions_BT': positions[:, :-1]}
    first = 1 if objective == 'answer' else lengths_B[:, None] // 2
    return batch | {
        'inputs_BS': ids, 'lengths_B': lengths_B, 'types_BS': ((columns >= first) & real) * 1,
        'segments': model.num_segments > 1, 'masked_lengths_B': np.array([2, 3, 1]),
        'masked_BP': np.array([[1, 2, 0], [3, 5, length - 1], [2, 0, 0]]),
        'masked_labels_BP': draw.choice(plain, (3, 3)),
        'nsp_labels_B': np.array([1, 0, 1]), 'labels_B': np.array([1, 0, 2]),
        'numbers_B': draw.normal(size=3).astype(np.float32),
        'labels_B2': np.array([[1, 4], [0, 0], [length - 2, length - 1]]),
        'labels_BS': np.where(real & ((columns != 1) | (name == DISCRIMINATOR)), draw.integers(
            model.num_labels or 5, size=ids.shape), -1)}


def _has_head(name: str) -> bool:
    """Whether transformers' class computes logits that ours computes, too."""
    return name.endswith(('LMHeadModel', 'MTModel')) or not name.endswith('Model')


def measured(folder: Path, batch: dict, dtype: str = 'float32') -> dict[str, np.ndarray]:
    """{'logits', 'loss', 'hidden/encoder', 'maps/decoder/cross', 'gradients/NAME', ...}."""
    found, params = opened(folder)
    config = override(found.config, {'model.dtype': dtype})
    arrays = {name: np.asarray(array) for name, array in batch.items() if name != 'head' and (
        name != 'nsp_labels_B' or config.data.objective == 'mlm_nsp')}
    seen, gradients = jax.jit(functools.partial(_computed, config, bool(batch['head'])))(
        params, arrays)
    gradients = write_tensors(found.table, by_path(jax.device_get(gradients)))
    if found.name == DISCRIMINATOR:  # theirs is the difference of two outputs, both of which move
        seen['logits'] = seen['logits'][..., 1:] - seen['logits'][..., :1]
        gradients |= {name: array / 2 for name, array in gradients.items()
                      if 'dense_prediction' in name}
    return {name: np.asarray(array, np.float32) for name, array in (seen | {
        f'gradients/{name}': array for name, array in gradients.items()}).items()}


def _computed(config: Config, head: bool, params, batch: dict):
    """(what the model computes, the gradients of its loss). Without a head the loss is the mean
    square of what one would see."""
    model = build(config)

    def loss_of(params):
        seen = _seen(functools.partial(model.apply, {'params': params}), config, head, batch)
        if head:
            task = task_of(config)
            outputs = model.apply({'params': params}, *task.inputs(batch))
            loss = summary(task.sums(outputs, batch, 0.0), task.weights(batch))['loss']
        elif 'pooled' in seen:
            loss = jnp.square(seen['pooled']).mean()
        else:
            real_BT1 = batch['real'][..., None]
            loss = jnp.where(real_BT1, seen['logits'] ** 2, 0).sum() / (
                real_BT1.sum() * seen['logits'].shape[-1])
        return loss, seen | {'loss': loss}

    gradients, seen = jax.grad(loss_of, has_aux=True)(params)
    return seen, gradients


def _seen(apply, config: Config, head: bool, batch: dict) -> dict:
    family, objective = config.model.family, config.data.objective
    inputs = {'decoder': ('ids_BT',), 'encoder': ('inputs_BS', 'lengths_B', 'types_BS'),
              'seq2seq': ('source_BS', 'source_lengths_B', 'inputs_BT')}[family]
    inputs = [batch[name] for name in inputs]
    seen = {}
    for side, looks in apply(*inputs, method='look').items():
        def finish(model, x_BTD, side=side):
            stack = model.encoder.encoder if family == 'encoder' else getattr(model, side)
            return stack.finish(x_BTD)
        last_BTD = apply(looks['hidden'][-1], method=finish)
        seen[f'hidden/{side}'] = looks['hidden'].at[-1].set(last_BTD)
        seen |= {f'maps/{side}/{name}': looks[name] for name in ('self', 'cross') if name in looks}
    if objective in ('mlm', 'mlm_nsp'):
        everywhere_BT = jnp.broadcast_to(jnp.arange(inputs[0].shape[1])[None], inputs[0].shape)
        seen['logits'], following_B2 = apply(*inputs, everywhere_BT)
        if following_B2 is not None:
            seen['next'] = following_B2
    elif head:
        seen['logits'] = apply(*inputs)
    else:
        seen['logits'] = last_BTD
    if objective == 'none' and config.model.pooler:
        seen['pooled'] = apply(*inputs)
    return seen


def differences(ours: dict, theirs: dict, batch: dict) -> dict[str, float]:
    """Largest difference ÷ largest value of every tensor of theirs, at real tokens.

    Gradients that are zero but for rounding, as of the bias of keys, which moves all scores alike,
    are compared with the largest gradient of all.
    """
    largest = max(np.abs(array).max() for name, array in theirs.items() if 'gradients/' in name)
    found = {}
    for name, expected in theirs.items():
        one, other = (only_real(name, array, batch) for array in (ours[name], expected))
        assert one.shape == other.shape, name
        size = np.abs(other).max()
        if name.startswith('gradients/') and size < 1e-6 * largest:
            size = largest
        found[name] = float(np.abs(one - other).max() / size)
    return found


def only_real(name: str, array: np.ndarray, batch: dict) -> np.ndarray:
    """With what is noise made zero: at padding, and the gradient of the embedding of padding, which
    PyTorch leaves out even where a model begins with it (Marian)."""
    if name.endswith('shared.weight') and 'padding_row' in batch:
        return np.delete(array, batch['padding_row'], axis=0)
    real = batch.get('source_real', batch['real']) if 'encoder' in name else batch['real']
    if name.startswith('hidden') or name == 'logits' and array.shape[:2] == real.shape:
        return array * real[..., None]
    return array * real[:, None, :, None] if name.startswith('maps') else array
