"""Sound into files: PCM becomes mp3, opus, aac, flac, or PCM at another rate, while it is being made.

Runs in child processes only. What is encoded here was made here; nothing of it comes from strangers.
"""

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from server.errors import BadField
from server.types import Audio, Piece

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.filter import Graph

CODECS: dict[Audio, tuple[str, str, tuple[str, ...]]] = {
    "mp3": ("mp3", "s16p", ("libmp3lame", "libshine", "mp3_mf")),
    "opus": ("ogg", "s16", ("libopus",)),
    "aac": ("adts", "fltp", ("aac",)),
    "flac": ("flac", "s16", ("flac",)),
}
"""FFmpeg's container, sample format and encoders of each format; the first encoder that is there is taken."""

_OPTIONS = {
    # A header that is written before the end is known cannot be put right on a stream.
    "mp3": {"write_xing": "0", "id3v2_version": "0"},
    # A page a fifth of a second, so that sound leaves as it is made.
    "opus": {"page_duration": "200000"},
}

_BIT_RATES = {"mp3": 64_000, "opus": 48_000, "aac": 64_000}
"""Bits per second of mono speech."""

_CODEC_OPTIONS = {
    # Each frame by itself: it leaves a frame sooner than one that may borrow room from the next.
    "libmp3lame": {"reservoir": "0"},
}

_OPUS_RATE = 48_000

_SLOWEST_TEMPO = 0.5
"""FFmpeg's atempo goes no slower in one step."""


class Encoder:
    """One stream of sound on its way into a format."""

    def __init__(self, format: Audio, rate: int, wanted: int) -> None:
        """`rate` Hz come in, `wanted` Hz go out. Raises BadField where FFmpeg here has no such encoder."""
        self._format = format
        self._odd = b""
        self._rate = rate
        self._sink = io.BytesIO()
        self._open(_OPUS_RATE if format == "opus" else wanted)

    def _open(self, wanted: int) -> None:
        import av

        self._container: Any = None
        self._graph = _graph(self._rate, f"aformat=sample_fmts=s16:sample_rates={wanted}")
        if self._format not in CODECS:
            return
        container, sample_format, encoders = CODECS[self._format]
        codec = next((name for name in encoders if name in av.codecs_available), None)
        if codec is None:
            raise BadField(f"this server's FFmpeg cannot write {self._format}", "response_format")
        self._container = av.open(
            _Pipe(self._sink), "w", format=container, options=_OPTIONS.get(self._format, {})
        )
        self._stream: Any = self._container.add_stream(
            codec, rate=wanted, layout="mono", options=_CODEC_OPTIONS.get(codec, {})
        )
        self._stream.codec_context.format = sample_format
        if self._format in _BIT_RATES:
            self._stream.bit_rate = _BIT_RATES[self._format]
        self._stream.codec_context.open()
        size = self._stream.codec_context.frame_size or 4096
        steps = f"aformat=sample_fmts={sample_format}:sample_rates={wanted}:channel_layouts=mono"
        self._graph = _graph(self._rate, f"{steps},asetnsamples=n={size}:p=0")

    def feed(self, pcm: bytes) -> bytes:
        """What of the file is ready after this sound, which is int16 mono."""
        pcm = self._odd + pcm
        whole = len(pcm) & ~1
        self._odd, pcm = pcm[whole:], pcm[:whole]
        if pcm:
            self._graph.push(_frame(pcm, self._rate))
            self._drain()
        return self._taken()

    def finish(self) -> bytes:
        """The rest of the file."""
        self._graph.push(None)
        self._drain()
        if self._container:
            self._container.mux(self._stream.encode(None))
            self._container.close()
        return self._taken()

    def _drain(self) -> None:
        for frame in _pulled(self._graph):
            if self._container:
                frame.pts = None
                self._container.mux(self._stream.encode(frame))
            else:
                self._sink.write(frame.to_ndarray().tobytes())

    def _taken(self) -> bytes:
        taken = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return taken


class _Pipe:
    """A file to write to that cannot go back, so that nothing already sent is put right later."""

    def __init__(self, sink: io.BytesIO) -> None:
        self.write = sink.write

    def seekable(self) -> bool:
        return False


class Shaper:
    """A piece's sound as it is asked for: the speed that its engine lacks, its volume, the pause after it."""

    def __init__(self, piece: Piece, sample_rate: int, speeds: tuple[float, float]) -> None:
        slowest, fastest = speeds
        native = min(max(piece.speed, slowest), fastest)
        self.piece = replace(piece, speed=native)
        """What the engine is to say."""
        self._volume = piece.volume
        self._rate = sample_rate
        self._pause = bytes(round(piece.pause * sample_rate) * 2)
        factor = piece.speed / native
        self._tempo = _graph(sample_rate, _tempo(factor)) if abs(factor - 1) > 0.01 else None

    def shaped(self, pcm: bytes) -> bytes:
        if self._tempo:
            self._tempo.push(_frame(pcm, self._rate))
            pcm = self._stretched()
        return pcm if self._volume == 1 else _louder(pcm, self._volume)

    def last(self) -> bytes:
        """What the stretching held back, and the pause."""
        rest = b""
        if self._tempo:
            self._tempo.push(None)
            rest = self._stretched()
        return (rest if self._volume == 1 else _louder(rest, self._volume)) + self._pause

    def _stretched(self) -> bytes:
        assert self._tempo
        return b"".join(frame.to_ndarray().tobytes() for frame in _pulled(self._tempo))


def _tempo(factor: float) -> str:
    steps = []
    while factor < _SLOWEST_TEMPO:
        steps.append(f"atempo={_SLOWEST_TEMPO}")
        factor /= _SLOWEST_TEMPO
    return ",".join([*steps, f"atempo={factor:.4f}", "aformat=sample_fmts=s16"])


def _louder(pcm: bytes, factor: float) -> bytes:
    scaled = np.frombuffer(pcm, "<i2").astype(np.float32) * np.float32(factor)
    return bytes(np.clip(scaled, -32768, 32767).astype("<i2"))


def _graph(rate: int, steps: str) -> "Graph":
    """A chain of FFmpeg's filters over int16 mono sound."""
    from av.filter import Graph

    graph = Graph()
    nodes = [
        graph.add(
            "abuffer",
            sample_rate=str(rate),
            sample_fmt="s16",
            channel_layout="mono",
            time_base=f"1/{rate}",
        )
    ]
    for step in steps.split(","):
        name, _, arguments = step.partition("=")
        nodes.append(graph.add(name, arguments))
    graph.link_nodes(*nodes, graph.add("abuffersink"))
    graph.configure()
    return graph


def _frame(pcm: bytes, rate: int) -> "AudioFrame":
    from av.audio.frame import AudioFrame

    frame = AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2")[np.newaxis], format="s16", layout="mono")
    frame.sample_rate = rate
    return frame


def _pulled(graph: "Graph") -> "Iterator[AudioFrame]":
    """What the graph has ready: it says "not yet" and "no more" by errors."""
    try:
        while True:
            frame: Any = graph.pull()
            yield frame
    except (BlockingIOError, EOFError):
        return
