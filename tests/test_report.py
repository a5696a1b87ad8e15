"""The report: complete, right, self-contained, harmless, and content with half a run folder."""

import base64
import dataclasses
import json
import statistics
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xformer.config import Config, UserError, override, to_json
from xformer.evaluate.alignment import Alignment
from xformer.figures import draw_alignments
from xformer.report import write_report

pytestmark = pytest.mark.filterwarnings('error')
SECTIONS = ['Learning curves', 'Results', 'Sample predictions', 'Cross-attention', 'Speed',
            'Configuration', 'Origin']
HOSTILE = '<script>alert("1")</script><img src=http://evil.example/x onerror=alert(1)>&amp;'
CONFIG = override(Config(), {
    'data.train': HOSTILE, 'data.target_tokenizer': 'word', 'data.score_strip': '012',
    'optim.beta2': 0.999, 'train.steps': 40})
METRICS = [{'step': step, 'loss': 5 / step, 'nll': 4 / step, 'accuracy': 0.5, 'grad_norm': 1 / step,
            'learning_rate': 1e-3 * step} for step in range(1, 31)]
for _row, _nll in ((METRICS[9], 0.75), (METRICS[19], 0.53126), (METRICS[29], 0.625)):
    _row.update({'dev/loss': 1.0, 'dev/nll': _nll, 'dev/accuracy': 0.8765})
STRETCHES = [{'step': step, 'seconds': 10.0 + step, 'step_seconds': 0.2, 'data_wait_seconds': 1.25,
              'compile_seconds': 2.5, 'evaluate_seconds': 0.5, 'checkpoint_seconds': 0.125,
              'tokens_per_second': 1000.0 * step ** 2, 'peak_memory_mib': 2000 - step,
              'model_flops_per_second': 2e9 * step}
             for step in range(1, 8)]
START = {'event': 'start', 'step': 0, 'unix_time': 0.0}
COMPILE = {'event': 'compile', 'function': 'train_step', 'shapes': ['8x16', HOSTILE],
           'seconds': 3.46}
MANIFEST = {'data_fingerprint': 'f00d' * 16, 'examples': {'train': 90, 'dev': 3}, 'commit': '',
            'python': '3.11.7', 'packages': {'jax': '9.8.7'}, 'platform': HOSTILE, 'cpus': 2,
            'devices': {'kind': 'cpu', 'count': 1}, 'command': ['train', '--config=x']}


def predictions(number: int) -> list[dict]:
    """Every third differs from its references by more than stress; the first word is hostile."""
    return [{'source': f'w{i}' if i else HOSTILE, 'prediction': 'K AA0' if i % 3 else 'K IY1 T',
             'references': ['B', 'K AA1'], 'score': -i / 7} for i in range(number)]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')


@pytest.fixture
def bare(tmp_path, monkeypatch) -> Path:
    """A run that has only just been created; pyplot cannot be imported."""
    monkeypatch.setitem(sys.modules, 'matplotlib.pyplot', None)
    folder = tmp_path / 'run <b>&'
    folder.mkdir()
    (folder / 'config.json').write_text(to_json(CONFIG))
    (folder / 'manifest.json').write_text(json.dumps(MANIFEST))
    return folder


@pytest.fixture
def complete(bare) -> Path:
    write_rows(bare / 'metrics.jsonl', METRICS)
    write_rows(bare / 'timing.jsonl', [START, COMPILE, *STRETCHES[:3], START, COMPILE,
                                       *STRETCHES[3:]])
    (bare / 'eval').mkdir()
    for split, per in (('dev', 0.1234), ('test', 0.0567)):
        write_rows(bare / 'eval' / f'{split}.predictions.jsonl', predictions(58))
        (bare / 'eval' / f'{split}.json').write_text(json.dumps({
            'metrics': {'per': per, 'wer': 0.5, 'per_first': 1.2, 'bleu': 27.31,
                        'rougeL': 7.5, 'exact_match': 0.25, 'signature': HOSTILE},
            'floors': {'bleu': 4.2, 'signature': HOSTILE}, 'split': split,
            'examples': 4321, 'scoring': {'refs': 'any', 'strip': '012'},
            'decode': dataclasses.asdict(CONFIG.decode), 'checkpoint': f'step 20 {HOSTILE}',
            'fingerprint': 'f00d' * 16, 'compilations': []}))
    return bare


