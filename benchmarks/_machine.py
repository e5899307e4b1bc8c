"""The machine on which figures were taken."""

import datetime
import importlib.metadata
import os
import pathlib
import platform


def machine() -> dict:
    """A description of the machine and the software on which the figures are taken."""
    cpu, kilobytes = platform.processor(), 0
    if pathlib.Path("/proc/cpuinfo").is_file():
        models = [line for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
        cpu = models[0].partition(":")[2].strip() if models else cpu
        kilobytes = int(pathlib.Path("/proc/meminfo").read_text().split()[1])
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    load = os.getloadavg()[0]
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(kilobytes / 2**20, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_before": round(load, 2),
    }
