"""The cache on disk: its folder, and the programs that XLA compiles."""

import os
import pathlib
import sys

import jax
from jax.experimental.compilation_cache import compilation_cache


def cache_folder() -> pathlib.Path:
    """The folder of fedjax_core in the user's cache folder; it may not exist yet, and can be deleted at any time.

    The user's cache folder is `$XDG_CACHE_HOME` where that is an absolute path; otherwise `%LOCALAPPDATA%` on Windows,
    `~/Library/Caches` on macOS, and `~/.cache` elsewhere.

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


def use_compilation_cache(folder: str | os.PathLike | None = None) -> pathlib.Path:
    """Keeps what XLA compiles in a folder, so that the next process does not compile it again.

    Everything that this process compiles after the call is kept, small programs too, and found
    again by any process with the same program, JAX and kind of device. The folder grows without
    limit and can be deleted at any time.

    Args:
      folder: the folder, which is made if it does not exist. None: `fedjax_core/xla` in the user's cache folder
        (`$XDG_CACHE_HOME`, or `~/.cache`, `~/Library/Caches`, `%LOCALAPPDATA%`).

    Returns:
      The folder.

    Raises:
      OSError: the folder cannot be made.

    Example:

    >>> import fedjax_core as fc
    >>> fc.use_compilation_cache("~/.cache/my_experiments")  # doctest: +SKIP
    PosixPath('/home/me/.cache/my_experiments')
    """
    path = cache_folder() / "xla" if folder is None else pathlib.Path(folder).expanduser().absolute()
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()  # JAX decides at the first program that it compiles whether it has a cache
    return path
