"""From token ids of sources or prompts to token ids of outputs, batched by length."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from xformer.compiled import Compilations
from xformer.config import Config, UserError
from xformer.data.packing import LEAST_WIDTH, batches_by_length
from xformer.decode.search import Beams, Prompts, Rows, length_penalty
from xformer.decode.speculative import Drafted
from xformer.nn.stack import unstacked

EXTRA_LENGTH = 50  # longest output: source + 50 tokens (Vaswani et al. 2017, section 6.1)
STRIDE = 16  # tokens written between looks at outputs that their text may end
GROWS = 128  # tokens of outputs from which on caches grow, for a longer compilation

Complete = Callable[[int, list[int]], bool]  # (number of the input, ids of its output) -> ended


class Output(NamedTuple):
    ids: list[int]  # the end token included where there is one
    score: float  # log-probability ÷ length penalty


def output_limits(config: Config, length: int) -> tuple[int, int]:
    """(fewest, most) tokens of an output for a source, or after a prompt, of that many tokens.

    A decoder's lengths count the prompt, but not BOS. The most is below 1 where nothing fits.
    """
    decode, model = config.decode, config.model
    if model.family == 'decoder':
        room = (decode.max_length or model.max_length) - length
        return max(decode.min_length - length, 0), decode.max_new_tokens or room
    free = max(min(length + EXTRA_LENGTH, model.max_length), decode.min_length)
    return decode.min_length, decode.max_length or decode.max_new_tokens or free


class Draft(NamedTuple):
    """A model that proposes tokens, `size` at a time: of the same family and vocabulary."""

    model: nn.Module
    params: dict
    size: int


class Generator:
    """Writes outputs for any number of inputs with few compilations: shapes are powers of two.

    For an encoder-decoder an input is a source, for a decoder what comes after BOS, or all that it
    reads where it learnt without one (`after_bos` False: GPT-2). Each gets `num_outputs` outputs,
    best first: those of a beam, or samples. With a draft, greedy outputs are written several tokens
    at a time, one input after another (`decode.speculative`). An output also ends where `complete`
    says so, which no beam can.
    """

    def __init__(self, model: nn.Module, config: Config, params, compilations: Compilations,
                 num_outputs: int = 1, complete: Complete | None = None,
                 draft: Draft | None = None, batch_tokens: int = 4096, after_bos: bool = True):
        self._model, self._config, self._draft = model, config, draft
        self._params = _for_loops(params), draft and _for_loops(draft.params)
        self._complete, self._num_outputs = complete, num_outputs
        self._before = [config.model.bos_id] if (
            config.model.family == 'decoder' and after_bos) else []
        self._sampling = config.decode.strategy == 'sample'
        self._hypotheses = num_outputs if self._sampling else config.decode.beam_size
        self._beams = self._hypotheses > 1 and not self._sampling
        if (complete or draft) and self._beams:
            raise ValueError('completion from outside and drafts are not for beams')
        if draft and self._sampling:
            raise ValueError('drafts are for greedy outputs, not for samples')
        self._batch_tokens = 1 if draft else batch_tokens // self._hypotheses
        self._search = compilations.wrap('search', jax.jit(self._searched))
        self._begin = compilations.wrap('begin', jax.jit(self._started))
        self._write = compilations.wrap('write', jax.jit(self._written, donate_argnums=1))
        self.drafted, self.kept = 0, 0  # tokens that the draft proposed, and of them used

    def __call__(self, inputs: Sequence[Sequence[int]],
                 progress: Callable[[int], None] = lambda done: None) -> list[list[Output]]:
        """The outputs of each input (token ids, end token included), in the order given.

        Raises UserError for a prompt that leaves no room for what is asked.
        """
        found: list[list[Output]] = [[] for _ in inputs]
        done = 0
        for indices, shape in self._batches(inputs):
            *_, outputs = self._growing(inputs, indices, shape, STRIDE)
            for index, best in zip(indices, outputs):
                found[index] = best
            done += len(indices)
            progress(done)
        return found

    def stream(self, ids: Sequence[int], number: int = 0) -> Iterator[Output]:
        """The output of one input as it grows, after each token, or with a draft after several.

        Draws are those for input `number` of a call. Raises UserError as a call does, ValueError
        where there is more than one output to show.
        """
        if self._hypotheses > 1:
            raise ValueError(f'{self._hypotheses} hypotheses do not grow one by one')
        [(indices, shape)] = self._batches([ids])
        for [[output]] in self._growing([ids], indices, shape, 1, number):
            yield output

    def _batches(self, inputs):
        decoder = self._config.model.family == 'decoder'
        if decoder:
            for number, ids in enumerate(inputs, start=1):
                _check_room(self._config, len(ids), number)
        return batches_by_length(
            [len(self._before) + len(ids) for ids in inputs], self._batch_tokens,
            lambda width: width + decoder * self._most(width))

    def _most(self, width: int) -> int:
        """Most tokens of any output for inputs in a bucket of that width."""
        shortest = 1 - len(self._before) if width == LEAST_WIDTH else width // 2
        return max(output_limits(self._config, length)[1]
                   for length in (shortest, width - len(self._before)))

    def _growing(self, inputs, indices: list[int], shape: tuple[int, int], stride: int,
                 first: int = 0):
        """The outputs of a batch, after every `stride` tokens if anyone looks, and at the end."""
        arrays = self._arrays(inputs, indices, shape, first)
        if self._complete or stride == 1:
            state, ends = self._begin(self._params, *arrays), {}
            for until in range(stride, self._most(shape[1]) + stride, stride):
                state, written = self._write(self._params, state, np.int32(until))
                outputs, done = self._outputs(state, written, indices, ends)
                yield outputs
                if done.all():
                    break
                state = state.replace(done=done)
        else:
            state, written = self._search(self._params, *arrays)
            yield self._outputs(state, written, indices, {})[0]
        if self._draft:
            self.drafted += int(state.drafted)
            self.kept += int(state.kept)

    def _arrays(self, inputs, indices, shape, first: int):
        """(ids_BS, lengths_B, least_B, most_B, numbers_B), the last for the draws' keys.

        Sources begin in the first column; prompts, BOS before them, end in the last.
        """
        rows, width = shape
        model = self._config.model
        ids_BS = np.full(shape, model.pad_id, np.int32)
        numbers_B4 = np.zeros((rows, 4), np.int32)
        for row, index in enumerate(indices):
            ids = [*self._before, *inputs[index]]
            at = width - len(ids) if model.family == 'decoder' else 0
            ids_BS[row, at:at + len(ids)] = ids
            limits = output_limits(self._config, len(inputs[index]))
            numbers_B4[row] = len(ids), *limits, first + index
        return ids_BS, *numbers_B4.T.copy()

    def _searched(self, params, *arrays):
        """As `_written`, of all tokens from the beginning, which takes one compilation.

        Every token reads all the room that its cache has, so that of long outputs grows twice.
        """
        most = self._most(arrays[0].shape[1])
        rooms = [most // 4, most // 2, most] if most >= GROWS and not self._draft else [most]
        state = self._started(params, *arrays, room=rooms[0])
        for before, room in zip([rooms[0], *rooms], rooms):
            state = state.replace(cache=_with_room(state.cache, room - before))
            state, written = self._written(params, state, room)
        return state, written

    def _started(self, params, ids_BS, lengths_B, least_B, most_B, numbers_B, room=None):
        """The state of a search in which nothing is written yet; its cache has room for as many
        tokens, or for all."""
        K, T = self._hypotheses, self._most(ids_BS.shape[1])
        room = T if room is None else room
        own, drafts = params
        spare = self._draft.size if self._draft else 0  # room to read drafts beyond the end
        text_BP, text_lengths_B, cache = _read_inputs(
            self._model, own, ids_BS, lengths_B, 1 if self._beams else K, room + spare)
        prompts = Prompts(text_BP, text_lengths_B, least_B, most_B)
        if self._draft:
            draft_cache = _read_inputs(
                self._draft.model, drafts, ids_BS, lengths_B, K, T + spare)[-1]
            return Drafted.start(prompts, T + spare, cache, draft_cache, self._config)
        if self._beams:
            return Beams.start(prompts, T, _side_by_side(cache, K), self._config)
        keys_R = None
        if self._sampling:
            seed = jax.random.key(self._config.decode.seed)
            keys_R = jax.vmap(lambda number, k: jax.random.fold_in(
                jax.random.fold_in(seed, number), k))(
                jnp.repeat(numbers_B, K), jnp.tile(jnp.arange(K), len(numbers_B)))
        return Rows.start(prompts.repeated(K), T, cache, self._config, keys_R)

    def _written(self, params, state, until):
        """(state, its outputs) once `until` tokens are written, or all outputs have ended."""
        extend, draft = (None if each is None else partial(_extend, model, each) for model, each in
                         zip((self._model, self._draft and self._draft.model), params))
        if self._draft:
            state = state.write(extend, draft, self._draft.size, until, self._config)
        elif self._beams:
            state = state.write(extend, _reorder, until, self._config)
        else:
            state = state.write(extend, until, self._config)
        return state, state.outputs()

    def _outputs(self, state, written, indices: list[int], ends: dict[int, int]
                 ) -> tuple[list[list[Output]], np.ndarray]:
        """The outputs of each input so far, and which rows of the state have ended. `ends` keeps
        from look to look after how many tokens rows were complete."""
        ids, lengths, scores = jax.device_get(written)
        if self._beams:
            return [[Output(ids[b, k, :length].tolist(), float(scores[b, k]))
                     for k, length in enumerate(lengths[b, :self._num_outputs]) if length]
                    for b in range(len(indices))], np.bool_(True)
        ended = np.array(state.done)
        found = []
        for b, index in enumerate(indices):
            rows = range(b * self._hypotheses, (b + 1) * self._hypotheses)
            outputs = []
            for row in rows:
                if row not in ends:
                    n = self._completed(index, ids[row, :lengths[row]].tolist())
                    if n is not None:
                        ends[row] = n
                ended[row] |= row in ends
                n = ends.get(row, lengths[row])
                score = scores[row, :n].sum() / length_penalty(max(n, 1), self._config.decode)
                outputs.append(Output(ids[row, :n].tolist(), float(score)))
            found.append(sorted(outputs, key=lambda output: -output.score))
        return found, ended

    def _completed(self, index: int, ids: list[int]) -> int | None:
        """How many tokens make the output complete, if `complete` says that they do."""
        if self._complete is None or not self._complete(index, ids):
            return None
        return next(n for n in range(1, len(ids) + 1) if self._complete(index, ids[:n]))


def _for_loops(params: dict) -> dict:
    return params | {'decoder': jax.jit(unstacked)(params['decoder'])}


def _read_inputs(model: nn.Module, params, ids_BS, lengths_B, K: int, T: int):
    """(text_BP, lengths_B, cache): what outputs of up to T tokens continue, all but the last of it
    in the cache, in which each example has K rows."""
    apply = partial(model.apply, {'params': params})
    B, S = ids_BS.shape
    if model.config.family == 'seq2seq':
        bos_B1 = jnp.full((B, 1), model.config.bos_id)
        return bos_B1, jnp.ones(B, jnp.int32), apply(ids_BS, lengths_B, K, T, method='start')
    cache = apply(B, S + T, S - lengths_B, method='start')
    _, cache = apply(ids_BS[:, :-1], cache, method='extend')
    return ids_BS, lengths_B, cache.replace(layers=[layer.repeated(K) for layer in cache.layers],
                                            starts_B=jnp.repeat(cache.starts_B, K))


def _extend(model: nn.Module, params, ids_RT, cache):
    return model.apply({'params': params}, ids_RT, cache, method='extend')


def _with_room(cache, more: int):
    """The cache with room for that many tokens more of each row or hypothesis."""
    if cache.lines_BGM is None:
        return cache.replace(layers=[layer.with_room(more) for layer in cache.layers])
    G = cache.lines_BGM.shape[1]
    lines_BGM = jnp.pad(cache.lines_BGM, ((0, 0), (0, 0), (0, more)))
    return cache.replace(layers=[layer.with_room(more * G) for layer in cache.layers],
                         lines_BGM=_followed(lines_BGM, cache.position))


def _side_by_side(cache, G: int):
    """The cache with G hypotheses of each example, which go on from what it holds."""
    layers = [layer.side_by_side(G) for layer in cache.layers]
    X, slots, _ = layers[0].v_XMH.shape
    first_BGM = jnp.zeros((X // layers[0].num_kv_heads, G, slots // G), jnp.int32)
    return cache.replace(layers=layers, lines_BGM=_followed(first_BGM, cache.position))


def _reorder(cache, parents_BG):
    """The cache after hypothesis g of each example has become that which continues parents_BG."""
    lines_BGM = jnp.take_along_axis(cache.lines_BGM, parents_BG[..., None], axis=1)
    return cache.replace(lines_BGM=_followed(lines_BGM, cache.position))


def _followed(lines_BGM, position):
    """The lines up to `position`; from there on, each hypothesis writes its own."""
    _, G, M = lines_BGM.shape
    return jnp.where(jnp.arange(M)[None, None] < position, lines_BGM, jnp.arange(G)[None, :, None])


def _check_room(config: Config, length: int, number: int) -> None:
    """Raises UserError where a prompt of that many tokens leaves no room for what is asked."""
    decode, model = config.decode, config.model
    if length + decode.max_new_tokens > model.max_length or length >= model.max_length:
        more = f' and decode.max_new_tokens={decode.max_new_tokens} more' * bool(
            decode.max_new_tokens)
        raise UserError(f'input {number} has {length:,} tokens, for which{more} the '
                        f'model.max_length={model.max_length} has no room: shorten it')
    if decode.max_length and length >= decode.max_length:
        raise UserError(f'input {number} has {length:,} tokens, which leaves nothing of '
                        f'decode.max_length={decode.max_length} to write: it counts the prompt, '
                        'decode.max_new_tokens does not')
    fewest, most = output_limits(config, length)
    if fewest > most:
        raise UserError(f'input {number} has {length:,} tokens, so that decode.min_length='
                        f'{decode.min_length} asks for {fewest} more, above decode.max_new_tokens='
                        f'{most}')
