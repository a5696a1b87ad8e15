"""What a model saw and made of a text: attention maps, hidden states, what each layer would say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn

from xformer.compiled import Compilations
from xformer.config import Config, UserError, is_labelled
from xformer.data.objectives.rows import padded, shifted
from xformer.data.packing import LEAST_WIDTH, power_of_two
from xformer.data.tokenizers import Tokenizers
from xformer.evaluate.inputs import Text, segments

TOP = 5  # tokens that the lens shows


class Lens(NamedTuple):
    """The likeliest tokens at every layer and position, best first (logit lens; nostalgebraist
    2020): each block's output through the model's final norm and output matrix."""

    tokens: list[list[list[str]]]  # [L][T][K]
    probabilities_LTK: np.ndarray


class Map(NamedTuple):
    """The attention of all layers and heads of one kind."""

    kind: str  # 'self' or 'cross'
    queries: tuple[str, ...]  # T: who looks
    keys: tuple[str, ...]  # S: at whom
    weights_LNTS: np.ndarray  # float32; over keys they sum to 1

    @property
    def entropy_LN(self) -> np.ndarray:
        """Entropy of a head's weights in nats, mean over its queries: 0 looks at one key alone,
        ln S at all S alike."""
        log_LNTS = np.log(np.where(self.weights_LNTS > 0, self.weights_LNTS, 1))
        return -(self.weights_LNTS * log_LNTS).sum(-1).mean(-1)


@dataclass(frozen=True)
class Look:
    """One stack on one text, its T tokens read and, position by position, to be said."""

    stack: str  # 'encoder' or 'decoder'
    reads: tuple[str, ...]
    says: tuple[str, ...]  # in an encoder what it reads; '' where nothing is known
    maps: tuple[Map, ...]
    hidden_LTD: np.ndarray  # float32: each block's output
    lens: Lens | None  # None in an encoder that says no tokens: of a seq2seq, or with a label head

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by names that tell the shape, for an .npz file."""
        found = {'reads_T': np.array(self.reads), 'says_T': np.array(self.says),
                 'hidden_LTD': self.hidden_LTD}
        for each in self.maps:
            found[f'{each.kind}_LNT{"T" if each.kind == "self" else "S"}'] = each.weights_LNTS
            found[f'{each.kind}_entropy_LN'] = each.entropy_LN
        if self.lens:
            found['lens_tokens_LTK'] = np.array(self.lens.tokens)
            found['lens_probabilities_LTK'] = self.lens.probabilities_LTK
        return {f'{self.stack}_{name}': array for name, array in found.items()}


def look_at(rows: Sequence[Text], targets: Sequence[list[int]] | None, model: nn.Module,
            config: Config, params, tokenizers: Tokenizers, compilations: Compilations,
            progress: Callable[[int], None] = lambda done: None) -> list[list[Look]]:
    """The stacks of the model on each text alone, the encoder first.

    `rows` are the texts' ids as `encode_texts` gives them, `targets` those, EOS included, that go
    with them: given for a seq2seq model, which reads them after BOS, and for no other. Raises
    UserError for a target too long.
    """
    for number, ids in enumerate(targets or [], start=1):
        if len(ids) > config.model.max_length:
            raise UserError(f'the target of input {number} has {len(ids):,} tokens, end included; '
                            f'the model takes {config.model.max_length}: shorten it')
    look = compilations.wrap('look', jax.jit(partial(_look, model, config)))
    looks = []
    for done, ids in enumerate(rows, start=1):
        inputs, names = _inputs(ids, targets[done - 1] if targets else None, config, tokenizers)
        found, top = jax.device_get(look(params, *inputs))
        looks.append([_without_padding(stack, found[stack],
                                       top if stack == _speaker(config) else None, names,
                                       tokenizers) for stack in names])
        progress(done)
    return looks


def _speaker(config: Config) -> str | None:
    """The stack whose last hidden states become logits of tokens."""
    if is_labelled(config) or config.data.objective == 'none':
        return None
    return 'encoder' if config.model.family == 'encoder' else 'decoder'


def _look(model, config, params, *inputs):
    """(the looks of the model, (probabilities_LTK, ids_LTK) or None), of a batch of one text."""
    apply = partial(model.apply, {'params': params})
    looks = apply(*inputs, method='look')
    if not _speaker(config):
        return looks, None
    logits_LTV = apply(looks[_speaker(config)]['hidden'][:, 0], method='lens')
    return looks, jax.lax.top_k(jax.nn.softmax(logits_LTV), min(TOP, config.model.vocab_size))


def _inputs(ids: Text, target: list[int] | None, config: Config, tokenizers: Tokenizers):
    """(inputs of `model.look`, {stack: (what it reads, what it should say)}).

    Rows are padded to a power of two, so that texts of all lengths need few compilations.
    """
    special, most = tokenizers.special, config.model.max_length

    def row(ids: list[int]):
        width = min(power_of_two(len(ids), least=LEAST_WIDTH), most)
        return padded([ids], (1, width), special.pad)

    ids_1T, lengths_1 = row(ids)
    read = tuple(tokenizers.source.tokens(ids))
    if config.model.family == 'encoder':
        types_1T = segments([ids], ids_1T.shape, config.model)
        return (ids_1T, lengths_1, types_1T), {'encoder': (read, read)}
    if config.model.family == 'decoder':
        return (ids_1T,), {'decoder': (read, (*read[1:], ''))}
    labels_1T, target_lengths_1 = row(target)
    inputs_1T = shifted(labels_1T, target_lengths_1, special)
    spoken = tuple(tuple(tokenizers.target.tokens(each[:len(target)]))
                   for each in (inputs_1T[0], target))
    return (ids_1T, lengths_1, inputs_1T), {'encoder': (read, ('',) * len(read)),
                                            'decoder': spoken}


def _without_padding(stack: str, found: dict, top, names: dict, tokenizers: Tokenizers) -> Look:
    (reads, says), keys = names[stack], names.get('encoder', [()])[0]
    T, S = len(reads), len(keys)
    maps = [Map('self', reads, reads, found['self'][:, 0, :, :T, :T])]
    if 'cross' in found:
        maps.append(Map('cross', says, keys, found['cross'][:, 0, :, :T, :S]))
    lens = None
    if top is not None:
        probabilities_LTK, ids_LTK = (each[:, :T] for each in top)
        lens = Lens([[tokenizers.target.tokens(ids) for ids in ids_TK] for ids_TK in ids_LTK],
                    probabilities_LTK)
    return Look(stack, reads, says, tuple(maps), found['hidden'][:, 0, :T].astype(np.float32),
                lens)
