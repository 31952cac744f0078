"""How each model is run here: by which engine, on which device, with how many slots and threads.

What the owner says of a model counts first, then what they say of all; the rest is measured
(docs/engines.md): CTranslate2 on CPUs, whisper.cpp where its build has a GPU, and for what only it can do.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from server import alignment, convert, ct2, ggml
from server.child import Child, ChildGone
from server.config import Tuning
from server.conversions import Conversions
from server.convert import Precision, Tell
from server.errors import ModelBroken, NoSpace, NotWritable, SpeechError
from server.ggml import Header
from server.memory import Cost, Memory, by_file
from server.models import Models
from server.runners.local import BATCH
from server.types import Loading, ModelInfo
from server.worker import Devices

log = logging.getLogger(__name__)

_BACKGROUND = 300_000_000
"""Bytes of a model's file from which it is not waited for its conversion: whisper.cpp answers meanwhile."""

SMALL = 60_000_000
"""Bytes of weights below which a window is not worth a second thread: `tiny` and the demo model."""

_FEW = 4
"""Slots that are enough for throughput, or a quarter of the cores."""

_PROCESS = 110 << 20
"""Bytes of a process with CTranslate2, beside the weights."""

_SHARE = 4
"""Of the free memory, what batches may grow into: a quarter."""

_ATTENTIONS, _STATES = 1, 8
"""Tables of attention, and of states, that are in memory at once for each window."""

_BESIDE = 16 << 20
"""Bytes for each window beside these."""

_CARDS = ("/dev/nvidia0", "/dev/kfd", "/dev/dri")
"""Where the system shows graphics cards."""


