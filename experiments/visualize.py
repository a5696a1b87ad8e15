"""Look inside a trained model: what it attends to, and what each of its layers would say.

    python -m experiments.visualize --model=runs/g2p_quickstart --prompt=transformer \\
        --output=looks
    python -m experiments.visualize --model=runs/lm_shakespeare_char --input=lines.txt \\
        --output=looks --layer=2 --head=0
    python -m experiments.visualize --model=runs/g2p_quickstart --split=dev --output=looks

One line of input is one text, for an encoder also two separated by a tab; for a seq2seq model
source<TAB>target, or a source alone, whose output is then written by greedy decoding. Of a
--split, eight at most are taken, evenly spaced. Writes into the new folder --output:

    index.html       the inspector: move over tokens, layers and heads; needs nothing else
    N.npz            of text N: attention maps, entropies of heads in nats, hidden states, and the
                     likeliest tokens at every layer and position (logit lens)
    N.STACK.KIND.png attention of one layer, all heads or one
    N.entropy.png    entropy of every head
    N.lens.png       the likeliest token at every layer and position
    alignments.png   cross-attention of that layer, mean over heads or one (seq2seq)

Layers and heads count from 0.
"""

import math
from pathlib import Path

from absl import flags

from experiments import cli, reading
from xformer.config import ModelConfig, UserError, override
from xformer.console import counting, say

MOST_TEXTS = 64  # a page with more would take long to open
OF_SPLIT = 8


def define(values: flags.FlagValues) -> None:
    reading.define(values)
    reading.define_cut(values)
    reading.define_texts(values)
    flags.DEFINE_string('output', None, f'folder to make ({cli.REQUIRED})', flag_values=values)
    flags.DEFINE_integer('layer', None, 'layer of the pictures; the last unless given',
                         lower_bound=0, flag_values=values)
    flags.DEFINE_integer('head', None, 'the only head of the pictures; all unless given',
                         lower_bound=0, flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, define, sections=())
    reading.check_output(values.output, folder=True)
    config = reading.config_of(values)
    _check_choice(values, config.model)
    lines = reading.texts_of(values, config, targets=config.model.family == 'seq2seq')
    if values.split:
        lines = lines[::math.ceil(len(lines) / OF_SPLIT)]
    texts, targets = _pairs(lines, config.model)

    run, compilations = reading.open_model(values, config)
    config = run.config
    from xformer.evaluate.inputs import encode_texts
    from xformer.evaluate.looks import look_at
    rows = encode_texts(texts, config, run.tokenizers)
    if targets is not None:
        targets = _target_ids(rows, targets, run, compilations)
    with counting('looking', len(texts)) as progress:
        looks = look_at(rows, targets, run.model, config, run.params, run.tokenizers,
                        compilations, progress)
    _write(Path(values.output), looks, run, values.layer, values.head)
    say(f'{len(texts):,} {"text" if len(texts) == 1 else "texts"}: {values.output}/index.html')


def _check_choice(values: flags.FlagValues, model: ModelConfig) -> None:
    layers = min(filter(None, (model.num_encoder_layers, model.num_decoder_layers)))
    for flag, count in ('layer', layers), ('head', model.num_heads):
        if values[flag].present and values[flag].value >= count:
            raise UserError(f'--{flag}={values[flag].value} is not there: {flag}s of this model '
                            f'are 0 to {count - 1}')


def _pairs(lines: list[str], model: ModelConfig) -> tuple[list[str], list[str] | None]:
    """(sources, targets), '' where a target is still to be written; (texts, None) without any."""
    if len(lines) > MOST_TEXTS:
        raise UserError(f'the input has {len(lines):,} texts; one page takes {MOST_TEXTS}: choose '
                        'some of them')
    if model.family != 'seq2seq':
        return lines, None
    for number, line in enumerate(lines, start=1):
        if line.count('\t') > 1:
            raise UserError(f'input {number} has {line.count(chr(9))} tabs; give source<TAB>target,'
                            ' or a source alone')
        if '\t' in line and not line.partition('\t')[2].strip():
            raise UserError(f'input {number} has an empty target; fill it in, or leave out the tab')
    return [line.partition('\t')[0] for line in lines], [line.partition('\t')[2] for line in lines]


def _target_ids(sources: list[list[int]], targets: list[str], run, compilations) -> list[list[int]]:
    """Of each target; of those that are missing, what greedy decoding writes."""
    from xformer.decode.generate import Generator
    from xformer.evaluate.inputs import check_known, template_of
    missing = [source for source, target in zip(sources, targets) if not target]
    config = override(run.config, {'decode.strategy': 'beam', 'decode.beam_size': 1})
    generator = Generator(run.model, config, run.params, compilations)
    written = iter(generator(missing))
    template = template_of(run.config, run.tokenizers)
    tokenizer = run.tokenizers.target
    found = [template.row([tokenizer.encode(target)]) if target else next(written)[0].ids
             for target in targets]
    for number, ids in enumerate(found, start=1):
        check_known(ids, number, run.config, tokenizer)
    return found


def _write(folder: Path, looks: list, run, layer: int | None, head: int | None) -> None:
    """The new folder, with nothing in it unless everything could be made."""
    import numpy as np

    from xformer.evaluate.alignment import Alignment
    from xformer.figures import draw_alignments, draw_entropies, draw_heads, draw_lens
    from xformer.inspector import inspector_page
    layer = -1 if layer is None else layer
    pictures, crossed = {}, []
    for number, stacks in enumerate(looks, start=1):
        maps = {f'{look.stack}.{each.kind}': each for look in stacks for each in look.maps}
        for name, (kind, queries, keys, weights_LNTS) in maps.items():
            weights_NTS = weights_LNTS[layer]
            heads = range(len(weights_NTS)) if head is None else [head]
            pictures[f'{number}.{name}.png'] = draw_heads(
                {f'head {n}': weights_NTS[n] for n in heads}, queries, keys)
            if kind == 'cross':
                crossed.append(Alignment(keys, queries, weights_NTS[heads].mean(axis=0)))
        pictures[f'{number}.entropy.png'] = draw_entropies(
            {name: each.entropy_LN for name, each in maps.items()})
        for look in stacks:
            if look.lens:
                pictures[f'{number}.lens.png'] = draw_lens(
                    [[guesses[0] for guesses in row] for row in look.lens.tokens],
                    look.lens.probabilities_LTK[..., 0], look.reads)
    if crossed:
        pictures['alignments.png'] = draw_alignments(crossed)
    about = f'{run.config.model.family}, {run.checkpoint}'
    page = inspector_page(run.folder.resolve().name, about, looks)

    folder.mkdir()
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)
    for number, stacks in enumerate(looks, start=1):
        np.savez_compressed(folder / f'{number}.npz', **{
            name: array for look in stacks for name, array in look.arrays().items()})
    (folder / 'index.html').write_text(page, encoding='utf-8')


if __name__ == '__main__':
    cli.call(main)
