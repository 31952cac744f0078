"""How much one API key may ask for: requests at the same time, and in a minute."""

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.errors import TooMany
from server.keys import Key

_MINUTE = 60.0

_PACE = 0.3
"""Weight of the newest request in the mean of seconds that those of a key take."""


class _Asked:
    """What a key asks for now, and has asked for in the last minute."""

    def __init__(self) -> None:
        self.running = 0
        self.begun: deque[float] = deque()
        self.took = 1.0


class Limits:
    """The bounds of all keys; 0: none."""

    def __init__(
        self, at_once: int = 0, in_a_minute: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._at_once = at_once
        self._in_a_minute = in_a_minute
        self._clock = clock
        self._asked: dict[str, _Asked] = defaultdict(_Asked)

    @contextmanager
    def asking(self, key: Key) -> Iterator[None]:
        """For as long as a request of the key runs. Raises TooMany."""
        asked = self._asked[key.name]
        began = self._clock()
        self._check(key, asked, began)
        asked.running += 1
        if self._in_a_minute:
            asked.begun.append(began)
        try:
            yield
        finally:
            asked.running -= 1
            asked.took += _PACE * (self._clock() - began - asked.took)

    def _check(self, key: Key, asked: _Asked, now: float) -> None:
        while asked.begun and asked.begun[0] <= now - _MINUTE:
            asked.begun.popleft()
        if self._at_once and asked.running >= self._at_once:
            wait = max(1, math.ceil(asked.took / self._at_once))
            raise TooMany(
                f"the key {key.name!a} has {asked.running} requests under way, the most it may have at a "
                f"time; try again in {wait} s",
                wait,
            )
        if self._in_a_minute and len(asked.begun) >= self._in_a_minute:
            wait = max(1, math.ceil(asked.begun[0] + _MINUTE - now))
            raise TooMany(
                f"the key {key.name!a} has made {self._in_a_minute} requests in a minute, the most it may; "
                f"try again in {wait} s",
                wait,
            )
