"""A plan in words, and what is communicated."""

import jax
import jax.numpy as jnp
import optax
import pytest

import fedjax_core as fc


def totals(computation) -> str:
    """The last line of a description."""
    return computation.describe().splitlines()[-1].strip()


def lines_with(computation, word: str) -> list[str]:
    return [line.strip() for line in computation.describe().splitlines() if line.strip().startswith(word)]


@fc.federated_computation(fc.at_server("float32"), fc.at_clients("float32"))
def clipped_mean(center, values):
    def distance(c, v):
        return v - c

    def clip(limit, d):
        return d.clip(-limit, limit)

    def widen(largest):
        return largest * 0.5

    distances = fc.federated_map(distance, fc.federated_broadcast(center), values)
    limit = fc.federated_map(widen, fc.federated_max(distances))
    clipped = fc.federated_map(clip, fc.federated_broadcast(limit), distances)
    return fc.federated_sum(clipped), fc.federated_collect(clipped)


def test_a_description_shows_passes_what_is_communicated_and_what_is_computed_again():
    lines = clipped_mean.describe().splitlines()
    assert lines[0] == f"clipped_mean: {clipped_mean.type_signature}"
    assert lines[1:] == [
        "pass 1 over the clients (16 virtual shards)",
        "  receives 4 B: float32 (center)",
        "  computes distance -> float32",
        "  sends 4 B: federated_max of float32 (distance)",
        "server",
        "  computes widen -> float32",
        "pass 2 over the clients (16 virtual shards)",
        "  receives 4 B: float32 (widen)",
        "  computes distance -> float32, again",
        "  computes clip -> float32",
        "  sends 4 B: federated_sum of float32 (clip)",
        "  sends 0 B: federated_collect of float32, there already",
        "per client",
        "  pass 1: receives 4 B, sends 4 B",
        "  pass 2: receives 4 B, sends 4 B",
        "  in all: receives 8 B, sends 8 B",
    ]
    assert clipped_mean(0.0, [4.0, 1.0])[1].tolist() == [2.0, 1.0]


def test_a_pass_lists_only_what_its_own_clients_compute():
    def second(limit, value):
        return value > limit

    @fc.federated_computation(fc.at_clients("float32"))
    def count_above_mean(values):
        limit = fc.federated_mean(fc.federated_map(jnp.abs, values))
        return fc.federated_max(fc.federated_map(second, fc.federated_broadcast(limit), values))

    passes = count_above_mean.describe().split("pass 2 over the clients")
    assert "computes second" in passes[1] and "again" not in passes[1]
    assert passes[1].splitlines()[1:3] == ["  receives 4 B: float32 (divide)", "  computes second -> bool"]


def test_a_computation_without_placements():
    half = fc.computation(lambda x: x / 2, "float32")
    assert half.describe().endswith("one function, without placements")


def test_a_computation_without_types_says_how_to_give_them():
    @fc.federated_computation
    def total(values):
        return fc.federated_sum(values)

    with pytest.raises(AttributeError, match=r"total.typed\(fc.at_clients\('float32'\)\).describe"):
        total.describe()
    assert totals(total.typed(fc.at_clients("float32"))) == "per client: receives 0 B, sends 4 B"


def test_a_computation_at_the_server_only():
    @fc.federated_computation(fc.at_server("float32"))
    def double(x):
        return fc.federated_map(jnp.add, x, x)

    assert double.describe().splitlines()[1:] == [
        "server",
        "  computes add -> float32",
        "nothing is communicated",
    ]


def test_results_that_all_clients_get_need_no_pass():
    @fc.federated_computation(fc.at_server({"w": "float32[3]", "lr": "float32"}))
    def send(state):
        return fc.federated_map(jnp.negative, fc.federated_broadcast(state)["w"])

    assert send.describe().splitlines()[1:] == [
        "results at the clients",
        "  receives 12 B: float32[3] (state['w'])",
        "  computes negative -> float32[3]",
        "per client: receives 12 B, sends 0 B",
    ]


def test_results_that_the_clients_have_already():
    @fc.federated_computation(fc.at_server("float32"), fc.at_clients("int32"), fc.at_clients("int8", all_equal=True))
    def program(x, values, known):
        sent = fc.federated_broadcast(x)
        return sent, known, fc.federated_sum(fc.federated_map(jnp.multiply, sent, values))

    assert "results at the clients" not in program.describe()
    assert totals(program) == "per client: receives 4 B, sends 4 B"


