"""How programs run: lanes, devices and the leaves of the tree along which accumulators are merged."""

import dataclasses
import functools
import os
from typing import Literal

import jax
import numpy as np

from fedjax_core import _checks
from fedjax_core.engine._tree import stack_size

# The number of leaves for accumulators of at most so many bytes: a device holds several accumulators at once, and every
# leaf costs a merge.
_LEAVES = ((4 * 2**20, 16), (256 * 2**20, 8))
_SHARE = 0.25
_UNKNOWN_MEMORY = 4 * 2**30


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Where and how wide the clients of a pass run.

    Attributes:
      lanes: the number of clients that run side by side under `jax.vmap` on one device, at most the power of two that
        holds the cohort. None: 1 on CPU, where running side by side gains nothing, 16 elsewhere. "auto": the fastest of
        1, 2, 4, ... 64, measured on the cohort of the first call, once per program and kind of device, and remembered
        in the user's cache folder. Lanes decide the last bits of a result, so set a number where these must be the same
        on another machine.
      devices: the number of devices over which the clients are spread, the first ones of `jax.devices()`; or a mesh
        with the single axis `clients`, whose devices are taken in its order. None: all.
      memory_budget: the bytes of one device that the clients' data, padding included, and what is aggregated may take.
        The data get at least a quarter of it. A larger cohort runs in waves, each read while the one before computes.
        None: a quarter of the device's memory (on CPU, of the device's share of the machine's memory). Whatever the
        budget, a wave has at least one block, and its examples and steps are padded to as much as 64 KiB each.
      check_ranges: whether integers out of range, such as labels that are no class of the model, raise ValueError when
        a cohort is read. For that the host takes the least and the greatest label. Without the check the loss of such
        an example is NaN, and a round leaves out and counts its client.

    A cohort is divided into *virtual shards*, whose results are merged along a fixed binary tree. So all bits of a
    result are the same for any number of devices up to that of the virtual shards, for any memory budget, and for any
    order of clients that have ids. There are 16 virtual shards; 8 if a pass aggregates more than 4 MiB (with both words
    of the sums); and if it aggregates more than 256 MiB, as many as devices, and the last bits then depend on the
    number of devices. More devices make more virtual shards. `Computation.describe` says how many there are.

    Raises:
      TypeError: a field is neither an integer nor one of the other values listed above.
      ValueError: a number is not positive, or a mesh has other axes. More devices than JAX has are refused by the
        first call.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def total(values):
    ...     return fc.federated_sum(values)
    >>> print(total.with_config(fc.EngineConfig(lanes=2))([1.0, 2.0, 3.0]))
    6.0
    """

    lanes: int | Literal["auto"] | None = None
    devices: int | jax.sharding.Mesh | None = None
    memory_budget: int | None = None
    check_ranges: bool = True

    def __post_init__(self):
        if isinstance(self.devices, jax.sharding.Mesh):
            _check_axes(self.devices)
        else:
            self._check_integer("devices", "leave it out for all, or give a jax.sharding.Mesh")
        if not (isinstance(self.lanes, str) and self.lanes == "auto"):
            self._check_integer("lanes", 'leave it out for the default, or write lanes="auto"')
        self._check_integer("memory_budget", "leave it out for the default")
        call, repair = "EngineConfig(check_ranges=...)", "write check_ranges=False"
        object.__setattr__(self, "check_ranges", _checks.checked_switch(call, self.check_ranges, repair))

    def _check_integer(self, name: str, repair: str) -> None:
        value = getattr(self, name)
        if value is not None:
            value = _checks.checked_integer(f"EngineConfig({name}=...)", value, 1, repair)
            object.__setattr__(self, name, value)

    def resolve(self, accumulator_bytes: int = 0) -> "Layout":
        """The layout on the devices, with the default number of lanes in place of "auto".

        Args:
          accumulator_bytes: the bytes of what a pass of the program accumulates.
        """
        devices = self._chosen_devices()
        if all(d.process_index != jax.process_index() for d in devices):
            raise ValueError(
                f"EngineConfig(devices={self.devices}): these {len(devices)} of {len(jax.devices())} devices belong to "
                "other processes; leave it out to use all"
            )
        lanes = self.lanes if isinstance(self.lanes, int) else (1 if devices[0].platform == "cpu" else 16)
        budget = self.memory_budget or int(_SHARE * device_memory(jax.local_devices()[0]))
        leaves = num_leaves(accumulator_bytes, len(devices))
        direct = accumulator_bytes > _LEAVES[-1][0] and leaves == len(devices)
        held = accumulator_bytes * (1 if direct else 1 + stack_size(leaves, len(devices)))
        return Layout(lanes, leaves, direct, devices, budget, held, self.check_ranges)

    def _chosen_devices(self) -> tuple:
        if isinstance(self.devices, jax.sharding.Mesh):
            return tuple(self.devices.devices.flat)
        there = jax.devices()
        if self.devices is not None and self.devices > len(there):
            raise ValueError(
                f"EngineConfig(devices={self.devices}) asks for more devices than the {len(there)} that JAX shows; on "
                f"CPU call fc.use_all_cores({self.devices}) before JAX is used"
            )
        return tuple(there[: self.devices])


def num_leaves(accumulator_bytes: int, devices: int) -> int:
    """`V`, the number of leaves of the tree, a power of two.

    It is the same, and so are the bits of a result, for any number of devices up to 16, or up to 8 for accumulators of
    more than 4 MiB. For more than 256 MiB it is the number of devices, rounded up to a power of two.

    Example:

    >>> num_leaves(1000, 1), num_leaves(1000, 12), num_leaves(1000, 17), num_leaves(10**9, 1), num_leaves(10**9, 3)
    (16, 16, 32, 1, 4)
    """
    leaves = next((leaves for limit, leaves in _LEAVES if accumulator_bytes <= limit), 1)
    return max(leaves, 1 << (devices - 1).bit_length())


def _check_axes(mesh: jax.sharding.Mesh):
    """Raises unless the mesh has the axis `clients` alone: the engine would have to ignore any other axis."""
    if mesh.axis_names != ("clients",):
        raise ValueError(
            f"EngineConfig(devices=mesh) takes a mesh with the single axis 'clients', got the axes {mesh.axis_names}: "
            "the engine spreads clients over devices, not a model; to use all of these devices write "
            "fc.EngineConfig(devices=jax.sharding.Mesh(mesh.devices.flatten(), ('clients',)))"
        )


def clamped(layout: "Layout", num_clients: int) -> "Layout":
    """The layout with no more lanes than a cohort can use: at most the power of two that holds its clients.

    It does not depend on the devices, since lanes decide bits, and powers of two keep the number of programs small.
    """
    lanes = min(layout.lanes, 1 << max(num_clients - 1, 0).bit_length())
    return layout if lanes == layout.lanes else dataclasses.replace(layout, lanes=lanes)


@functools.cache
def device_memory(device: jax.Device) -> int:  # pyright: ignore[reportInvalidTypeForm]  # for JAX's types a variable
    """The memory of a device in bytes; for a CPU device, its share of the machine's memory."""
    stats = None if device.platform == "cpu" else device.memory_stats()
    if stats and stats.get("bytes_limit"):
        return stats["bytes_limit"]
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        machine = _UNKNOWN_MEMORY
    return machine // jax.local_device_count()