class Placement:
    """Decides it, and has made what an engine needs. All methods belong to one event loop."""

    def __init__(
        self,
        models: Models,
        conversions: Conversions,
        empty: Path,
        every: Tuning,
        single: Mapping[str, Tuning],
    ) -> None:
        """`every`: what the owner wants for all models; `single`: for some, by id. `empty`: the working
        directory of processes."""
        self._models = models
        self._conversions = conversions
        self._empty = empty
        self._every = every
        self._single = single
        self._gpu: asyncio.Task[bool] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.converted: Callable[[ModelInfo], Awaitable[None]] | None = None
        """Is told of a model whose conversion has ended while whisper.cpp answered for it."""
        self.memory: Memory | None = None
        """Where what is converted beside the models is booked, and what batches may grow into."""

    def tuning(self, model: ModelInfo) -> Tuning:
        """What the owner wants for this model."""
        single = self._single.get(model.id, Tuning())
        return self._every.model_copy(update=single.model_dump(exclude_unset=True))

    def tuned(self, model: ModelInfo, tuning: Tuning) -> "Placement":
        """The same with this model run so."""
        single = {**self._single, model.id: tuning}
        return Placement(self._models, self._conversions, self._empty, self._every, single)

    async def loading(self, model: ModelInfo, slots: int) -> Loading:
        """How to run it, with at most so many slots. Raises ModelBroken and NoSpace."""
        wanted = self.tuning(model)
        engine = await self._engine(model, wanted)
        if engine == "ctranslate2":
            device = "cuda" if wanted.device == "cuda" else "cpu"
            copy = await self._copy(model, "float16" if device == "cuda" else "int8", wanted)
            if copy:
                loading = _on_ctranslate2(wanted, copy, device, slots)
                batch = wanted.batch or await asyncio.to_thread(self._batch, copy, loading)
                return replace(loading, batch=batch)
        own = self._single.get(model.id, Tuning())
        return Loading(
            "whisper_cpp",
            model.path,
            most=own.slots,
            threads=own.threads,
            device=wanted.device,
            devices=wanted.devices,
            heads=await asyncio.to_thread(_heads, model) if wanted.dtw else "",
        )

    async def cost(self, model: ModelInfo) -> Cost:
        """What it will take of the machine's memory."""
        engine = await self._engine(model, self.tuning(model))
        if engine != "ctranslate2":
            return await by_file(model)
        try:
            header = await asyncio.to_thread(_header, model)
        except ModelBroken:
            return await by_file(model)  # loading it will say so
        # While it is read, most of it is there twice; what it takes then is measured.
        return Cost(_PROCESS + convert.size(header, "int8") * 7 // 4, window(header))

    async def make(self, model: ModelInfo, tell: Callable[[int, int], None]) -> None:
        """Convert a model that has just come, if it will run on CTranslate2. What keeps it from that is only
        told in the log: it is converted at its first use then. `tell`: bytes that are done, and all."""
        wanted = self.tuning(model)
        if model.engine or await self._engine(model, wanted) != "ctranslate2":
            return
        precision: Precision = "float16" if wanted.device == "cuda" else "int8"
        try:
            size = convert.size(await asyncio.to_thread(_header, model), precision)
            tell(0, size)
            await self._beside(model, precision, lambda share: tell(round(share * size), size))
            tell(size, size)
        except SpeechError as error:
            log.warning("%s is not converted yet: %s", model.id, error)

    def disk(self, model: ModelInfo) -> int:
        """Bytes on the disk of the copies that it was converted into. Blocks, for a moment."""
        return self._conversions.disk(model.sha256)

    def sweep(self) -> None:
        """Delete the copies of files that are gone, once the hashes of all files are known. Blocks."""
        installed = self._models.installed()
        if all(model.sha256 or model.broken or model.engine for model in installed):
            self._conversions.sweep(model.sha256 for model in installed)

    async def stop(self) -> None:
        tasks = [*self._background, *([self._gpu] if self._gpu else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._conversions.stop()

    async def on_card(self, model: ModelInfo) -> bool:
        """Whether it will run on the cards of this machine, and so take their memory."""
        wanted = self.tuning(model)
        if wanted.device == "cpu" or model.engine not in ("", *_MODULES.values()):
            return False
        engine = await self._engine(model, wanted)
        return wanted.device == "cuda" if engine == "ctranslate2" else await self._has_gpu()

    async def _engine(self, model: ModelInfo, wanted: Tuning) -> str:
        if model.engine:
            self._check(model)
            return model.engine
        if wanted.engine != "auto":
            return _MODULES[wanted.engine]
        if only := _only(model):
            return _MODULES[only]
        gpu = wanted.device != "cpu" and await self._has_gpu()
        return "whisper_cpp" if gpu else "ctranslate2"

    def _check(self, model: ModelInfo) -> None:
        """Raises ModelBroken where the owner wants an engine for it that cannot run it."""
        own = self._single.get(model.id, Tuning()).engine
        if own != "auto" and _MODULES[own] != model.engine:
            raise ModelBroken(f"{model.id} is of {model.engine}'s kind, which {own} cannot run: see `tuning`")

    async def _copy(self, model: ModelInfo, precision: Precision, wanted: Tuning) -> Path | None:
        """The folder to be loaded; None where whisper.cpp is to answer until it is there."""
        if model.engine == "ctranslate2":
            return model.path
        sha256 = model.sha256 or (await asyncio.to_thread(self._models.digest, model.id)).sha256
        known = replace(model, sha256=sha256)
        if wanted.engine == "auto" and model.size > _BACKGROUND:
            if copy := self._conversions.find(sha256, precision):
                return copy
            task = asyncio.create_task(self._in_background(known, precision))
            self._background.add(task)
            task.add_done_callback(self._background.discard)
            return None
        try:
            return await self._conversions.make(known, precision)
        except (ModelBroken, NoSpace, NotWritable) as error:
            if wanted.engine != "auto":
                raise
            log.warning("%s runs on whisper.cpp: %s", model.id, error)
            return None

    async def _in_background(self, model: ModelInfo, precision: Precision) -> None:
        try:
            await self._beside(model, precision)
        except SpeechError as error:
            log.warning("%s stays with whisper.cpp: %s", model.id, error)
            return
        log.info("%s is converted, and runs on CTranslate2 from its next load on", model.id)
        if self.converted:
            await self.converted(model)

    async def _beside(self, model: ModelInfo, precision: Precision, tell: Tell = lambda share: None) -> None:
        """Convert it while models may be at work, its memory booked. Raises what that and `make` do."""
        known = model if model.sha256 else await asyncio.to_thread(self._models.digest, model.id)
        need = convert.memory(await asyncio.to_thread(_header, known))
        async with self.memory.aside(need, f"converting {model.id}") if self.memory else nullcontext():
            await self._conversions.make(known, precision, tell)

    def _batch(self, copy: Path, loading: Loading) -> int:
        """Windows that go through together: as many as a quarter of the memory that is free has room for."""
        if self.memory is None or loading.device == "cuda":
            return BATCH
        room = self.memory.free() // _SHARE // loading.slots // window(ct2.check(copy))
        return max(1, min(BATCH, 1 + room))

    async def _has_gpu(self) -> bool:
        """Whether whisper.cpp, as it is built here, runs on a card of this machine."""
        self._gpu = self._gpu or asyncio.create_task(_gpu_build(self._empty))
        return await asyncio.shield(self._gpu)


_MODULES = {"whisper.cpp": "whisper_cpp", "ctranslate2": "ctranslate2"}
"""What people call an engine, and the file in `engines/` that it is."""


def window(header: Header) -> int:
    """Bytes that CTranslate2 takes for each window that it works on at a time, in full context.

    Measured: docs/engines.md. The encoder's attention, of every position to every other one, and what its
    layers hand on.
    """
    attention = header.audio_heads * header.audio_ctx**2
    states = header.audio_ctx * header.audio_state
    return 4 * (_ATTENTIONS * attention + _STATES * states) + _BESIDE


def _header(model: ModelInfo) -> Header:
    """Raises ModelBroken."""
    return ct2.check(model.path) if model.engine else ggml.read_header(model.path)


def _heads(model: ModelInfo) -> str:
    """Whose alignment heads tell whisper.cpp where words lie: none are known of others than OpenAI's models,
    and in contexts as short as the sound it does not compute them."""
    known = "" if model.short_context else alignment.model(ggml.read_header(model.path), model.path.stem)
    if not known:
        log.warning("%s has no alignment heads for whisper.cpp: its words are placed by the sound", model.id)
    return known


def _only(model: ModelInfo) -> str:
    """The one engine that can do all that the model can; empty where both can."""
    return "whisper.cpp" if "diarize" in model.capabilities else ""


def sharing(weights: int, cores: int, most: int, slots: int = 0) -> tuple[int, int]:
    """Slots and threads of each, for a model of so many bytes on CTranslate2; `slots`: as the owner wants.

    A small model has a slot for each core: more threads only slow it down. A larger one has twice as many
    threads as there are cores, so that a lone window is heard by several. When all slots are busy, that
    costs some: the larger the batches, the more (measured on 2 cores, derived for more: docs/performance.md).
    """
    if weights < SMALL:
        slots = slots or most
        return slots, max(1, cores // slots)
    slots = slots or min(most, max(_FEW, cores // _FEW))
    return slots, max(1, min(cores, 2 * cores // slots))


def _on_ctranslate2(wanted: Tuning, copy: Path, device: str, slots: int) -> Loading:
    cores = len(os.sched_getaffinity(0))
    slots, threads = sharing(_weights(copy), cores, slots, wanted.slots or (slots if device == "cuda" else 0))
    return Loading(
        engine="ctranslate2",
        path=copy,
        slots=slots,
        spare=0 if device == "cuda" else 1,
        most=slots,
        threads=wanted.threads or threads,
        device=device,
        devices=wanted.devices,
        compute_type=wanted.compute_type,
    )


def _weights(copy: Path) -> int:
    """Bytes of what is loaded."""
    file = copy / "model.bin"
    return file.stat().st_size if file.is_file() else 0


async def _gpu_build(empty: Path) -> bool:
    if not any(os.path.exists(card) for card in _CARDS):
        return False
    child = await Child[Devices].spawn("server.worker:devices", Devices, empty)
    try:
        return bool((await child.receive()).names)
    except ChildGone:
        return False
    finally:
        child.kill()
        await child.ended()
