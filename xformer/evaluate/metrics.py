"""How far predicted token sequences are from references: phoneme and word error rate.

A word may have several correct pronunciations, and stress marks may count or not; papers differ
in both and seldom say, so `score` gives every variant under a name of its own. Rates are
fractions.
"""

from collections.abc import Sequence

Tokens = Sequence[str]


def edit_distance(a: Tokens, b: Tokens) -> int:
    """Fewest insertions, deletions and substitutions that turn `a` into `b` (Levenshtein 1966)."""
    row = list(range(len(b) + 1))  # row[j]: the distance from what was read of `a` to b[:j]
    for i, token in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (token != other))
    return row[-1]


def error_rates(predictions: Sequence[Tokens], references: Sequence[Sequence[Tokens]],
                refs: str) -> dict[str, float]:
    """Phoneme and word error rate, {'per': ..., 'wer': ...}.

    Args:
      predictions: one token sequence for each word; it may be empty.
      references: for each word its alternatives, at least one.
      refs: 'first' allows the first alternative of each word only, 'any' all of them.

    per is the sum of edits ÷ the sum of the lengths of the references they are counted against:
    for each word the allowed alternative with the fewest edits, the earliest of equals. It may
    exceed 1. With 'any' the edits are never more than with 'first', but per can be higher, for the
    nearer alternative can be a shorter one. wer is the share of words whose prediction equals none
    of the allowed alternatives.

    Raises ValueError if there are no words, a word has no alternatives, the numbers of words
    differ, or all the references counted against are empty.
    """
    if refs not in ('any', 'first'):
        raise ValueError(f"refs is 'any' or 'first', not {refs!r}")
    if not predictions:
        raise ValueError('there are no words to score')
    edits = length = wrong = 0
    for prediction, alternatives in zip(predictions, references, strict=True):
        allowed = alternatives if refs == 'any' else alternatives[:1]
        distance, nearest = min(((edit_distance(prediction, reference), reference)
                                 for reference in allowed), key=lambda pair: pair[0])
        edits += distance
        length += len(nearest)
        wrong += distance > 0
    if not length:
        raise ValueError('every reference is empty: there are no tokens to be wrong about')
    return {'per': edits / length, 'wer': wrong / len(predictions)}


def strip_symbols(tokens: Tokens, characters: str) -> list[str]:
    """`tokens` without the `characters` in them; tokens left empty are dropped.

    strip_symbols(['HH', 'AH0', 'L', 'OW1'], '012') is ['HH', 'AH', 'L', 'OW'].
    """
    deletion = str.maketrans('', '', characters)
    return [kept for token in tokens if (kept := token.translate(deletion))]


def score(predictions: Sequence[Tokens], references: Sequence[Sequence[Tokens]],
          strip: str) -> dict[str, float]:
    """All error rates at once; `strip` holds the marks that may be disregarded ('' for none).

    For ARPAbet, strip='012' removes the stress digits.

      per, wer                              without the marks, the nearest of the alternatives
      per_first, wer_first                  without the marks, the first alternative only
      per_marked, wer_marked                with the marks, the nearest of the alternatives
      per_marked_first, wer_marked_first    with the marks, the first alternative only

    The last four are given only if `strip` is not empty. Arguments and errors otherwise as in
    `error_rates`.
    """
    variants = {'': ([strip_symbols(tokens, strip) for tokens in predictions],
                     [[strip_symbols(tokens, strip) for tokens in word] for word in references])}
    if strip:
        variants['_marked'] = predictions, references
    return {f'{name}{marked}{suffix}': rate
            for marked, sequences in variants.items()
            for suffix, refs in (('', 'any'), ('_first', 'first'))
            for name, rate in error_rates(*sequences, refs).items()}
