"""Makes the virtual environment of a peer from its pinned versions.

    python benchmarks/peers/environment.py fedjax pfl

makes `benchmarks/data/environments/fedjax` and `.../pfl` (another folder with `--folder`). A pin file,
`pins/NAME.txt`, holds the whole set of versions that was installed and measured, so that nothing is
resolved: two of the peers (flwr, tff) require versions that contradict each other, and cannot be installed in any
other way. FedJAX's pins need Python 3.10, those of the other peers 3.11.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
FOLDER = HERE.parent / "data" / "environments"
PYTHON = {"fedjax": "3.10", "drjax": "3.11", "pfl": "3.11", "flwr": "3.11", "tff": "3.11", "declearn": "3.11"}
NAMES = tuple(PYTHON)


class MissingPython(RuntimeError):
    """The machine has no interpreter of the version that a peer's pins need."""


def interpreter(version: str) -> str:
    """The path of a Python of a version such as `"3.10"`.

    Raises:
      MissingPython: No such interpreter runs here.
    """
    installed = sorted(pathlib.Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    candidates = [sys.executable, shutil.which(f"python{version}"), shutil.which("python3"), *map(str, installed)]
    report = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        found = subprocess.run([candidate, "-c", report], capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip() == version:
            return candidate
    raise MissingPython(
        f"no Python {version} on this machine; install it so that `python{version}` runs, then try again"
    )


def python_of(name: str, folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """The path of the interpreter of a peer's environment, whether it exists or not."""
    return folder / name / "bin" / "python"


def is_ready(name: str, folder: pathlib.Path = FOLDER) -> bool:
    """Whether a peer's environment is complete and has today's pins."""
    stamp = folder / name / "pins.txt"
    return stamp.is_file() and stamp.read_text() == pins(name).read_text()


def pins(name: str) -> pathlib.Path:
    """The file of a peer's versions."""
    return HERE / "pins" / f"{name}.txt"


def make(name: str, folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """Makes a peer's environment unless it is there, and returns its interpreter.

    Raises:
      MissingPython: The Python that its pins need is not on this machine.
      subprocess.CalledProcessError: A package could not be installed.
    """
    python = python_of(name, folder)
    if is_ready(name, folder):
        return python
    subprocess.run([interpreter(PYTHON[name]), "-m", "venv", "--clear", str(folder / name)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "-r", str(pins(name))], check=True)
    (folder / name / "pins.txt").write_text(pins(name).read_text())
    return python


def main(argv=None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Makes the virtual environments of peers.")
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--folder", type=pathlib.Path, default=FOLDER, help="where the environments are")
    args = parser.parse_args(argv)
    for name in args.names:
        try:
            print(f"{name}: {make(name, args.folder)}", flush=True)
        except (MissingPython, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
