import jax
import jax.numpy as jnp
import numpy as np

import fedjax_core as fc
from fedjax_core.engine import _compiling
from fedjax_core.engine._compiling import JittedPhase

RANDOM = np.random.default_rng(0)
VALUES, CENTER = RANDOM.normal(size=(37, 5)).astype(np.float32), np.linspace(-1, 1, 5, dtype=np.float32)


def scaled(center, values):
    mean = fc.federated_mean(values)
    return fc.federated_map(lambda m, c: jnp.tanh(m) / jnp.sqrt(jnp.abs(c) + 0.3) + c * m, mean, center)


def built():
    return fc.federated_computation(fc.at_server("float32[5]"), fc.at_clients("float32[5]"))(scaled)


def test_options_that_xla_does_not_know_are_left_out_and_change_no_more_than_last_bits(monkeypatch):
    with_options = built()(CENTER, VALUES)
    monkeypatch.setattr(_compiling, "_OF_PHASES", {"xla_no_such_option": True})
    _compiling._are_known.cache_clear()
    try:
        without = built()(CENTER, VALUES)
    finally:
        _compiling._are_known.cache_clear()
    np.testing.assert_allclose(with_options, without, rtol=1e-6)


def test_inside_another_program_and_on_other_platforms():
    def double():
        return jnp.float32(2) * 21

    for platform in ("cpu", "gpu"):
        phase = JittedPhase(double, platform)
        assert phase() == jax.jit(lambda phase=phase: phase() + 0)() == 42


def test_xla_knows_the_options():
    assert _compiling._are_known()
