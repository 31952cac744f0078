"""Which language a media is in: its first windows vote, the longer the weightier."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping

VOTERS = 3
"""Windows that vote, at most."""

_CLEAR = 0.9
"""Probability from which one window alone decides."""

_ENOUGH = 4.0
"""Seconds that it must have for that."""

_PATIENCE = 1.5
"""Seconds that the first window's words wait for others to vote."""


class Vote:
    """Windows say what they heard and wait until it is decided. Later votes may correct a decision."""

    def __init__(self, voters: int = VOTERS, patience: float | None = _PATIENCE) -> None:
        """`patience`: seconds that the first vote waits for others; None: until all have voted."""
        self._patience = patience
        self._weights: dict[str, float] = {}
        self._cast = 0
        self._weight = 0.0
        self._expected = voters
        self._sent = 0
        self._done = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def open(self) -> bool:
        """Whether the next window is to vote."""
        return self._sent < self._expected and not self._done.is_set()

    @property
    def language(self) -> str | None:
        """What the votes say so far; None where nobody has spoken."""
        return max(self._weights, key=self._weights.__getitem__, default=None)

    @property
    def weights(self) -> Mapping[str, float]:
        """Seconds of each language by its code."""
        return self._weights

    @property
    def probabilities(self) -> dict[str, float]:
        """Of each language, together 1; empty without a vote."""
        return probabilities([self])

    def send(self) -> None:
        """One more window is on its way to vote."""
        self._sent += 1

    def close(self) -> None:
        """No more windows come."""
        self._expected = self._sent
        self._decide()

    def cast(self, languages: Mapping[str, float], seconds: float) -> None:
        """A window's vote; one in which nobody spoke has no weight."""
        self._cast += 1
        seconds = seconds if languages else 0.0
        for code, probability in languages.items():
            self._weights[code] = self._weights.get(code, 0.0) + probability * seconds
        self._weight += seconds
        if self._timer is None and self._patience is not None:
            self._timer = asyncio.get_running_loop().call_later(self._patience, self._done.set)
        self._decide()

    async def decided(self) -> str | None:
        """The language, once it is clear, all have voted, or the first has waited long enough."""
        await self._done.wait()
        return self.language

    def _decide(self) -> None:
        clear = self._weight >= _ENOUGH and max(self._weights.values()) >= _CLEAR * self._weight
        if clear or self._cast >= self._expected:
            self._done.set()
            if self._timer:
                self._timer.cancel()


def probabilities(votes: Iterable[Vote]) -> dict[str, float]:
    """Of each language in media whose parts voted by themselves, together 1; empty without a vote."""
    weights: Counter[str] = Counter()
    for vote in votes:
        weights.update(vote.weights)
    whole = sum(weights.values())
    return {code: weight / whole for code, weight in weights.items()}
