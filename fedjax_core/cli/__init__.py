"""The command line: `fedjax-core train`, `resume`, `evaluate`, `watch` and `describe`.

main   runs a command; for wrong input it prints one line on standard error and returns exit status 2

Each setting of a run is defined once, in `_config.RunConfig`; the choices that have a name are in `_choices`.
"""

from fedjax_core._signposts import signpost
from fedjax_core.cli._main import main

__all__ = ["main"]

signpost(__name__)
