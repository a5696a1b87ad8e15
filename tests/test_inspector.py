"""The inspector in a real browser: what it shows, by address, mouse and keyboard; what it forbids.

The browser is driven through its own remote-debugging pipe.
"""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from xformer.evaluate.looks import Lens, Look, Map
from xformer.inspector import inspector_page

CHROMIUM = next(filter(None, map(shutil.which, (
    'chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
WORDS = ('the', 'cat', '</script><b>bold</b>', '"&amp;"', ' ', '\n', 'é漢🙂')


def made(stack: str, T: int, L: int, N: int, seed: int, keys: tuple[str, ...] = ()) -> Look:
    """A look with random weights; given `keys`, with cross-attention to them too."""
    rng = np.random.default_rng(seed)

    def shares(*shape):
        return rng.dirichlet(np.full(shape[-1], 0.3), shape[:-1]).astype(np.float32)
    reads = tuple(rng.choice(WORDS, T))
    says = (*reads[1:], '')
    maps = [Map('self', reads, reads, shares(L, N, T, T))]
    if keys:
        maps.append(Map('cross', says, keys, shares(L, N, T, len(keys))))
    lens = Lens(rng.choice(WORDS, (L, T, 5)).tolist(), -np.sort(-shares(L, T, 5), axis=-1))
    return Look(stack, reads, says, tuple(maps), np.zeros((L, T, 4), np.float32), lens)


ENCODER = made('encoder', 9, 3, 2, seed=1)
PAIR = [Look(ENCODER.stack, ENCODER.reads, ('',) * 9, ENCODER.maps, ENCODER.hidden_LTD, None),
        made('decoder', 5, 2, 2, seed=2, keys=ENCODER.reads)]
BIG = [made('decoder', 64, 12, 12, seed=3)]


class Page:
    """A page in a headless browser; every exception and refusal on it is kept in `complaints`."""

    def __init__(self, folder):
        there, back = os.pipe(), os.pipe()  # the browser reads file 3 and writes file 4
        program = (f'import os, sys; os.dup2({there[0]}, 3); os.dup2({back[1]}, 4); '
                   'os.execvp(sys.argv[1], sys.argv[1:])')
        self._browser = subprocess.Popen(
            [sys.executable, '-c', program, CHROMIUM, '--headless', '--no-sandbox',
             '--disable-gpu', '--disable-dev-shm-usage', f'--user-data-dir={folder}',
             '--window-size=1300,1200', '--remote-debugging-pipe', 'about:blank'],
            pass_fds=(there[0], back[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(there[0])
        os.close(back[1])
        self._commands, self._answers = os.fdopen(there[1], 'wb', 0), os.fdopen(back[0], 'rb')
        self._number, self._session, self.complaints = 0, None, []
        target = self.send('Target.createTarget', url='about:blank')['targetId']
        self._session = self.send('Target.attachToTarget', targetId=target,
                                  flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log'):
            self.send(f'{domain}.enable')

    def close(self):
        self._browser.kill()
        self._browser.wait()
        self._commands.close()
        self._answers.close()

    def send(self, method: str, **params) -> dict:
        """The result of one command of the DevTools protocol."""
        self._number += 1
        command = {'id': self._number, 'method': method, 'params': params}
        if self._session:
            command['sessionId'] = self._session
        self._commands.write(json.dumps(command).encode() + b'\0')
        while (message := self._read()).get('id') != self._number:
            pass
        assert 'error' not in message, message
        return message['result']

    def _read(self) -> dict:
        raw = bytearray()
        while (byte := self._answers.read(1)) != b'\0':
            assert byte, 'the browser has gone'
            raw += byte
        message = json.loads(raw)
        if message.get('method') in ('Runtime.exceptionThrown', 'Log.entryAdded'):
            self.complaints.append(message['params'])
        return message

    def open(self, address: str):
        self.send('Page.navigate', url='about:blank')
        self.send('Page.navigate', url=address)
        self.js('new Promise(done => document.readyState === "complete" ? done() : '
                'addEventListener("load", done))')

    def js(self, expression: str):
        """The value of an expression on the page."""
        result = self.send('Runtime.evaluate', expression=expression, returnByValue=True,
                           awaitPromise=True)
        assert 'exceptionDetails' not in result, result
        return result['result'].get('value')

    def press(self, key: str):
        for kind in ('keyDown', 'keyUp'):
            self.send('Input.dispatchKeyEvent', type=kind, key=key, code=key,
                      windowsVirtualKeyCode={'Tab': 9, 'End': 35, 'Home': 36, 'ArrowLeft': 37,
                                             'ArrowUp': 38, 'ArrowRight': 39,
                                             'ArrowDown': 40}[key])

    def point_at(self, selector: str, across: float = 0.5, down: float = 0.5):
        x, y = self.js(f'(() => {{ const e = document.querySelector({selector!r}); '
                       'e.scrollIntoView({block: "nearest"}); const b = e.getBoundingClientRect();'
                       f'return [b.left + b.width * {across}, b.top + b.height * {down}]; }})()')
        self.send('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)

    def figures(self, line: str) -> list[str]:
        return self.js(f'[...document.querySelectorAll("#{line} small")].map(e => e.textContent)')

    def text(self, selector: str) -> str:
        return self.js(f'document.querySelector({selector!r}).textContent')


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip('no Chromium or Chrome here to look at the page with')
    page = Page(tmp_path_factory.mktemp('browser'))
    yield page
    page.close()


@pytest.fixture(scope='module')
def address(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('page') / 'index.html'
    path.write_text(inspector_page('a <run>', 'seq2seq & more', [PAIR, [BIG[0]]]),
                    encoding='utf-8')
    return path.as_uri()


def per_cent(weights) -> list[str]:
    """Small figures under tokens: of a weight kept in 255ths, nothing below 2 of them."""
    bytes_ = np.rint(np.asarray(weights, np.float64) * 255)
    return [f'{np.floor(byte / 2.55 + 0.5):.0f}' if byte > 1 else '' for byte in bytes_]


@pytest.mark.parametrize('layer, head, token', [(0, 0, 0), (1, 1, 4), (1, 0, 2)])
def test_an_address_shows_the_weights_of_its_head_and_token(page, address, layer, head, token):
    page.open(f'{address}#map=decoder.cross&layer={layer}&head={head}&token={token}')
    weights_TS = PAIR[1].maps[1].weights_LNTS[layer, head]
    assert page.figures('keys') == per_cent(weights_TS[token])
    assert page.figures('queries') == [''] * 5
    page.open(f'{address}#map=decoder.cross&layer={layer}&head={head}&token={token}&side=key')
    assert page.figures('queries') == per_cent(weights_TS[:, token])
    page.open(f'{address}#map=decoder.self&layer={layer}&head={head}&token={token}')
    weights_TT = PAIR[1].maps[0].weights_LNTS[layer, head]
    assert page.figures('keys') == per_cent(weights_TT[token])
    assert page.figures('queries') == per_cent(weights_TT[:, token])
    pressed = page.js('[...document.querySelectorAll("[aria-pressed=true]")]'
                      '.map(e => [e.dataset.layer, e.dataset.head, e.textContent])')
    entropy = PAIR[1].maps[0].entropy_LN[layer, head]
    assert pressed == [[str(layer), str(head), f'{entropy:.2f}']]
    assert page.complaints == []


def test_tokens_are_text_whatever_is_in_them(page, address):
    page.open(f'{address}#map=encoder.self')
    names = page.js('[...document.querySelectorAll("#keys button")]'
                    '.map(e => e.firstChild.textContent)')
    visible = {' ': '␣', '\n': '↵'}
    assert names == [visible.get(token, token) for token in ENCODER.reads]
    assert page.js('document.querySelector("b")') is None
    assert page.text('h1') == 'a <run>' and page.text('h1 + p') == 'seq2seq & more'


def test_the_mouse_moves_over_tokens_and_weights(page, address):
    page.open(f'{address}#map=encoder.self&layer=2&head=1&token=0')
    weights_TS = ENCODER.maps[0].weights_LNTS[2, 1]
    page.point_at('#keys button:nth-child(4)')
    assert page.figures('keys') == per_cent(weights_TS[3])
    page.point_at('#map', down=(6 + 0.5) / 9)
    assert page.figures('keys') == per_cent(weights_TS[6])
    assert page.figures('queries') == per_cent(weights_TS[:, 6])
    page.js('document.querySelector("#heads [data-layer=\'1\'][data-head=\'0\']").click()')
    assert page.figures('keys') == per_cent(ENCODER.maps[0].weights_LNTS[1, 0, 6])
    page.js('new Promise(done => setTimeout(done, 400))')
    assert page.js('location.hash').startswith(
        '#text=1&map=encoder.self&layer=1&head=0&token=6&side=query')


def test_the_keyboard_reaches_everything(page, address):
    page.open(f'{address}#map=decoder.self&layer=0&head=0&token=0')
    focused, seen = 'document.activeElement', []
    for _ in range(8):
        page.press('Tab')
        seen.append(page.js(f'{focused}.id || {focused}.closest("[id]").id'))
    assert seen == ['text', 'kinds', 'layer', 'head', 'heads', 'queries', 'keys', 'lens']

    page.js('document.querySelector("#heads [tabindex=\'0\']").focus()')
    for key in ('ArrowDown', 'ArrowRight', 'ArrowRight', 'ArrowDown'):  # the last two: at the edge
        page.press(key)
    assert page.text('#readout').startswith('Layer 1, head 1: ')
    page.js('document.querySelector("#queries [tabindex=\'0\']").focus()')
    weights_TS = PAIR[1].maps[0].weights_LNTS[1, 1]
    for key, token in (('ArrowRight', 1), ('End', 4), ('ArrowLeft', 3), ('Home', 0)):
        page.press(key)
        assert page.figures('keys') == per_cent(weights_TS[token])
    assert page.complaints == []


def test_the_lens_shows_every_layer_and_marks_what_is_right(page, address):
    page.open(f'{address}#map=decoder.self&token=3')
    lens, says = PAIR[1].lens, PAIR[1].says
    visible = {' ': '␣', '\n': '↵'}
    rows = page.js('[...document.querySelectorAll("#lens tr")].slice(2).map(line => '
                   '[...line.querySelectorAll("td")].map(e => [e.textContent, '
                   'e.classList.contains("right")]))')
    assert rows == [[[visible.get(top[0], top[0]), top[0] == said]
                     for top, said in zip(lens.tokens[layer], says)] for layer in (1, 0)]
    guesses = page.js('[...document.querySelectorAll("#guesses tr")].map(line => '
                      '[...line.querySelectorAll("td")].map(e => e.textContent))')
    for row, layer in zip(guesses, (1, 0), strict=True):
        figures = per_cent(lens.probabilities_LTK[layer, 3])
        assert row == [f'{visible.get(token, token)} {figure or "<1"} %'
                       for token, figure in zip(lens.tokens[layer][3], figures)]


def test_without_a_lens_there_is_all_the_rest(page, tmp_path):
    silent = Look(ENCODER.stack, ENCODER.reads, ENCODER.reads, ENCODER.maps, ENCODER.hidden_LTD,
                  None)
    (tmp_path / 'index.html').write_text(inspector_page('x', 'y', [[silent]]), encoding='utf-8')
    page.open(f'{(tmp_path / "index.html").as_uri()}#layer=2&head=1&token=3')
    assert page.figures('keys') == per_cent(ENCODER.maps[0].weights_LNTS[2, 1, 3])
    assert page.js('document.getElementById("says").offsetHeight') == 0
    assert page.complaints == []


def test_another_address_of_the_same_page_shows_its_head(page, address):
    page.open(f'{address}#map=decoder.self&layer=0&head=0&token=0')
    first = page.js('document.querySelector("canvas").toDataURL()')
    page.js('''new Promise(done => {
      addEventListener('hashchange', done);
      location.hash = 'map=decoder.self&layer=1&head=1&token=0';
    })''')
    assert page.js('[layer.value, head.value].join()') == '1,1'
    there = page.js('document.querySelector("canvas").toDataURL()')
    page.open(f'{address}#map=decoder.self&layer=1&head=1&token=0')
    assert there == page.js('document.querySelector("canvas").toDataURL()') != first


def test_an_address_out_of_range_is_brought_within(page, address):
    page.open(f'{address}#text=9&map=nothing&layer=99&head=-1&token=1000000')
    assert page.text('#readout').startswith('Layer 11, head 0: ')
    assert page.figures('keys') == per_cent(BIG[0].maps[0].weights_LNTS[11, 0, 63])
    assert page.complaints == []


def test_nothing_is_loaded_and_nothing_else_may_run(page, address):
    page.open(address)
    assert page.js('performance.getEntriesByType("resource").length') == 0
    refused = page.js('''new Promise(done => {
      const refused = [];
      addEventListener('securitypolicyviolation', event => refused.push(
        event.effectiveDirective));
      new Image().src = 'https://example.org/x.png';
      fetch('https://example.org/').catch(() => {});
      for (const tag of ['script', 'style', 'iframe']) {
        const element = document.createElement(tag);
        if (tag === 'iframe') element.src = 'https://example.org/';
        else element.textContent = 'window.harm = 1';
        document.body.append(element);
      }
      setTimeout(() => done([refused.sort(), typeof window.harm]), 300);
    })''')
    assert refused == [['connect-src', 'frame-src', 'img-src', 'script-src-elem',
                        'style-src-elem'], 'undefined']
    page.complaints.clear()


def test_64_tokens_12_layers_12_heads_are_quick(page, address):
    """The quickest of 30 whole updates, layout included: others may wait for the processor."""
    page.open(f'{address}#text=2')
    for change in ('{ token: i % 64 }', '{ head: i % 12, layer: i % 11 }'):
        milliseconds = page.js('''(change => {
          const times = [];
          for (let i = 1; i <= 30; i++) {
            const start = performance.now();
            show(change(i));
            document.body.getBoundingClientRect();
            times.push(performance.now() - start);
          }
          return Math.min(...times);
        })''' + f'(i => ({change}))')
        print(f'{change}: {milliseconds:.1f} ms')
        assert milliseconds < 100


def test_weights_are_bytes_not_digits():
    page = inspector_page('', '', [BIG])
    weights = 12 * 12 * 64 * 64
    assert len(page) < 1.4 * weights + 100_000
