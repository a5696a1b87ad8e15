"""A Hugging Face folder as a whole: what its config.json says, and its tensors as our parameters.
"""

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from xformer.config import (
    CHOOSING,
    Config,
    ModelConfig,
    UserError,
    nearest,
    override,
    read_config,
)
from xformer.interop import generation
from xformer.interop.families import FAMILIES, NEUTRAL, OFF, Architecture, Family
from xformer.interop.options import Theirs, to_model, to_theirs
from xformer.interop.sentences import MODULES, transformer_folder
from xformer.interop.tables import Table, read_arrays, slots, write_tensors
from xformer.interop.tensors import Tensors, write

CONFIG = 'config.json'
MOST_LABELS = 10**6
# of training alone, which it says nothing of
UNTRAINED = override(Config(), {'optim.schedule': 'constant', 'optim.peak_learning_rate': 1.0})


@dataclass(frozen=True)
class Checkpoint:
    """A folder, opened. `name` is of its architecture; `aside` lists what its files say that is
    neither understood nor needed."""

    folder: Path
    theirs: Theirs
    family: Family
    name: str
    tensors: Tensors
    config: Config
    aside: list[str]

    @property
    def architecture(self) -> Architecture:
        return self.family.architectures[self.name]

    @property
    def labels(self) -> tuple[str, ...]:
        """Of a classifier or tagger, in the order of its outputs."""
        return (_labels(self.theirs, self.architecture)
                if self.config.data.objective in CHOOSING else ())

    @property
    def table(self) -> Table:
        """Under the names that this file has."""
        return _table(self.family, self.architecture, self.config.model, self._bare)

    @property
    def _bare(self) -> bool:
        """Whether the file leaves out the family's prefix, whatever its architecture."""
        return not any(name.startswith(f'{self.family.prefix}.') for name in self.tensors)

    @property
    def embedding(self) -> str:
        """The token embeddings' own name."""
        table = self.table
        return (table.get('embedding') or table['encoder/embedding']).name

    @property
    def tied(self) -> list[str]:
        """Other names that the token embeddings may have in this file."""
        return [_short(name, self.family, self._bare) for name in self.family.tied]

    def arrays(self, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
        """(path, float32 array) of each parameter of ours, of these shapes.

        Raises UserError where the file lacks a tensor, or one has another shape.
        """
        missing = sorted({name for name in self._needed(shapes) if self.name_of(name) is None})
        if missing:
            raise UserError(f'{self.folder} lacks the tensor {missing[0]}'
                            + (f' and {len(missing) - 1} more' if len(missing) > 1 else '')
                            + f', which {self.name} needs; is config.json of another model?')
        return read_arrays(self.table, shapes, lambda name: self.tensors[self.name_of(name)])

    def unused(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Tensors that hold parameters but have no place in the model."""
        used = set(map(self.name_of, self._needed(shapes)))
        known = [*self.tied, *(_short(name, self.family, self._bare)
                               for name in self.family.ignored)]
        return [name for name in self.tensors if name not in used
                and not any(fnmatch.fnmatch(name, pattern) for pattern in known)]

    def _needed(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """The tensors that parameters of ours, of these shapes, take."""
        table = self.table
        return [name for path, shape in shapes.items()
                for name, _ in slots(table[path], path, np.broadcast_to(0, shape))]

    def name_of(self, name: str) -> str | None:
        """The name in the file, which may be that of older files for norms or, of the token
        embeddings, one of the others that they go by."""
        found = _new_or_old(name, self.tensors)
        if found is None and name == self.embedding:
            found = next((each for each in self.tied if each in self.tensors), None)
        return found


def _new_or_old(name: str, tensors: Tensors) -> str | None:
    stem, _, part = name.rpartition('.')
    older = f'{stem}.{ {"weight": "gamma", "bias": "beta"}.get(part, part)}'
    return next((each for each in (name, older) if each in tensors), None)


def _short(name: str, family: Family, bare: bool) -> str:
    return name.removeprefix(f'{family.prefix}.') if bare else name


def _table(family: Family, architecture: Architecture, model: ModelConfig, bare: bool) -> Table:
    return {path: place._replace(name=_short(place.name, family, bare))
            for path, place in {**family.table(model), **architecture.head}.items()}


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of Hugging Face's or of sentence-transformers, and not a run's."""
    if (folder / MODULES).is_file():
        return True
    try:
        return 'model_type' in json.loads((folder / CONFIG).read_text(encoding='utf-8'))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def config_in(folder: Path) -> Config:
    """The configuration of a run, or of a Hugging Face folder. Raises UserError for others."""
    return open_checkpoint(folder).config if is_checkpoint(folder) else read_config(folder)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Raises UserError for whatever is missing, damaged, or of a kind that is not supported."""
    sentences, folder = (folder / MODULES).is_file(), transformer_folder(folder)
    try:
        theirs = json.loads((folder / CONFIG).read_text(encoding='utf-8'))
        family = FAMILIES.get(theirs['model_type'])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f'{folder / CONFIG} is no configuration of a model ({error!r}); restore '
                        'it from a copy') from None
    if family is None:
        raise UserError(f'{folder} is of model_type={theirs["model_type"]!r}, which is not '
                        f'supported; there are: {", ".join(FAMILIES)}')
    name = _architecture(folder, theirs, family)
    tensors = Tensors(folder)
    name = _as_its_tensors_say(name, family, tensors, sentences)
    try:
        config, aside = _config(folder, theirs, family, family.architectures[name])
    except UserError as error:
        raise UserError(f'{folder / CONFIG}: {error}') from None
    except (TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(f'{folder / CONFIG} or {generation.FILE} has a value of a wrong kind '
                        f'({error}); restore them from a copy') from None
    found = Checkpoint(folder, theirs, family, name, tensors, config, aside)
    return replace(found, config=override(config, {**_tied(found), **_pooled(found)}))


def _config(folder: Path, theirs: Theirs, family: Family, architecture: Architecture
            ) -> tuple[Config, list[str]]:
    """(configuration as config.json and generation_config.json have it, what they say besides)."""
    objective, labels = _objective(theirs, architecture), len(_labels(theirs, architecture))
    said = to_model(family.adjust(theirs), family.options)
    for field, value in architecture.model.items():
        if said.get(field, value) != value:
            raise UserError(f'model.{field}={said[field]} is not supported with the head of '
                            f'{theirs["architectures"][0]}, only {value} is; for the encoder alone '
                            f'name the architecture {_encoder(family)}')
    model = {**family.model, **architecture.model, **said}
    if objective in CHOOSING:
        model['num_labels'] = labels
    config = override(UNTRAINED, {f'model.{field}': value for field, value in model.items()
                                  if value is not None}
                      | {'data.objective': objective, 'data.tokenizer': family.tokenizer,
                         'data.score': 'bleu' if objective == 'pairs' else Config().data.score})
    known = {*NEUTRAL, *generation.NAMES, *(option.theirs for option in family.options)}
    aside = [f'{name}={value!r}' for name, value in theirs.items()
             if name not in known and value != OFF.get(name)]
    if config.model.family != 'encoder':
        given = generation.read_generation(folder, {**family.generation, **theirs})
        changes, more = generation.to_config(given, config.model)
        config, aside = override(config, changes), aside + more
    return config, aside


def _encoder(family: Family) -> str:
    """The architecture without a head."""
    return next(name for name, each in family.architectures.items() if each.objective == 'none')


def _labels(theirs: Theirs, architecture: Architecture) -> tuple[str, ...]:
    """Of a classifier or tagger; transformers takes two where config.json names none."""
    names, count = theirs.get('id2label') or {}, theirs.get('num_labels', 2)
    unnamed = all(re.fullmatch(r'LABEL_\d+', str(name)) for name in names.values())
    if architecture.labels and (unnamed or len(names) != len(architecture.labels)):
        return architecture.labels
    if not names and count > MOST_LABELS:
        raise UserError(f'num_labels={count} is more than any model here has ({MOST_LABELS:,})')
    return tuple(str(names.get(str(i), f'LABEL_{i}')) for i in range(len(names) or count))


def _architecture(folder: Path, theirs: Theirs, family: Family) -> str:
    names = theirs.get('architectures')
    if not (isinstance(names, list) and names and isinstance(names[0], str)):
        raise UserError(f'{folder / CONFIG} does not say of which architecture the model is; add '
                        f'"architectures": ["NAME"], one of {", ".join(family.architectures)}')
    if names[0] not in family.architectures:
        raise UserError(f'{folder} is of architecture {names[0]}, which is not supported'
                        + nearest(names[0], family.architectures))
    return names[0]


def _as_its_tensors_say(name: str, family: Family, tensors: Tensors, sentences: bool) -> str:
    """The architecture, where config.json names another: a model of sentence-transformers has no
    head, BERT's own files, of BertForMaskedLM, have that for next sentences, too, and BART's may
    do without a bias of the logits."""
    def complete(architecture: Architecture) -> bool:
        return all(_new_or_old(place.name, tensors) for place in architecture.head.values())

    named = family.architectures[name]
    other = 'none' if sentences else 'mlm_nsp' if named.objective == 'mlm' else named.objective
    if other == named.objective and complete(named):
        return name
    return next((each for each, architecture in family.architectures.items()
                 if (architecture.objective, architecture.labels) == (other, ()) and complete(
                     architecture)), name)


def _objective(theirs: Theirs, architecture: Architecture) -> str:
    """What the architecture was trained for; a classifier of one label learns numbers."""
    if architecture.objective != 'classify':
        return architecture.objective
    problem = theirs.get('problem_type')
    if problem == 'multi_label_classification':
        raise UserError(f'problem_type={problem!r} is not supported: a text has one label here')
    count = len(_labels(theirs, architecture))
    if problem == 'regression' and count != 1:
        raise UserError(f'problem_type={problem!r} of {count} numbers is not '
                        'supported: a text has one number here')
    return 'regress' if count == 1 else 'classify'


def _tied(found: Checkpoint) -> dict[str, str]:
    """Whether the output has a matrix of its own: where the family allows it, the file tells.

    Raises UserError for a second copy of the embeddings that differs, in any other family.
    """
    output = found.table.get('output/kernel')
    shown = found.name_of(found.embedding)
    for name in found.tied:
        if name not in found.tensors or np.array_equal(found.tensors[name], found.tensors[shown]):
            continue
        if output is None or output.name != name:
            raise UserError(f'{name} in {found.folder} differs from {shown}; of '
                            f'{found.family.model_type} the two are supported as one alone')
        seq2seq = found.config.model.family == 'seq2seq'
        return {'model.tie_embeddings': 'inputs' if seq2seq else 'none'}
    return {}


def _pooled(found: Checkpoint) -> dict[str, bool]:
    """Whether there is a pooler, and something that uses it: a head of texts cannot do without."""
    place = found.table.get('encoder/pooler/kernel')
    objective = found.config.data.objective
    if objective in ('classify', 'regress') or found.architecture.pools:
        return {'model.pooler': place is not None}
    uses = objective in ('none', 'mlm_nsp')
    return {'model.pooler': uses and place is not None and place.name in found.tensors}


def write_checkpoint(folder: Path, config: Config, params: Mapping[str, np.ndarray],
                     model_type: str | None = None, labels: tuple[str, ...] = ()
                     ) -> tuple[str, list[str]]:
    """Write config.json and the tensors; returns the name of the architecture, and settings of
    training that have other values there.

    `params` are ours by path. Without `model_type` it is the first family that the model belongs
    to. Raises UserError if it belongs to none, or not to that one.
    """
    family = _family_of(config, model_type)
    config, params = _with_segments(family, config, params)
    name = _class_of(family, config)
    architecture = family.architectures[name]
    theirs = family.complete(to_theirs(_explicit(config.model), family.options))
    about = {'architectures': [name], 'model_type': family.model_type, 'dtype': 'float32'}
    if labels:
        about['id2label'] = {str(i): label for i, label in enumerate(labels)}
        about['label2id'] = {label: i for i, label in enumerate(labels)}
    if config.data.objective == 'regress':
        about |= {'problem_type': 'regression', 'id2label': {'0': 'LABEL_0'},
                  'label2id': {'LABEL_0': 0}}
    table = _table(family, architecture, config.model, architecture.bare)
    if lost := sorted(params.keys() - table.keys()):
        raise UserError(f'{name} has no tensor for {lost[0]}; of {family.model_type} a model with '
                        'it cannot be written')
    write(folder, write_tensors(table, params))
    (folder / CONFIG).write_text(json.dumps(about | theirs, indent=2, sort_keys=True) + '\n',
                                 encoding='utf-8')
    again = _read_again(family, config)
    return name, [f'model.{field}={getattr(config.model, field)}' for field in _DROPOUTS
                  if getattr(config.model, field) != getattr(again, field)]


def _with_segments(family: Family, config: Config, params: Mapping[str, np.ndarray]
                   ) -> tuple[Config, Mapping[str, np.ndarray]]:
    """With one kind of segment, all zeros, where the family cannot do without."""
    if config.model.num_segments or not any(
            option.ours == 'num_segments' for option in family.options):
        return config, params
    zeros = np.zeros((1, config.model.E), np.float32)
    return (override(config, {'model.num_segments': 1}),
            {**params, 'encoder/input_embedding/segment_embedding': zeros})


_DROPOUTS = ('dropout', 'attention_dropout', 'activation_dropout')  # they change no output
_FREE = (*_DROPOUTS, 'attention', 'layers', 'remat', 'dtype', 'init', 'pooler', 'num_labels',
         'pad_id', 'bos_id', 'eos_id', 'tie_embeddings')  # of which a family says nothing


# objectives that share a class there; numbers are a classifier of one label
_SAME_CLASS = {'regress': 'classify', 'spans': 'pairs', 'denoise': 'pairs'}


def _class_of(family: Family, config: Config) -> str | None:
    """The architecture that learns the same, if one can with the same model."""
    objective = _SAME_CLASS.get(config.data.objective, config.data.objective)
    names = [name for name, architecture in family.architectures.items()
             if architecture.objective == objective]
    return next((name for name in names if all(
        getattr(config.model, field) == value
        for field, value in family.architectures[name].model.items())), names[0] if names else None)


def _family_of(config: Config, model_type: str | None) -> Family:
    if model_type and model_type not in FAMILIES:
        raise UserError(f'there is no family {model_type!r}{nearest(model_type, FAMILIES)}')
    candidates = [FAMILIES[model_type]] if model_type else list(FAMILIES.values())
    reasons = {family.model_type: _misfit(family, config) for family in candidates}
    for name, reason in reasons.items():
        if reason is None:
            return FAMILIES[name]
    raise UserError('the model is of no family that Hugging Face knows: '
                    + '; '.join(f'{name}: {reason}' for name, reason in reasons.items()))


def _read_again(family: Family, config: Config) -> ModelConfig:
    """The model as a folder of the family would say it."""
    return _explicit(ModelConfig(**{
        **family.model, **family.architectures[_class_of(family, config)].model,
        **to_model(to_theirs(_explicit(config.model), family.options), family.options)}))


def _explicit(model: ModelConfig) -> ModelConfig:
    """With the widths and numbers of heads that a 0 stands for."""
    return replace(model, num_kv_heads=model.K, head_width=model.H, embedding_size=model.E)


def _misfit(family: Family, config: Config) -> str | None:
    """Why the model is not of the family, or None."""
    name = _class_of(family, config)
    if name is None:
        return f'data.objective={config.data.objective} has no architecture there'
    if family.architectures[name].objective == 'classify' and not config.model.pooler:
        return 'model.pooler is False, there heads see the first token through a pooler'
    if (config.data.objective == 'tag' and config.model.pooler
            and not family.architectures[name].pools):
        return 'model.pooler is True, there words are seen without one'
    try:
        again = _read_again(family, config)
    except UserError as error:
        return str(error)
    for field in fields(ModelConfig):
        expected, value = (getattr(each, field.name) for each in (again, _explicit(config.model)))
        if field.name not in _FREE and value != expected:
            return f'model.{field.name} is {value}, there {expected}'
    return None
