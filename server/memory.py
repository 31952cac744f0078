"""What is loaded, what it costs, what must go.

A model loads at its first use and stays for its keep-alive. Before a load, room is made within the budget:
models whose time has run out go first, then those least recently used. Pinned models stay, and a model in use
is never taken. Unloading ends worker processes, so all their memory returns. The machine has a budget, and
its cards another: a model that runs on cards counts there, by what its processes take of them.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from server import cards
from server.errors import Leaving, NoMemory
from server.runners import Residence
from server.types import ModelInfo

log = logging.getLogger(__name__)

SHARE = 0.75
"""Of the machine's memory, or the container's, or the cards': the budget where none is set."""

_CGROUP = Path("/sys/fs/cgroup/memory.max")


async def in_memory(model: ModelInfo) -> bool:
    """No model runs on a card."""
    return False


def available(limit: Path = _CGROUP) -> int:
    """Bytes of memory of this machine, or of the container that we run in."""
    total = psutil.virtual_memory().total
    try:
        return min(total, int(limit.read_text()))
    except (OSError, ValueError):
        return total


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes that a model will take of where it runs, before anybody has seen it loaded."""

    fixed: int
    """Once, whatever its slots."""
    window: int
    """For each window that it works on at a time."""


async def by_file(model: ModelInfo) -> Cost:
    """Every slot has the whole file, and a process of its own."""
    return Cost(0, _estimate(model))


class Loader(Protocol):
    """What holds models in memory: a runner, say."""

    @property
    def slots(self) -> int: ...

    async def load(self, model: ModelInfo, slots: int | None = None) -> None: ...

    async def unload(self, model: str) -> None: ...

    def loaded(self) -> tuple[Residence, ...]: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that is loaded, for people to see."""

    model: str
    engine: str
    """The engine's description of itself."""
    since: float
    """Unix seconds."""
    memory: int
    """Bytes that its processes take now, of the cards where it runs on those."""
    slots: int
    """Windows that it may work on at a time."""
    busy: int
    queued: int
    requests: int
    """Requests that hold it."""
    expires: float | None
    """Unix seconds; None: it stays."""
    pinned: bool


