"""What the entry points share: absl flags, configurations, exit codes.

Exit codes: 0 done and --help, 2 the user's mistake, 3 loss not finite, 75 stopped by a signal
and saved, 1 only for our own bugs.
"""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from experiments import configs
from xformer.checks import validate
from xformer.config import Config, Ending, UserError, leaves, nearest, override

REQUIRED = 'required'
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # of glibc's malloc.h


def call(main: Callable[[list[str]], None]) -> None:
    """Run an entry point and exit with its code; mistakes are one sentence on stderr."""
    try:
        main(sys.argv)
        sys.stdout.flush()
    except Ending as ending:
        _leave(str(ending), ending.exit_code)
    except BrokenPipeError:  # the reader of our output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _leave('interrupted; nothing was changed, run the same command again', 75)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT,
                               errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG):
            raise
        where = f' {error.filename}' if error.filename else ''
        _leave(f'cannot use{where} ({error.strerror}); mend its permissions, free some space, or '
               'choose another folder', 2)


def _leave(sentence: str, code: int) -> None:
    print(f'{Path(sys.argv[0]).stem}: {sentence}', file=sys.stderr)
    sys.exit(code)


def parse(argv: list[str], doc: str, define: Callable[[flags.FlagValues], None],
          sections: tuple[str, ...], arguments: list[str] | None = None) -> flags.FlagValues:
    """The values of the flags that `define` declares, and of --config.SECTION.*.

    What is no flag is added to `arguments`, if there are to be any. Answers --help and exits.
    Raises UserError for an unknown flag, a bad value, a stray argument.
    """
    for argument in argv:
        if any('\ud800' <= character <= '\udfff' for character in argument):
            raise UserError(f'the argument {ascii(argument)} is not valid UTF-8; mend it, or give '
                            'texts in a file')
    values = flags.FlagValues()
    flags.DEFINE_boolean('help', False, 'show this text', short_name='h', flag_values=values)
    define(values)
    for name, leaf in leaves().items():
        if name.split('.')[0] in sections:
            choices = ' | '.join(leaf.metadata['choices'])
            flags.DEFINE_string(f'config.{name}', None, leaf.metadata['meaning']
                                + (f': {choices}' if choices else ''), flag_values=values)
    try:
        rest = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        known = [name for name in values if name != 'h']
        raise UserError(f'there is no flag --{error.flagname}'
                        f'{nearest(error.flagname, known)}') from None
    except flags.Error as error:
        raise UserError(str(error).replace('\n', ' ')) from None
    if values.help:
        print(_help(doc, values))
        sys.exit(0)
    for name in values:
        if values[name].present and values[name].value == '' and not name.startswith('config.'):
            raise UserError(f'--{name} is empty; give it a value, or leave it out')
    if rest and arguments is None:
        raise UserError(f'unexpected argument {rest[0]!r}; every option is given as --name=value')
    if arguments is not None:
        arguments += rest
    for name in values:
        if values[name].value is None and (values[name].help or '').endswith(f'({REQUIRED})'):
            raise UserError(f'--{name} is missing: {values[name].help}; see --help')
    return values


def experiment(argv: list[str], doc: str, sections: tuple[str, ...],
               define: Callable[[flags.FlagValues], None] = lambda values: None,
               ) -> tuple[flags.FlagValues, configs.Experiment]:
    """As `parse`, with --config, and the experiment it names as --config.SECTION.* change it."""
    def define_all(values: flags.FlagValues) -> None:
        flags.DEFINE_string('config', None, 'experiment NAME[:variant], or a .py or .json file '
                            f'({REQUIRED})', flag_values=values)
        define(values)

    values = parse(argv, f'{doc}\nExperiments: {", ".join(configs.names())}', define_all, sections)
    found = configs.load(values.config)
    return values, found._replace(config=changed(found.config, values))


def _help(doc: str, values: flags.FlagValues) -> str:
    lines = [doc.strip(), '']
    own = [values[name] for name in values if name != 'h' and not name.startswith('config.')]
    for flag in own:
        default = f' [{flag.default}]' if flag.default not in (None, False, '', []) else ''
        meaning = flag.help.partition(';\n')[0].replace('Alias for', 'the same as')
        lines.append(f'  --{flag.name:<28} {meaning}{default}')
    options = [name for name in values if name.startswith('config.')]
    if options:
        shown = ' (--print_config shows their values)' * ('print_config' in values)
        lines += ['', f'Fields of the configuration{shown}:', '']
        lines += [f'  --{name:<34} {values[name].help}' for name in options]
    return '\n'.join(lines)


def changed(config: Config, values: flags.FlagValues) -> Config:
    """`config` with the --config.* flags that were given, once it makes sense as a whole."""
    return validate(override(config, {
        name.removeprefix('config.'): values[name].value for name in values
        if name.startswith('config.') and values[name].value is not None}))


def keep_memory() -> None:
    """Have a CPU's working memory kept from step to step.

    XLA asks for it anew at every step. glibc by default gives so large a piece back to the system
    each time, and making its pages again takes up to a fifth of a training step: so no mmap and a
    heap that is never made smaller (mallopt(3)). Only the main thread has such a heap, so programs
    start there, not in the threads that XLA has for it. Other C libraries do as they do.
    """
    import ctypes

    import jax
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def prepare_jax() -> None:
    """Keep memory, and compiled programs between runs: a second start compiles nothing.

    Programs compiled for one processor may not run on another, so each kind has its own folder.
    """
    import hashlib
    import platform

    keep_memory()
    import jax
    processor = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        processor = ''.join(sorted({line for line in lines if line.startswith(('model', 'flags'))}))
    kind = hashlib.sha256(processor.encode()).hexdigest()[:8]
    cache = Path(os.environ.get('XFORMER_CACHE') or '~/.cache/xformer').expanduser()
    jax.config.update('jax_compilation_cache_dir', str(cache / 'compiled' / kind))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
