"""Sound to windows: voice activity, and the cutting of a stream of speech in its silences.

Runs in reader processes. A frame is 512 samples (32 ms), the step in which voice activity is known; places
in the sound are counted in samples from the start of an unbroken stretch.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.media import Block, Pcm
from server.types import SAMPLE_RATE, Window, WindowShape

FRAME = 512
"""Samples of one step of voice activity."""
CONTEXT = 64
"""Samples before a frame that the model sees too."""
HYSTERESIS = 0.15
"""How far below the threshold of speech a frame's probability must fall to end it."""
SURE_SILENCE = 0.01
"""Probability below which a frame may end speech whatever the threshold."""
LEAST = int(0.25 * SAMPLE_RATE)
"""Samples that a span must have; shorter ones are clicks and coughs."""
PADDING = int(0.2 * SAMPLE_RATE)
"""Samples kept after a span: soft ends are below the threshold."""
WARM_UP = 4 * SAMPLE_RATE
"""Samples heard again before the place of a resumption: by then the model has forgotten its start."""
SEAM = 0.1
"""Seconds between two blocks from which they are not one stretch."""
OVERLAP = int(1.25 * SAMPLE_RATE)
"""Samples on both sides of a cut through speech that both windows have: no word is heard only in part."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a reading goes on that another one began: after its last window."""

    at: float = 0.0
    """Seconds on the media's axis at which that window ended; sound before it is not heard again."""
    index: int = 0
    """Index of the next window."""
    overlapped: float = 0.0
    """Seconds at that window's end that the next one begins with."""


class VoiceActivity:
    """Silero v6, as the package faster_whisper carries it, over a stream of sound."""

    def __init__(self) -> None:
        self._session = _session()
        self.forget()

    def forget(self) -> None:
        """Before sound that does not continue the last."""
        self._h: NDArray[np.float32] = np.zeros((1, 1, 128), np.float32)
        self._c: NDArray[np.float32] = np.zeros((1, 1, 128), np.float32)
        self._context: Pcm = np.zeros(CONTEXT, np.float32)

    def __call__(self, pcm: Pcm) -> NDArray[np.float32]:
        """Probability of speech in each frame, shape (n,); the sound, shape (512 n,), continues the last."""
        frames = pcm.reshape(-1, FRAME)
        before = np.concatenate([self._context[np.newaxis], frames[:-1, -CONTEXT:]])
        seen = np.concatenate([before, frames], axis=1)
        self._context = frames[-1, -CONTEXT:].copy()
        found, self._h, self._c = self._session.run(None, {"input": seen, "h": self._h, "c": self._c})
        return np.asarray(found, np.float32).reshape(-1)


@lru_cache(maxsize=1)
def _session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(_weights()), options, providers=["CPUExecutionProvider"])


def _weights() -> Path:
    """The model's file: the package that carries it is not imported, it would bring all of CTranslate2."""
    package = find_spec("faster_whisper")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError(
            "the package faster_whisper, which carries Silero's weights, is not installed"
        )
    return Path(package.submodule_search_locations[0], "assets", "silero_vad_v6.onnx")


def cut(blocks: Iterable[Block], shape: WindowShape, resume: Resume | None = None) -> Iterator[Window]:
    """The speech in `blocks` as windows in order of time, each as early as its end is known."""
    cutter = Cutter(shape, resume)
    for block in blocks:
        yield from cutter.feed(block)
    yield from cutter.finish()


