"""What is loaded, by model: a lane holds one model's processes, and lanes are made when first asked for."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from server.runners import Residence
from server.types import ModelInfo


class Lane(Protocol):
    """One model: its processes, and those who wait for them."""

    async def stop(self) -> None:
        """End its processes; work under way fails."""

    def residence(self) -> Residence:
        """What it holds now."""


Kind = TypeVar("Kind", bound=Lane)


class Lanes(Generic[Kind]):
    """The lanes of one kind of work. All methods belong to one event loop."""

    def __init__(self, make: Callable[[ModelInfo], Kind]) -> None:
        self._make = make
        self._lanes: dict[str, Kind] = {}

    def lane(self, model: ModelInfo) -> Kind:
        """The model's lane, which may have no process yet."""
        if model.id not in self._lanes:
            self._lanes[model.id] = self._make(model)
        return self._lanes[model.id]

    async def unload(self, model: str) -> None:
        """End the model's processes; its memory returns."""
        if lane := self._lanes.pop(model, None):
            await lane.stop()

    def loaded(self) -> tuple[Residence, ...]:
        """The models in memory."""
        residences = (lane.residence() for lane in self._lanes.values())
        return tuple(residence for residence in residences if residence.processes)

    async def stop(self) -> None:
        """End all processes."""
        for model in tuple(self._lanes):
            await self.unload(model)
