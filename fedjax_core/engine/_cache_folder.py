"""Where things are kept that can be made anew: in the user's cache folder."""

import os
import pathlib
import sys


def cache_folder() -> pathlib.Path:
    """The folder of fedjax_core in the user's cache folder; it need not exist yet, and may be deleted at any time.

    `$XDG_CACHE_HOME` where it is set to an absolute path; otherwise `%LOCALAPPDATA%` on Windows,
    `~/Library/Caches` on macOS, `~/.cache` elsewhere.

    Returns:
      An absolute path that ends in `fedjax_core`.

    Raises:
      RuntimeError: the user has no home folder and `XDG_CACHE_HOME` is not set.

    Example:

    >>> cache_folder().name
    'fedjax_core'
    """
    return _users_cache() / "fedjax_core"


def _users_cache() -> pathlib.Path:
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):
        return pathlib.Path(chosen)
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return pathlib.Path(os.environ["LOCALAPPDATA"])
    return pathlib.Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