class Cutter:
    """Cuts sound into windows as it arrives: the speech with short silences in it, no long ones.

    A window is closed at a pause once it has `shape.target` seconds, by a silence of `shape.gap`, by a gap in
    the sound, and before it would exceed `shape.longest`. Speech without a pause that long is cut where it is
    quietest, and both windows have what is around the cut: whoever joins them knows by `overlap`.
    """

    def __init__(
        self, shape: WindowShape, resume: Resume | None = None, voice: VoiceActivity | None = None
    ) -> None:
        resume = resume or Resume()
        self.position = 0.0
        """Seconds on the media's axis up to which the sound has been taken in."""
        self._shape = shape
        self._voice = voice or VoiceActivity()
        self._index = resume.index
        self._given_to = resume
        self._stretch: _Stretch | None = None

    def feed(self, block: Block) -> Iterator[Window]:
        """Takes a block in; the windows that are decided by it. To be exhausted before the next call."""
        if self._stretch is None or abs(block.start - self._stretch.end) > SEAM:
            yield from self.finish()
            self._voice.forget()
            self._stretch = _Stretch(self._voice, self._shape, block.start, self._given_to)
        self.position = block.end
        yield from self._number(self._stretch, self._stretch.feed(block.pcm))

    def finish(self) -> Iterator[Window]:
        """The windows left when no more sound follows."""
        stretch, self._stretch = self._stretch, None
        if stretch:
            yield from self._number(stretch, stretch.finish())

    def _number(self, stretch: "_Stretch", slices: Iterable["_Slice"]) -> Iterator[Window]:
        for slice in slices:
            window = slice.window(self._index, stretch.start)
            self._index += 1
            self._given_to = Resume(window.end, self._index, window.overlapped)
            yield window


def _bytes(pcm: Pcm) -> bytes:
    return np.clip(np.rint(pcm * 32768), -32768, 32767).astype("<i2").tobytes()


@dataclass(frozen=True, slots=True)
class _Slice:
    """A window in samples of its stretch."""

    start: int
    pcm: Pcm
    speech: tuple[tuple[int, int], ...]
    overlap: int
    overlapped: int

    def window(self, index: int, origin: float) -> Window:
        def seconds(place: int) -> float:
            return min(max(0, place - self.start), len(self.pcm)) / SAMPLE_RATE

        return Window(
            index=index,
            start=origin + self.start / SAMPLE_RATE,
            pcm=_bytes(self.pcm),
            speech=tuple((seconds(begin), seconds(end)) for begin, end in self.speech),
            overlap=self.overlap / SAMPLE_RATE,
            overlapped=self.overlapped / SAMPLE_RATE,
        )


