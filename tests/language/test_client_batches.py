"""One client's batches inside a client function: folds, sums, counts, transforms, and elements of all kinds."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc

FLOATS = fc.types.parse_type("float32[?]*")
PAIRS = fc.types.parse_type("<x=float32[?,2],y=int32[?]>*")


def mapped(fn, type_=FLOATS, **config):
    run = fc.federated_computation(lambda data: fc.federated_map(fn, data), fc.at_clients(type_))
    return run.with_config(fc.EngineConfig(**config)) if config else run


def everywhere(fn, type_=FLOATS):
    """The ways to run: one lane, several lanes, traced."""
    run = mapped(fn, type_)
    return [run.with_config(fc.EngineConfig(lanes=1)), run.with_config(fc.EngineConfig(lanes=3)), run.as_function()]


def batch(*values):
    return np.array(values, np.float32)


CLIENTS = [[batch(1, 2), batch(3)], [], [batch(4, 5)], [batch(6, 7), batch(8, 9), batch(10)]]
TOTALS = [6, 0, 9, 40]


def test_sums_and_counts():
    for run in everywhere(lambda data: (data.sum(), data.num_batches, data.num_examples)):
        total, batches, examples = run(CLIENTS)
        np.testing.assert_array_equal(total, TOTALS)
        np.testing.assert_array_equal(batches, [2, 0, 1, 3])
        np.testing.assert_array_equal(examples, [3, 0, 2, 5])
        assert batches.dtype == examples.dtype == jnp.int32


def test_reduce_takes_the_batches_in_order_with_their_masks():
    def digits(data):
        return data.reduce(0.0, lambda n, b, mask: 100 * n + 10 * jnp.sum(mask) + jnp.max(jnp.where(mask, b, 0)))

    for run in everywhere(digits):
        np.testing.assert_array_equal(run([[batch(1, 2), batch(3)], [batch(4)], []]), [22 * 100 + 13, 14, 0])


def test_a_python_number_takes_the_dtype_of_the_step():
    def total(data):
        return data.reduce(0, lambda total, b, mask: total + jnp.sum(jnp.where(mask, b, 0.0)))

    for run in everywhere(total):
        assert run(CLIENTS).dtype == jnp.float32
        np.testing.assert_array_equal(run(CLIENTS), TOTALS)
        np.testing.assert_array_equal(run([[], []]), [0, 0])
    assert str(mapped(total).type_signature.result) == "{float32}@CLIENTS"


@pytest.mark.parametrize(
    ("initial", "step", "types"),
    [
        (jnp.int32(0), lambda n, b, m: n + jnp.sum(b), "int32, got float32"),
        (jnp.zeros(3), lambda n, b, m: jnp.sum(b), r"float32\[3\], got float32"),
        ({"a": 0.0}, lambda n, b, m: (n["a"],), "<a=float32>, got <float32>"),
        ((0.0,), lambda n, b, m: [n[0]], "<float32>, got <float32> in another container"),
        (jnp.float32(0), lambda n, b, m: None, "float32, got <>"),
    ],
)
def test_a_step_that_changes_the_carry_is_refused(initial, step, types):
    with pytest.raises(
        TypeError, match=rf"the step of ClientBatches.reduce must return .* initial carry's type {types}"
    ):
        mapped(lambda data: data.reduce(initial, step))


def test_keys_in_the_carry():
    def draw(data):
        def step(carry, b, mask):
            key, total = carry
            key, used = jax.random.split(key)
            return key, total + jax.random.uniform(used)

        return data.reduce((jax.random.key(0), 0.0), step)

    expected, key = [0.0], jax.random.key(0)
    for _ in range(3):
        key, used = jax.random.split(key)
        expected.append(expected[-1] + float(jax.random.uniform(used)))
    for run in everywhere(draw):
        keys, totals = run(CLIENTS)
        np.testing.assert_allclose(totals, [expected[2], 0, expected[1], expected[3]], rtol=1e-6)
        np.testing.assert_array_equal(jax.random.key_data(keys[3]), jax.random.key_data(key))


def test_map_transforms_every_batch():
    def fn(data):
        twice = data.map(lambda b: {"twice": 2 * b["x"], "y": b["y"]}).map(lambda b: b["twice"] + b["y"][:, None])
        return twice.sum(), twice.num_batches, data.map(lambda b: jnp.sum(b["y"])).sum()

    clients = [[{"x": np.ones((2, 2), np.float32), "y": np.array([1, 2], np.int32)}] * 2, []]
    for run in everywhere(fn, PAIRS):
        total, batches, labels = run(clients)
        np.testing.assert_array_equal(total, [[14, 14], [0, 0]])
        np.testing.assert_array_equal(batches, [2, 0])
        np.testing.assert_array_equal(labels, [6, 0])


def test_a_mapped_sequence_stays_a_sequence_between_maps():
    seen = []

    @fc.federated_computation(fc.at_clients(PAIRS))
    def run(data):
        first = fc.federated_map(lambda d: d.map(lambda b: {"z": b["x"][:, 0]}), data)
        seen.append(str(first.fedjax_type))
        return fc.federated_sum(fc.federated_map(lambda d: d.sum(), first))

    assert seen == ["{<z=float32[?]>*}@CLIENTS"]
    assert float(run([{"x": np.ones((5, 2), np.float32), "y": np.zeros(5, np.int32)}])["z"]) == 5.0


ELEMENTS = {
    "float32*": ([[1.0, 2.0], [], [3.0]], [3, 0, 3], [2, 0, 1]),
    "float32[2,3]*": ([[np.ones((2, 3), np.float32)] * 2, [], []], [[4] * 3, [0] * 3, [0] * 3], [4, 0, 0]),
    "int32[3]*": ([[np.arange(3, dtype=np.int32)], [], []], [3, 0, 0], [3, 0, 0]),
    "float32[?,0]*": ([[np.ones((2, 0), np.float32)], [], []], [[], [], []], [2, 0, 0]),
}


@pytest.mark.parametrize("type_", ELEMENTS)
def test_elements_without_or_with_fixed_batch_dimensions(type_):
    clients, total, examples = ELEMENTS[type_]
    for run in everywhere(lambda data: (data.sum(), data.num_examples), fc.types.parse_type(type_)):
        found = run(clients)
        np.testing.assert_array_equal(found[0], total)
        np.testing.assert_array_equal(found[1], examples)


def test_elements_that_share_no_batch_dimension():
    type_ = fc.types.SequenceType({"a": "float32[3]", "b": "int32"})

    def fn(data):
        return data.sum(), data.reduce(0, lambda n, b, mask: n + b["b"] * mask), data.num_batches

    for run in everywhere(fn, type_):
        total, masked, batches = run([[{"a": batch(1, 2, 3), "b": 2}] * 2, []])
        np.testing.assert_array_equal(total["b"], [4, 0])
        np.testing.assert_array_equal(masked, [4, 0])
        np.testing.assert_array_equal(batches, [2, 0])


def test_several_sequences_of_different_lengths():
    type_ = {"a": FLOATS, "b": fc.types.parse_type("int32[?]*")}
    clients = [
        {"a": [batch(1, 1)] * 3, "b": []},
        {"a": [], "b": [np.ones(5, np.int32)]},
        {"a": [batch(1)], "b": [np.ones(1, np.int32)] * 4},
    ]
    for run in everywhere(lambda v: (v["a"].sum(), v["b"].sum(), v["a"].num_batches, v["b"].num_batches), type_):
        found = [x.tolist() for x in run(clients)]
        assert found == [[6, 0, 1], [0, 5, 4], [3, 0, 1], [0, 1, 4]]


def test_a_batch_without_examples_is_no_batch():
    def decay(data):
        return data.reduce(1.0, lambda w, b, mask: w * 0.5)

    for run in everywhere(decay):
        np.testing.assert_array_equal(run([batch(), [batch(), batch(1)], [batch(1)]]), [1.0, 0.5, 0.5])


def test_filled_batches_repeat_their_first_example_and_keep_their_masks():
    def look(data):
        def step(carry, b, mask):
            return carry[0] + b.sum(), carry[1] + jnp.sum(mask, dtype=jnp.int32)

        return data.filled().map(lambda b: 1 * b).reduce((0.0, 0), step)

    clients = [[batch(1, 2), batch(3)], [], [batch(4)], [batch()]]
    for run in everywhere(look):
        sums, counts = run(clients)
        np.testing.assert_array_equal(sums, [1 + 2 + 3 + 3, 0, 4 + 4, 0])
        np.testing.assert_array_equal(counts, [3, 0, 1, 0])
    # elements have no padding
    for run in everywhere(lambda data: data.filled().sum(), fc.types.parse_type("float32*")):
        np.testing.assert_array_equal(run([[np.float32(1), np.float32(2)], []]), [3, 0])


def test_a_sequence_at_the_server_or_without_a_placement():
    server = fc.federated_computation(lambda d: fc.federated_map(lambda d: d.sum(), d), fc.at_server(FLOATS))
    assert float(server([batch(1, 2), batch(3)])) == 6.0
    plain = fc.computation(lambda d, scale: scale * d.sum(), FLOATS, "float32")
    assert float(plain([batch(1, 2), batch(3)], 2)) == 12.0 and float(plain(batch(1, 2), 2)) == 6.0


def test_gradients_through_padding_and_empty_clients_are_finite():
    def loss(weights, data):
        def step(w, b, mask):
            # 0 / 0, and log(0), if a batch without examples were looked at
            return w - 0.1 * jnp.log(w * jnp.sum(jnp.where(mask, b, 0.0))) / jnp.sum(mask)

        return data.reduce(weights, step)

    @fc.federated_computation(fc.at_server("float32"), fc.at_clients(FLOATS))
    def run(weights, data):
        return fc.federated_sum(fc.federated_map(loss, fc.federated_broadcast(weights), data))

    function = lambda w: run.as_function()(w, CLIENTS)  # noqa: E731
    gradient = jax.grad(function)(1.0)
    assert np.isfinite(gradient)
    difference = (function(1.01) - function(0.99)) / 0.02
    np.testing.assert_allclose(gradient, difference, rtol=1e-3)


def test_returning_a_sequence_is_refused_but_composing_is_not():
    preprocess = mapped(lambda data: data.map(lambda b: 2 * b))
    assert str(preprocess.type_signature) == "({float32[?]*}@CLIENTS -> {float32[?]*}@CLIENTS)"
    with pytest.raises(TypeError, match=r"a sequence exists only at its client"):
        preprocess(CLIENTS)

    @fc.federated_computation(fc.at_clients(FLOATS))
    def total(data):
        return fc.federated_sum(fc.federated_map(lambda d: d.sum(), preprocess(data)))

    assert float(total(CLIENTS)) == 2 * sum(TOTALS)


def of_x(fn):
    return lambda batch: fn(batch["x"])


COMBINING = {
    "a mean": (of_x(lambda x: x.mean()), False),
    "a deviation from the mean": (of_x(lambda x: x - x.mean(0)[None]), False),
    "a rank": (of_x(lambda x: jnp.argsort(jnp.argsort(-x[:, 0])).astype("float32")), False),
    "a number of rows": (of_x(lambda x: jnp.sum(jnp.ones_like(x))), False),
    "a sum of filled batches": (of_x(lambda x: x.sum()), True),
}
NOT_COMBINING = {
    "row by row": (of_x(lambda x: jnp.tanh(x) @ jnp.ones((2, 3))), False),
    "a sum of zeros": (of_x(lambda x: x.sum()), False),
    "a maximum of filled batches": (of_x(lambda x: x.max()), True),
    "a mean of the mask": (lambda batch, mask: jnp.mean(batch["x"], where=mask[:, None]), False),
    "a deviation from the mean of the mask": (
        lambda batch, mask: batch["x"] - jnp.mean(batch["x"], axis=0, where=mask[:, None])[None],
        True,
    ),
}


def prepared(fn, is_filled):
    """The sum of what a function makes of each batch."""
    filled = (lambda data: data.filled()) if is_filled else lambda data: data
    return mapped(lambda data: filled(data.map(fn)).sum(), PAIRS)


@pytest.mark.parametrize("name", COMBINING)
def test_a_mapped_function_that_padding_changes_is_told_of(name):
    with pytest.warns(UserWarning, match="padding changes what .* in ClientBatches.map; .* parameter `mask`"):
        prepared(*COMBINING[name])


@pytest.mark.parametrize("name", NOT_COMBINING)
def test_a_mapped_function_that_padding_does_not_change_is_not_told_of(name):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        prepared(*NOT_COMBINING[name])
    assert not told


def test_a_mapped_function_takes_the_mask():
    """The means of batches of 4, 4 and 1 examples of 3 each: 3 + 3 + 3, and no deviation from them."""
    x = np.full((4, 2), 3, np.float32)
    clients = [[{"x": x[:n], "y": np.zeros(n, np.int32)} for n in (4, 4, 1)]]
    for run in everywhere(lambda data: data.map(NOT_COMBINING["a mean of the mask"][0]).sum(), PAIRS):
        np.testing.assert_allclose(run(clients), [9])
    deviations = NOT_COMBINING["a deviation from the mean of the mask"][0]
    np.testing.assert_array_equal(mapped(lambda data: data.map(deviations).sum(), PAIRS)(clients), [[0, 0]])


@pytest.mark.parametrize("fn", [lambda b: b["x"].sum(0), lambda b: b["x"].sum(0)[None], lambda b: b["x"].ravel()])
def test_a_sum_of_what_has_no_row_for_each_example_is_refused(fn):
    with pytest.raises(TypeError, match=r"ClientBatches\.sum takes batches with one row for each example, or numbers"):
        mapped(lambda data: data.map(fn).sum(), PAIRS)
