import jax
import numpy as np
import pytest

from fedjax_core import metrics, models, types


def test_keeps_the_laws_of_models(laws):
    laws.check_model(models.logistic_regression(7, 5), 5)


def test_starts_from_zeros_and_predicts_an_affine_map(laws):
    model = models.logistic_regression(7, 5)
    weights = laws.initial(model)
    assert str(types.type_of(weights)) == "<bias=float32[5],kernel=float32[7,5]>"
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(weights))
    random = np.random.default_rng(0)
    weights = {"kernel": random.normal(size=(7, 5)), "bias": random.normal(size=5)}
    batch = laws.random_batch(model, 4, 5)
    expected = batch["x"].astype(np.float64) @ weights["kernel"] + weights["bias"]
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), weights)
    np.testing.assert_allclose(model.predict(single, batch), expected, rtol=1e-5, atol=1e-6)


def test_keeps_a_copy_of_the_callers_metrics():
    given = {"accuracy": metrics.accuracy()}
    model = models.logistic_regression(7, 5, metrics=given)
    given.clear()
    assert list(model.metrics) == ["accuracy"]


@pytest.mark.parametrize("sizes", [(0, 5), (7, -1)])
def test_refuses_sizes_that_are_not_positive(sizes):
    with pytest.raises(ValueError, match=r"logistic_regression\(num_.*=\.\.\.\) must be an integer of at least 1"):
        models.logistic_regression(*sizes)


def test_refuses_sizes_that_are_no_integers():
    with pytest.raises(TypeError, match="must be an integer of at least 1, got True"):
        models.logistic_regression(7, True)