@dataclass(eq=False, slots=True)
class _Holding:
    """A model that is loaded, or is being."""

    model: ModelInfo
    loading: asyncio.Task[None]
    slots: int
    booked: int
    """Bytes of the budget that are kept for it."""
    keep: float
    since: float
    used: float
    on_card: bool = False
    size: int = 0
    """Bytes that its processes took of the cards when it was loaded; 0 where it is on none."""
    requests: int = 0
    leaving: bool = False
    """Somebody wants it unloaded: new requests are refused."""
    going: bool = False
    """Its processes are being ended: new requests wait until they may load it again."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Memory:
    """The models in memory. All methods belong to one event loop."""

    def __init__(
        self,
        runner: Loader,
        *,
        budget: int = 0,
        keep_alive: float = 300.0,
        keep_alive_of: Mapping[str, float] | None = None,
        pinned: tuple[str, ...] = (),
        card_budget: int = 0,
        devices: Collection[int] = (0,),
        on_card: Callable[[ModelInfo], Awaitable[bool]] = in_memory,
        cost: Callable[[ModelInfo], Awaitable[Cost]] = by_file,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`budget` in bytes, 0: a share of the machine's; `keep_alive` in seconds, for all and by model.

        `on_card`: whether a model will run on the cards of the numbers `devices`; `card_budget` in bytes of
        all these together, 0: a share of what they have. `cost`: what a model will take of the machine.
        """
        self.budget = budget or int(available() * SHARE)
        self._card_budget = card_budget
        self._devices = devices
        self._on_card = on_card
        self._cost = cost
        self._aside = 0
        self._runner = runner
        self._keep_alive = keep_alive
        self._keep_alive_of = dict(keep_alive_of or {})
        self._pinned = frozenset(pinned)
        self._clock = clock
        self._held: dict[str, _Holding] = {}
        self._making_room = asyncio.Lock()
        self._changed = asyncio.Event()
        self._leaving: set[asyncio.Task[None]] = set()
        self._reaper: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def using(self, model: ModelInfo, keep_alive: float | None = None) -> AsyncIterator[None]:
        """The model, loaded, and not taken away within the block.

        `keep_alive`: seconds for which it stays afterwards; -1: for good; None: as configured. Raises
        NoMemory, ModelBroken, or Leaving while it is being unloaded.
        """
        while (holding := self._enter(model)).going:
            await holding.gone.wait()
        holding.requests += 1
        try:
            await asyncio.shield(holding.loading)
            yield
        finally:
            holding.requests -= 1
            self._used(holding, keep_alive)

    async def load(self, model: ModelInfo, keep_alive: float | None = None) -> None:
        """Load the model now, if it is not. Raises as `using`."""
        async with self.using(model, keep_alive):
            pass

    async def unload(self, model: str, wait: bool = True) -> bool:
        """Take the model out of memory once its running requests have ended; new ones are refused until then.

        Whether it was loaded. `wait`: until it is out.
        """
        holding = self._held.get(model)
        if holding is None:
            return False
        holding.leaving = True
        leaving = asyncio.create_task(self._leave(holding))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        if wait:
            await asyncio.shield(leaving)
        return True

    async def retire(self, model: str) -> None:
        """Refuse new requests at once and unload when the running ones end, without waiting for them."""
        holding = self._held.get(model)
        await self.unload(model, wait=holding is not None and not holding.requests)

    def free(self) -> int:
        """Bytes of the machine's budget that nothing is booked for."""
        return self._free(on_card=False)

    @asynccontextmanager
    async def aside(self, size: int, what: str) -> AsyncIterator[None]:
        """Bytes of the machine's budget for work beside the models, within the block. Raises NoMemory."""
        async with self._making_room:
            await self._make_room(size, what, on_card=False)
            self._aside += size
        try:
            yield
        finally:
            self._aside -= size

    async def renew(self, model: ModelInfo) -> None:
        """Have the model loaded anew, once no request holds it: it is to be run in another way."""
        while (holding := self._held.get(model.id)) and (holding.requests or not holding.loading.done()):
            self._changed.clear()
            await self._changed.wait()
        if holding:
            await self._take(holding)
            if model.id in self._pinned:
                await self.load(model)

    def loaded(self) -> tuple[Resident, ...]:
        """The models in memory, by id."""
        residences = {residence.model: residence for residence in self._runner.loaded()}
        return tuple(
            self._resident(self._held[id], residences[id]) for id in sorted(self._held) if id in residences
        )

    async def stop(self) -> None:
        """Take everything out, without waiting for requests."""
        # Who is just ending processes is let finish, so that none is left behind.
        while going := [holding for holding in self._held.values() if holding.going]:
            await going[0].gone.wait()
        pending = [*self._leaving, *(holding.loading for holding in self._held.values())]
        if self._reaper:
            pending.append(self._reaper)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._runner.stop()

    async def reap(self) -> None:
        """Unload what has not been used for its keep-alive."""
        for holding in tuple(self._held.values()):
            expires = self._expires(holding)
            if expires is not None and expires <= self._clock() and not holding.requests:
                await self._take(holding)

    # Holding ------------------------------------------------------------------------------------------

    def _enter(self, model: ModelInfo) -> _Holding:
        holding = self._held.get(model.id)
        if holding and holding.leaving:
            raise Leaving(model.id)
        if holding is None:
            now = self._clock()
            keep = self._keep_alive_of.get(model.id, self._keep_alive)
            loading = asyncio.create_task(self._load(model))
            holding = _Holding(model, loading, 0, 0, keep, now, now)
            self._held[model.id] = holding
            loading.add_done_callback(_heard)
            self._reaper = self._reaper or asyncio.create_task(self._reap_for_ever())
        return holding

    async def _load(self, model: ModelInfo) -> None:
        holding = self._held[model.id]
        try:
            async with self._making_room:
                holding.on_card = await self._has_cards() and await self._on_card(model)
                cost = await by_file(model) if holding.on_card else await self._cost(model)
                holding.slots = await self._room_for(holding, cost)
                holding.booked = cost.fixed + holding.slots * cost.window
            await self._runner.load(model, holding.slots)
            measured = max(await self._measured(holding), 1)
            residence = self._residence(model.id)
            # Where slots share the weights, what the windows take comes on top once they are at work.
            working = residence.windows * cost.window if cost.fixed else 0
            holding.booked = residence.most * measured + working
            log.info("loaded %s: %s a slot, %d slots", model.id, megabytes(measured), holding.slots)
        except BaseException:
            await self._runner.unload(model.id)
            self._held.pop(model.id, None)
            raise

    def _residence(self, model: str) -> Residence:
        return next(residence for residence in self._runner.loaded() if residence.model == model)

    async def _has_cards(self) -> bool:
        """Whether there are cards with memory to be shared out."""
        if not self._card_budget and self._on_card is not in_memory:
            used = [card.total for card in await cards.found() if card.number in self._devices]
            self._card_budget = int(sum(used) * SHARE)
        return self._card_budget > 0

    async def _measured(self, holding: _Holding) -> int:
        """Bytes that a just loaded model takes where it is."""
        residence = self._residence(holding.model.id)
        if not holding.on_card:
            return _size(residence)
        # Where the driver does not tell, the estimate has to do.
        holding.size = await cards.taken(residence.processes) or _estimate(holding.model)
        return holding.size

    async def _room_for(self, wanted: _Holding, cost: Cost) -> int:
        """Slots that the model may have, after others have gone if they must. Raises NoMemory."""
        on_card = wanted.on_card
        await self._make_room(cost.fixed + cost.window, f"the model {wanted.model.id}", on_card=on_card)
        return max(1, min(self._runner.slots, (self._free(on_card) - cost.fixed) // cost.window))

    async def _make_room(self, size: int, what: str, *, on_card: bool) -> None:
        """Have so many bytes free, after others have gone if they must. Raises NoMemory."""
        await self.reap()
        for holding in sorted(self._held.values(), key=lambda holding: holding.used):
            if self._free(on_card) >= size:
                break
            if holding.on_card == on_card and self._may_go(holding):
                log.info("unloading %s to make room for %s", holding.model.id, what)
                await self._take(holding)
        if self._free(on_card) < size:
            raise NoMemory(
                f"{what} needs about {megabytes(size)}; of the budget of "
                f"{megabytes(self._budget(on_card))}{' on the cards' if on_card else ''} only "
                f"{megabytes(max(self._free(on_card), 0))} are free, and the other models are in use or "
                "pinned"
            )

    def _budget(self, on_card: bool) -> int:
        return self._card_budget if on_card else self.budget

    def _free(self, on_card: bool) -> int:
        held = sum(each.booked for each in self._held.values() if each.on_card == on_card)
        return self._budget(on_card) - held - (0 if on_card else self._aside)

    def _may_go(self, holding: _Holding) -> bool:
        return not holding.requests and holding.booked > 0 and holding.model.id not in self._pinned

    # Leaving ------------------------------------------------------------------------------------------

    def _used(self, holding: _Holding, keep_alive: float | None) -> None:
        holding.used = self._clock()
        if keep_alive is not None:
            holding.keep = keep_alive
        self._changed.set()

    async def _leave(self, holding: _Holding) -> None:
        while holding.requests:
            self._changed.clear()
            await self._changed.wait()
        await self._take(holding)

    async def _take(self, holding: _Holding) -> None:
        """Out of memory; until its processes have ended nobody may begin to use it."""
        if holding.going:
            await holding.gone.wait()
            return
        holding.going = True
        try:
            await self._runner.unload(holding.model.id)
        finally:
            self._held.pop(holding.model.id, None)
            holding.gone.set()

    async def _reap_for_ever(self) -> None:
        while True:
            soonest = min(
                (expires for holding in self._held.values() if (expires := self._expires(holding))),
                default=None,
            )
            self._changed.clear()
            try:
                async with asyncio.timeout(None if soonest is None else max(0.0, soonest - self._clock())):
                    await self._changed.wait()
            except TimeoutError:
                await self.reap()

    def _expires(self, holding: _Holding) -> float | None:
        """When it goes if nobody uses it; None while it is in use, or for good."""
        if holding.requests or holding.keep < 0 or holding.model.id in self._pinned:
            return None
        return holding.used + holding.keep

    def _resident(self, holding: _Holding, residence: Residence) -> Resident:
        return Resident(
            model=holding.model.id,
            engine=residence.engine,
            since=holding.since,
            memory=holding.size or _size(residence),
            slots=holding.slots,
            busy=residence.busy,
            queued=residence.queued,
            requests=holding.requests,
            expires=self._expires(holding),
            pinned=holding.model.id in self._pinned,
        )


def _heard(loading: asyncio.Task[None]) -> None:
    """A load that failed after all who waited for it have left is no news."""
    if not loading.cancelled():
        loading.exception()


def _estimate(model: ModelInfo) -> int:
    """Bytes of one worker, before anybody has seen one."""
    return model.size + model.overhead


def _size(residence: Residence) -> int:
    """Resident bytes of its processes."""
    total = 0
    for process in residence.processes:
        try:
            total += psutil.Process(process).memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def megabytes(size: int) -> str:
    """Bytes for people: 3,094 MB."""
    return f"{size / 1e6:,.0f} MB"
