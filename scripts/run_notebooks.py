"""Executes the notebooks in place, and saves only what is the same on every machine.

    python scripts/run_notebooks.py [notebook ...]

Without arguments it executes all of `notebooks/`. It saves sources and outputs, but no execution times and no version
of the kernel. A notebook whose code raises stays unchanged.
"""

import os
import pathlib
import sys
import time

import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(notebook: nbformat.NotebookNode, timeout_s: float = 300) -> nbformat.NotebookNode:
    """Runs the code cells of a notebook from top to bottom, in a fresh kernel.

    The kernel ignores `XLA_FLAGS`, so it has the devices that a reader's kernel has. In tracebacks and messages it
    names a cell "notebook" instead of the path of a temporary file.

    Args:
      notebook: the notebook, which is changed in place: its cells receive the outputs.
      timeout_s: the time limit for one cell, in seconds.

    Returns:
      The same notebook, with the metadata that all notebooks share.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell raised.
    """
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout_s,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute(env={**environment, "IPYKERNEL_CELL_NAME": "notebook"})
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def main(paths: list[str]) -> None:
    for path in map(pathlib.Path, paths or sorted(map(str, FOLDER.glob("*.ipynb")))):
        start = time.perf_counter()
        nbformat.write(execute(nbformat.read(path, as_version=4)), path)
        print(f"{path.name}: {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
