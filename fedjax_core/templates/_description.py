"""A process in words."""

from fedjax_core.computations import Computation, plan_text, signature_text
from fedjax_core.types import FederatedType, Type, laid_out


def description(computations: dict[str, Computation], letters: dict[str, Type]) -> str:
    """The types of a process's computations and the plan of its `next`.

    Args:
      computations: by name; one is `next`.
      letters: what stands for a type, or for the member of a federated one, if it is long.
    """
    members = {letter: t.member if isinstance(t, FederatedType) else t for letter, t in letters.items()}
    names = {t: letter for letter, t in reversed(members.items()) if len(str(t)) > 30}
    signatures = [signature_text(name, fn, names) for name, fn in computations.items()]
    definitions = [_definition(t, names) for letter, t in members.items() if names.get(t) == letter]
    plan = plan_text(computations["next"], names)
    return "\n".join([*signatures, *(["where", *definitions] if definitions else []), "", "next", plan])


def _definition(type_: Type, names: dict[Type, str]) -> str:
    others = {t: letter for t, letter in names.items() if t != type_}
    return f"  {names[type_]} = {laid_out(type_, others, start=6, indent=2)}"