class Page(HTMLParser):
    """The page as a browser reads it: text and table rows by section, tags, attributes."""

    VOID = {'meta', 'img'}

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.tags, self.attributes = [], set(), []
        self.text, self.rows, self.styles, self.section = {'': ''}, {'': []}, '', ''
        self.feed(path.read_text(encoding='utf-8'))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == 'tr':
            self.rows[self.section].append([])
        if tag in ('td', 'th'):
            self.rows[self.section][-1].append('')

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ''
        if inside == 'style':
            self.styles += data
            return
        if inside == 'h2':
            self.section = data
            self.text[data], self.rows[data] = '', []
        self.text[self.section] += data
        if inside in ('td', 'th'):
            self.rows[self.section][-1][-1] += data

    def pictures(self) -> list[Image.Image]:
        return [Image.open(BytesIO(base64.b64decode(value.removeprefix('data:image/png;base64,'))))
                for tag, name, value in self.attributes if (tag, name) == ('img', 'src')]


def alignment(target: int, source: int, symbol: str = 'a') -> Alignment:
    return Alignment((symbol,) * source, (symbol,) * target,
                     np.full((target, source), 1 / source))


def with_alignments(folder: Path, alignments: list[Alignment]) -> Path:
    """The report of a run whose evaluation on dev left these alignments."""
    (folder / 'eval' / 'dev.alignments.png').write_bytes(draw_alignments(alignments))
    return write_report(folder)


def test_every_section_is_there(complete):
    path = with_alignments(complete, [alignment(3, 4)])
    page = Page(path)
    assert path == complete / 'report.html'
    assert [name for name in page.text if name] == SECTIONS
    assert len(page.pictures()) == 4
    assert page.text[''].strip().startswith('run <b>&')
    assert not list(complete.glob('*.tmp'))


def test_headline_and_results(complete):
    page = Page(write_report(complete))
    assert ('30 of 40 steps trained · '
            'dev: per 12.34%, wer 50.00%, bleu 27.31, rougeL 7.5, exact_match 25.00% · '
            'test: per 5.67%, wer 50.00%, bleu 27.31, rougeL 7.5, exact_match 25.00%'
            ) in page.text['']
    rows = [[cell.strip() for cell in row] for row in page.rows['Results']]
    for row in (['metric', 'value', 'floor'], ['per', '12.34%', ''], ['per', '5.67%', ''],
                ['per_first', '120.00%', ''], ['bleu', '27.31', '4.2'], ['rougeL', '7.5', ''],
                ['exact_match', '25.00%', ''],
                ['checkpoint', f'step 20 {HOSTILE}'], ['scoring.strip', '012'],
                ['decode.beam_size', '4']):
        assert row in rows
    assert 'dev: 4,321 examples' in page.text['Results']


def test_a_language_model_has_results_and_floors_but_no_predictions(bare):
    (bare / 'eval').mkdir()
    (bare / 'eval' / 'dev.json').write_text(json.dumps({
        'metrics': {'nll': 1.5, 'accuracy': 0.625, 'perplexity': 4.4817},
        'floors': {'nll': 2.25, 'accuracy': 0.125}, 'split': 'dev', 'examples': 3,
        'scoring': {'objective': 'mlm', 'labels': 77, 'batches': 'all'}, 'decode': {},
        'checkpoint': 'step 40', 'fingerprint': 'f00d' * 16}))
    page = Page(write_report(bare))
    assert 'dev: nll 1.5, accuracy 62.50%, perplexity 4.482' in page.text['']
    rows = [[cell.strip() for cell in row] for row in page.rows['Results']]
    for row in (['nll', '1.5', '2.25'], ['accuracy', '62.50%', '12.50%'],
                ['perplexity', '4.482', ''], ['scoring.objective', 'mlm']):
        assert row in rows
    assert 'There are no predictions yet.' in page.text['Sample predictions']


@pytest.mark.parametrize('kind, guesses, shown, wrong', [
    ('classify', [{'target': 'a', 'label': 'a'}, {'target': HOSTILE, 'label': 'b'}],
     [['✓ right', 'w0 ⇥ v', 'a', 'a'], ['✗ wrong', 'w1 ⇥ v', HOSTILE, 'b']], '; 1 of them wrong.'),
    ('tag', [{'target': 'O B-x', 'tags': ['O', 'B-x']}], [['✓ right', 'w0 ⇥ v', 'O B-x', 'O B-x']],
     '; 0 of them wrong.'),
    ('answer', [{'target': [['p', 1], ['q', 2]], 'answer': 'q'}, {'target': [], 'answer': 'p'}],
     [['✓ right', 'w0 ⇥ v', 'p | q', 'q'], ['✗ wrong', 'w1 ⇥ v', '(no answer)', 'p']],
     '; 1 of them wrong.'),
    ('regress', [{'target': '1.5', 'number': 2 / 3}], [['', 'w0 ⇥ v', '1.5', '0.6667']],
     'evenly spaced.')])
