"""Pictures: whatever the tokens, without a warning, of a size that can be looked at."""

from io import BytesIO

import numpy as np
import pytest

from xformer.figures import draw_entropies, draw_heads, draw_lens

RNG = np.random.default_rng(0)


def pixels(png: bytes) -> np.ndarray:
    from matplotlib.image import imread
    return imread(BytesIO(png))


def blue(picture: np.ndarray) -> np.ndarray:
    """Where the darkest blue of the colour map is: a weight of one."""
    return (np.abs(picture[..., :3] - np.array([8, 48, 107]) / 255) < 0.01).all(-1)


@pytest.mark.parametrize('tokens, heads', [(1, 1), (5, 3), (64, 12)])
def test_every_head_is_drawn_at_a_size_to_look_at(tokens, heads):
    weights = RNG.dirichlet(np.ones(tokens), (heads, tokens))
    names = ['$x$', '漢', '\n', 'word', '_']
    names = [names[i % 5] for i in range(tokens)]
    picture = pixels(draw_heads({f'head {n}': weights[n] for n in range(heads)}, names, names))
    assert 100 < min(picture.shape[:2]) and max(picture.shape[:2]) < 6000


def test_weights_stand_where_they_belong():
    """One weight in the first row and last column of the second of two heads."""
    one = np.zeros((3, 4))
    one[0, 3] = 1
    picture = pixels(draw_heads({'a': np.zeros((3, 4)), 'b': one}, 'xyz', 'pqrs'))
    rows, columns = np.nonzero(blue(picture))
    height, width = picture.shape[:2]
    assert len(rows) and columns.min() > 0.8 * width and rows.max() < 0.6 * height


def test_entropies_are_drawn_sharp_heads_dark():
    entropies = {'self': np.array([[0.0, 2], [2, 2]]), 'cross': np.array([[2.0, 2]])}
    picture = pixels(draw_entropies(entropies))
    rows, columns = np.nonzero(blue(picture))
    height, width = picture.shape[:2]
    assert len(rows) and columns.max() < 0.35 * width and rows.max() < 0.6 * height
    assert pixels(draw_entropies({'all sharp': np.zeros((2, 2))})).size


def test_a_lens_has_its_last_layer_on_top_and_is_dark_where_sure():
    sure_LT = np.zeros((3, 4))
    sure_LT[2, 0] = 1
    picture = pixels(draw_lens([['$x$', '漢', '\n', 'w' * 40]] * 3, sure_LT, 'ab$\n'))
    rows, columns = np.nonzero(blue(picture))
    height, width = picture.shape[:2]
    assert len(rows) and columns.max() < 0.5 * width and rows.max() < 0.5 * height
