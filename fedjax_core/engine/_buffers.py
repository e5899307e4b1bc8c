"""Host memory that is used again: aligned, so that a CPU device takes it without a copy."""

import collections
import ctypes
import threading
import weakref

import numpy as np

_ALIGNMENT = 64
_KEPT = 4


class BufferPool:
    """Hands out uninitialized arrays and takes their memory back when nobody holds them any more.

    On CPU a device array may be the very memory of the NumPy array that it was put from, so the
    memory is free again only when that device array has gone too: the owner of the memory is an
    object that NumPy views and device arrays keep alive, and its finalizer returns it.
    """

    def __init__(self):
        self._free = collections.defaultdict(list)
        # Reentrant: `empty` may start a garbage collection, whose finalizers give memory back in the same thread.
        self._lock = threading.RLock()

    def empty(self, shape: tuple, dtype) -> np.ndarray:
        """An uninitialized array whose memory starts at a multiple of 64 bytes."""
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        if size == 0:
            return np.empty(shape, dtype)
        with self._lock:
            memory = self._free[size].pop() if self._free[size] else np.empty(size + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        # No NumPy array: views of views refer to the array at the bottom alone, so one in between would go too early.
        owner = (ctypes.c_uint8 * size).from_buffer(memory, start)  # pyright: ignore[reportArgumentType]  # NumPy's types lack it
        weakref.finalize(owner, self._give_back, size, memory).atexit = False
        return np.frombuffer(owner, dtype).reshape(shape)  # pyright: ignore[reportCallIssue, reportArgumentType]  # likewise

    def _give_back(self, size: int, memory: np.ndarray):
        with self._lock:
            if len(self._free[size]) < _KEPT:
                self._free[size].append(memory)
