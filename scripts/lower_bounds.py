"""Prints the lowest versions that pyproject.toml allows, as constraints for pip.

    python scripts/lower_bounds.py > lowest.txt && pip install -e '.[test]' -c lowest.txt

A requirement without a lower bound is left to pip.
"""

import pathlib
import re
import sys
import tomllib

PYPROJECT = pathlib.Path(__file__).resolve().parent.parent / "pyproject.toml"


def lower_bounds(project: dict) -> list[str]:
    """The lower bounds of a `[project]` table and its extras as pins, sorted, each once: `["jax==0.10.2", ...]`.

    Raises:
      ValueError: a package has two lower bounds.
    """
    requirements = sum(project["optional-dependencies"].values(), project["dependencies"])
    pins = {}
    for name, bound in re.findall(r"^([\w.-]+)(?:\[.*\])?>=([\w.]+)", "\n".join(requirements), re.MULTILINE):
        if pins.setdefault(name, bound) != bound:
            raise ValueError(
                f"pyproject.toml has {name}>={pins[name]} and {name}>={bound}; use the same bound in both places"
            )
    return [f"{name}=={bound}" for name, bound in sorted(pins.items())]


if __name__ == "__main__":
    sys.stdout.write("\n".join(lower_bounds(tomllib.loads(PYPROJECT.read_text())["project"])) + "\n")
