"""A map in threads that keeps the order and reads a bounded number ahead."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


def ordered_map(
    function: Callable[..., Any],
    values: Iterable[Any],
    workers: int | None = None,
    *,
    ahead: int | None = None,
) -> Iterator[Any]:
    """Maps in threads: decoding and inflating release the interpreter lock.

    Args:
      function: of one value.
      values: what to map; taken as far as the work goes ahead.
      workers: threads; None is one a core.
      ahead: values that are taken before the first result is waited for; None is 8 a thread.

    Yields:
      The results, in the order of the values.
    """
    workers = workers or os.cpu_count() or 1
    ahead = ahead or 8 * workers
    waiting: collections.deque[Future[Any]] = collections.deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error nobody waits for the others
