"""Special tokens: the names by which vocabularies know them, and what to do without one."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from xformer.config import UserError

UNKNOWN = '\ufffd'  # how an unknown token reads in decoded text
TRAINED = ('<pad>', '<bos>', '<eos>', '<unk>')  # ids 0..3 of a vocabulary of our own
TRAINED_WORDPIECE = ('[PAD]', '[CLS]', '[SEP]', '[UNK]')  # BERT's names for them

_PAD = ('[PAD]', '<pad>', '<|endoftext|>')
_BOS = ('[CLS]', '<s>', '<bos>')
_EOS = ('[SEP]', '</s>', '<eos>', '<|endoftext|>')
_UNK = ('[UNK]', '<unk>')
_MASK = ('[MASK]', '<mask>')
_SENTINELS = tuple(f'<extra_id_{k}>' for k in range(100))  # as many as T5 has


class Special(NamedTuple):
    """Ids of the special tokens; some may share one id, as all do in GPT-2's vocabulary.

    `sentinels[k]` is the id of <extra_id_k>, which stands for the k-th hidden span (Raffel et
    al., 2020). For BERT bos is [CLS] and eos is [SEP].
    """

    pad: int
    bos: int
    eos: int
    unk: int
    mask: int | None = None
    sentinels: tuple[int, ...] = ()

    def ids(self) -> list[int]:
        """All of them, each once, ascending."""
        single = {self.pad, self.bos, self.eos, self.unk} | {self.mask} - {None}
        return sorted(single.union(self.sentinels))

    def skipped(self) -> set[int]:
        """Those that decoded text does not show: all, but for an unk of its own."""
        return set(self.ids()) - ({self.unk} - {self.pad, self.bos, self.eos})


class Template(NamedTuple):
    """The special tokens around and between the texts of a row.

    [CLS] a [SEP] b [SEP] is ((cls,), (sep,), (sep,)); RoBERTa puts two </s> between texts, T5 ends
    both and begins none, GPT-2 has none at all.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]

    def row(self, texts: Sequence[Sequence[int]]) -> list[int]:
        """The ids of a row of one text or two."""
        first, *second = texts
        rest = [*self.between, *second[0]] if second else []
        return [*self.before, *first, *rest, *self.after]


class Spans(NamedTuple):
    """Token ids of a text, and the characters start ... stop - 1 that each stands for."""

    ids: list[int]
    places: list[tuple[int, int]]


def find_special(ids: Mapping[str, int]) -> Special:
    """The special tokens of a vocabulary, {name: id}, by the names BERT, GPT-2 and T5 gave them.

    Without a beginning of its own, T5's way: pad begins the output. A vocabulary of bytes needs no
    unk: pad stands in. Raises UserError where there is neither pad nor an end of text.
    """
    pad, eos = _first(_PAD, ids), _first(_EOS, ids)
    for id, role, names in ((pad, 'padding', _PAD), (eos, 'end of text', _EOS)):
        if id is None:
            raise UserError(f'the vocabulary has no token for {role}; '
                            f'give one of its tokens the name {" or ".join(names)}')
    return Special(pad, _first(_BOS, ids, pad), eos, _first(_UNK, ids, pad), _first(_MASK, ids),
                   tuple(ids[name] for name in _SENTINELS if name in ids))


def own_template(family: str, objective: str, special: Special) -> Template:
    """How the objectives of training place special tokens, for models of that family."""
    begin, end = (special.bos,), (special.eos,)
    if family == 'seq2seq':
        return Template((), end, end)
    return Template(begin, end, () if family == 'decoder' and objective == 'lm' else end)


def missing_special(names: Collection[str], objective: str) -> list[str]:
    """Special tokens to append to a vocabulary with these `names`, in order, for `objective`.

    Sentinels descend, so that <extra_id_0> has the last id, as in T5.
    """
    missing = [] if any(name in names for name in _PAD) else ['<pad>']
    if objective in ('mlm', 'mlm_nsp', 'denoise') and not any(name in names for name in _MASK):
        missing.append('[MASK]' if '[CLS]' in names else '<mask>')
    if objective == 'spans' and _SENTINELS[0] not in names:
        missing.extend(reversed(_SENTINELS))
    return missing


def has_unknown(names: Collection[str]) -> bool:
    """Whether a vocabulary with these `names` has a token for what it does not know."""
    return any(name in names for name in _UNK)


def known_ids(ids: Iterable[int], vocab_size: int, unk: int) -> list[int]:
    """Plain integers; ids beyond the vocabulary (of a model wider than it) become `unk`."""
    return [int(i) if 0 <= i < vocab_size else unk for i in ids]


def names_of(ids: Iterable[int], names: Sequence[str], unk: int) -> list[str]:
    """The name of every id, special ones included: what a picture shows."""
    return [names[i] for i in known_ids(ids, len(names), unk)]


def readable(ids: Iterable[int], names: Sequence[str], special: Special) -> list[str]:
    """The names of which decoded text is made: special tokens are skipped, not obeyed, and an
    unknown one reads UNKNOWN."""
    skipped, unk = special.skipped(), special.unk
    return [UNKNOWN if i == unk else names[i]
            for i in known_ids(ids, len(names), unk) if i not in skipped]


def _first(names: Iterable[str], ids: Mapping[str, int], default: int | None = None) -> int | None:
    return next((ids[name] for name in names if name in ids), default)