@dataclasses.dataclass(frozen=True)
class Layout:
    """A resolved configuration, which together with the cohort decides every bit of a result.

    Attributes:
      lanes: `L`.
      leaves: `V`, the number of leaves of the tree, a power of two that is at least the number of devices.
      direct: whether a device has one leaf and one accumulator, to which each block is merged, since memory counts
        more than time.
      devices: the `D` devices; each runs a consecutive range of the leaves.
      memory_budget: the bytes of one device that the clients' data and the accumulators may take.
      accumulator_bytes: how many of these the accumulators take.
      check_ranges: whether integers out of range are refused when a cohort is read.
    """

    lanes: int
    leaves: int
    direct: bool
    devices: tuple
    memory_budget: int
    # Not compared: it changes where waves are cut, and thus no bit, and programs share what is packed for a cohort.
    accumulator_bytes: int = dataclasses.field(compare=False)
    check_ranges: bool = dataclasses.field(default=True, compare=False)

    @property
    def data_budget(self) -> float:
        """The bytes of one device that the clients' data may take: what the accumulators leave of the memory budget.

        It is at least a quarter: waves of one block each would save little memory beside such accumulators, and take
        far more time.
        """
        return max(self.memory_budget - self.accumulator_bytes, self.memory_budget / 4)

    @functools.cached_property
    def local(self) -> tuple[int, ...]:
        """Which of the devices belong to this process."""
        return tuple(i for i, d in enumerate(self.devices) if d.process_index == jax.process_index())

    @functools.cached_property
    def one_process(self) -> bool:
        """Whether all devices belong to this process."""
        return len(self.local) == len(self.devices)

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices along one axis, `clients`."""
        return jax.sharding.Mesh(np.array(self.devices), ("clients",))

    @functools.cached_property
    def server(self) -> jax.sharding.Sharding:
        """The sharding of the server's values: whole, on the first device of this process."""
        return jax.sharding.SingleDeviceSharding(self.devices[self.local[0]])

    @functools.cached_property
    def clients(self) -> jax.sharding.Sharding:
        """The sharding of the clients' values: the leading dimension over the devices."""
        # Without a mesh: for a mesh of one device its programs would go through XLA's partitioner for nothing.
        if len(self.devices) == 1:
            return self.server
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec("clients"))

    @functools.cached_property
    def broadcast(self) -> jax.sharding.Sharding:
        """The sharding of the server's values when clients read them: whole, on every device."""
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
