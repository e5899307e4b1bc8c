"""The folders of runs: a new one, and what is in that of an earlier one."""

import os
import pathlib
import shlex

from fedjax_core._cli_config import MAY_CHANGE, RunConfig, with_defaults
from fedjax_core._cli_toml import FILE, config_text, read_config, word
from fedjax_core._cli_values import UsageError
from fedjax_core.program import RunFolder


def new_folder(out: pathlib.Path | None, config: RunConfig) -> RunFolder:
    """A new folder, with the configuration in it.

    Raises:
      UsageError: it cannot be made, or is not new.
    """
    try:
        folder = RunFolder.dated("runs", f"{config.data}_{config.algorithm}") if out is None else RunFolder(out)
    except FileExistsError:
        advice = f", or go on with its run: {command('resume', out)}" if (out / FILE).is_file() else ""
        raise UsageError(f"--out {out} exists and is never overwritten; choose a new folder{advice}") from None
    except OSError as error:
        raise UsageError(f"the folder for the results cannot be made: {error}; choose another by --out") from None
    save(folder, config)
    return folder


def save(folder: RunFolder, config: RunConfig) -> None:
    """Writes the configuration, whole or not at all."""
    folder.write_text(FILE, config_text(config))


def config_of(verb: str, folder: pathlib.Path | None) -> RunConfig:
    """The configuration of a run.

    Args:
      verb: the command that needs it.
      folder: of the run; None if the user gave none.

    Raises:
      UsageError: there is no such folder, or no run in it.
    """
    if folder is None:
        example = _latest() or pathlib.Path("runs/first")
        raise UsageError(f"{verb} needs the folder of a run; for example {command(verb, example)}")
    if folder.is_file():
        is_of_run = (folder.parent / FILE).is_file()
        advice = f"write {command(verb, folder.parent)}" if is_of_run else "give the folder of a run"
        raise UsageError(f"{folder} is a file; {advice}")
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; {_start(folder)}")
    if not (folder / FILE).is_file():
        raise UsageError(f"there is no run in {folder}, as it has no {FILE}; {_start(folder)}")
    return with_defaults(read_config(folder / FILE))


def resumed_config(folder: pathlib.Path | None, given: RunConfig) -> RunConfig:
    """The configuration of a run with what the user wants otherwise.

    Raises:
      UsageError: that would be another run; or as of `config_of`.
    """
    config = config_of("resume", folder)
    for name, value in given.given().items():
        before = getattr(config, name)
        if name in MAY_CHANGE or value == before:
            continue
        own = "not set" if before is None else word(before)
        option = f"--{name.replace('_', '-')}"
        raise UsageError(
            f"{option} of the run in {folder} is {own} and cannot become {word(value)}, which makes it another run; "
            f"leave it out, or start one: {command('train', '--config', folder / FILE, option, word(value))}"
        )
    return with_defaults(config.overridden(given))


def command(*words: str | os.PathLike) -> str:
    """A command to be typed."""
    return f"`fedjax-core {shlex.join(map(str, words))}`"


def _start(folder: pathlib.Path) -> str:
    latest = _latest()
    known = f"the latest run is in {latest}, " if latest else ""
    return f"{known}{command('train', '--out', folder)} begins a new one"


def _latest() -> pathlib.Path | None:
    """The run that was begun last, of those that have no folder of their own choice."""
    configs = sorted(pathlib.Path("runs").glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime)
    return configs[-1].parent if configs else None
