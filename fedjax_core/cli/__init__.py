"""The command line: `fedjax-core train`, `resume`, `evaluate`, `watch` and `describe`.

main   runs a command; wrong input is answered in one line on standard error with exit status 2

A setting of a run is named once, in `_config.RunConfig`; what can be chosen by name stands in `_choices`.
"""

from fedjax_core._signposts import signpost
from fedjax_core.cli._main import main

__all__ = ["main"]

signpost(__name__)
