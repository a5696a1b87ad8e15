"""What a model with a head says about texts, and how good that is.

    guesses = guess(examples, config, model, params, tokenizers, compilations)
    metrics, floors = score_labels(config.data.objective, examples, guesses)

A guess is {'label', 'scores'} (classify), {'number'} (regress), {'tags', 'entities'} (tag) or
{'answer', 'start', 'score'} (answer).
"""

import re
import string
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn

from xformer.compiled import Compilations
from xformer.config import Config
from xformer.data.layouts import scale
from xformer.data.objectives import make_objective
from xformer.data.objectives.labelled import Answers
from xformer.data.plan import random_numbers, sequential_batches
from xformer.data.sources import Labelled
from xformer.data.store import TokenStore, build_store
from xformer.data.tokenizers import Tokenizers
from xformer.evaluate.inputs import check_store
from xformer.models.heads import answer_logits

LONGEST_ANSWER = 30  # tokens (Devlin et al.'s code for SQuAD)
OUTSIDE = 'O'  # the tag of a word that is part of no entity
NO_ANSWER = ''


def guess(examples: Sequence[Labelled], config: Config, model: nn.Module, params,
          tokenizers: Tokenizers, compilations: Compilations,
          progress: Callable[[int], None] = lambda done: None,
          say: Callable[[str], None] = lambda sentence: None) -> list[dict]:
    """A guess for every example, whatever its target. Raises UserError for texts too long, unless
    data.too_long is cut."""
    kind = config.data.objective
    with tempfile.TemporaryDirectory() as folder:
        store = build_store(
            Path(folder, 'texts'), [_without_target(kind, example, tokenizers)
                                    for example in examples],
            tokenizers, kind=kind, split='the input', max_length=config.model.max_length,
            too_long='cut' if config.data.too_long == 'cut' else 'error')
        check_store(store, config, tokenizers)
        if cut := store.manifest['cut']:
            say(f'texts beyond model.max_length={config.model.max_length}, cut there: {cut:,}')
        objective = make_objective(config, store, tokenizers)
        rows = max(1, len(objective))  # of an answer: windows, several to an example
        outputs = list(_outputs(
            objective, config, model, params, compilations,
            lambda done: progress(done * len(examples) // rows)))
        if kind == 'answer':
            return _answers(examples, objective, outputs, tokenizers)
        return [_read(kind, *numbers, tokenizers)
                for numbers in _in_order(outputs, store, examples)]


def _without_target(kind: str, example: Labelled, tokenizers: Tokenizers) -> Labelled:
    """Any target will do; without tags, a token's target is the number of its word."""
    return example._replace(target={'classify': (tokenizers.labels or [''])[0], 'regress': '0',
                                    'tag': '', 'answer': []}[kind])


def _outputs(objective, config: Config, model: nn.Module, params, compilations: Compilations,
             progress: Callable[[int], None]) -> Iterator[tuple[int, np.ndarray, dict]]:
    """(example or window, its outputs, its arrays) of everything, batch after batch."""
    def apply(params, inputs_BS, lengths_B, types_BS):
        outputs = model.apply({'params': params}, inputs_BS, lengths_B, types_BS)
        if config.data.objective == 'answer':
            return answer_logits(outputs, types_BS)
        return outputs if config.data.objective == 'regress' else jax.nn.log_softmax(outputs)

    compiled, done = compilations.wrap('label', jax.jit(apply)), 0
    for shape, indices in sequential_batches(objective, config.data):
        batch = objective.batch(indices, shape, random_numbers(0, '', 'nothing is drawn'))
        outputs = jax.device_get(compiled(
            params, *(batch[name] for name in ('inputs_BS', 'lengths_B', 'types_BS'))))
        for row, index in enumerate(indices):
            yield int(index), outputs[row], {name: array[row] for name, array in batch.items()}
        done += len(indices)
        progress(done)


def _in_order(outputs: list, store: TokenStore, examples: Sequence[Labelled]) -> Iterator[tuple]:
    """(output, first token of each word, the words) of each example."""
    for index, output, arrays in sorted(outputs, key=lambda row: row[0]):
        yield output, arrays.get('labels_BS'), examples[index].first.split()


def _read(kind: str, output: np.ndarray, word_S: np.ndarray | None, words: list[str],
          tokenizers: Tokenizers) -> dict:
    """The guess that the outputs of one text stand for."""
    if kind == 'regress':
        mean, deviation = scale(tokenizers)
        return {'number': float(output[0]) * deviation + mean}
    if kind == 'classify':
        scores = {label: round(float(np.exp(log_p)), 6)
                  for label, log_p in zip(tokenizers.labels, output)}
        return {'label': tokenizers.labels[int(output.argmax())], 'scores': scores}
    tags = [OUTSIDE if OUTSIDE in tokenizers.labels else tokenizers.labels[0]] * len(words)
    for column in np.flatnonzero(word_S >= 0):
        tags[word_S[column]] = tokenizers.labels[int(output[column].argmax())]
    return {'tags': tags, 'entities': [
        {'type': kind, 'text': ' '.join(words[start:stop]), 'words': [start, stop]}
        for kind, start, stop in entities(tags)]}


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, word after the last) of the entities that tags mark, see `marked`."""
    from seqeval.metrics.sequence_labeling import get_entities
    return [(kind, start, stop + 1) for kind, start, stop in get_entities(marked(tags))]


def marked(tags: Sequence[str]) -> list[str]:
    """Tags of BIO, BIOES, BMES and BILOU as BIOES; a bare one, as of a part of speech, stands for
    its words in a row, as I- does."""
    def of(tag: str) -> str:
        if tag == OUTSIDE or re.fullmatch(r'[BIES](-.+)?', tag):
            return tag
        letter, kind = tag[:1], tag[1:]
        if letter in 'LU' and re.match('-.', kind) or letter == 'M' and re.match('-.|$', kind):
            return {'L': 'E', 'U': 'S', 'M': 'I'}[letter] + kind
        return f'I-{tag}'
    return list(map(of, tags))


def _answers(examples: Sequence[Labelled], objective: Answers, outputs: list,
             tokenizers: Tokenizers) -> list[dict]:
    """The best span over the windows of each context; no answer where BOS does better in all
    of them, if the training data had questions without one (Devlin et al. 2019, section 4.3)."""
    best = [(-np.inf, 0, 0)] * len(examples)
    none = np.full(len(examples), np.inf if tokenizers.labels else -np.inf)
    for window, logits_2S, arrays in outputs:
        [example], [begin], _ = objective.bounds(np.array([window]))
        context = np.flatnonzero(arrays['types_BS'])[:-1]  # the last one is EOS
        if len(context):
            score, first, last = best_span(logits_2S[:, context])
            best[example] = max(best[example], (score, int(begin) + first, int(begin) + last))
        none[example] = min(none[example], logits_2S[:, 0].sum())
    guesses = []
    for example, (score, first, last), at_bos in zip(examples, best, none):
        if score <= at_bos:
            guesses.append({'answer': NO_ANSWER, 'start': -1, 'score': float(
                at_bos - score if np.isfinite(score) else 0)})  # a context without a token
            continue
        _, places = tokenizers.source.spans(example.second)
        start, stop = places[first][0], places[last][1]
        text = example.second[start:stop]
        start += len(text) - len(text.lstrip())
        guesses.append({'answer': text.strip(), 'start': start, 'score': float(
            score - at_bos if np.isfinite(at_bos) else score)})
    return guesses


def best_span(logits_2S: np.ndarray) -> tuple[float, int, int]:
    """(score, first, last) of the span first ≤ last < first + LONGEST_ANSWER with the greatest sum
    of logits."""
    S = logits_2S.shape[1]
    sums_SS = logits_2S[0][:, None] + logits_2S[1][None]
    length_SS = np.arange(S)[None] - np.arange(S)[:, None]
    sums_SS = np.where((length_SS >= 0) & (length_SS < LONGEST_ANSWER), sums_SS, -np.inf)
    first, last = np.unravel_index(sums_SS.argmax(), sums_SS.shape)
    return float(sums_SS[first, last]), int(first), int(last)


# Scores


def score_labels(kind: str, examples: Sequence[Labelled], guesses: Sequence[dict]
                 ) -> tuple[dict[str, float], dict[str, float]]:
    """(metrics, floors) of a whole split; rates are fractions.

    classify  accuracy, macro_f1, micro_f1, matthews and, of two labels, the F1 of each; floor: the
              most frequent label
    regress   pearson, spearman, rmse; floor: the mean
    tag       precision, recall and f1 of entities (exact words and type, seqeval), accuracy of
              words; floor: the most frequent tag
    answer    exact_match and f1 of words, SQuAD's way (Rajpurkar et al. 2016); floor: no answer
    """
    targets = [example.target for example in examples]
    if kind == 'classify':
        [(common, _)] = Counter(targets).most_common(1)
        return (_class_metrics(targets, [guess['label'] for guess in guesses]),
                _class_metrics(targets, [common] * len(targets)))
    if kind == 'regress':
        return _number_metrics(np.array(targets, float), np.array(
            [guess['number'] for guess in guesses]))
    if kind == 'tag':
        tags = [target.split() for target in targets]
        [(common, _)] = Counter(tag for row in tags for tag in row).most_common(1)
        return (_tag_metrics(tags, [guess['tags'] for guess in guesses]),
                _tag_metrics(tags, [[common] * len(row) for row in tags]))
    answers = [[text for text, _ in target] or [NO_ANSWER] for target in targets]
    return (_answer_metrics(answers, [guess['answer'] for guess in guesses]),
            _answer_metrics(answers, [NO_ANSWER] * len(answers)))


def _class_metrics(targets: list[str], labels: list[str]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
    names = sorted({*targets, *labels})
    f1_C = f1_score(targets, labels, labels=names, average=None, zero_division=0.0)
    metrics = {'accuracy': accuracy_score(targets, labels), 'macro_f1': f1_C.mean(),
               'micro_f1': f1_score(targets, labels, average='micro'),
               'matthews': matthews_corrcoef(targets, labels)}
    if len(names) == 2:
        metrics |= {f'f1_{name}': f1 for name, f1 in zip(names, f1_C)}
    return {name: float(value) for name, value in metrics.items()}


def _number_metrics(targets_N: np.ndarray, numbers_N: np.ndarray) -> tuple[dict, dict]:
    from scipy.stats import pearsonr, spearmanr
    varies = len(targets_N) > 1 and np.ptp(targets_N) > 0 and np.ptp(numbers_N) > 0
    metrics = {'pearson': float(pearsonr(targets_N, numbers_N)[0]) if varies else 0.0,
               'spearman': float(spearmanr(targets_N, numbers_N)[0]) if varies else 0.0,
               'rmse': float(np.sqrt(((targets_N - numbers_N) ** 2).mean()))}
    return metrics, {'pearson': 0.0, 'spearman': 0.0, 'rmse': float(targets_N.std())}


def _tag_metrics(tags: list[list[str]], guessed: list[list[str]]) -> dict[str, float]:
    from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
    each = {'precision': precision_score, 'recall': recall_score, 'f1': f1_score}
    both = list(map(marked, tags)), list(map(marked, guessed))
    return {**{name: float(score(*both, zero_division=0)) for name, score in each.items()},
            'accuracy': float(accuracy_score(tags, guessed))}


def _answer_metrics(answers: list[list[str]], guessed: list[str]) -> dict[str, float]:
    pairs = list(zip(answers, guessed))
    return {'exact_match': float(np.mean([max(normal(text) == normal(answer) for answer in texts)
                                          for texts, text in pairs])),
            'f1': float(np.mean([max(word_f1(answer, text) for answer in texts)
                                 for texts, text in pairs]))}


def normal(text: str) -> list[str]:
    """The words that count: lower case, without punctuation and articles."""
    text = ''.join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r'\b(a|an|the)\b', ' ', text).split()


def word_f1(answer: str, text: str) -> float:
    """F1 of the words in common; without words on one side, whether the other has none either."""
    ours, theirs = normal(text), normal(answer)
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))
