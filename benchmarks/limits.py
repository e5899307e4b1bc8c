"""The limit of the machine: each workload as a JAX program written by hand for it alone, and the rates behind it.

The programs know the model, the optimizer and the layout of the data. A round copies each client's examples to
the place where its batches are read, in one aligned buffer per device that every round uses again, and runs one
compiled program: on each device, a loop over its clients and, inside it, a loop over exactly the client's batches.
Convolutions are matrix products of patches, tile by tile; the LSTM has a backward pass that forms the gates'
derivatives before its scan and the kernel's gradient after it.

    python benchmarks/limits.py --workloads W1,W4 --rounds 9 --devices 2

prints one JSON object: the machine's rates of matrix products and memory, and each program's seconds per
round. `--ahead` copies the examples of the next round while the devices compute, for which the next cohort
must be known.
"""

import argparse
import concurrent.futures
import json
import os
import statistics
import sys
import time

import numpy as np
import workloads
from _machine import machine

_ALIGNMENT = 64  # bytes; a CPU device takes such an array without copying it


class HandWritten:
    """A workload's rounds.

    Args:
      workload: the workload.
      devices: the number of devices.
      buffers: the number of rounds whose examples can be in memory at once.
    """

    def __init__(self, workload: workloads.Workload, devices: int, buffers: int = 1):
        import jax

        self._workload = workload
        self._devices = jax.devices()[:devices]
        deals = [self._deal(cohort) for cohort in workload.cohorts]
        self._steps = max(int(self._batches(clients).sum()) for deal in deals for clients in deal)
        self._clients = max(len(clients) for deal in deals for clients in deal)
        self._buffers = [[self._empty() for _ in self._devices] for _ in range(buffers)]
        self._turn = 0
        self._threads = concurrent.futures.ThreadPoolExecutor(devices)
        mesh = jax.sharding.Mesh(np.array(self._devices), ("devices",))
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
        self._program = _round_program(workload, mesh)

    def __call__(self, weights, cohort):
        """One round: `(weights, ids) -> weights`."""
        import jax

        return jax.block_until_ready(self.train(weights, self.gather(cohort)))

    def train(self, weights, gathered):
        """Starts the round on the devices and returns before it is done."""
        return self._program(weights, *gathered)

    def gather(self, cohort) -> tuple:
        """Puts the cohort's examples and plan on the devices, in the memory of the round `buffers` rounds ago."""
        import jax

        self._turn = (self._turn + 1) % len(self._buffers)
        parts = list(self._threads.map(self._gather_device, range(len(self._devices)), self._deal(cohort)))

        def join(*leaves):
            shape = (len(leaves), *leaves[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, self._sharding, list(leaves))

        return jax.tree.map(join, *parts)

    def _gather_device(self, device: int, clients: np.ndarray) -> tuple:
        """`x`, `y` `[1, T, B, ...]` and int32 `[1, K + 1, 3]`: each client's first batch, batches and examples."""
        import jax

        workload, (x, y) = self._workload, self._buffers[self._turn][device]
        batches, sizes = self._batches(clients), workload.sizes[clients]
        firsts = np.cumsum(batches) - batches
        plan = np.zeros((1, self._clients + 1, 3), np.int32)
        plan[0, : len(clients)] = np.stack([firsts, batches, sizes], 1)
        plan[0, -1, 0] = len(clients)
        for out, array in ((x, workload.arrays["x"]), (y, workload.arrays["y"])):
            rows = out.reshape(-1, *out.shape[3:])
            for client, first, size in zip(clients.tolist(), (firsts * workload.batch_size).tolist(), sizes.tolist()):
                begin = workload.offsets[client]
                rows[first : first + size] = array[begin : begin + size]
        return jax.device_put((x, y, plan), self._devices[device])

    def _batches(self, clients) -> np.ndarray:
        return -(-self._workload.sizes[clients] // self._workload.batch_size)

    def _deal(self, cohort) -> list[np.ndarray]:
        """The clients of each device: longest first, each client goes to the device with the least work."""
        batches = self._batches(cohort)
        load, dealt = [0] * len(self._devices), [[] for _ in self._devices]
        for place in np.argsort(-batches, kind="stable").tolist():
            device = load.index(min(load))
            dealt[device].append(cohort[place])
            load[device] += int(batches[place])
        return [np.array(clients, np.int64) for clients in dealt]

    def _empty(self) -> tuple:
        lead = (1, self._steps, self._workload.batch_size)
        arrays = self._workload.arrays
        return tuple(_aligned_zeros((*lead, *arrays[k].shape[1:]), arrays[k].dtype) for k in ("x", "y"))


def _aligned_zeros(shape: tuple, dtype) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def _round_program(workload: workloads.Workload, mesh):
    """`(weights, x, y, plan) -> weights`, compiled."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    step, turn = STEPS[workload.name], TURNS.get(workload.name, lambda weights: weights)
    rate, batch_size = workload.learning_rate, workload.batch_size

    def train_device(initial, x, y, plan):
        x, y, plan, initial = x[0], y[0], plan[0], turn(initial)

        def client(k, total):
            first, batches, size = plan[k, 0], plan[k, 1], plan[k, 2]

            def batch(t, weights):
                mask = jnp.arange(batch_size) < size - t * batch_size
                scale = mask / jnp.sum(mask, dtype=jnp.float32)
                return step(weights, x[first + t], y[first + t], scale, rate)

            trained = lax.fori_loop(0, batches, batch, initial)
            return jax.tree.map(lambda t, w: t + size.astype(jnp.float32) * w, total, trained)

        total = lax.fori_loop(0, plan[-1, 0], client, jax.tree.map(jnp.zeros_like, initial))
        examples = lax.psum(plan[:-1, 2].sum().astype(jnp.float32), "devices")
        return turn(jax.tree.map(lambda t: lax.psum(t, "devices") / examples, total))

    everyone, sharded = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("devices")
    return jax.jit(
        jax.shard_map(
            train_device,
            mesh=mesh,
            in_specs=(everyone, sharded, sharded, sharded),
            out_specs=everyone,
            check_vma=False,
        )
    )


def _descend(loss):
    """The SGD step of a loss `(weights, x, y, scale) -> []`."""
    import jax

    def step(weights, x, y, scale, rate):
        gradient = jax.grad(loss)(weights, x, y, scale)
        return jax.tree.map(lambda w, g: w - rate * g, weights, gradient)

    return step


def _cross_entropy(logits, labels, scale):
    """The sum of the examples' cross entropies times `scale`, `[B]`, which is zero where there is no example."""
    import jax
    import jax.numpy as jnp

    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.take_along_axis(log_probabilities, labels[:, None], 1)[:, 0] * scale)


def _logistic_step(weights, x, y, scale, rate):
    """One step of softmax regression with its gradient written out; the kernel is transposed, `[C, N]`."""
    import jax
    from jax import lax

    logits = lax.dot_general(x, weights["kernel"], (((1,), (1,)), ((), ())))
    probabilities = jax.nn.softmax(logits + weights["bias"][None])
    errors = (probabilities - jax.nn.one_hot(y, probabilities.shape[1])) * (rate * scale)[:, None]
    return {"kernel": weights["kernel"] - errors.T @ x, "bias": weights["bias"] - errors.sum(0)}


def _turn_kernel(weights):
    return weights | {"kernel": weights["kernel"].T}


def _cnn_loss(weights, x, y, scale):
    import jax
    import jax.numpy as jnp

    def patches(x, height):
        sizes = x.shape[1] - height + 1, x.shape[2] - 2
        shifts = [(i, j) for i in range(height) for j in range(3)]
        return jnp.concatenate([x[:, i : i + sizes[0], j : j + sizes[1]] for i, j in shifts], -1)

    def product(x, kernel):
        return (x.reshape(-1, x.shape[-1]) @ kernel.reshape(x.shape[-1], -1)).reshape(*x.shape[:-1], kernel.shape[-1])

    def mix(matrix, arrays):
        return [sum(float(c) * a for c, a in zip(row, arrays) if abs(c) > 1e-9) for row in matrix]

    def tiled_conv(kernel, x):
        """Four rows of the result from six rows of `x`, by six products with a row of patches instead of twelve."""
        to_rows, to_kernel, to_result = _tiles_of_four()
        rows = [x[:, i : x.shape[1] - 5 + i : 4] for i in range(6)]
        products = [product(patches(r, 1), k) for r, k in zip(mix(to_rows, rows), mix(to_kernel, kernel))]
        result = jnp.stack(mix(to_result, products), 2)
        return result.reshape(len(x), -1, *result.shape[3:])

    first, second = weights["conv1"], weights["conv2"]
    x = jax.nn.relu(product(patches(x, 3), first["kernel"]) + first["bias"][None, None, None])
    x = jax.nn.relu(tiled_conv(second["kernel"], x) + second["bias"][None, None, None])
    x = x.reshape(-1, 12, 2, 12, 2, 64).max((2, 4)).reshape(-1, 9216)
    x = jax.nn.relu(x @ weights["dense1"]["kernel"] + weights["dense1"]["bias"][None])
    return _cross_entropy(x @ weights["dense2"]["kernel"] + weights["dense2"]["bias"][None], y, scale)


def _tiles_of_four() -> tuple:
    """Winograd's F(4, 3): `c @ ((b @ kernel) * (a @ rows))` is the correlation of six rows with three."""
    points = np.sqrt(0.5) * np.array([0, 1, -1, 2, -2])
    evaluate = np.vander(points, 6, increasing=True)
    at_infinity = np.eye(6)[-1:]
    to_rows = np.linalg.inv(np.concatenate([evaluate, at_infinity])).T
    to_kernel, to_result = (np.concatenate([evaluate[:, :n], at_infinity[:, 6 - n :]]) for n in (3, 4))
    return to_rows, to_kernel, to_result.T


def _cnn_step(weights, x, y, scale, rate):
    return _descend(_cnn_loss)(weights, x, y, scale, rate)


def _character_loss(weights, x, y, scale):
    import jax.numpy as jnp

    positions, batch_size = x.shape[1], x.shape[0]
    hidden = weights["embedding"][x.T]
    lstm = _lstm()
    for name in ("layer_0", "layer_1"):
        layer = weights[name]
        inputs = hidden.reshape(-1, hidden.shape[-1]) @ layer["kernel"] + layer["bias"][None]
        hidden = lstm(inputs.reshape(positions, batch_size, -1), layer["recurrent_kernel"])
    logits = hidden.reshape(-1, hidden.shape[-1]) @ weights["dense"]["kernel"] + weights["dense"]["bias"][None]
    return _cross_entropy(logits, y.T.reshape(-1), jnp.tile(scale / positions, positions))


def _character_step(weights, x, y, scale, rate):
    return _descend(_character_loss)(weights, x, y, scale, rate)


def _lstm():
    """`(inputs [T, B, 4H], kernel [H, 4H]) -> hidden [T, B, H]`, with a backward pass of its own.

    The gates' derivatives are formed before its scan and the kernel's gradient after it, for all positions at once.
    """
    import jax
    import jax.numpy as jnp
    from jax import lax

    def forward(inputs, kernel):
        def step(carry, inputs_t):
            take, keep, new, give = jnp.split(inputs_t + carry[0] @ kernel, 4, -1)
            take, keep, new, give = jax.nn.sigmoid(take), jax.nn.sigmoid(keep), jnp.tanh(new), jax.nn.sigmoid(give)
            state = keep * carry[1] + take * new
            squashed = jnp.tanh(state)
            after = (give * squashed, state)
            return after, (after, (take, keep, new, give, squashed))

        zeros = jnp.zeros((inputs.shape[1], kernel.shape[0]))
        _, (after, gates) = lax.scan(step, (zeros, zeros), inputs)
        return after[0], (kernel, after, gates)

    def backward(saved, to_output):
        kernel, after, (take, keep, new, give, squashed) = saved
        hidden, state = (jnp.concatenate([jnp.zeros_like(a[:1]), a[:-1]]) for a in after)
        to_state = give * (1 - squashed**2)
        to_gates = (
            new * take * (1 - take),
            state * keep * (1 - keep),
            take * (1 - new**2),
            squashed * give * (1 - give),
        )
        transposed = kernel.T

        def step(carry, position):
            to_output_t, to_state_t, (to_take, to_keep, to_new, to_give), keep_t = position
            to_hidden = carry[0] + to_output_t
            to_cell = carry[1] + to_hidden * to_state_t
            to_inputs = jnp.concatenate(
                [to_cell * to_take, to_cell * to_keep, to_cell * to_new, to_hidden * to_give], -1
            )
            return (to_inputs @ transposed, to_cell * keep_t), to_inputs

        zeros = jnp.zeros_like(hidden[0])
        _, to_inputs = lax.scan(step, (zeros, zeros), (to_output, to_state, to_gates, keep), reverse=True)
        to_kernel = hidden.reshape(-1, kernel.shape[0]).T @ to_inputs.reshape(-1, kernel.shape[1])
        return to_inputs, to_kernel

    lstm = jax.custom_vjp(lambda inputs, kernel: forward(inputs, kernel)[0])
    lstm.defvjp(forward, backward)
    return lstm


TURNS = {"W1": _turn_kernel, "W4": _turn_kernel}
"""Functions from the model's weights to a step's: a matrix product is faster if its result is long rather than wide."""
STEPS = {"W1": _logistic_step, "W2": _cnn_step, "W3": _character_step, "W4": _logistic_step}


def rates() -> dict:
    """The rates of the machine's matrix products (GFLOP/s) and memory (GB/s), on all its cores."""
    import jax
    import jax.numpy as jnp

    size = 4096
    a = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    result = {"gemm_4096_gflops": 2 * size**3 / _median(lambda: product(a, a).block_until_ready()) / 1e9}
    for m, k, n in ((20, 784, 62), (784, 20, 62), (11520, 288, 64), (20, 9216, 128), (10, 256, 1024)):
        loop = jax.jit(lambda p, q, c: jax.lax.fori_loop(0, 50, lambda _, c: 0.5 * c + (p + c[0, 0]) @ q, c))
        arrays = (jnp.ones((m, k)), jnp.ones((k, n)), jnp.zeros((m, n)))
        seconds = _median(lambda: loop(*arrays).block_until_ready())  # noqa: B023
        result[f"gemm_{m}x{k}x{n}_in_a_loop_gflops"] = 50 * 2 * m * k * n / seconds / 1e9
    source = np.ones(2**26, np.float32)
    target = np.empty_like(source)
    result["copy_read_and_written_gb_s"] = 2 * source.nbytes / _median(lambda: np.copyto(target, source)) / 1e9
    return result


def _median(function, repetitions: int = 5) -> float:
    function()
    times = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(workload: workloads.Workload, rounds: int, devices: int, ahead: bool = False) -> dict:
    """Times rounds of a hand-written program, without the first two, which compile."""
    import jax

    workloads.touch(workload)
    program = HandWritten(workload, devices, buffers=1 + ahead)
    cohorts = workload.cohorts[np.arange(rounds + 2) % len(workload.cohorts)]
    weights = jax.tree.map(jax.numpy.asarray, workload.initial)
    gathered, times = program.gather(cohorts[0]), []
    for following in [*cohorts[1:], cohorts[0]]:
        begin = time.perf_counter()
        weights = program.train(weights, gathered)
        if not ahead:
            jax.block_until_ready(weights)
        gathered = program.gather(following)
        jax.block_until_ready(weights)
        times.append(time.perf_counter() - begin)
    times = times[2:]
    return {"median_s": statistics.median(times), "best_s": min(times), "rounds": len(times), "ahead": ahead}


def use_devices(devices: int) -> int:
    """Makes JAX show that many CPU devices; call it before JAX is used.

    Returns:
      The number of devices to use; on an accelerator, no more than there are.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
    import jax

    return min(devices, len(jax.devices()))


def main(argv=None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Hand-written programs and the rates of the machine.")
    workloads.add_data_option(parser)
    parser.add_argument("--workloads", default="W1,W2,W3,W4", help="with commas between")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds")
    parser.add_argument("--devices", type=int, default=os.cpu_count(), help="CPU devices")
    parser.add_argument("--ahead", action="store_true", help="copy the next round's examples while the devices compute")
    parser.add_argument("--no-rates", action="store_true", help="leave out the rates of the machine")
    args = parser.parse_args(argv)
    devices = use_devices(args.devices)
    result = {"machine": machine(), "devices": devices}
    if not args.no_rates:
        result["rates"] = rates()
    data = workloads.folder(args.data)
    for name in args.workloads.split(","):
        result[name] = measure(workloads.load(name, data), args.rounds, devices, args.ahead)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
