"""The one place that knows about devices: compiles the pure step for all of them.

pmap  every device holds a copy of the state and its own rows of the batch; gradients are summed
      across the devices. The state is one replicated array each, without a leading device axis,
      so checkpoints and the mesh see the same tree.
mesh  the step is compiled by `jit` with the batch laid out over the mesh's data axis, and the
      compiler inserts the sums.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from xformer.config import Config, UserError
from xformer.train.loss import Batch
from xformer.train.step import Steps

AXIS = 'data'


class Parallel:
    """The devices of a run, and how its state and batches lie on them."""

    def __init__(self, config: Config):
        wanted, there = config.parallel.devices, jax.devices()
        if wanted > len(there):
            raise UserError(f'parallel.devices={wanted}, but this machine shows {len(there)} '
                            f'({there[0].platform}); choose at most {len(there)}')
        devices = there[:wanted or len(there)]
        self.num_devices = len(devices)
        self.mode = config.parallel.mode
        self._parts = self.num_devices * config.train.accumulate
        self.mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self._rows = NamedSharding(self.mesh, PartitionSpec(AXIS))

    def describe(self) -> dict:
        device = self.mesh.devices[0]
        return {'mode': self.mode, 'count': self.num_devices, 'platform': device.platform,
                'kind': device.device_kind}

    def check_rows(self, shapes: list[tuple[int, int, int]]) -> None:
        """Raise UserError unless each batch splits evenly over devices and micro-batches."""
        for rows, *_ in shapes:
            if rows % self._parts:
                raise UserError(
                    f'batches of {rows} rows do not split over {self._parts} devices × '
                    f'micro-batches; set --config.data.batch_multiple to a multiple of '
                    f'{self._parts}')

    def compile(self, steps: Steps) -> tuple[Callable, Callable, Callable]:
        """(init, train, evaluate) of `steps`, jitted for the devices; train donates its state."""
        init = jax.jit(steps.init, out_shardings=self.replicated)
        if self.mode == 'pmap':
            devices = list(self.mesh.devices)
            train = jax.pmap(partial(steps.train, axis=AXIS), AXIS, in_axes=(None, 0, None),
                             out_axes=(None, None), donate_argnums=0, devices=devices)
            evaluate = jax.pmap(partial(steps.evaluate, axis=AXIS), AXIS, in_axes=(None, 0),
                                out_axes=None, devices=devices)
        else:
            train = jax.jit(steps.train, donate_argnums=0, out_shardings=self.replicated)
            evaluate = jax.jit(steps.evaluate, out_shardings=self.replicated)
        return init, train, evaluate

    def compile_on_batches(self, function: Callable) -> Callable:
        """(params, batch) -> batch, jitted for the devices, each of which does its own rows."""
        if self.mode == 'pmap':
            return jax.pmap(function, AXIS, in_axes=(None, 0), devices=list(self.mesh.devices))
        return jax.jit(function, out_shardings=self._rows)

    def place(self, batch: dict[str, np.ndarray]) -> Batch:
        """The host's batch on the devices, rows split evenly in order."""
        if self.mode == 'pmap':
            batch = {name: value.reshape(self.num_devices, -1, *value.shape[1:])
                     for name, value in batch.items()}
        return {name: jax.make_array_from_process_local_data(self._rows, value)
                for name, value in batch.items()}