def test_results_that_the_clients_get_after_a_pass():
    @fc.federated_computation(fc.at_clients("int32"))
    def program(values):
        return fc.federated_broadcast(fc.federated_max(values))

    assert program.describe().splitlines()[1:] == [
        "pass 1 over the clients (16 virtual shards)",
        "  sends 4 B: federated_max of int32 (values)",
        "results at the clients",
        "  receives 4 B: int32 (federated_max)",
        "per client",
        "  pass 1: receives 0 B, sends 4 B",
        "  results: receives 4 B, sends 0 B",
        "  in all: receives 4 B, sends 4 B",
    ]


def test_what_an_earlier_pass_has_sent_is_not_sent_again():
    def clip_to_mean_norm(inner):
        def next(state, value, weight):
            norm = fc.federated_mean(fc.federated_map(fc.trees.norm, value))
            clipped = fc.federated_map(clip, fc.federated_broadcast(norm), value)
            return inner.next(state, clipped, weight)

        return inner._replace(next=next)

    def clip(norm, value):
        return fc.trees.scale(value, jnp.minimum(1.0, norm / fc.trees.norm(value)))

    process = fc.algorithms.fed_avg(
        fc.models.logistic_regression(100, 10),
        optax.sgd(0.1),
        aggregator=clip_to_mean_norm(fc.aggregators.mean()),
        key=jax.random.key(0),
    )
    first, second = process.next.describe().split("pass 2 over the clients")
    assert "computes train" in first and "receives 4,040 B" in first
    assert ", again" in next(line for line in second.splitlines() if "computes train" in line)
    assert [line for line in second.splitlines() if "receives" in line][:-1] == [
        "  receives 4 B: float32 (divide)",
        "  pass 1: receives 4,048 B, sends 56 B",
        "  pass 2: receives 4 B, sends 4,040 B",
    ]
    assert totals(process.next) == "in all: receives 4,052 B, sends 4,096 B"


def test_what_every_client_computes_alike_is_no_work_of_the_server():
    @fc.federated_computation(fc.at_server("float16[5]"), fc.at_clients("int32"))
    def program(x, clients):
        total = fc.federated_map(jnp.sum, fc.federated_broadcast(x))
        return fc.federated_sum(fc.federated_map(jnp.multiply, total, clients))

    assert program.describe().splitlines()[1:5] == [
        "pass 1 over the clients (16 virtual shards)",
        "  receives 10 B: float16[5] (x)",
        "  computes sum -> float16",
        "  computes multiply -> float16",
    ]


def test_results_kept_at_the_clients_are_not_sent():
    @fc.federated_computation(fc.at_clients("int8[7]"))
    def program(values):
        doubled = fc.federated_map(lambda v: v + v, values)
        return doubled, fc.federated_sum(values)

    assert lines_with(program, "keeps") == ["keeps int8[7]"]
    assert totals(program) == "per client: receives 0 B, sends 7 B"


@pytest.mark.parametrize(
    "dtype, num_bytes",
    [
        ("bool[3]", 3),
        ("int8[3]", 3),
        ("float16[3]", 6),
        ("bfloat16[3]", 6),
        ("int32", 4),
        ("complex64", 8),
        ("float32[0]", 0),
        ("<>", 0),
        ("<a=int8,b=<float32[2,3],bool>>", 26),
    ],
)
def test_sizes_are_those_of_the_dtypes(dtype, num_bytes):
    @fc.federated_computation(fc.at_server(dtype), fc.at_clients("int32"))
    def program(x, clients):
        return fc.federated_collect(fc.federated_map(lambda x, _: x, fc.federated_broadcast(x), clients))

    assert totals(program) == f"per client: receives {num_bytes} B, sends {num_bytes} B"


@pytest.mark.parametrize("implementation, num_bytes", [("fry", 8), ("rbg", 16)])
def test_a_client_receives_the_key_and_not_its_own(implementation, num_bytes):
    @fc.federated_computation(fc.at_server(f"key<{implementation}>"), fc.at_clients("float32"))
    def program(key, values):
        return fc.federated_sum(fc.federated_map(jax.random.uniform, fc.federated_split_key(key)))

    assert lines_with(program, "receives") == [f"receives {num_bytes} B: key<{implementation}> (key)"]
    assert totals(program) == f"per client: receives {num_bytes} B, sends 4 B"


