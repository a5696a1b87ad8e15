"""What is said of a family: its options, its tensors, its architectures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xformer.config import ModelConfig
from xformer.interop.options import Option, Theirs
from xformer.interop.tables import Table


@dataclass(frozen=True)
class Architecture:
    """One of Hugging Face's classes: what it was trained for, and the tensors of its head.

    `model` are fields of ModelConfig that differ from the family's. `bare`: its files leave out
    the family's prefix.
    """

    objective: str
    head: Table = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    bare: bool = False


@dataclass(frozen=True)
class Family:
    """Everything that the readers and the writer need to know of a `model_type`.

    model: fields of ModelConfig that all its models share
    table: of a model with its head missing
    prefix: of the names in `table`; files of a model without a head leave it out
    tied: other names of the token embeddings; a file may hold them once more
    ignored: tensors that hold no parameters, or none that are used (patterns of fnmatch)
    adjust: completes what config.json says before its options are read
    complete: adds to what its options say what other readers want
    """

    model_type: str
    options: Sequence[Option]
    model: Mapping[str, Any]
    table: Callable[[ModelConfig], Table]
    architectures: Mapping[str, Architecture]
    prefix: str = ''
    tied: Sequence[str] = ()
    ignored: Sequence[str] = ()
    adjust: Callable[[Theirs], Theirs] = lambda theirs: theirs
    complete: Callable[[Theirs], Theirs] = lambda theirs: theirs
