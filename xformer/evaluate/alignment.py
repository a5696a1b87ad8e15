"""Which source tokens the decoder looked at for each token it wrote."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from xformer.compiled import Compilations
from xformer.config import Config
from xformer.data.layouts import cut_side
from xformer.data.objectives.rows import padded, shifted
from xformer.data.tokenizers import Tokenizers
from xformer.evaluate.inputs import encode_sources, template_of
from xformer.models.seq2seq import Seq2Seq


@dataclass(frozen=True)
class Alignment:
    """Cross-attention of one example. Raises ValueError if labels and weights do not match."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights_TS: np.ndarray  # row t: where output token t looked; each row sums to 1

    def __post_init__(self):
        labelled = len(self.target), len(self.source)
        if self.weights_TS.shape != labelled:
            raise ValueError(f'weights_TS is {self.weights_TS.shape}, its labels {labelled}')

    def to_row(self) -> dict:
        """Plain values, for a line of JSON."""
        return {'source': self.source, 'target': self.target,
                'weights': self.weights_TS.round(4).tolist()}


def align(pairs: Sequence[tuple[str, str]], model: Seq2Seq, config: Config, params,
          tokenizers: Tokenizers, compilations: Compilations) -> list[Alignment]:
    """Cross-attention of the last decoder block, mean over its heads, for (source, target) texts.

    Row t is the attention in effect when target token t was predicted; end tokens are included.
    """
    sources = encode_sources([source for source, _ in pairs], config, tokenizers)
    special, template = tokenizers.special, template_of(config, tokenizers)
    targets = [cut_side(template.row([tokenizers.target.encode(target)]), config.model.max_length)
               for _, target in pairs]
    (source_BS, lengths_B), (target_BT, target_lengths_B) = (
        padded(side, (len(side), max(map(len, side))), special.pad) for side in (sources, targets))
    inputs_BT = shifted(target_BT, target_lengths_B, special)

    def attention_maps(params, *inputs):
        looks = model.apply({'params': params}, *inputs, method='look')
        return looks['decoder']['cross'][-1].mean(axis=1)

    look = compilations.wrap('attention_maps', jax.jit(attention_maps))
    maps_BTS = np.asarray(look(params, source_BS, lengths_B, inputs_BT))
    return [Alignment(tuple(tokenizers.source.tokens(source)),
                      tuple(tokenizers.target.tokens(target)),
                      weights_TS[:len(target), :len(source)])
            for source, target, weights_TS in zip(sources, targets, maps_BTS)]
