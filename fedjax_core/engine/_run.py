"""Running a plan on concrete values."""

import dataclasses

import jax

from fedjax_core.engine._cohort import Cohort
from fedjax_core.engine._config import Layout
from fedjax_core.engine._evaluate import evaluate
from fedjax_core.engine._execution import pass_program, stage_program
from fedjax_core.engine._packing import pack
from fedjax_core.engine._plan import Plan
from fedjax_core.language._graph import Node


class Program:
    """A plan for one layout; its parts are compiled at their first use and kept.

    Attributes:
      plan: the plan.
      layout: where it runs.
    """

    def __init__(self, plan: Plan, layout: Layout):
        self.plan = plan
        self.layout = layout
        self._stages = [stage_program(s) for s in plan.stages]
        self._passes = [pass_program(plan, p, layout) for p in plan.passes]

    def __call__(self, server: dict[Node, object], cohort: Cohort | None) -> list:
        """Runs all stages and passes.

        Args:
          server: the values of the arguments that exist once.
          cohort: the clients.

        Returns:
          The value of each output; a value at CLIENTS has a row per client, in cohort order.

        Raises:
          ValueError: a check of the program counted something.
        """
        known = dict(zip(server, _put(list(server.values()), self.layout.server)))
        for k, stage in enumerate(self.plan.stages):
            if stage.outputs:
                known.update(zip(stage.outputs, self._stages[k](tuple(known[n] for n in stage.inputs))))
            if k < len(self.plan.passes):
                self._run_pass(k, known, cohort)
        for check in self.plan.checks:
            count = int(evaluate((check.count,), known)[0])
            if count:
                raise ValueError(check.message(count))
        return evaluate(self.plan.outputs, known)

    def _run_pass(self, k: int, known: dict, cohort: Cohort):
        pass_ = self.plan.passes[k]
        packed = pack(cohort, self.layout)
        spread = len(self.layout.devices) > 1
        server = tuple(evaluate(pass_.server_inputs, known))
        if spread:
            server = jax.device_put(server, self.layout.broadcast)
        clients = packed.clients
        if len(self.plan.client_parameters) == 1:
            clients = dataclasses.replace(clients, value=(clients.value,))
        totals, kept = self._passes[k](server, clients)
        if spread:
            totals, kept = jax.device_put((totals, kept), self.layout.server)
        known.update(zip(pass_.aggregates, totals))
        rows = dict(zip(pass_.materialized, _in_cohort_order(kept, packed.position) if kept else ()))
        known.update(rows)
        known.update({n: rows[n.inputs[0]] for n in pass_.collected})


def _put(values: list, sharding: jax.sharding.Sharding) -> list:
    """`jax.device_put`, which takes its time with every leaf, of the values that are not there yet."""
    away = [i for i, value in enumerate(values) if not all(_is_at(leaf, sharding) for leaf in jax.tree.leaves(value))]
    put = dict(zip(away, jax.device_put([values[i] for i in away], sharding)))
    return [put.get(i, value) for i, value in enumerate(values)]


def _is_at(leaf, sharding: jax.sharding.Sharding) -> bool:
    return isinstance(leaf, jax.Array) and leaf.committed and leaf.sharding == sharding


@jax.jit
def _in_cohort_order(kept, position):
    return jax.tree.map(lambda x: x[position], kept)
