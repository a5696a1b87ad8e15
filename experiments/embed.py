"""Texts as vectors, from any trained model: for search, clusters, or a classifier of your own.

    python -m experiments.embed --model=runs/bert_mini_pretrain --input=texts.txt --output=texts.npz
    python -m experiments.embed --model=runs/bert_mini_pretrain --input=texts.txt --nearest=5 \\
        --query='grain exports'
    python -m experiments.embed --model=runs/bert_mini_pretrain --input=labelled.tsv --labels \\
        --clusters=8
    python -m experiments.embed --model=runs/finetune_r8 --split=test --labels

One line of input is one text (with --labels, label<TAB>text), for an encoder also two separated by
a tab. --output holds `embeddings` (N, D), float32, and `texts`, with --labels also `labels` and
with --clusters also `clusters`. Prints JSON lines: the neighbours of every query, by cosine; then,
with --labels, how often a text's nearest other text has its label, and with --clusters the purity
of the clusters. With none of these, the embedding of each text.
"""

import json
from pathlib import Path

from absl import flags

from experiments import cli, reading
from xformer.config import Config, ModelConfig, UserError, override
from xformer.console import counting, say


def define(values: flags.FlagValues) -> None:
    reading.define(values)
    reading.define_files(values)
    flags.DEFINE_string('output', '-', '.npz file to write; - prints the vectors, but with '
                        '--query or --labels only what these ask for',
                        flag_values=values)
    flags.DEFINE_enum('pool', None, ['mean', 'cls', 'max', 'last4'], 'mean or maximum over the '
                      "tokens, an encoder's first token, or the mean of the last four layers side "
                      'by side (default: as a sentence-transformers folder says, else mean)',
                      flag_values=values)
    reading.define_cut(values)
    flags.DEFINE_multi_string('query', [], 'a text whose neighbours to print; may be given several '
                              'times', flag_values=values)
    flags.DEFINE_integer('nearest', 5, 'neighbours of each --query', lower_bound=1,
                         flag_values=values)
    flags.DEFINE_integer('clusters', None, 'clusters to find (k-means)', lower_bound=1,
                         flag_values=values)
    flags.DEFINE_integer('seed', 0, 'of the clusters', lower_bound=0, flag_values=values)
    flags.DEFINE_boolean('labels', False, "the input is label<TAB>text, or the split's own labels "
                         'count', flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, define, sections=())
    _check(values)
    config = reading.config_of(values)
    from xformer.interop.sentences import read_sentences
    published = read_sentences(Path(values.model))
    pool = values.pool or (published.pool if published else 'mean')
    _check_pool(pool, config.model)
    labels, texts = _texts(values, config)
    cut = config.data.too_long == 'cut' or bool(published) and values.cut is None
    config = override(config, {
        'data.too_long': 'cut' if cut else 'error',
        'data.lowercase_source': config.data.lowercase_source or bool(
            published and published.lowercase)})

    run, compilations = reading.open_model(values, config)
    from xformer.evaluate.embeddings import Embedder, unit
    from xformer.evaluate.inputs import encode_texts, template_of
    config = run.config
    if published and published.max_length:  # shorter than the model could take
        config = override(config, {'model.max_length': min(published.max_length,
                                                           config.model.max_length)})
    prompt = published.prompt if published else ''
    rows, queries = (encode_texts([prompt + text for text in each], config, run.tokenizers)
                     for each in (texts, values.query))
    reading.tell_unknown(rows + queries, run.tokenizers.special)
    with counting('embedding', len(rows) + len(queries)) as progress:
        begins = template_of(config, run.tokenizers).before  # the same in every text
        embed = Embedder(run.model, config, run.params, pool, compilations,
                         first=len(begins) if config.model.family == 'decoder' else 0)
        both = embed(rows + queries, progress)
    if published and published.unit:
        both = unit(both)
    embeddings, queries = both[:len(rows)], both[len(rows):]
    found = {'embeddings': embeddings, 'texts': texts} | ({'labels': labels} if labels else {})
    if values.clusters:
        from xformer.evaluate.embeddings import clustered
        found['clusters'] = clustered(embeddings, values.clusters, values.seed)
    _print_neighbours(values, queries, embeddings, texts)
    to_file = values.output != '-'
    if not (to_file or values.query or values.labels):
        for text, vector in zip(texts, embeddings):
            print(json.dumps({'text': text, 'embedding': [round(float(x), 6) for x in vector]},
                             ensure_ascii=False))
    if labels:
        print(json.dumps(_measured(embeddings, labels, found.get('clusters'))))
    if to_file:
        import numpy as np
        part = Path(f'{values.output}.part')
        with open(part, 'wb') as file:
            np.savez_compressed(file, **found)
        part.rename(values.output)
        say(f'{len(texts):,} embeddings of {embeddings.shape[1]}: {values.output}')


