"""Functions of the application beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from cache_management.cache.errors import InvalidInput

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
        if not done.done():
            settle_it(outcome)
        elif inspect.iscoroutine(outcome):  # its waiter was cancelled, so nobody will await it
            outcome.close()

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


def yes_or_no(said: object) -> bool | None:
    """Return what a function of the application answered: a bool, numpy's too, 0 or 1, or None for no answer.

    Raises:
        InvalidInput: It is something else; the text "no" is true, and a score is no answer.
    """
    if said is None or isinstance(said, bool):
        return said
    if (isinstance(said, int) and said in {0, 1}) or type(said).__name__ in {"bool", "bool_"}:
        return bool(said)
    raise InvalidInput(f"it answered {repr(said)[:40]}; answer True, False or None")
