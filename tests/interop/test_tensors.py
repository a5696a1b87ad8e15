"""Files of tensors: whatever is wrong with one, the answer is one sentence, soon."""

import json
import random
import re
import resource
import struct
import subprocess
import sys
import time
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from xformer.config import UserError
from xformer.interop.tables import Place, read_arrays
from xformer.interop.tensors import INDEX, SINGLE, Tensors, write

ARRAYS = {'a.weight': np.arange(12, dtype=np.float32).reshape(3, 4),
          'b': np.arange(5, dtype=np.float16), 'empty': np.zeros((0, 3), np.float32),
          'c': np.arange(6).reshape(1, 6).astype(ml_dtypes.bfloat16), 'one': np.float32(7)[None]}
SIZES = {'F64': 8, 'F32': 4, 'F16': 2, 'BF16': 2}
DEEP = '[' * 100_000 + ']' * 100_000


def sound(folder):
    """(header, data) of a file of ARRAYS."""
    save_file(ARRAYS, folder / SINGLE)
    return parts((folder / SINGLE).read_bytes())


def parts(file):
    size = struct.unpack('<Q', file[:8])[0]
    return json.loads(file[8:8 + size]), file[8 + size:]


def packed(header, data):
    """A file of a header, as an object or as it stands."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + data


def check(folder):
    """Opens the folder, and holds it to what it claims; whether it could be opened."""
    try:
        tensors = Tensors(folder)
        for name in tensors:
            array = tensors[name]
            assert array.nbytes <= 1000 and array.dtype.itemsize in SIZES.values()
    except UserError as error:
        assert re.fullmatch(r'[^\n]+', str(error)) and len(str(error)) < 1000, str(error)[:2000]
        return False
    return True


def mutated(draw, header, data):
    """A file in which something is not as it should be, or may not be."""
    whole, kind = packed(header, data), draw.randrange(9)
    if kind == 0:
        at = draw.randrange(len(whole))
        return whole[:at] + bytes(draw.randrange(256) for _ in range(draw.randrange(4))) + (
            whole[at + draw.randrange(4):])
    if kind == 1:
        return whole[:draw.randrange(len(whole))]
    if kind == 2:
        length = draw.choice([0, 1, 7, 2**16, 2**31, 2**63, 2**64 - 1, draw.randrange(2**64)])
        return struct.pack('<Q', length) + whole[8:]
    if kind == 3:
        flipped = bytearray(whole)
        for _ in range(draw.randrange(1, 8)):
            flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    changed = json.loads(json.dumps(header))
    entry = changed[draw.choice(list(changed))]
    odd = [0, 1, -1, 2**31, 2**63, 2**64, 2**200, 1.5, 'x', None, [], {}, True, 10**9]
    if kind == 4:
        entry['data_offsets'] = [draw.choice([*odd, *range(90)]) for _ in range(draw.choice(
            [0, 1, 2, 2, 2, 2, 3]))]
    elif kind == 5:
        entry['shape'] = [draw.choice([*odd, *range(9)]) for _ in range(draw.randrange(6))]
    elif kind == 6:
        entry['dtype'] = draw.choice([*odd, *SIZES, 'I64', 'U8', 'BOOL', 'F8_E4M3', 'F4', 'C64'])
    elif kind == 7:
        entry[draw.choice([*entry, 'more'])] = draw.choice(odd)
    else:
        text = json.dumps(header)
        return packed(draw.choice([
            text.replace('"b"', '"a.weight"'), text[:-1] + ', "b": ' + json.dumps(entry) + '}',
            text.replace('"F16"', DEEP[:draw.randrange(4000)]), text[:-1], '[]', 'null', '{}',
            text.replace('{', '{"__metadata__": 3, ', 1), text + ' ' * draw.randrange(9),
            text.replace('empty', '\ud800' * 3)]).encode('utf-8', 'surrogatepass'), data)
    return packed(changed, data + bytes(draw.choice([0, 0, 0, 8])))


def test_ten_thousand_faulty_files(tmp_path):
    draw, opened = random.Random(0), 0
    header, data = sound(tmp_path)
    assert check(tmp_path)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for _ in range(10_000):
        (tmp_path / SINGLE).write_bytes(mutated(draw, header, data))
        opened += check(tmp_path)
    assert 50 < opened < 5000  # flips in the data alone, say, are no faults that show
    assert time.process_time() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize('index', [
    '', '[]', '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": ["x"]}}',
    '{"weight_map": {"a": "../one.safetensors"}}', '{"weight_map": {"a": "/etc/passwd"}}',
    '{"weight_map": {"a": ".."}}', '{"weight_map": {"a": "gone.safetensors"}}', DEEP,
    '{"weight_map": {"a": "model-\\u0000.safetensors"}}', '{"weight_map": {"z": "s1"}}',
    '{"weight_map": {"a": "s1", "b": "s2"}}', '{"weight_map": {"a": "s1", "b": null}}'])
def test_an_index_of_files_that_are_not_there_or_not_sound(index, tmp_path):
    folder = tmp_path / 'model'
    folder.mkdir()
    save_file({'a': np.ones(3)}, tmp_path / 'one.safetensors')
    save_file({'a': np.ones(3)}, folder / 's1')
    save_file({'a': np.ones(3), 'b': np.ones(2)}, folder / 's2')
    (folder / INDEX).write_text(index)
    assert not check(folder)


def test_files_in_shards(tmp_path):
    write(tmp_path, ARRAYS, shard_bytes=16)
    assert len(list(tmp_path.glob('model-*-of-*.safetensors'))) > 2
    found = Tensors(tmp_path)
    assert set(found) == set(ARRAYS) and 'd' not in found
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


def test_what_holds_no_floats_is_refused_when_it_is_asked_for(tmp_path):
    save_file({'ids': np.arange(3), 'a': np.ones(2)}, tmp_path / SINGLE)
    found = Tensors(tmp_path)
    assert found['a'].sum() == 2
    with pytest.raises(UserError, match='ids in .* is of type I64; supported are F64, F32'):
        found['ids']


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'consolidated.pt', 'x.pth', 'x.ckpt'])
def test_a_pickle_is_refused_with_the_command_that_converts_it(name, tmp_path):
    (tmp_path / name).write_bytes(b'cos\nsystem\n(S"exit 1"\ntR.')
    with pytest.raises(UserError, match=f'{name} is a pickle, which can run code.*python -c "import'
                                        ' glob, torch, safetensors.torch.*weights_only=True'):
        Tensors(tmp_path)


@pytest.mark.parametrize('names', [
    ['x.bin'], ['pytorch_model-00001-of-00002.bin', 'pytorch_model-00002-of-00002.bin']])
def test_that_command_works(names, tmp_path):
    torch = pytest.importorskip('torch')
    tmp_path = tmp_path / 'step [1]'
    tmp_path.mkdir()
    torch.save({'optimizer': 1}, tmp_path / 'zoptimizer.pt')  # not what is wanted
    parts = {'a': torch.ones(2, 3), 'c': torch.ones(2, 3).T}, {'b': torch.ones(2, 3)[:, 1:]}
    if len(names) == 1:
        parts = [parts[0] | parts[1]]
    for name, part in zip(names, parts, strict=True):
        torch.save(part, tmp_path / name)
    with pytest.raises(UserError) as refused:
        Tensors(tmp_path)
    command = str(refused.value).split('convert it with: python ')[1]
    subprocess.run(f'{sys.executable} {command}', shell=True, check=True)
    found = Tensors(tmp_path)
    assert {name: found[name].shape for name in found} == {'a': (2, 3), 'b': (2, 2), 'c': (3, 2)}


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=f'holds neither {SINGLE} nor {INDEX}'):
        Tensors(tmp_path)


def test_reading_holds_one_tensor_of_ours_and_views_of_theirs(tmp_path):
    """48 MB in eight tensors, which are four of ours: two layers each."""
    rows = np.random.default_rng(0).normal(size=(1500, 1000)).astype(np.float32)
    write(tmp_path, {f'{name}.{layer}': rows for name in 'abcd' for layer in range(2)})
    table = {f'layers/{name}': Place(f'{name}.*', turned=True) for name in 'abcd'}
    found = Tensors(tmp_path)

    def check_layers(item):
        path, array = item
        assert array.shape == (2, 1000, 1500) and np.array_equal(array[1], rows.T), path

    tracemalloc.start()
    for _ in map(check_layers, read_arrays(
            table, dict.fromkeys(table, (2, 1000, 1500)), found.__getitem__)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * rows.nbytes  # one of ours is two of theirs; and the comparison's own
