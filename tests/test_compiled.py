"""Compilations: one for each shape, every one recorded, and the same values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xformer.compiled import Compilations


def test_one_compilation_for_each_shape_and_type():
    traces = []

    def double(tree, y):
        traces.append(y.shape)
        return tree['x'] * 2 + y.sum()

    compilations = Compilations()
    call = compilations.wrap('double', jax.jit(double))
    for size in (3, 5, 3, 5, 3):
        x, y = np.arange(size, dtype=np.float32), np.ones((2, size), np.float32)
        np.testing.assert_array_equal(call({'x': x}, y), 2 * x + 2 * size)
    assert len(compilations.rows) == len(traces) == 2
    assert [row['function'] for row in compilations.rows] == ['double'] * 2
    assert [row['shapes'] for row in compilations.rows] == [['2x3'], ['2x5']]
    call({'x': x.astype(np.int32)}, y)
    assert len(compilations.rows) == 3
    call({'x': jnp.asarray(x)}, jnp.asarray(y))  # a device array of a known shape
    assert len(compilations.rows) == len(traces) == 3


def test_functions_are_counted_apart_and_seconds_added_up():
    compilations = Compilations()
    sine, cosine = (compilations.wrap(name, jax.jit(function))
                    for name, function in (('sine', jnp.sin), ('cosine', jnp.cos)))
    x = np.linspace(0, 1, 4, dtype=np.float32)
    np.testing.assert_allclose(sine(x)**2 + cosine(x)**2, 1, rtol=1e-6)
    assert [row['function'] for row in compilations.rows] == ['sine', 'cosine']
    assert compilations.seconds == sum(row['seconds'] for row in compilations.rows) > 0


def test_a_pmapped_function_keeps_its_donation():
    compilations = Compilations()
    call = compilations.wrap('add', jax.pmap(
        lambda state, x: (state + jax.lax.psum(x.sum(), 'data'), x), 'data', in_axes=(None, 0),
        out_axes=(None, 0), donate_argnums=0))
    state, x = jnp.zeros(3), np.ones((4, 2), np.float32)
    for total in (8, 16):
        before = state
        state, _ = call(before, x)
        np.testing.assert_array_equal(state, np.full(3, total))
    assert before.is_deleted()
    assert len(compilations.rows) == 1


def test_an_error_in_the_function_is_not_hidden_nor_recorded():
    compilations = Compilations()
    call = compilations.wrap('wrong', jax.jit(lambda x: x.reshape(7)))
    with pytest.raises(TypeError):
        call(np.ones(3))
    assert compilations.rows == []