def test_a_mean_sends_the_weighted_value_and_the_weight():
    @fc.federated_computation(fc.at_clients("float16[10]"), fc.at_clients("int8"))
    def mean(values, weights):
        return fc.federated_mean(values, weights)

    assert lines_with(mean, "sends") == ["sends 44 B: federated_sum of <float32[10],float32> (_times_weight)"]


def test_an_aggregate_and_a_constant_of_each_client():
    @fc.federated_computation(fc.at_clients("float32[1000]"))
    def program(values):
        zero = (jnp.zeros(50), jnp.zeros(()))
        largest = fc.federated_aggregate(
            values, zero, lambda a, v: (a[0], jnp.maximum(a[1], v.max())), lambda a, b: a, lambda a: a[1]
        )
        return largest, fc.federated_sum(fc.federated_value(jnp.int16(1), fc.CLIENTS))

    assert lines_with(program, "sends") == [
        "sends 4,000 B: federated_aggregate of float32[1000] (values)",
        "sends 2 B: federated_sum of int16 (a constant)",
    ]


def test_a_sample_sends_the_tag_too():
    process = fc.aggregators.as_process(fc.aggregators.reservoir_sample(50, key=jax.random.key(0)), "float16[3]")
    assert lines_with(process.next, "receives") == ["receives 8 B: key<fry> (fold_in)"]
    assert lines_with(process.next, "sends") == [
        "sends 14 B: federated_aggregate of <uint32[2],float16[3]>",
        "sends 4 B: federated_sum of int32 (_not_finite)",
    ]


def test_secure_sums_count_in_their_dtype():
    @fc.federated_computation(fc.at_clients("uint8[3]"), fc.at_clients("int32"))
    def program(small, large):
        return fc.federated_secure_sum_bitwidth(small, 2), fc.federated_secure_modular_sum(large, 7)

    assert lines_with(program, "sends") == [
        "sends 3 B: federated_secure_sum_bitwidth of uint8[3] (small)",
        "sends 4 B: federated_secure_modular_sum of int32 (large)",
    ]


def test_no_array_is_counted_twice():
    @fc.federated_computation(
        fc.at_server({"w": "float32[3]", "n": "int32"}), fc.at_clients({"a": "int8", "b": "int16"})
    )
    def program(state, data):
        whole, part = fc.federated_broadcast(state), fc.federated_broadcast(state["w"])
        zipped = fc.federated_zip((whole["w"], data))
        first = fc.federated_map(lambda both: both[0].sum() * both[1]["a"], zipped)
        second = fc.federated_map(lambda state, w: state["n"] * w.sum(), whole, part)
        third = fc.federated_map(lambda first, second: first + second, first, second)
        return (
            fc.federated_sum(data),
            fc.federated_max(data["a"]),
            fc.federated_min(fc.federated_zip((third, data["b"]))),
        )

    assert lines_with(program, "receives") == [
        "receives 12 B: float32[3] (state['w'])",
        "receives 4 B: <n=int32,w=float32[3]> (state['n']), the rest is there",
    ]
    assert [line.split(":")[0] for line in lines_with(program, "sends")] == ["sends 3 B", "sends 0 B", "sends 4 B"]
    assert totals(program) == "per client: receives 16 B, sends 7 B"


def test_fields_that_no_client_reads_are_not_sent():
    @fc.federated_computation(fc.at_server({"w": "float32[3]", "large": "float32[1000]"}), fc.at_clients("float32"))
    def program(state, values):
        sent = fc.federated_zip({"state": fc.federated_broadcast(state), "v": values})
        return fc.federated_sum(fc.federated_map(lambda w, v: w * v, sent["state"]["w"], sent["v"]))

    assert totals(program) == "per client: receives 12 B, sends 12 B"


