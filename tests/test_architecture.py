"""The floor plan: imports point one way, files stay small, everything public says what it is."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {name: floor for floor, names in enumerate([
    ('config', 'compiled', 'console', 'files', 'page'), ('checks', 'presets'), ('nn', 'data'),
    ('models',), ('decode', 'interop'), ('evaluate',),
    ('train',), ('run', 'figures', 'inspector'), ('report',), ('sweep',)]) for name in names}
MODULES = {'.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
           for package in ('xformer', 'experiments', 'benchmarks')
           for path in sorted((ROOT / package).rglob('*.py'))}
OURS = [name for name in MODULES if name.startswith('xformer.')]


def imported_by(name: str) -> set[str]:
    """Names of all modules that a file imports anywhere in it, functions included."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{name} imports relatively'
            names |= {node.module} | {f'{node.module}.{alias.name}' for alias in node.names
                                      if f'{node.module}.{alias.name}' in MODULES}
    return names


def part(name: str) -> str:
    """The package or module right under xformer."""
    return name.split('.')[1]


@pytest.mark.parametrize('name', OURS)
def test_imports_point_down(name):
    assert part(name) in FLOORS, f'{name} is on no floor'
    for other in imported_by(name):
        if other.startswith('xformer.') and part(other) != part(name):
            assert FLOORS[part(other)] < FLOORS[part(name)], f'{name} imports {other}'


@pytest.mark.parametrize('name', OURS)
def test_nothing_imports_what_is_above_xformer(name):
    assert not {other for other in imported_by(name)
                if other.split('.')[0] in ('experiments', 'benchmarks', 'tests')}


def test_no_module_imports_itself_through_others():
    """No cycles within a package either, which floors do not see."""
    below = {name: imported_by(name) & set(MODULES) - {name} for name in MODULES}

    def visit(name, path):
        assert name not in path, ' -> '.join([*path, name])
        for other in below[name]:
            visit(other, [*path, name])
    for name in MODULES:
        visit(name, [])


def loaded_with(modules: list[str]) -> set[str]:
    """Top-level packages in memory once the modules are imported."""
    code = (f'import sys\nimport {", ".join(modules)}\n'
            'print(*{name.split(".")[0] for name in sys.modules})')
    return set(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                              check=True, cwd=ROOT).stdout.split())


def test_data_never_loads_jax():
    data = [name for name in OURS if part(name) == 'data']
    loaded = loaded_with(data)
    assert len(data) > 3 and 'numpy' in loaded
    assert not loaded & {'jax', 'jaxlib', 'flax', 'optax', 'orbax'}


def test_slow_imports_wait_until_they_are_needed():
    assert not loaded_with(['xformer.run', 'xformer.report', 'xformer.train.loop']) & {
        'matplotlib', 'tensorboardX', 'torch'}


def test_no_pytorch_at_run_time(tmp_path):
    (tmp_path / 'torch.py').write_text('loaded = True')
    code = ('import sys; from pathlib import Path; from xformer.train.telemetry import Board\n'
            f'board = Board(Path({str(tmp_path)!r}), 0); board.add(1, {{"loss": 1.0}})\n'
            'board.close(); print("torch" in sys.modules); import torch; print(torch.loaded)')
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                           env=os.environ | {'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'})
    assert found.stdout.split() == ['False', 'True']


@pytest.mark.parametrize('name', MODULES)
def test_files_are_short_and_say_what_they_are(name):
    text = MODULES[name].read_text(encoding='utf-8')
    assert text.count('\n') < 400
    assert all(len(line) <= 100 for line in text.splitlines())
    assert not text or ast.get_docstring(ast.parse(text)), f'{name} has no docstring'


@pytest.mark.parametrize('name', OURS)
def test_every_public_function_and_class_says_what_it_is(name):
    """Except records, classes of nothing but fields: these speak for themselves."""
    def is_record(node):
        return isinstance(node, ast.ClassDef) and all(
            isinstance(part, ast.AnnAssign) for part in node.body)
    public = [node for node in ast.parse(MODULES[name].read_text(encoding='utf-8')).body
              if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != '_']
    missing = [node.name for node in public if not (ast.get_docstring(node) or is_record(node))]
    assert not missing, f'{name}: no docstring: {", ".join(missing)}'
