"""The scores of a split, by the kind that `data.score` names, and what a trivial output would get.

Thin over sacrebleu and rouge-score; error rates are our own (`metrics`). Rates are fractions,
BLEU, chrF and ROUGE on their usual 0 to 100.
"""

import html
import re
import unicodedata
from collections.abc import Sequence

from xformer.config import DataConfig, UserError
from xformer.evaluate import metrics

LEAD = 8  # words of the source: the floor of summaries


def score(kind: str, predictions: Sequence[str], references: Sequence[Sequence[str]],
          data: DataConfig) -> dict[str, float | str]:
    """All metrics of a kind; each prediction has one reference or more.

    errors           phoneme (token) and word (sequence) error rates, see `metrics.score`
    exact            share of predictions equal to a reference
    bleu             sacreBLEU and chrF, with the signature that says which (Post 2018)
    bleu_tokenised   BLEU of text that is cut into words already, '@@ ' joints undone first; and
                     sacreBLEU of the same put together again (`detokenised`)
    rouge            F1 of ROUGE-1, -2 and -L with stemming (Lin 2004); the first reference

    Raises UserError where the references have no tokens to be wrong about.
    """
    if kind == 'errors':
        try:
            return metrics.score([scored_tokens(text, data) for text in predictions],
                                 [[scored_tokens(text, data) for text in texts]
                                  for texts in references], data.score_strip)
        except ValueError as error:
            raise UserError(f'there are no error rates of these references ({error}; '
                            f'data.score_strip={data.score_strip!r}); choose another --score, as '
                            'exact') from None
    if kind == 'exact':
        right = sum(text in texts for text, texts in zip(predictions, references))
        return {'exact_match': right / len(predictions)}
    return _rouge(predictions, references) if kind == 'rouge' else _bleu(
        predictions, references, tokenised=kind == 'bleu_tokenised')


def floor(kind: str, sources: Sequence[str], references: Sequence[Sequence[str]],
          data: DataConfig) -> dict[str, float | str]:
    """What copying the source gets (bleu), or its first words (rouge); {} for other kinds."""
    if kind.startswith('bleu'):
        return score(kind, sources, references, data)
    if kind == 'rouge':
        return score(kind, [' '.join(text.split()[:LEAD]) for text in sources], references, data)
    return {}


def plain(name: str, value: float | str) -> str:
    """A metric as a person reads it: rates as percentages, the others as they are."""
    if isinstance(value, str):
        return value
    rate = name.startswith(('per_', 'wer_')) or name in ('per', 'wer', 'exact_match') \
        or name.endswith('accuracy')
    return f'{value:7.2%}' if rate else f'{value:8.4g}'


def scored_tokens(text: str, data: DataConfig) -> list[str]:
    """What error rates count: characters of a target cut into characters, else its words."""
    return list(text) if (data.target_tokenizer or data.tokenizer) == 'char' else text.split()


def is_right(prediction: str, references: Sequence[str], data: DataConfig) -> bool | None:
    """Whether it equals any reference as data.score counts it; None where outputs are more or
    less good."""
    if data.score == 'exact':
        return prediction in references
    if data.score != 'errors':
        return None

    def plain(text: str) -> list[str]:
        return metrics.strip_symbols(scored_tokens(text, data), data.score_strip)
    return plain(prediction) in [plain(text) for text in references]


def _bleu(predictions, references, tokenised: bool) -> dict[str, float | str]:
    from sacrebleu.metrics import BLEU, CHRF
    if tokenised:
        predictions = [text.replace('@@ ', '') for text in predictions]
        references = [[text.replace('@@ ', '') for text in texts] for texts in references]
        whole = _bleu(list(map(detokenised, predictions)),
                      [list(map(detokenised, texts)) for texts in references], tokenised=False)
    most = max(map(len, references))  # sacrebleu takes the n-th references of all together
    streams = [[texts[n] if n < len(texts) else None for texts in references]
               for n in range(most)]
    bleu = BLEU(tokenize='none', force=True) if tokenised else BLEU()  # no warning about that
    result = {'bleu': bleu.corpus_score(list(predictions), streams).score}
    if tokenised:
        result |= {'sacrebleu': whole['bleu'], 'sacrebleu_signature': whole['signature'],
                   'chrf': whole['chrf']}
    else:
        result['chrf'] = CHRF().corpus_score(list(predictions), streams).score
    return result | {'signature': str(bleu.get_signature())}


def detokenised(text: str) -> str:
    """A text of Moses' tokens as it is written: its escapes undone; no space before . , ! ? ; : % )
    and ], after ( and [, inside of quotation marks, and in it 's, he 'll and their like."""
    text = re.sub(r' ([.,!?;:%)\]])', r'\1', html.unescape(text))
    text = re.sub(r'([(\[]) ', r'\1', text)
    text = re.sub(r'" ([^"]*) "', r'"\1"', text)
    return re.sub(r" '(s|t|re|ve|ll|d|m)\b", r"'\1", text)


def _rouge(predictions, references) -> dict[str, float | str]:
    """rouge-score reads a to z and digits alone; where most letters of the references are others,
    words are those of `Words`, which the result then says."""
    from rouge_score.rouge_scorer import RougeScorer
    kinds = ('rouge1', 'rouge2', 'rougeL')
    letters = [letter for texts in references for letter in texts[0] if letter.isalpha()]
    others = 2 * sum(not letter.isascii() for letter in letters) > len(letters)
    scorer = RougeScorer(kinds, use_stemmer=not others, tokenizer=Words() if others else None)
    each = [scorer.score(texts[0], text) for text, texts in zip(predictions, references)]
    return {kind: 100 * sum(row[kind].fmeasure for row in each) / len(each) for kind in kinds} | (
        {'rouge_words': 'of any script, not stemmed'} if others else {})


class Words:
    """Lower-cased words of any script, without punctuation; a Chinese or Japanese character is
    one by itself."""

    def tokenize(self, text: str) -> list[str]:
        text = re.sub(r'([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])', r' \1 ', text.lower())
        return ''.join(' ' if unicodedata.category(character)[0] in 'PSZC' else character
                       for character in text).split()