def test_constants_and_what_a_client_has_do_not_cross():
    table = jnp.arange(1000.0)

    @fc.federated_computation(fc.at_clients("float32"), fc.at_clients("float32[9]", all_equal=True), "int16")
    def program(values, known, plain):
        two = fc.federated_value(2.0, fc.CLIENTS)
        row = fc.federated_client_index()
        arguments = (values, known, two, row, fc.federated_value(plain, fc.CLIENTS))
        return fc.federated_sum(fc.federated_map(lambda v, k, t, r, p: v * k[0] * t * table[r] * p, *arguments))

    assert lines_with(program, "receives") == ["receives 2 B: int16 (plain)"]  # nobody but the caller has it


def test_open_dimensions_give_a_lower_bound():
    @fc.federated_computation(
        fc.at_server("float32[?]"), fc.at_clients("<float32,int8[?,2]>"), fc.at_clients("int32[?]*")
    )
    def program(x, values, data):
        used = fc.federated_map(lambda x, d: d.sum(), fc.federated_broadcast(x), data)
        return fc.federated_collect(values), fc.federated_sum(used)

    assert totals(program) == "per client: receives at least 0 B, sends at least 8 B"


def test_tables_that_clients_select_from_are_received_whole():
    @fc.federated_computation(fc.at_server("float32[50,2]"), fc.at_clients("float32[2]"))
    def program(table, values):
        rows = fc.federated_client_index()
        new = fc.federated_map(jnp.add, fc.federated_select(rows, table), values)
        return fc.federated_scatter(table, rows, new)

    assert lines_with(program, "receives") == ["receives 400 B: float32[50,2] (table)"]
    assert lines_with(program, "sends") == ["sends 12 B: federated_collect of <int32,float32[2]>"]


def test_inlined_computations_with_other_containers():
    @fc.federated_computation(fc.at_server({"a": "float32", "b": "int32"}), fc.at_clients({"x": "float32[?]*"}))
    def inner(state, data):
        total = fc.federated_map(lambda s, d: s["a"] * d["x"].sum(), fc.federated_broadcast(state), data)
        return fc.federated_sum(total)

    @fc.federated_computation(fc.at_server(("float32", "int32")), fc.at_clients(("float32[?]*",)))
    def outer(state, data):
        return inner(state, data)

    assert totals(outer) == "per client: receives 8 B, sends 4 B"


@pytest.mark.parametrize(
    "number, text",
    [
        (9_999, "9,999 B"),
        (10_000, "10.0 kB (10,000 B)"),
        (999_499, "999 kB (999,499 B)"),
        (999_500, "1.00 MB (999,500 B)"),
        (1_234_567_890, "1.23 GB (1,234,567,890 B)"),
        (10**18, "1,000 PB (1,000,000,000,000,000,000 B)"),
    ],
)
def test_units(number, text):
    @fc.federated_computation(fc.at_server(f"int8[{number}]"), fc.at_clients("int32"))
    def program(x, clients):
        return fc.federated_sum(fc.federated_map(lambda x, _: x[0], fc.federated_broadcast(x), clients))

    assert totals(program) == f"per client: receives {text}, sends 1 B"


def test_federated_averaging_by_hand():
    model = fc.models.logistic_regression(784, 10)
    process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(0))
    weights, key, weight = 4 * (784 * 10 + 10), 8, 4
    metrics = 8 + 4  # the sum of the losses and its number of examples, num_examples
    counts = 3 * 4  # non-finite updates, weights and metrics
    left_out = 4 + 4  # the client and the reason
    guard = 4 + 4 + 4  # contributing and its weight, non-finite metrics
    received, sent = weights + key, weights + weight + metrics + counts + left_out + guard
    assert totals(process.next) == f"per client: receives 31.4 kB ({received:,} B), sends 31.4 kB ({sent:,} B)"


def test_long_types_are_shortened_in_a_plan_and_wrapped_in_a_signature():
    layer = {"bias": "float32[1000]", "kernel": "float32[1000,1000]"}

    @fc.federated_computation(fc.at_clients({f"layer{i}": layer for i in range(9)}))
    def program(values):
        return fc.federated_sum(values)

    text = program.describe()
    assert max(map(len, text.splitlines())) <= 120
    assert "sends 36.0 MB: federated_sum of <...> (values)" in text
    signature = text.removeprefix("program: ").partition("\npass 1")[0]
    assert fc.types.parse_type(signature) == program.type_signature
