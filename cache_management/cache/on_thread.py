"""Functions of the application beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def on_thread(call: Callable[[], T], *, name: str) -> T:
    """Run a plain function on a thread of its own and wait for it.

    Not on the loop's few worker threads: models take seconds, host names are looked up on those
    too, and computations that wait for other computations would wait for ever.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(settle_it: Callable[[Any], None], outcome: object) -> None:
        if not done.done():  # its waiter was cancelled
            settle_it(outcome)

    def work() -> None:
        try:
            told: tuple[Callable[[Any], None], object] = done.set_result, context.run(call)
        except StopIteration as exc:
            # As in a coroutine: a future cannot hand it on.
            error = RuntimeError("the computation raised StopIteration")
            error.__cause__ = exc
            told = done.set_exception, error
        except BaseException as exc:  # noqa: BLE001 - the thread has nobody else to tell
            told = done.set_exception, exc
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(settle, *told)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await done
