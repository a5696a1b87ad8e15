"""What the tests of all three families share."""

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture(scope='session')
def random_params(random_like):
    """(model, *inputs) -> parameters none of which is at its initial zero or one."""
    def make(model, *inputs):
        shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
        return jax.tree.map(jnp.asarray, random_like(shapes))
    return make


@pytest.fixture(scope='session')
def torch_layers():
    """epsilon -> (linear, norm): PyTorch's, of a tensor and our parameters as tensors."""
    torch = pytest.importorskip('torch')

    def layers(epsilon: float):
        def linear(x, part):
            return x @ part['kernel'] + part['bias']

        def norm(x, part):
            return torch.nn.functional.layer_norm(x, x.shape[-1:], part['scale'], part['bias'],
                                                  epsilon)
        return linear, norm
    return layers
