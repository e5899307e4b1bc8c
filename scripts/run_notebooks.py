"""Executes the notebooks in place, and keeps of them what is the same on every machine.

    python scripts/run_notebooks.py [notebook ...]

Without arguments, all of `notebooks/`. Sources and outputs stay; execution times and the kernel's
version go. A notebook whose code raises is left as it was.
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

    The kernel has the devices that a reader's has, whatever `XLA_FLAGS` says here, and calls a cell
    "notebook" where the code's place is shown, not by the path of a temporary file.

    Args:
      notebook: is changed: its cells get the outputs.
      timeout_s: for one cell.

    Returns:
      The same notebook, with the metadata of every other.

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
