"""The cores of the machine: one CPU device per core, and a warning if cores would stay idle."""

import functools
import os
import re
import warnings

import jax

from fedjax_core import _checks

_OPTION = "jax_num_cpu_devices"
_FLAG = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def available_cores() -> int:
    """The number of cores that this process may run on.

    Example:

    >>> available_cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores(devices: int | None = None) -> int:
    """Makes JAX show one CPU device per core, over which the engine spreads the clients.

    Call it after the imports and before JAX's first use: a process cannot change its devices. If the
    number of CPU devices is set already, by JAX's option `jax_num_cpu_devices` or in `XLA_FLAGS`, it
    stays as it is, so a second call changes nothing. Nor does a call change anything where JAX runs on
    an accelerator.

    Args:
      devices: the number of CPU devices. None: as many as there are cores that this process may run on.

    Returns:
      The number of CPU devices that JAX will show or, once JAX is in use, the number of devices that it
      shows. The call itself does not initialize JAX.

    Raises:
      TypeError: `devices` is not an integer.
      ValueError: `devices` is not positive.
      RuntimeError: JAX is in use and shows fewer CPU devices.

    Example: the first line after the imports (here the number had been set before).

    >>> import fedjax_core as fc
    >>> fc.use_all_cores()
    8
    """
    if devices is not None:
        repair = "leave it out for one per core"
        devices = _checks.checked_integer("use_all_cores(devices=...)", devices, 1, repair)
    chosen = _chosen_number()
    if chosen is not None:
        return chosen
    number = devices or available_cores()
    try:
        jax.config.update(_OPTION, number)
    except RuntimeError:  # JAX is in use
        return _shown_at_least(number, "" if devices is None else str(devices))
    return number


def _chosen_number() -> int | None:
    """The number of CPU devices that was set before JAX's first use, or None if none was set."""
    option = getattr(jax.config, _OPTION)
    if option >= 0:
        return option
    flags = _FLAG.findall(os.environ.get("XLA_FLAGS", ""))
    return int(flags[-1]) if flags else None


def _shown_at_least(number: int, argument: str) -> int:
    shown = jax.devices()
    if shown[0].platform == "cpu" and len(shown) < number:
        raise RuntimeError(
            f"use_all_cores must come before JAX's first use, but JAX is in use with {_cpu_devices(len(shown))}, not "
            f"{number}; write fc.use_all_cores({argument}) right after the imports, in a notebook after a restart"
        )
    return len(shown)


def _cpu_devices(number: int) -> str:
    return f"{number} CPU device{'s' if number > 1 else ''}"


def warn_if_cores_idle(devices: tuple) -> None:
    """Warns, once per process, if the clients run on the only CPU device of a machine with more cores.

    It is silent where the user has decided: the number of CPU devices was set (even to 1), JAX
    shows more devices than the engine uses, or the process is one of several that share the
    work. It is not called if the user gave `EngineConfig(devices=...)`.

    Args:
      devices: the devices on which the clients run.

    Warns:
      UserWarning: with the call that repairs it.
    """
    alone = len(devices) == 1 and devices[0].platform == "cpu" and len(jax.devices()) == 1
    if alone and _chosen_number() is None and available_cores() > 1:
        _warn_once()


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        f"the clients run on 1 CPU device of a machine with {available_cores()} cores; for one device per core write "
        "fc.use_all_cores() right after the imports, before JAX's first use; fc.use_all_cores(1) keeps one",
        UserWarning,
        stacklevel=3,
    )
