"""JAX's persistent compilation cache, in one call."""

import os
import pathlib

import jax
from jax.experimental.compilation_cache import compilation_cache

from fedjax_core.engine._cache_folder import cache_folder


def use_compilation_cache(folder: str | os.PathLike | None = None) -> pathlib.Path:
    """Keeps what XLA compiles in a folder, so that the next process does not compile it again.

    Everything that this process compiles after the call is kept, small programs too, and found
    again by any process with the same program, JAX and kind of device. The folder grows without
    limit and can be deleted at any time.

    Args:
      folder: it is made where there is none. None: `fedjax_core/xla` in the user's cache folder
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
    compilation_cache.reset_cache()  # jax decides at the first program that it compiles whether it has a cache
    return path
