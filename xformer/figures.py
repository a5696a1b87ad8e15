"""Pictures as PNG bytes: matplotlib without pyplot, which would hold global state."""

from collections.abc import Collection, Sequence
from io import BytesIO

import numpy as np

from xformer.evaluate.alignment import Alignment

PIXELS_PER_INCH = 200  # twice the 100 that pictures are shown at, for sharp screens
MOST_SIDE, MOST_PIXELS = 2**15, 5 * 10**7  # of pictures of long texts, which are coarser


def draw_curves(title: str, unit: str, curves: dict[str, tuple[list[int], list[float]]],
                size: tuple[float, float], log: bool) -> bytes:
    """PNG of values over steps, `size` in inches; `log`: on a log scale if all are positive."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots()
    for label, (steps, values) in curves.items():
        marks = 'o-' if len(steps) < 30 else '-'  # a line of one point would be invisible
        axes.plot(steps, values, marks, label=label, linewidth=1.2, markersize=4)
    axes.set(title=title, xlabel='step', ylabel=unit)
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if log and all(value > 0 for _, values in curves.values() for value in values):
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter('{x:g}')
        axes.minorticks_off()
    if len(curves) > 1:
        axes.legend()
    return _png(figure)


def draw_alignments(alignments: Sequence[Alignment]) -> bytes:
    """PNG of heat maps, input tokens across, output tokens down, one colour scale from 0 to 1.

    Raises ValueError if there are none.
    """
    from matplotlib.figure import Figure
    if not alignments:
        raise ValueError('there are no alignments to draw')
    labels = [(_drawable(a.source), _drawable(a.target)) for a in alignments]
    # Lengths are in inches; a letter of the labels is about 0.09 wide.
    cell, scale = 0.2, 0.8
    left = 0.5 + 0.09 * max(len(token) for _, target in labels for token in target)
    below = 0.6 + 0.09 * max(len(token) for source, _ in labels for token in source)
    corners, width, height = _flow([(left + cell * len(source) + 0.15, cell * len(target) + below)
                                    for source, target in labels], 9 - scale)
    width, height = width + scale, height + 0.1
    figure = Figure(figsize=(width, height))

    def place(x: float, top: float, w: float, h: float):
        return figure.add_axes((x / width, 1 - (top + 0.1 + h) / height, w / width, h / height))
    for alignment, (source, target), (x, top) in zip(alignments, labels, corners):
        axes = place(x + left, top, cell * len(source), cell * len(target))
        image = axes.imshow(alignment.weights_TS, cmap='Blues', vmin=0, vmax=1, aspect='auto')
        # parse_math: a '$' is a token here, not the start of a formula
        axes.set_xticks(range(len(source)), source, parse_math=False)
        axes.set_yticks(range(len(target)), target, parse_math=False)
        for label in axes.get_xticklabels():
            label.set_rotation(90 if len(label.get_text()) > 2 else 0)
        axes.tick_params(length=0, labelsize=8)
        axes.set_xlabel('input', fontsize=8)
        axes.set_ylabel('output', fontsize=8)
    colours = figure.colorbar(image, place(width - scale, 0, 0.15, min(2, height - 0.2)))
    colours.set_label('attention weight', fontsize=8)
    colours.ax.tick_params(labelsize=8)
    return _png(figure)


def draw_heads(maps: dict[str, np.ndarray], queries: Sequence[str], keys: Sequence[str]) -> bytes:
    """PNG of heat maps, {title: weights_TS}, in a grid: keys across, queries down, each on its own
    colour scale from 0 to its largest weight.
    """
    from matplotlib.figure import Figure
    queries, keys = _drawable(queries), _drawable(keys)
    columns = min(4, len(maps))
    lines = -(-len(maps) // columns)
    cell = max(0.07, min(0.25, 2.5 / max(len(queries), len(keys))))  # inches
    letter = 0.7 * 72 * cell  # the size of labels in points, 72 an inch
    margin = [0.6 * letter / 72 * max(map(len, tokens)) for tokens in (queries, keys)]
    figure = Figure(figsize=(columns * max(cell * len(keys), 1.2) + margin[0] + 0.5,
                             lines * (cell * len(queries) + 0.3) + margin[1] + 0.3),
                    layout='constrained')
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes, (title, weights_TS) in zip(grid, maps.items()):
        axes.imshow(weights_TS, cmap='Blues', vmin=0, aspect='equal')
        axes.set_title(title, fontsize=8)
        # parse_math: a '$' is a token here, not the start of a formula
        axes.set_xticks(range(len(keys)), keys, rotation=90, fontsize=letter, parse_math=False)
        axes.set_yticks(range(len(queries)), queries, fontsize=letter, parse_math=False)
        axes.tick_params(length=0)
    for axes in list(grid)[len(maps):]:
        axes.remove()
    return _png(figure)


def draw_lens(tokens: Sequence[Sequence[str]], probabilities_LT: np.ndarray,
              reads: Sequence[str]) -> bytes:
    """PNG of a table, tokens[layer][position]: positions across, by what they read, the last layer
    on top; the likelier, the darker."""
    from matplotlib.figure import Figure
    L, T = probabilities_LT.shape
    rows = [_drawable(row) for row in tokens]
    letters = max(len(token) for row in rows for token in row)
    figure = Figure(figsize=(T * max(0.3, 0.07 * min(letters, 12) + 0.1) + 1, 0.25 * L + 1.2),
                    layout='constrained')
    axes = figure.subplots()
    axes.imshow(probabilities_LT, cmap='Blues', vmin=0, vmax=1, aspect='auto', origin='lower')
    # parse_math: a '$' is a token here, not the start of a formula
    axes.set_xticks(range(T), _drawable(reads), rotation=90, parse_math=False)
    axes.set_yticks(range(L))
    axes.set_ylabel('layer', fontsize=8)
    axes.tick_params(length=0, labelsize=8)
    for (layer, t), probability in np.ndenumerate(probabilities_LT):
        axes.text(t, layer, rows[layer][t][:12], ha='center', va='center', fontsize=7,
                  parse_math=False, color='black' if probability < 0.5 else 'white')
    return _png(figure)


def draw_entropies(entropies: dict[str, np.ndarray]) -> bytes:
    """PNG of tables, {title: entropy_LN in nats}: heads across, layers down."""
    from matplotlib.figure import Figure
    widest, tallest = (max(each.shape[axis] for each in entropies.values()) for axis in (1, 0))
    figure = Figure(figsize=(len(entropies) * (0.45 * widest + 0.8), 0.35 * tallest + 1),
                    layout='constrained')
    most = max(each.max() for each in entropies.values())
    for axes, (title, entropy_LN) in zip(figure.subplots(1, len(entropies), squeeze=False)[0],
                                         entropies.items()):
        axes.imshow(entropy_LN, cmap='Blues_r', vmin=0, vmax=max(most, 1e-6), aspect='auto')
        axes.set_title(title, fontsize=8)
        axes.set_xlabel('head', fontsize=8)
        axes.set_ylabel('layer', fontsize=8)
        axes.set_xticks(range(entropy_LN.shape[1]))
        axes.set_yticks(range(len(entropy_LN)))
        axes.tick_params(length=0, labelsize=8)
        for (layer, head), value in np.ndenumerate(entropy_LN):
            axes.text(head, layer, f'{value:.2f}', ha='center', va='center', fontsize=7,
                      color='black' if value > most / 2 else 'white')
    return _png(figure)


def draw_bars(title: str, unit: str, bars: dict[str, float]) -> bytes:
    """PNG of horizontal bars, the first on top."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(6.6, 0.3 * len(bars) + 0.9), layout='constrained')
    axes = figure.subplots()
    axes.barh(range(len(bars)), list(bars.values()))
    axes.set_yticks(range(len(bars)), list(bars), fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel(unit, fontsize=8)
    axes.set_title(title, fontsize=10)
    return _png(figure)


def draw_parallel(columns: dict[str, Sequence[float | str | None]], results: Sequence[float],
                  unit: str, log: Collection[str] = ()) -> bytes:
    """PNG of a line for each trial through its settings, a column each, to its result on the right;
    the first trial is the best, and the nearer another comes to it, the darker. Numbers are spaced
    as they are, by the logarithm in the columns of `log`, texts evenly; where a trial has none the
    line stops."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    figure = Figure(figsize=(1.5 * (len(columns) + 1) + 1, 3.6), layout='constrained')
    axes = figure.subplots()
    heights = [_heights(values, name in log) for name, values in columns.items()]
    heights.append(_heights(results, False))
    reached = np.array(heights[-1][0])
    colours = colormaps['viridis'](np.abs(reached - reached[0]))
    for trial, colour in enumerate(colours):
        axes.plot([column[0][trial] for column in heights], color=colour, alpha=0.7, linewidth=1)
    for x, (_, marks) in enumerate(heights):
        axes.axvline(x, color='grey', linewidth=0.8)
        for height, text in marks:
            axes.text(x + 0.03, height, text, fontsize=7, va='center', parse_math=False)
    names = [name.replace(', ', ',\n') for name in columns]
    axes.set_xticks(range(len(heights)), [*names, unit], fontsize=8, parse_math=False)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(heights) - 0.5)
    for side in ('top', 'right', 'left', 'bottom'):
        axes.spines[side].set_visible(False)
    return _png(figure)


def _heights(values: Sequence, log: bool) -> tuple[list[float], list[tuple[float, str]]]:
    """(height of each value from 0 to 1, nan for None; (height, text) of marks)."""
    known = [value for value in values if value is not None]
    if not all(isinstance(value, (int, float)) for value in known):
        kinds = sorted(set(map(str, known)))
        at = {kind: (i + 0.5) / len(kinds) for i, kind in enumerate(kinds)}
        return ([np.nan if value is None else at[str(value)] for value in values],
                [(height, kind) for kind, height in at.items()])
    scaled = np.array([np.nan if value is None else value for value in values], float)
    scaled = np.log(scaled) if log else scaled
    low, high = np.nanmin(scaled), np.nanmax(scaled)
    marks = np.linspace(low, high, 3 if high > low else 1)
    texts = [f'{np.exp(mark) if log else mark:.3g}' for mark in marks]
    return (list((scaled - low) / ((high - low) or 1.0)),
            list(zip(np.linspace(0, 1, len(marks)), texts)))


def _flow(sizes: Sequence[tuple[float, float]], page: float
          ) -> tuple[list[tuple[float, float]], float, float]:
    """Boxes set like words on lines no wider than `page`: upper left corners, width and height."""
    corners, x, top, right, bottom = [], 0.0, 0.0, 0.0, 0.0
    for width, height in sizes:
        if x and x + width > page:
            x, top = 0.0, bottom
        corners.append((x, top))
        x += width
        right, bottom = max(right, x), max(bottom, top + height)
    return corners, right, bottom


def _drawable(tokens: Sequence[str]) -> list[str]:
    """Tokens as labels; those that matplotlib's font cannot write by their code points."""
    from matplotlib import font_manager
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return [token if all(char.isprintable() and font.get_char_index(ord(char)) for char in token)
            else ' '.join(f'U+{ord(char):04X}' for char in token) for token in tokens]


def _png(figure) -> bytes:
    width, height = figure.get_size_inches()
    file = BytesIO()
    figure.savefig(file, format='png', dpi=min(
        PIXELS_PER_INCH, MOST_SIDE / max(width, height), (MOST_PIXELS / (width * height)) ** 0.5))
    return file.getvalue()
