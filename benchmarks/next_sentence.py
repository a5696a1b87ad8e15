"""What next-sentence prediction is worth without a model: logistic regression on word overlap.

    python -m benchmarks.next_sentence --config=bert_mini_pretrain

Prints its accuracy on the dev split, on pairs drawn as the experiment draws them: the floor that a
pre-trained model's nsp_accuracy has to be seen against.
"""

import numpy as np
from absl import flags

from experiments import cli, configs
from xformer.config import UserError
from xformer.console import say

EXAMPLES = 20_000  # pairs to learn from


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string('config', 'bert_mini_pretrain', 'experiment NAME[:variant]',
                        flag_values=values)


def main(argv: list[str]) -> None:
    values = cli.parse(argv, __doc__, define, sections=())
    config = configs.load(values.config).config
    if config.data.objective != 'mlm_nsp':
        raise UserError(f'--config={values.config} has no next sentences (data.objective='
                        f'{config.data.objective}); give one of mlm_nsp')
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from xformer.data.objectives import make_objective
    from xformer.data.pipeline import prepare
    corpus = prepare(config, say)
    learn, dev = (make_objective(config, corpus.stores[split], corpus.tokenizers)
                  for split in ('train', 'dev'))
    rows = np.linspace(0, len(learn) - 1, min(EXAMPLES, len(learn))).astype(int)
    pairs = restored(learn, rows, config.model.max_length)
    rarity_V = idf(pairs, corpus.tokenizers.vocab_size)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(features(pairs, rarity_V), pairs['labels'])
    held_out = restored(dev, np.arange(len(dev)), config.model.max_length)
    accuracy = model.score(features(held_out, rarity_V), held_out['labels'])
    print(f'word overlap, logistic regression: {accuracy:.2%} of {len(dev):,} dev pairs '
          f'({held_out["labels"].mean():.1%} of them random)')


def restored(objective, rows: np.ndarray, width: int) -> dict:
    """Sentence pairs as sets of tokens, with what was masked put back."""
    batch = objective.batch(rows, (len(rows), width, 0), np.random.Generator(np.random.Philox(1)))
    ids_BS = batch['inputs_BS'].copy()
    real_BP = np.arange(batch['masked_BP'].shape[1]) < batch['masked_lengths_B'][:, None]
    row, slot = np.nonzero(real_BP)
    ids_BS[row, batch['masked_BP'][row, slot]] = batch['masked_labels_BP'][row, slot]
    inside_BS = np.arange(width) < batch['lengths_B'][:, None]
    sides = [[set(ids[here].tolist()) for ids, here in zip(
        ids_BS, inside_BS & (batch['types_BS'] == side))] for side in (0, 1)]
    return {'a': sides[0], 'b': sides[1], 'labels': batch['nsp_labels_B']}


def idf(pairs: dict, vocab_size: int) -> np.ndarray:
    """log(sentences / sentences with the token), the weight of sharing it."""
    counts_V = np.zeros(vocab_size)
    for tokens in pairs['a'] + pairs['b']:
        counts_V[list(tokens)] += 1
    return np.log(2 * len(pairs['a']) / np.maximum(counts_V, 1))


def features(pairs: dict, rarity_V: np.ndarray) -> np.ndarray:
    """Per pair: shared tokens, their weight, both relative to the smaller side; and the sizes."""
    rows = []
    for a, b in zip(pairs['a'], pairs['b']):
        shared = list(a & b)
        weight, least = rarity_V[shared].sum(), min(rarity_V[list(side)].sum() for side in (a, b))
        rows.append((len(shared), len(shared) / max(min(len(a), len(b)), 1), weight,
                     weight / max(least, 1e-9), np.log1p(len(a)), np.log1p(len(b))))
    return np.array(rows)


if __name__ == '__main__':
    cli.call(main)
