"""The folders of runs: a new one, and the settings of the run in another."""

import os
import pathlib
import shlex

from fedjax_core.cli._config import SETTINGS, RunConfig, RunOptions, with_defaults
from fedjax_core.cli._toml import FILE, config_text, read_config
from fedjax_core.cli._values import UsageError, flag, word
from fedjax_core.program import RunFolder


def new_folder(out: pathlib.Path | None, config: RunConfig) -> RunFolder:
    """A new folder, with the settings in it.

    Raises:
      UsageError: it cannot be made, or is not new.
    """
    try:
        folder = RunFolder.dated("runs", f"{config.data}_{config.algorithm}") if out is None else RunFolder(out)
    except FileExistsError:
        assert out is not None  # a dated folder takes a name that there is not
        advice = f", or go on with its run: {command('resume', out)}" if (out / FILE).is_file() else ""
        raise UsageError(f"--out {out} exists and is never overwritten; choose a new folder{advice}") from None
    except OSError as error:
        raise UsageError(f"the folder for the results cannot be made: {error}; choose another by --out") from None
    save_options(folder, config)
    return folder


def save_options(folder: RunFolder, config: RunConfig) -> None:
    """Writes the settings, whole or not at all."""
    folder.write_text(FILE, config_text(config.options()))


def given_folder(verb: str, folder: pathlib.Path | None) -> pathlib.Path:
    """The folder that the command `verb` was given.

    Raises:
      UsageError: none was given.
    """
    if folder is None:
        raise UsageError(
            f"{verb} needs the folder of a run; for example {command(verb, _latest() or pathlib.Path('runs/first'))}"
        )
    return folder


def options_of(verb: str, folder: pathlib.Path) -> RunOptions:
    """The settings of a run, defaults included; `verb` is the command that needs them.

    Raises:
      UsageError: there is no such folder, or no run in it.
    """
    if folder.is_file():
        is_of_run = (folder.parent / FILE).is_file()
        advice = f"write {command(verb, folder.parent)}" if is_of_run else "give the folder of a run"
        raise UsageError(f"{folder} is a file; {advice}")
    if not (folder / FILE).is_file():
        wrong = f"run in {folder}, as it has no {FILE}" if folder.is_dir() else f"folder {folder}"
        latest = f"the latest run is in {_latest()}, " if _latest() else ""
        raise UsageError(f"there is no {wrong}; {latest}{command('train', '--out', folder)} begins a new one")
    return with_defaults(read_config(folder / FILE))


def resumed_options(folder: pathlib.Path, given: RunOptions) -> RunOptions:
    """The settings of a run with what the user wants otherwise.

    Raises:
      UsageError: that would be another run; or see `options_of`.
    """
    options = options_of("resume", folder)
    for name, value in given.items():
        if SETTINGS[name].may_change or value == options.get(name):
            continue
        own = word(options[name]) if name in options else "not set"
        start = command("train", "--config", folder / FILE, flag(name), word(value))
        raise UsageError(
            f"{flag(name)} of the run in {folder} is {own} and cannot become {word(value)}, which makes it another "
            f"run; leave it out, or start one: {start}"
        )
    return with_defaults(options | given)


def command(*words: str | os.PathLike | int) -> str:
    """A command to be typed."""
    return f"`fedjax-core {shlex.join(map(str, words))}`"


def _latest() -> pathlib.Path | None:
    """The run that was begun last, of those whose folders have names of their own making."""
    configs = sorted(pathlib.Path("runs").glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime)
    return configs[-1].parent if configs else None
