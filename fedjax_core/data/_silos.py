"""The sampler of cross-silo learning: in every round, each silo selects clients of its own."""

from collections.abc import Callable, Hashable, Mapping, Sequence

import jax

from fedjax_core import _checks
from fedjax_core.data._samplers import Sampler, uniform_sampler
from fedjax_core.data._sampling import check_ids


def silo_sampler(
    silos: Mapping[Hashable, Sequence],
    clients_per_silo: int | Mapping[Hashable, int] = 1,
    *,
    sampler: Callable[..., Sampler] = uniform_sampler,
    key: jax.Array,
) -> Sampler:
    """Selects clients of every silo, for clients that belong to silos, such as the patients of hospitals.

    Args:
      silos: the ids of each silo's clients, by the name of the silo; the order of the silos matters. A client belongs
        to one silo only.
      clients_per_silo: the number of clients that a silo selects in a round; for different numbers, a dict by silo.
      sampler: how a silo selects them: `(ids, cohort_size, key=key) -> Sampler`. `cyclic_sampler` takes every client of
        a silo before any of them a second time.
      key: draws the clients, for each silo from a key of its own.

    Returns:
      A sampler: round number -> the ids that the first silo selects, those of the second, and so on, a list. For
      privacy accounting, it declares the sampling of the silo in which a client is selected most often.

    Raises:
      TypeError: `silos` is not a dict of sequences, a number is not an integer, `sampler` is not a function, or `key`
        is not a typed key.
      ValueError: there is no silo, a silo has fewer clients than it has to select or no number, or a client belongs to
        two silos.

    Example:
      >>> silos = {"north": ["ada", "bob", "eve"], "south": ["kim", "lee"]}
      >>> selected = silo_sampler(silos, {"north": 2, "south": 1}, key=jax.random.key(0))
      >>> selected(1), selected(2)
      (['bob', 'ada', 'kim'], ['ada', 'bob', 'lee'])

      Clients that are dealt out to four silos of the same size:

      >>> ids = list(range(8))
      >>> selected = silo_sampler({silo: ids[silo::4] for silo in range(4)}, key=jax.random.key(0))
      >>> [client % 4 for client in selected(1)]
      [0, 1, 2, 3]

    References:
      pfl-research, `CrossSiloUserSampler`.
    """
    _check_silos(silos)
    _checks.check_key("silo_sampler(key=...)", key)
    repair = "write sampler=fc.data.cyclic_sampler"
    _checks.check_function("silo_sampler(sampler=...)", sampler, "of ids, a number of clients and a key", repair)
    samplers = []
    for i, (silo, ids) in enumerate(silos.items()):
        number = _number(silo, clients_per_silo)
        try:
            samplers.append(sampler(ids, number, key=jax.random.fold_in(key, i)))
        except ValueError as error:
            raise ValueError(f"silo_sampler: silo {silo!r} cannot select its clients: {error}") from None

    def sample(round_num: int) -> Sequence:
        return [client for each in samplers for client in each(round_num)]

    declared = [each.sampling for each in samplers if hasattr(each, "sampling")]
    if len(declared) == len(samplers) and len({name for name, *_ in declared}) == 1:
        sample.sampling = max(declared, key=_probability)
    return sample


def _probability(sampling: tuple) -> float:
    """The probability that a client of a silo is selected: `(cohort_size, population)`, or the number itself."""
    _, *numbers = sampling
    return numbers[0] if len(numbers) == 1 else numbers[0] / max(numbers[1], 1)


def _number(silo: Hashable, clients_per_silo) -> int:
    call, repair = "silo_sampler(clients_per_silo=...)", "write clients_per_silo=1"
    if not isinstance(clients_per_silo, Mapping):
        return _checks.checked_integer(call, clients_per_silo, 0, repair)
    if silo not in clients_per_silo:
        rule, repair = "a number, or one for each silo", f"add {{{silo!r}: 1}}"
        raise ValueError(_checks.message(call, rule, clients_per_silo, repair))
    return _checks.checked_integer(call, clients_per_silo[silo], 0, repair)


def _check_silos(silos) -> None:
    if not isinstance(silos, Mapping):
        rule, repair = "a dict from a silo's name to the ids of its clients", "write {0: ids[0::2], 1: ids[1::2]}"
        raise TypeError(_checks.message("silo_sampler(silos=...)", rule, silos, repair))
    if not silos:
        raise ValueError("silo_sampler(silos=...) must have a silo, got none; write {'all': data.client_ids}")
    silo_of = {}
    for silo, ids in silos.items():
        check_ids("silo_sampler", ids)
        for client in ids:
            if silo_of.setdefault(client, silo) != silo:
                raise ValueError(
                    f"silo_sampler(silos=...) must have each client in one silo, got {client!r} in "
                    f"{silo_of[client]!r} and {silo!r}; leave it out of one of them"
                )
