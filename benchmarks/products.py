"""Suite products: the matrix products of other suites alone, XLA's against PyTorch's.

Those of the linear maps of one step, without attention's own; in training with both gradients. A
step can hardly have a better ratio than its products have: nothing is asked here, it says what
limits the others.
"""

from collections.abc import Iterable

import jax
import torch

from benchmarks import decode, train_gpt
from benchmarks.parity import announce, check_close
from benchmarks.results import OURS, compared
from benchmarks.timing import cpus
from benchmarks.train_bert import LENGTH, ROWS, VOCAB_SIZE
from benchmarks.work import TRANSLATION, minilm_config
from xformer.evaluate.embeddings import BATCH_TOKENS
from xformer.presets import preset

Shape = tuple[int, int, int]  # rows of x, columns of x and so rows of w, columns of w
TOLERANCE = 1e-5  # relative
MASKED = 20  # of a row of BERT's 128 tokens
SECONDS = 0.2  # of a round, about


def measure(repeats: int, peers: Iterable[str]) -> dict:
    """The cases of the suite. Raises RuntimeError if the two sides differ."""
    torch.set_num_threads(cpus())
    return {title: compare_products(shapes, title.startswith('train'), peers, repeats, title)
            for title, shapes in cases().items()}


def cases() -> dict[str, list[Shape]]:
    """{case: the shapes of its products}, as the suites of these names have them."""
    bert, minilm, pairs = (config.model for config in (
        preset('bert-mini'), minilm_config(VOCAB_SIZE), decode.seq2seq_config()))
    layers, width, _ = decode.SMALL
    beams = 8 * 4
    return {
        **{f'train-gpt, {title}': blocks(layers, context * rows, width)
           for title, (layers, width, _, context, rows) in train_gpt.SIZES.items()},
        'train-bert': [*blocks(bert.num_encoder_layers, ROWS * LENGTH, bert.d_model),
                       (ROWS * MASKED, bert.d_model, VOCAB_SIZE)],
        'train-seq2seq': translation(),
        f'decode, {layers} layers, {width} wide, batch 8': [
            *blocks(layers, 8, width), (8, width, decode.VOCAB_SIZE)],
        'decode, beam 4, batch 8': [
            *blocks(pairs.num_decoder_layers, beams, pairs.d_model, attentions=2),
            (beams, pairs.d_model, decode.VOCAB_SIZE)],
        'embed': blocks(minilm.num_encoder_layers, BATCH_TOKENS, minilm.d_model)}


def blocks(layers: int, rows: int, width: int, attentions: int = 1) -> list[Shape]:
    """Queries, keys, values and output, and feed-forward. Of a second attention the keys and
    values have long been computed."""
    maps = [(width, width)] * (2 + 2 * attentions) + [(width, 4 * width), (4 * width, width)]
    return [(rows, *shape) for shape in maps] * layers


def translation() -> list[Shape]:
    """Of the batch of train-seq2seq, half of it source: with the keys and values of the source."""
    c, half = TRANSLATION.model, TRANSLATION.data.batch_tokens // 2
    return [*blocks(c.num_encoder_layers, half, c.d_model),
            *blocks(c.num_decoder_layers, half, c.d_model, attentions=2),
            *[(half, c.d_model, c.d_model)] * 2 * c.num_decoder_layers,
            (half, c.d_model, c.vocab_size)]


def compare_products(shapes: list[Shape], gradients: bool, peers: Iterable[str], repeats: int,
                     title: str) -> dict:
    """The case of these products, every one with numbers of its own."""
    announce(title)
    operands = [tuple(jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(
        [(m, k), (k, n)] + [(m, n)] * gradients)) for m, k, n in shapes]
    copied = jax.tree.map(lambda x: torch.from_numpy(jax.device_get(x).copy()), operands)
    compiled = jax.jit(products)
    difference = max(check_close('a product', ours, theirs, TOLERANCE)
                     for ours, theirs in zip(compiled(operands), products(copied)))
    flops = sum(2 * (3 if gradients else 1) * m * k * n for m, k, n in shapes)
    times = max(1, round(SECONDS * 50e9 / flops))

    def ours() -> None:
        for _ in range(times):
            jax.block_until_ready(compiled(operands))

    def theirs() -> None:
        for _ in range(times):
            products(copied)

    return {'parity': {peer: {'products': difference} for peer in peers}} | compared(
        {OURS: ours} | dict.fromkeys(peers, theirs), times * flops / 1e9, 'GFLOP/s', None,
        repeats, title)


def products(operands):
    """x w, and where there is a gradient g of it, g wᵀ and xᵀ g."""
    return [product for x, w, *g in operands
            for product in (x @ w, *(each for g in g for each in (g @ w.T, x.T @ g)))]
