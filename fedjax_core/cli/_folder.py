"""The folders of runs: creates a new one, and reads the settings of an existing one."""

import os
import pathlib
import shlex

from fedjax_core.cli._config import SETTINGS, RunConfig, RunOptions, with_defaults
from fedjax_core.cli._toml import FILE, config_text, read_config
from fedjax_core.cli._values import UsageError, flag, word
from fedjax_core.program import RunFolder


def new_folder(out: pathlib.Path | None, config: RunConfig) -> RunFolder:
    """A new folder that holds the settings.

    Raises:
      UsageError: the folder exists and is not empty, or it cannot be created.
    """
    try:
        folder = RunFolder.dated("runs", f"{config.data}_{config.algorithm}") if out is None else RunFolder(out)
    except FileExistsError:
        assert out is not None  # a dated folder takes a name that does not exist yet
        advice = f", or continue its run: {command('resume', out)}" if (out / FILE).is_file() else ""
        raise UsageError(f"--out {out} exists and is never overwritten; choose a new folder{advice}") from None
    except OSError as error:
        raise UsageError(f"the folder for the results cannot be created: {error}; choose another with --out") from None
    save_options(folder, config)
    return folder


def save_options(folder: RunFolder, config: RunConfig) -> None:
    """Writes the settings atomically: a crash leaves the earlier file."""
    folder.write_text(FILE, config_text(config.options()))


def given_folder(verb: str, folder: pathlib.Path | None) -> pathlib.Path:
    """The folder that was given to the command `verb`.

    Raises:
      UsageError: no folder was given.
    """
    if folder is None:
        raise UsageError(
            f"{verb} needs the folder of a run; for example {command(verb, _latest() or pathlib.Path('runs/first'))}"
        )
    return folder


def options_of(verb: str, folder: pathlib.Path) -> RunOptions:
    """The settings of a run, including defaults; `verb` is the command that needs them.

    Raises:
      UsageError: the folder does not exist, or holds no run.
    """
    if folder.is_file():
        is_of_run = (folder.parent / FILE).is_file()
        advice = f"write {command(verb, folder.parent)}" if is_of_run else "give the folder of a run"
        raise UsageError(f"{folder} is a file; {advice}")
    if not (folder / FILE).is_file():
        wrong = f"run in {folder}, since it has no {FILE}" if folder.is_dir() else f"folder {folder}"
        latest = f"the latest run is in {_latest()}, " if _latest() else ""
        raise UsageError(f"there is no {wrong}; {latest}{command('train', '--out', folder)} begins a new one")
    return with_defaults(read_config(folder / FILE))


def resumed_options(folder: pathlib.Path, given: RunOptions) -> RunOptions:
    """The settings of a run with the user's changes.

    Raises:
      UsageError: a change would make it another run, or `options_of` raises.
    """
    options = options_of("resume", folder)
    for name, value in given.items():
        if SETTINGS[name].may_change or value == options.get(name):
            continue
        own = word(options[name]) if name in options else "not set"
        start = command("train", "--config", folder / FILE, flag(name), word(value))
        raise UsageError(
            f"{flag(name)} of the run in {folder} is {own} and cannot become {word(value)}, which would make it "
            f"another run; leave it out, or start one: {start}"
        )
    return with_defaults(options | given)


def command(*words: str | os.PathLike | int) -> str:
    """A command as the user types it."""
    return f"`fedjax-core {shlex.join(map(str, words))}`"


def _latest() -> pathlib.Path | None:
    """The folder in `runs` of the run that began last; None if there is none."""
    configs = sorted(pathlib.Path("runs").glob(f"*/{FILE}"), key=lambda path: path.stat().st_mtime)
    return configs[-1].parent if configs else None
