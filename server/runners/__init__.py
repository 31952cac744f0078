"""Where work runs: one file a runner, found by its name. Local child processes by default."""

from dataclasses import dataclass
from typing import Protocol

from server.types import Decode, Heard, ModelInfo, Window


@dataclass(frozen=True, slots=True)
class Unit:
    """One window to decode: stateless, and repeatable anywhere."""

    model: ModelInfo
    window: Window
    decode: Decode
    request: str
    """Units of different requests take turns."""
    background: bool = False
    """Whether it is of a job: units that somebody waits for come first, though not always."""


@dataclass(frozen=True, slots=True)
class Residence:
    """A model that is loaded."""

    model: str
    engine: str
    """The engine's description of itself."""
    processes: tuple[int, ...]
    """Ids of its worker processes."""
    busy: int
    """Windows being decoded."""
    queued: int
    """Windows that wait."""
    most: int = 1
    """Processes that it may come to have."""
    windows: int = 1
    """Windows that it may work on at the same time, all batches full."""


class Runner(Protocol):
    """Runs units. A module of this folder has one as `Runner`."""

    @property
    def slots(self) -> int:
        """Units, or batches of them, of one model that run at the same time."""

    @property
    def ahead(self) -> int:
        """Units of one model that can be worked on at the same time, all batches full."""

    async def run(self, unit: Unit) -> Heard:
        """Decode one window. A worker that dies is replaced and the unit repeated.

        Raises ModelBroken where the model cannot be loaded and WindowFailed where the unit killed two
        workers. Cancelling stops the work and frees the worker within that window.
        """

    async def load(self, model: ModelInfo, slots: int | None = None) -> None:
        """Load the model, if it is not, for at most `slots` units at a time. Raises ModelBroken."""

    async def unload(self, model: str) -> None:
        """End the model's workers; its memory returns. Running units are run again by the next load."""

    def loaded(self) -> tuple[Residence, ...]:
        """The models in memory."""

    async def stop(self) -> None:
        """End all workers."""
