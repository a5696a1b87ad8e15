"""Looking inside: every family, from texts to arrays, pictures and the page; mistakes."""

import json
import re
import shutil

import numpy as np
import pytest

from experiments import visualize
from xformer.config import UserError


def looked(run, *arguments):
    """The command in this process."""
    visualize.main(['visualize', f'--model={run}', *map(str, arguments)])


def data_of(folder) -> list[dict]:
    page = (folder / 'index.html').read_text()
    return json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', page,
                                re.DOTALL)[1])


@pytest.mark.parametrize('family, stack', [
    ('encoder', 'encoder'), ('classifier', 'encoder'), ('decoder', 'decoder')])
def test_a_model_of_texts(family, stack, untrained, tmp_path, capsys):
    (tmp_path / 'texts.txt').write_text('abc\nhead\n')
    looked(untrained(family), f'--input={tmp_path}/texts.txt', f'--output={tmp_path}/looks')
    assert capsys.readouterr() == ('', f'2 texts: {tmp_path}/looks/index.html\n')
    names = sorted(path.name for path in (tmp_path / 'looks').iterdir())
    assert names == sorted(['index.html', *(f'{number}.{name}' for number in (1, 2) for name in (
        'npz', f'{stack}.self.png', 'entropy.png',
        *([] if family == 'classifier' else ['lens.png'])))])
    arrays = np.load(tmp_path / 'looks' / '2.npz')
    assert [*arrays[f'{stack}_reads_T'][1:5]] == ['h', 'e', 'a', 'd']
    np.testing.assert_allclose(arrays[f'{stack}_self_LNTT'].sum(-1), 1, atol=1e-5)
    assert [each['maps'][0]['queries'][1] for each in data_of(tmp_path / 'looks')] == ['a', 'h']


def test_targets_are_read_or_written_by_greedy_decoding(run, trained, tmp_path, contents):
    before = contents(trained)
    result = run('visualize', f'--model={trained}', '--prompt=abd\tA0 B1 D0', '--prompt=abd',
                 '--output=looks', '--head=1')
    assert (result.returncode, result.stdout) == (0, ''), result.stderr
    assert contents(trained) == before
    written = run('generate', f'--model={trained}', '--prompt=abd', '--config.decode.beam_size=1')
    assert written.returncode == 0, written.stderr
    given, own = (np.load(tmp_path / 'looks' / f'{number}.npz') for number in (1, 2))
    assert [*given['decoder_reads_T']] == ['<bos>', 'A0', 'B1', 'D0']
    assert [*given['decoder_says_T']] == ['A0', 'B1', 'D0', '<eos>']
    assert ' '.join(own['decoder_says_T']).removesuffix(' <eos>') == written.stdout.strip()
    assert given['decoder_cross_LNTS'].shape == (1, 2, 4, 4)
    names = {path.name for path in (tmp_path / 'looks').iterdir()}
    assert names == {'index.html', 'alignments.png', *(f'{number}.{name}' for number in (1, 2)
                     for name in ('npz', 'entropy.png', 'lens.png', 'encoder.self.png',
                                  'decoder.self.png',
                                  'decoder.cross.png'))}


def test_some_of_a_split_are_looked_at(untrained, tmp_path):
    run = shutil.copytree(untrained('seq2seq'), tmp_path / 'run')
    (run / 'data').mkdir()
    pairs = [('abcdefgh'[i // 8] + 'abcdefgh'[i % 8], 'A B') for i in range(20)]
    (run / 'data' / 'dev.jsonl').write_text(''.join(json.dumps(pair) + '\n' for pair in pairs))
    looked(run, '--split=dev', f'--output={tmp_path}/looks')
    crossed = [each['maps'][-1] for each in data_of(tmp_path / 'looks')]
    assert [''.join(each['keys'][:2]) for each in crossed] == [
        source for source, _ in pairs[::3]]
    assert {(*each['queries'],) for each in crossed} == {('A', 'B', '<eos>')}


MISTAKES = {
    'nothing to look at': ([], '--prompt'),
    'two inputs': (['--prompt=a', '--input=x'], '--prompt'),
    'no such layer': (['--prompt=a', '--layer=4'], '--layer=4 .* 0 to 3'),
    'no such head': (['--prompt=a', '--head=2'], '--head=2 .* 0 to 1'),
    'empty': (['--prompt='], 'empty'),
    'too long': (['--prompt=' + 'a' * 30], '32 tokens.* takes 24'),
    'no such checkpoint': (['--prompt=a', '--checkpoint=8'], "'8'"),
    'binary': (['--input={here}/binary.bin'], 'binary.bin:2 is not valid UTF-8'),
    'too many': (['--input={here}/many.txt'], '65 texts'),
    'output in no folder': (['--prompt=a', '--output={here}/no/where'], 'does not exist'),
    'output exists': (['--prompt=a', '--output={here}'], 'exists'),
    'output is a stream': (['--prompt=a', '--output=-'], '--output is a folder here'),
}


@pytest.mark.parametrize('case', MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_leave_nothing(case, untrained, tmp_path, contents):
    (tmp_path / 'binary.bin').write_bytes(bytes(range(256)))
    (tmp_path / 'many.txt').write_text('a\n' * 65)
    before = contents(tmp_path)
    arguments = [each.format(here=tmp_path) for each in case[0]]
    if not any(each.startswith('--output') for each in arguments):
        arguments.append(f'--output={tmp_path}/looks')
    with pytest.raises(UserError, match=case[1]) as caught:
        looked(untrained('encoder'), *arguments)
    assert '\n' not in str(caught.value) and contents(tmp_path) == before


@pytest.mark.parametrize('prompt, words', [('a\tA\tB', '2 tabs'), ('a\t ', 'empty target'),
                                           ('\tA', 'input 1 is empty'),
                                           ('a\t' + 'A ' * 24, 'target of input 1 has 25')])
def test_mistakes_in_pairs(prompt, words, untrained, tmp_path):
    with pytest.raises(UserError, match=words):
        looked(untrained('seq2seq'), f'--prompt={prompt}', f'--output={tmp_path}/looks')
    assert not (tmp_path / 'looks').exists()


@pytest.mark.parametrize('arguments', [
    '--model=nowhere --prompt=a --output=x', '--model={run} --prompt=a',
    '--model={run} --prompt=a --output=.', '--model={run} --output=x --head=9 --prompt=a'])
def test_flags_are_answered_before_jax_with_one_sentence(arguments, answered_early):
    answered_early('visualize', arguments)
