"""A plan in words."""

import fedjax_core as fc


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


def test_a_description_shows_passes_what_is_sent_and_what_is_computed_again():
    lines = clipped_mean.describe().splitlines()
    assert lines[0] == f"clipped_mean: {clipped_mean.type_signature}"
    assert lines[1:] == [
        "pass 1 over the clients",
        "  receives float32",
        "  computes distance -> float32",
        "  federated_max of float32",
        "server",
        "  computes widen -> float32",
        "pass 2 over the clients",
        "  receives float32",
        "  receives float32",
        "  computes distance -> float32, again",
        "  computes clip -> float32",
        "  federated_sum of float32",
        "  keeps float32 of every client",
    ]
    assert clipped_mean(0.0, [4.0, 1.0])[1].tolist() == [2.0, 1.0]


def test_a_computation_without_placements():
    half = fc.computation(lambda x: x / 2, "float32")
    assert half.describe().endswith("one function, without placements")
