"""What the tests of all three families share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope='session')
def random_params():
    """(model, *inputs) -> parameters none of which is at its initial zero or one."""
    def leaf(path, shape):
        rng = np.random.default_rng(shape.size)
        values = rng.normal(0, 0.3, shape.shape) + (path[-1].key == 'scale')
        return jnp.asarray(values, jnp.float32)

    def make(model, *inputs):
        shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
        return jax.tree_util.tree_map_with_path(leaf, shapes)
    return make
