"""What is reached without a network: the figures that stand beside ours for R8 and WNUT-17.

    python -m benchmarks.baselines

R8: TF-IDF of words with a linear SVM, and the label of the most similar other text of test.
WNUT-17: the entities of the training part, found again wherever their words occur in any case.
"""

from collections import Counter, defaultdict

import numpy as np

from experiments import cli
from experiments.configs import finetune_r8, tag_wnut17
from xformer.config import DataConfig


def main(argv: list[str]) -> None:
    cli.parse(argv, __doc__, lambda values: None, sections=())
    linear_and_nearest(finetune_r8.CONFIG.data)
    gazetteer(tag_wnut17.CONFIG.data)


def linear_and_nearest(data: DataConfig) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import f1_score
    from sklearn.svm import LinearSVC

    from xformer.data.sources import read_examples
    learn = [*read_examples(data, 'train'), *read_examples(data, 'dev')]
    test = list(read_examples(data, 'test'))
    words = TfidfVectorizer()
    x, y = words.fit_transform(example.first for example in learn), [e.target for e in learn]
    x_test, y_test = words.transform(e.first for e in test), [e.target for e in test]
    svm = LinearSVC(random_state=0).fit(x, y)
    similar = (x_test @ x_test.T).toarray()
    np.fill_diagonal(similar, -1)
    nearest = np.mean([y_test[other] == label for other, label in zip(similar.argmax(1), y_test)])
    print(f'reuters_r8, test: linear SVM {svm.score(x_test, y_test):.2%} '
          f'(macro-F1 {f1_score(y_test, svm.predict(x_test), average="macro"):.1%}), '
          f'most similar other text {nearest:.2%}')


def gazetteer(data: DataConfig) -> None:
    from seqeval.metrics import f1_score

    from xformer.data.sources import read_examples
    from xformer.evaluate.labels import entities
    types = defaultdict(Counter)
    for example in read_examples(data, 'train'):
        for kind, start, stop in entities(example.target.split()):
            types[tuple(example.first.lower().split()[start:stop])][kind] += 1
    for split in ('dev', 'test'):
        examples = list(read_examples(data, split))
        tags = [example.target.split() for example in examples]
        found = [looked_up(example.first.lower().split(), types) for example in examples]
        print(f'wnut17, {split}: gazetteer F1 {f1_score(tags, found):.2%}')


def looked_up(words: list[str], types: dict[tuple[str, ...], Counter]) -> list[str]:
    """BIO tags: from left to right the longest known entity, of its most frequent type."""
    longest = max(map(len, types))
    tags, start = [], 0
    while start < len(words):
        for stop in range(min(start + longest, len(words)), start, -1):
            if entity := types.get(tuple(words[start:stop])):
                kind = entity.most_common(1)[0][0]
                tags += [f'B-{kind}'] + [f'I-{kind}'] * (stop - start - 1)
                start = stop
                break
        else:
            tags.append('O')
            start += 1
    return tags


if __name__ == '__main__':
    cli.call(main)
