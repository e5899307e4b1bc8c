"""Tests run on eight virtual CPU devices, under the strictness that a library's code should hold."""

import importlib.util
import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("KERAS_BACKEND", "jax")

import hypothesis
import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("default")

# The examples of an adapter run where its extra is installed.
collect_ignore_glob = [
    f"fedjax_core/models/_{extra}*.py" for extra in ("keras", "equinox") if importlib.util.find_spec(extra) is None
]
