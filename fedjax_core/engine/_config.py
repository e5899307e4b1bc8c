"""How programs run: lanes, devices and virtual shards."""

import dataclasses
import functools

import jax
import numpy as np

VIRTUAL_SHARDS = 8


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Where and how wide the clients of a pass run.

    Attributes:
      lanes: clients that run side by side under `jax.vmap` on one device. None: 1 on CPU, where
        side by side buys nothing, 16 elsewhere.
      devices: how many devices the clients are spread over, the first of `jax.devices()`. None: all.

    Raises:
      TypeError: a field that is no integer.
      ValueError: a field that is not positive, or more devices than there are.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def total(values):
    ...     return fc.federated_sum(values)
    >>> print(total.with_config(fc.EngineConfig(lanes=2))([1.0, 2.0, 3.0]))
    6.0
    """

    lanes: int | None = None
    devices: int | None = None

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"EngineConfig({name}=...) is an integer or None, got {value!r}")
            if value <= 0:
                raise ValueError(f"EngineConfig({name}=...) is positive, got {value}; leave it out for the default")

    def resolve(self) -> "Layout":
        """The layout on the devices of this process."""
        devices = jax.devices()
        number = len(devices) if self.devices is None else self.devices
        if number > len(devices):
            raise ValueError(
                f"EngineConfig(devices={number}) on a machine that shows JAX {len(devices)}; on CPU set the "
                f"environment variable XLA_FLAGS=--xla_force_host_platform_device_count={number} before JAX is used"
            )
        lanes = self.lanes or (1 if devices[0].platform == "cpu" else 16)
        return Layout(lanes, -(-VIRTUAL_SHARDS // number) * number, tuple(devices[:number]))


@dataclasses.dataclass(frozen=True)
class Layout:
    """A resolved configuration; together with the cohort it decides every bit of a result.

    Attributes:
      lanes: `L`.
      shards: `V`, virtual shards, a multiple of the number of devices.
      devices: the devices, `D` of them; each owns `V / D` consecutive shards.
    """

    lanes: int
    shards: int
    devices: tuple

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices in one axis, `clients`."""
        return jax.sharding.Mesh(np.array(self.devices), ("clients",))

    @functools.cached_property
    def server(self) -> jax.sharding.Sharding:
        """Where the server's values are: on the first device."""
        return jax.sharding.SingleDeviceSharding(self.devices[0])

    @functools.cached_property
    def clients(self) -> jax.sharding.Sharding:
        """Where the clients' values are: the leading dimension over the devices."""
        if len(self.devices) == 1:
            return self.server
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec("clients"))

    @functools.cached_property
    def broadcast(self) -> jax.sharding.Sharding:
        """Where the server's values are when clients read them: on all devices."""
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