class _Stretch:
    """Sound without a gap, and the speech in it that no window has yet."""

    def __init__(self, voice: VoiceActivity, shape: WindowShape, start: float, given_to: Resume) -> None:
        self.start = start
        """Seconds on the media's axis of its first sample."""
        self._voice = voice
        self._target = int(shape.target * SAMPLE_RATE)
        self._longest = int(shape.longest * SAMPLE_RATE)
        self._gap = int(shape.gap * SAMPLE_RATE)
        self._padding = int(shape.padding * SAMPLE_RATE)
        self._given = max(0, round((given_to.at - start) * SAMPLE_RATE))
        self._sound = _Sound(max(0, self._given - WARM_UP) // FRAME * FRAME)
        self._now = self._sound.first
        self._spans = _Spans(self._now, shape)
        self._window: tuple[int, int] | None = None
        """Start, and end of the last span, of the window that waits for more speech."""
        self._speech: list[tuple[int, int]] = []
        """The spans in it."""
        self._overlap = min(self._given, round(given_to.overlapped * SAMPLE_RATE))
        """Samples before `_given` that the next window has too."""

    @property
    def end(self) -> float:
        return self.start + self._sound.end / SAMPLE_RATE

    def feed(self, pcm: Pcm) -> Iterator[_Slice]:
        """The windows that are decided by this sound."""
        self._sound.add(pcm)
        whole = (self._sound.end - self._now) // FRAME * FRAME
        if whole > 0:
            yield from self._hear(self._sound[self._now : self._now + whole])
            self._sound.forget(self._wanted())

    def finish(self) -> Iterator[_Slice]:
        rest = self._sound[self._now : self._sound.end]
        if len(rest):
            yield from self._hear(np.pad(rest, (0, FRAME - len(rest))))
        if span := self._spans.finish(min(self._now, self._sound.end)):
            yield from self._join(*span)
        yield from self._give()

    def _hear(self, pcm: Pcm) -> Iterator[_Slice]:
        for probability in self._voice(pcm).tolist():
            self._now += FRAME
            if span := self._spans.hear(probability):
                yield from self._join(*span)
            elif self._spans.begun is not None:
                yield from self._outgrown(self._spans.begun)
            elif self._window and self._now - self._window[1] > self._gap:
                yield from self._give()

    def _join(self, begin: int, end: int) -> Iterator[_Slice]:
        """A span has ended: it goes into the window, which may be enough now."""
        if end <= self._given or end - begin < LEAST:
            return
        start = self._window[0] if self._window else self._padded(begin)
        self._window = (start, end)
        self._speech.append((begin, end))
        if end - start >= self._target:
            yield from self._give()

    def _outgrown(self, begin: int) -> Iterator[_Slice]:
        """The span that lasts no longer fits: the window leaves without it, or with the part that fits."""
        if self._window and self._now - self._window[0] > self._longest:
            yield from self._give()
        start = self._padded(begin)
        if not self._window and self._now - start > self._longest:
            overlap = min(OVERLAP, self._longest // 8)
            cut = start + self._quietest(self._sound[start : start + self._longest - overlap])
            self._window = (start, cut)
            self._speech = [(begin, cut + overlap)]
            yield from self._give(overlap, 2 * overlap)

    def _padded(self, begin: int) -> int:
        return max(begin - self._padding, self._given - self._overlap, self._sound.first)

    def _give(self, padding: int = PADDING, overlapped: int = 0) -> Iterator[_Slice]:
        """The window that waits leaves; its last `overlapped` samples will be the next one's first."""
        if not self._window:
            return
        (start, end), before = self._window, self._given
        speech, overlap = tuple(self._speech), min(self._overlap, max(0, before - start))
        self._window, self._speech, self._overlap = None, [], overlapped
        self._given = min(end + padding, self._sound.end)
        yield _Slice(start, self._sound[start : self._given], speech, overlap, overlapped)

    def _quietest(self, pcm: Pcm) -> int:
        """The sample in the last third around which 160 ms have the least energy."""
        third = len(pcm) * 2 // 3
        frames = pcm[third : third + (len(pcm) - third) // FRAME * FRAME].reshape(-1, FRAME)
        energy = np.convolve((frames**2).mean(axis=1), np.ones(5), "valid")
        return third + (int(energy.argmin()) + 2) * FRAME + FRAME // 2

    def _wanted(self) -> int:
        """The first sample that may still be needed."""
        if self._window:
            return self._window[0]
        begun = self._now if self._spans.begun is None else self._spans.begun
        return min(self._padded(begun), self._now)


class _Sound:
    """The part of a stretch's samples that is still needed, under its own numbers."""

    def __init__(self, first: int) -> None:
        self.first = first
        """The first sample that is kept, or will be: what comes before it is dropped as it comes."""
        self.end = 0
        """The sample behind the last one that came."""
        self._pcm: Pcm = np.zeros(0, np.float32)

    def add(self, pcm: Pcm) -> None:
        self.end += len(pcm)
        kept = pcm[max(0, len(pcm) - max(0, self.end - self.first)) :]
        self._pcm = np.concatenate([self._pcm, kept])

    def forget(self, before: int) -> None:
        self._pcm = self._pcm[before - self.first :]
        self.first = before

    def __getitem__(self, places: slice) -> Pcm:
        return self._pcm[places.start - self.first : places.stop - self.first]


class _Spans:
    """Spans of speech by hysteresis over the probabilities of frames."""

    def __init__(self, at: int, shape: WindowShape) -> None:
        self._speech = shape.threshold
        self._silence = max(shape.threshold - HYSTERESIS, SURE_SILENCE)
        self._pause = int(shape.pause * SAMPLE_RATE)
        self.begun: int | None = None
        """Where the span that lasts began; None in silence."""
        self._quiet: int | None = None
        self._at = at

    def hear(self, probability: float) -> tuple[int, int] | None:
        """Takes the next frame in; the span that is known to have ended by it."""
        frame = self._at
        self._at += FRAME
        if probability >= self._speech:
            self._quiet = None
            self.begun = frame if self.begun is None else self.begun
        elif probability < self._silence and self.begun is not None:
            self._quiet = frame if self._quiet is None else self._quiet
            if self._at - self._quiet >= self._pause:
                return self._take(self._quiet)
        return None

    def finish(self, end: int) -> tuple[int, int] | None:
        """The span that lasts when the sound ends at `end`."""
        return self._take(end if self._quiet is None else self._quiet)

    def _take(self, end: int) -> tuple[int, int] | None:
        begun, self.begun, self._quiet = self.begun, None, None
        return None if begun is None else (begun, end)