def test_guesses_of_a_head_stand_beside_their_targets(bare, kind, guesses, shown, wrong):
    (bare / 'config.json').write_text(to_json(override(CONFIG, {
        'model.family': 'encoder', 'data.objective': kind})))
    (bare / 'eval').mkdir()
    (bare / 'eval' / 'test.json').write_text(json.dumps({
        'metrics': {'accuracy': 0.5}, 'floors': {}, 'split': 'test', 'examples': len(guesses),
        'scoring': {'objective': kind}, 'checkpoint': 'step 4', 'fingerprint': 'f00d' * 16}))
    assert 'There are no guesses yet.' in Page(write_report(bare)).text['Sample guesses']
    write_rows(bare / 'eval' / 'test.guesses.jsonl', [
        {'first': f'w{i}', 'second': 'v'} | guess for i, guess in enumerate(guesses)])
    page = Page(write_report(bare))
    assert [[cell.strip() for cell in row] for row in page.rows['Sample guesses'][1:]] == shown
    assert wrong in page.text['Sample guesses']


def test_learning_curves_name_the_best_step(complete):
    text = Page(write_report(complete)).text['Learning curves']
    assert 'Lowest on dev: 0.5313 at step 20, 87.6% right' in text


@pytest.mark.parametrize('number', [1, 19, 20, 21, 58])
def test_sample_is_spread_over_the_split_and_marks_what_is_wrong(complete, number):
    write_rows(complete / 'eval' / 'dev.predictions.jsonl', predictions(number))
    (complete / 'eval' / 'test.json').unlink()
    page = Page(write_report(complete))
    rows = page.rows['Sample predictions'][1:]
    shown = [0 if row[1] == HOSTILE else int(row[1][1:]) for row in rows]
    assert len(shown) == min(number, 20)
    assert shown[0] == 0 and shown[-1] == number - 1
    gaps = set(np.diff(shown))
    assert all(gap >= 1 for gap in gaps) and len(gaps) <= 2  # evenly spaced up to rounding
    assert [row[0] for row in rows] == ['✓ right' if i % 3 else '✗ wrong' for i in shown]
    wrong = sum(i % 3 == 0 for i in shown)
    assert f'{wrong} of them wrong' in page.text['Sample predictions']
    assert sum((tag, name, value) == ('tr', 'class', 'marked') for tag, name, value
               in page.attributes) == wrong + 5  # five fields of CONFIG differ from the default


def test_speed_adds_up(complete):
    page = Page(write_report(complete))
    text, rows = page.text['Speed'], page.rows['Speed']
    total = 7 * 10 + sum(range(1, 8))
    training = total - 7 * (1.25 + 2.5 + 0.5 + 0.125)
    assert f'{total / 60:.1f} minutes of training, 1 restart' in text
    assert f'{1000 * statistics.median(i * i for i in range(1, 8)):,.0f} tokens/s' in text
    assert 'took 8.0 GFLOP/s, of an unknown peak. Counted are 6 × weights' in text
    assert 'of the host 1,999 MiB.' in text and '2 compilations' in text
    assert ['training steps', f'{training:.1f}', f'{100 * training / total:.1f}%'] in rows
    assert ['compiling', '17.5', f'{1750 / total:.1f}%'] in rows
    assert ['total', f'{total:.1f}', '100.0%'] in rows
    assert rows.count(['train_step', f'8x16, {HOSTILE}', '3.5']) == 2


def test_speed_is_a_share_of_the_peak_where_that_is_known(complete):
    rows = [START | {'peak_flops_per_second': 16e12},
            *({**row, 'model_flops_per_second': 1e12 * row['step'], 'mfu': row['step'] / 16}
              for row in STRETCHES)]
    write_rows(complete / 'timing.jsonl', rows)
    text = Page(write_report(complete)).text['Speed']
    assert "took 4,000.0 GFLOP/s, 25.0% of the devices' peak of 16 TFLOP/s (MFU)." in text


def test_configuration_and_origin(complete):
    page = Page(write_report(complete))
    rows = {name: rest for name, *rest in page.rows['Configuration']}
    assert rows['optim.beta2'][:2] == ['0.999', '≠ 0.98']
    assert rows['optim.beta1'][:2] == ['0.9', '']
    assert rows['data.train'][:2] == [HOSTILE, '≠ (empty)']
    assert '5 fields of ' in page.text['Configuration']
    for row in (['examples', 'train 90, dev 3'], ['packages', 'jax 9.8.7'], ['commit', '(empty)'],
                ['command', 'train --config=x'], ['platform', HOSTILE], ['cpus', '2']):
        assert row in page.rows['Origin']


