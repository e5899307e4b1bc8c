"""Functions of the user that are declared with `async def`, or that yield."""

import asyncio
import concurrent.futures
import inspect
from typing import Any


def awaited(result: Any) -> Any:
    """What a function of the user returned; if that is awaitable, its result, once it is there.

    A notebook has an event loop that is already running, so the result is then awaited in another thread.

    Args:
      result: what the function returned, such as the coroutine of a function declared with `async def`.

    Raises:
      TypeError: it is a generator, so nothing of the function has run.

    Example:
      >>> async def release(value):
      ...     print("released", value)
      >>> awaited(release(0.5))
      released 0.5
    """
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(f"{result.__qualname__} yields, so calling it runs nothing of it; write return for yield")
    if not inspect.isawaitable(result):
        return result

    async def wait() -> Any:
        return await result

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(wait())
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, wait()).result()
