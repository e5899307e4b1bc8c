import jax
import jax.numpy as jnp
import numpy as np

import fedjax_core as fc
from fedjax_core.engine import _compiling, _execution
from fedjax_core.engine._compiling import pass_options, phase_options


def test_only_programs_for_cpu_have_options():
    assert pass_options("cpu") and phase_options("cpu")
    assert pass_options("gpu") == pass_options("tpu") == phase_options("gpu") == {}


def test_without_options_that_xla_does_not_know(monkeypatch):
    monkeypatch.setattr(_compiling, "_OF_PHASES", {"xla_no_such_option": True})
    _compiling._are_known.cache_clear()
    try:
        assert pass_options("cpu") == phase_options("cpu") == {}
    finally:
        _compiling._are_known.cache_clear()


def test_the_options_change_no_more_than_last_bits(monkeypatch):
    def scaled(center, values):
        def contribution(c, v):
            return jnp.tanh(v - c) / (1 + jnp.exp(v * c)) + jax.random.normal(jax.random.key(0), (5,))

        mean = fc.federated_mean(fc.federated_map(contribution, fc.federated_broadcast(center), values))
        return fc.federated_map(lambda m, c: m / jnp.sqrt(jnp.abs(c) + 0.3) + c * m, mean, center)

    values = np.random.default_rng(0).normal(size=(37, 5)).astype(np.float32)
    center = np.linspace(-1, 1, 5, dtype=np.float32)
    typed = fc.federated_computation(fc.at_server("float32[5]"), fc.at_clients("float32[5]"))
    with_options = typed(scaled)(center, values)
    monkeypatch.setattr(_execution, "pass_options", lambda platform: {})
    monkeypatch.setattr(_execution, "phase_options", lambda platform: {})
    np.testing.assert_allclose(with_options, typed(scaled)(center, values), rtol=1e-6)
