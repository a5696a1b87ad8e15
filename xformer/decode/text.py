"""Prompts made of texts, and texts made of outputs."""

from collections.abc import Iterable, Iterator, Sequence

from xformer.config import Config
from xformer.data.sources import Pair
from xformer.data.tokenizers import Tokenizers


def few_shot_prompt(source: str, examples: Sequence[Pair], template: str) -> str:
    """A line per example, then the template up to its {target} (Brown et al. 2020, section 2)."""
    before, rest = template.split('{source}')
    between, after = rest.split('{target}')
    lines = [f'{before}{example}{between}{target}{after}\n' for example, target in examples]
    return ''.join(lines) + before + source + between


def output_text(ids: Sequence[int], prompt: Sequence[int], config: Config,
                tokenizers: Tokenizers) -> str:
    """What an output reads; of a language model, what it adds to the text of its prompt, where a
    space between them belongs to it."""
    if config.data.objective != 'lm':
        return tokenizers.target.decode(ids)
    return tokenizers.source.decode([*prompt, *ids])[len(tokenizers.source.decode(prompt)):]


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings in it, or all of it."""
    return text[:min((text.index(stop) for stop in stops if stop in text), default=len(text))]


def pieces(texts: Iterable[str], held_back: int) -> Iterator[str]:
    """What each of ever longer texts adds, for showing one as it grows.

    The last `held_back` characters, which may begin a stop string, and those of which not all
    bytes are there wait until more or the end comes.
    """
    text, shown = '', 0
    for text in texts:
        safe = text[:max(len(text) - held_back, shown)].rstrip('\ufffd')
        yield safe[shown:]
        shown = max(shown, len(safe))
    yield text[shown:]
