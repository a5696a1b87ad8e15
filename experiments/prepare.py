"""Prepare the data of an experiment: fetch them, train the tokenizers, tokenise all splits.

    python -m experiments.prepare --config=translate_multi30k
    python -m experiments.prepare --config=lm_shakespeare_bpe --config.data.train=my_text.txt \\
        --config.data.dataset= --config.data.format=text

Training does the same where it has not been done; this needs no accelerator, and a build that was
stopped goes on. All is kept under $XFORMER_CACHE. Prints the tokens of each split and the
fingerprint of the training data that runs will record.
"""

from pathlib import Path

from experiments import cli
from experiments.train import like
from xformer.checks import check_learns
from xformer.console import say


def main(argv: list[str]) -> None:
    values, (_, config, _) = cli.experiment(argv, __doc__, ('data', 'model', 'train'))
    check_learns(config)
    given, source = None, config.train.init_from or config.train.teacher
    if source:
        from xformer.run import tokenizers_in
        config = like(config, Path(source), values, only_tokenizer=not config.train.init_from)
        given = tokenizers_in(Path(source))
    from xformer.data.pipeline import prepare
    corpus = prepare(config, say, given)
    for split, store in corpus.stores.items():
        tokens = sum(len(column.ids) for column in store.columns.values())
        print(f'{split:<12}{len(store):>12,} examples {tokens:>16,} tokens')
    print(f'vocabulary  {corpus.tokenizers.vocab_size:>12,}')
    print(f'fingerprint {corpus.fingerprint}')


if __name__ == '__main__':
    cli.call(main)