def test_nothing_is_fetched_or_executed(complete):
    page = Page(with_alignments(complete, [Alignment((HOSTILE,), ('$x$',), np.ones((1, 1)))]))
    assert page.tags <= {'html', 'meta', 'style', 'title', 'body', 'section', 'h1', 'h2', 'h3', 'p',
                         'div', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'img'}
    for _, name, value in page.attributes:
        assert name not in ('href', 'srcset', 'style') and not name.startswith('on')
        assert name != 'src' or value.startswith('data:image/png;base64,')
        assert 'http' not in value
    assert 'url(' not in page.styles and '@import' not in page.styles
    assert HOSTILE in page.rows['Sample predictions'][1]


def test_a_new_run_says_what_is_not_there_yet(bare):
    page = Page(write_report(bare))
    assert [name for name in page.text if name] == SECTIONS
    assert '0 of 40 steps trained' in page.text['']
    for section, sentence in (('Learning curves', 'No step has been logged yet.'),
                              ('Results', 'Not evaluated yet.'),
                              ('Sample predictions', 'There are no predictions yet.'),
                              ('Cross-attention', 'There are no alignments yet.'),
                              ('Speed', 'No step has been timed yet.')):
        assert sentence in page.text[section]
    assert not page.pictures()


def test_a_run_stopped_after_one_row(bare):
    write_rows(bare / 'metrics.jsonl', [{**METRICS[0], 'grad_norm': 0.0}])  # 0 has no logarithm
    page = Page(write_report(bare))
    assert 'Dev has not been evaluated yet.' in page.text['Learning curves']
    assert len(page.pictures()) == 3


def test_the_same_folder_gives_the_same_bytes(complete):
    first = with_alignments(complete, [alignment(2, 3)]).read_bytes()
    assert with_alignments(complete, [alignment(2, 3)]).read_bytes() == first


def test_mistakes_are_one_sentence(complete, tmp_path):
    with pytest.raises(UserError, match='config.json'):
        write_report(tmp_path)
    (complete / 'eval' / 'dev.json').write_text('{"metrics"')
    with pytest.raises(UserError, match=r'eval/dev.json is not valid JSON'):
        write_report(complete)
    assert not (complete / 'report.html').exists()
    with pytest.raises(ValueError, match=r'\(2, 3\).*\(3, 2\)'):
        Alignment(('a', 'b'), ('c', 'd', 'e'), np.ones((2, 3)))
    with pytest.raises(ValueError, match='no alignments'):
        draw_alignments([])


# Pictures of alignments

def pixels(alignments: list[Alignment]) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(draw_alignments(alignments))).convert('RGB')).astype(int)


def test_cells_are_square_and_maps_fill_lines():
    height, width, _ = pixels([alignment(12, 12)]).shape
    wider = pixels([alignment(12, 15)]).shape
    taller = pixels([alignment(15, 12)]).shape
    assert wider[0] == height and taller[1] == width
    assert wider[1] - width == taller[0] - height == 3 * 40  # a cell is 20 units at twice the size
    six = pixels([alignment(12, 12)] * 6).shape
    assert six[1] <= 9 * 200
    assert height < six[0] < 6 * height


def test_pictures_are_shown_at_half_their_pixels(complete):
    page = Page(with_alignments(complete, [alignment(3, 4)]))
    shown = [int(value) for tag, name, value in page.attributes if (tag, name) == ('img', 'width')]
    assert shown == [picture.width // 2 for picture in page.pictures()]


def test_weights_stand_where_their_tokens_are():
    """The first output looked at the last input, the second at the first: dark cells say so."""
    image = pixels([Alignment(('a', 'b', 'c'), ('A', 'B'), np.array([[0, 0, 1.], [1, 0, 0]]))])
    full = (np.abs(image - (8, 48, 107)).max(-1) <= 2)[:, :-160]  # weight 1; without the scale
    y, x = np.nonzero(full)
    assert abs(len(y) - 2 * 40 * 40) < 400
    middle = (y.min() + y.max()) / 2
    assert x[y < middle].mean() - x[y > middle].mean() == pytest.approx(80, abs=2)


@pytest.mark.parametrize('symbol', ['한', 'ば', '$', '\\frac{', '', '\n', 'ʃ', '</s>', '\u202e'])
def test_any_token_can_be_a_label(symbol):
    assert pixels([alignment(2, 3, symbol)]).std() > 0