def _check(values: flags.FlagValues) -> None:
    """Raises UserError for options that do not go together."""
    reading.check_output(values.output)
    if values.output != '-' and not values.output.endswith('.npz'):
        raise UserError(f'--output={values.output} is to be an .npz file; give it that ending')
    for flag, other in ('nearest', 'query'), ('seed', 'clusters'):
        if values[flag].present and not values[other].value:
            raise UserError(f'--{flag} has no effect without --{other}; give both, or neither')
    if values.clusters and values.output == '-' and not values.labels:
        raise UserError('--clusters has no effect without --output, which keeps them, or --labels, '
                        'which measures them; give one')


def _check_pool(pool: str, model: ModelConfig) -> None:
    if pool == 'cls' and model.family != 'encoder':
        raise UserError(f'--pool=cls is for an encoder, which begins every text with one token for '
                        f'all of it; with model.family={model.family} choose mean, max or last4')
    layers = model.num_encoder_layers or model.num_decoder_layers
    if pool == 'last4' and layers < 4:
        raise UserError(f'--pool=last4 needs 4 layers, the model has {layers}; choose another pool')


def _texts(values: flags.FlagValues, config: Config) -> tuple[list[str] | None, list[str]]:
    """(labels, texts); without --labels the first is None."""
    if bool(values.input) == bool(values.split):
        raise UserError('give either --input=FILE (- for standard input) or --split=dev or test')
    if not values.labels:
        return None, (reading.texts_of_split(values, config) if values.split else
                      reading.lines_of(values.input))
    if values.split:
        if config.data.objective != 'classify':
            raise UserError(f'--labels with --split is for a model of data.objective=classify, '
                            f'not {config.data.objective}')
        labelled = [(label, '\t'.join(reading.columns_of(texts)))
                    for *texts, label in reading.examples_of_split(values, config)]
    else:
        labelled = [line.partition('\t')[::2] for line in reading.lines_of(values.input)]
    for number, (label, text) in enumerate(labelled, start=1):
        if not (label.strip() and text.strip()):
            raise UserError(f'input {number} is not label<TAB>text; mend the line, or leave out '
                            '--labels')
    if len(labelled) < 2:
        raise UserError('--labels needs two texts or more, for one alone has no neighbour')
    return [label for label, _ in labelled], [text for _, text in labelled]


def _print_neighbours(values: flags.FlagValues, queries, embeddings, texts: list[str]) -> None:
    from xformer.evaluate.embeddings import nearest
    for query, vector in zip(values.query, queries):
        for index, cosine in nearest(vector, embeddings, values.nearest):
            print(json.dumps({'query': query, 'text': texts[index], 'line': index + 1,
                              'cosine': round(cosine, 6)}, ensure_ascii=False))


def _measured(embeddings, labels: list[str], clusters) -> dict:
    """The measures and the floor below both: always guessing the most frequent label."""
    from xformer.evaluate.embeddings import most_frequent, neighbour_accuracy, purity
    measured = {'texts': len(labels), 'labels': len(set(labels)),
                'floor': most_frequent(labels),
                'neighbour_accuracy': neighbour_accuracy(embeddings, labels)}
    if clusters is not None:
        measured |= {'clusters': int(max(clusters)) + 1, 'purity': purity(clusters, labels)}
    return {name: round(value, 4) for name, value in measured.items()}


if __name__ == '__main__':
    cli.call(main)
