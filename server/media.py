"""Media to sound: a file of any real container and codec becomes blocks of mono PCM at 16 kHz.

Runs in reader processes only: what is decoded here was sent by strangers. The way of the sound:
file → packets → frames → groups of frames → resampled blocks. Each step is a generator, so that memory
stays flat however long the media is.
"""

import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, tee
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Self

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.plane import AudioPlane
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.filter import Graph
from av.packet import Packet
from numpy.typing import NDArray

from server.errors import NoAudio, NotMedia, TooLarge, TooShort
from server.types import SAMPLE_RATE, MediaEnd, MediaInfo, RawSound

Pcm = NDArray[np.float32]

BLOCK = 1.0
"""Seconds of sound that are resampled at once."""
GAP = 0.3
"""Seconds that a timestamp may run ahead before it counts as a gap in the sound."""
PRIMING = 0.1
"""Seconds by which codecs start late; a smaller offset is not one of the media."""
SHORTEST = 0.1
"""Seconds of sound below which there is nothing to hear."""
SAMPLE_RATES = range(2_000, 768_001)
"""Sample rates that sound has; others only cost time and memory."""
CANCELLED = 0.05
"""Share of the quieter channel's energy below which two channels cancel each other when they are mixed."""
THINNED = 7
"""Samples of which one is looked at for that."""
MIXED_CHANNELS = 8
"""Channels up to which libswresample's guess at an unknown layout is a usual one."""

FORMATS = (
    "3g2,3gp,aa,aac,ac3,aea,aiff,amr,amrnb,amrwb,ape,asf,asf_o,ast,au,avi,avr,bonk,caf,codec2,dsf,dss,dts,"
    "dtshd,dv,eac3,epaf,flac,flv,g729,gsm,gxf,hcom,iff,ilbc,ircam,ivr,kux,lc3,live_flv,loas,m4a,"
    "matroska,mj2,mlp,mmf,mov,mp3,mp4,mpc,mpc8,mpeg,mpegts,msf,mtaf,mxf,nistsphere,nsv,nut,nuv,ogg,oma,"
    "osq,paf,pva,pvf,qcp,qoa,rka,rm,rso,sbc,sds,shn,smjpeg,sox,spdif,swf,tak,truehd,tta,ty,voc,vqf,w64,wav,"
    "wavarc,webm,wsd,wtv,wv,wve,xa,xwma"
)
"""FFmpeg's demuxers that are taken: files that hold sound in themselves. What is missing is missing on
purpose: playlists and scripts (concat, hls, dash, imf, sdp), pictures and text, devices, whatever opens a
second file, and headerless formats, which are recognised by file names only."""

OPTIONS = {
    "format_whitelist": FORMATS,
    # No protocol has this name.
    "protocol_whitelist": "none",
    # MOV's references to other files; the other formats ignore this option.
    "enable_drefs": "0",
    # MP4 with its index in front is then read as it comes, not searched to its end first.
    "fflags": "+ignidx",
}

METADATA: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_encoding": "latin-1"}
"""Before PyAV 19, text that isn't UTF-8 in a tag refuses the file; as Latin-1 any bytes can be read."""

_LINEAR = re.compile(rb"(RIFF|RF64|BW64)....WAVE|FORM....AIF[FC]|\x1aE\xdf\xa3|riff\x2e\x91", re.DOTALL)
"""Formats read from front to back: were they given a way to seek, FFmpeg would first go and look behind the
sound for tags, and so wait for the end of an upload."""

_QUICKTIME = re.compile(rb"....(ftyp|moov|mdat|wide|free|skip|pnot)", re.DOTALL)

_DISCARD: Any = getattr(av.stream, "Discard", None)
"""PyAV 16 cannot discard in the demuxer; it then skips the other tracks' packets one step later."""

_MOST_CHUNKS = 64
_MOST_BLOCKS = 2**20
_LARGEST = 2**37
"""Bytes beyond which a chunk's size of 64 bits is one that programs write before they know it."""
_FARTHEST = 2**43
"""Bytes of the largest file that there can be: systems refuse to look beyond."""
_W64 = bytes.fromhex("72696666 2e91cf11 a5d628db 04c10000")
_W64_FMT, _W64_DATA = (name + bytes.fromhex("f3acd311 8cd100c0 4f8edb8a") for name in (b"fmt ", b"data"))
_OGG_PAGE = 27 + 255 + 255 * 255
"""Bytes of the largest page: header, segment table, segments (RFC 3533, section 6)."""
_OGG_LAST = 0x04
"""The flag of a logical stream's last page."""
_PCM_TAGS = (0x0001, 0x0003, 0x0006, 0x0007, 0xFFFE)
_MP3_RATES = {
    3: (44_100, 48_000, 32_000, 1),
    2: (22_050, 24_000, 16_000, 1),
    0: (11_025, 12_000, 8_000, 1),
    1: (1, 1, 1, 1),
}
"""By MPEG version and index, as in a frame's header; 1 is reserved ones'."""

_DTYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
"""NumPy's types of FFmpeg's sample formats, packed or planar."""

_DEFAULT = 1
"""FFmpeg's disposition of the track to be played unless another is asked for."""

_TS_DISCONT = 0x0200
"""FFmpeg's flag of formats whose timestamps start anywhere (MPEG-TS, MPEG-PS, Ogg)."""

# Whisper's languages: ISO-639-1 and the ISO-639-2 codes that media carry.
_LANGUAGES = """
af afr|am amh|ar ara|as asm|az aze|ba bak|be bel|bg bul|bn ben|bo bod tib|br bre|bs bos|ca cat|cs ces cze
cy cym wel|da dan|de deu ger|el ell gre|en eng|es spa|et est|eu eus baq|fa fas per|fi fin|fo fao|fr fra fre
gl glg|gu guj|ha hau|haw|he heb iw|hi hin|hr hrv scr|ht hat|hu hun|hy hye arm|id ind in|is isl ice|it ita
ja jpn|jw jav jv|ka kat geo|kk kaz|km khm|kn kan|ko kor|la lat|lb ltz|ln lin|lo lao|lt lit|lv lav|mg mlg
mi mri mao|mk mkd mac|ml mal|mn mon|mr mar|ms msa may|mt mlt|my mya bur|ne nep|nl nld dut|nn nno|no nor nob nb
oc oci|pa pan|pl pol|ps pus|pt por|ro ron rum mo mol|ru rus|sa san|sd snd|si sin|sk slk slo|sl slv|sn sna
so som|sq sqi alb|sr srp scc|su sun|sv swe|sw swa|ta tam|te tel|tg tgk|th tha|tk tuk|tl tgl fil|tr tur|tt tat
uk ukr|ur urd|uz uzb|vi vie|yi yid ji|yo yor|yue|zh zho chi cmn
"""
_CODES = {
    code: codes.split()[0] for codes in re.split(r"[|\n]", _LANGUAGES.strip()) for code in codes.split()
}

# In a reader process nobody looks at FFmpeg's log; what matters of it becomes errors and warnings.
av.logging.set_level(None)


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of sound without a gap, usually about a second."""

    start: float
    """Seconds on the media's axis at which its first sample lies."""
    pcm: Pcm
    """float32 mono in [-1, 1], shape (n,), n > 0."""
    channel: int | None = None
    """Which one it is of, counted from 0; None: all of them mixed."""
    rate: int = SAMPLE_RATE
    """Samples per second."""

    @property
    def end(self) -> float:
        return self.start + len(self.pcm) / self.rate

    def before(self, at: float) -> "Iterator[Block]":
        """What lies before that second, if anything does."""
        pcm = self.pcm[: max(0, round((at - self.start) * self.rate))]
        if len(pcm):
            yield replace(self, pcm=pcm)


def open_media(
    file: BinaryIO,
    audio_track: str | None = None,
    longest: float = 12 * 3600,
    raw: RawSound | None = None,
    *,
    by_channel: bool = False,
    rate: int = SAMPLE_RATE,
) -> "Media":
    """Opens media for one reading from front to back.

    `file` may still grow: its `read` waits for bytes, and only formats whose index lies behind the sound
    wait for more than they decode. `audio_track` is a number counted from 0 among the audio tracks or a
    language tag ("en", "eng", "en-US"); without it the best track is taken: the default one, then that of
    most channels, then of the highest bit rate. With `by_channel` its channels are not mixed. `longest` is in
    seconds. `raw`: the file has no header, and all of it is samples. `rate`: of the blocks, in Hz.

    Raises NotMedia, NoAudio, and TooLarge where the file itself says that it is longer than `longest`.
    Whatever `file` raises comes through.
    """
    source = _Source(file)
    stated = None if raw else source.seconds()
    container = _open_raw(source, raw) if raw else _open(source)
    try:
        stream = _choose(container, audio_track)
        return Media(source, container, stream, longest, stated, by_channel, rate)
    except BaseException:
        container.close()
        raise


class Media:
    """One audio track of an open file; made by `open_media`."""

    info: MediaInfo

    def __init__(
        self,
        source: "_Source",
        container: InputContainer,
        stream: AudioStream,
        longest: float,
        stated: float | None,
        by_channel: bool,
        rate: int,
    ) -> None:
        self._rate = rate
        self._source = source
        self._container = container
        self._stream = stream
        self._longest = longest
        self._by_channel = by_channel
        self._axis = _Axis(_origin(container), longest)
        track_end = stated or _declared_end(container, stream)
        whole_end = container.duration / av.time_base if container.duration else None
        self._declared = track_end or whole_end
        self._by_others = track_end is None and whole_end is not None
        """Whether the file says how long it is, but not how long this track is."""
        self._damaged = 0
        self._broken = False
        self._samples = 0
        self._read_to = 0.0
        self._others_to = 0.0
        self._end: MediaEnd | None = None
        self.info = _info(container, stream, self._declared)
        _refuse_absurd(self.info.sample_rate)
        self._refuse_longer(self.info.duration or 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._container.close()

    def blocks(self, until: float | None = None) -> Iterator[Block]:
        """The sound in order of time, up to the second `until` where that is given.

        Where timestamps jump ahead, the next block starts later. Blocks of several channels come by turns.

        Packets that cannot be decoded are left out and counted. Raises NotMedia if none can be, TooShort if
        there is less than a tenth of a second, TooLarge when the sound goes on beyond `longest`.
        """
        for blocks in self._stretches():
            block = blocks[0]
            if until is not None and block.end >= until:
                for one in blocks:
                    yield from one.before(until)
                self._end = MediaEnd(until)
                return
            if block.end > self._longest + BLOCK:
                limit = _readable(self._longest)
                raise TooLarge(f"the media has more sound than the {limit} that this server takes")
            self._samples += len(block.pcm)
            self._read_to = block.end
            yield from blocks
        self._finish()

    def _stretches(self) -> "Iterator[tuple[Block, ...]]":
        """A block, or one of each channel, of the same stretch."""
        groups = _group(self._frames(), self._axis)
        if self._by_channel:
            return _separated(groups, self._rate)
        return ((block,) for block in _resample(_audible(groups), self._rate))

    @property
    def end(self) -> MediaEnd:
        """What is known now that `blocks()` is exhausted; before that, a RuntimeError.

        A file that broke off has a warning if it says how long it is, as most do, or marks its end, as Ogg
        and VOC do. It cannot be told from a whole one in formats that do neither: MPEG-TS and MPEG-PS, ADTS,
        AC-3, AMR, MP3 without a Xing header, live Matroska and FLV, and whatever states no size (W64 and CAF
        too).
        """
        if self._end is None:
            raise RuntimeError("the media has not been read to its end")
        return self._end

    def _frames(self) -> Iterator[AudioFrame]:
        for packet in self._packets():
            try:
                yield from packet.decode()
            except av.FFmpegError:
                # The packet that only empties the decoder at the end holds nothing to lose.
                self._damaged += packet.size > 0

    def _packets(self) -> "Iterator[Packet[AudioStream]]":
        try:
            # PyAV ends with an IndexError where tracks were found only on the way.
            with suppress(IndexError):
                yield from self._all_tracks() if self._by_others else self._one_track()
        except av.FFmpegError:
            self._broken = True

    def _one_track(self) -> "Iterator[Packet[AudioStream]]":
        for other in self._container.streams:
            if _DISCARD and other.index != self._stream.index:
                other.discard = _DISCARD.all
        return self._container.demux(self._stream)

    def _all_tracks(self) -> "Iterator[Packet[Any]]":
        """Only by its other tracks can a film that breaks off be told from one that falls silent."""
        for packet in self._container.demux():
            if packet.stream is self._stream:
                yield packet
            elif packet.pts is not None:
                self._others_to = max(self._others_to, packet.pts * float(packet.time_base))

    def _finish(self) -> None:
        at = max(self._axis.at or 0.0, self._read_to)
        short = self._is_short(max(at, self._others_to))
        if not self._samples and (short or self._damaged or self._broken):
            raise NotMedia("no sound could be decoded from the media: it is damaged or cut off")
        seconds = self._samples / self._rate
        if seconds < SHORTEST:
            raise TooShort(f"the media has {seconds:.2f} s of sound; at least {SHORTEST} s is needed")
        self._end = MediaEnd(at, tuple(self._warnings(at, short)))

    def _fault(self) -> str | None:
        """What the file's end lacks, in formats that mark it."""
        faults = {"ogg": self._source.ogg_fault, "voc": self._source.voc_fault}
        fault = faults.get(self._container.format.name)
        return fault() if fault and not self._broken else None

    def _is_short(self, at: float) -> bool:
        return self._declared is not None and self._declared - at > max(1.0, 0.02 * self._declared)

    def _warnings(self, at: float, short: bool) -> Iterator[str]:
        if short:
            yield f"the media breaks off at {at:.1f} s of {self._declared:.1f} s"
        elif fault := self._fault():
            yield f"the media breaks off at {at:.1f} s: {fault}"
        elif self._broken and self._declared is None:
            # Else all that was declared has been heard, and FFmpeg stumbled over a tag at the end.
            yield f"the media cannot be read any further than {at:.1f} s"
        if self._damaged:
            packets = "packet was" if self._damaged == 1 else "packets were"
            yield f"{self._damaged} damaged {packets} left out"

    def _refuse_longer(self, duration: float) -> None:
        if duration > self._longest + BLOCK:
            limit = _readable(self._longest)
            raise TooLarge(f"the media is {_readable(duration)} long; this server takes at most {limit}")


class _Source:
    """The file as FFmpeg is shown it: no name, no end, and no way back in formats that are read linearly."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.head = self._at(0, 16)
        file.seek(0)
        if not self.head:
            raise NotMedia("the file is empty")

    def seconds(self) -> float | None:
        """The length by the header of WAV, W64, CAF and MP3, for which FFmpeg would ask the file's size as
        well."""
        if self.head[8:12] == b"WAVE":
            seconds = self._wav_seconds()
        elif self.head == _W64:
            seconds = self._w64_seconds()
        elif self.head.startswith(b"caff"):
            seconds = self._caf_seconds()
        else:
            seconds = self._mp3_seconds()
        self._file.seek(0)
        return seconds

    def _wav_seconds(self) -> float | None:
        at, per_second, long_size = 12, 0, 0
        for _ in range(_MOST_CHUNKS):
            name, size = struct.unpack("<4sI", self._at(at, 8).ljust(8, b"\0"))
            if name == b"data":
                size = long_size or (0 if _is_unknown(size) else size)
                return size / per_second if size and per_second else None
            if name == b"fmt ":
                per_second = self._pcm_rate(at + 8)
            elif name == b"ds64":
                long_size = int.from_bytes(self._at(at + 16, 8), "little")
            at += 8 + size + size % 2
        return None

    def _w64_seconds(self) -> float | None:
        """Sony's Wave64: sizes count the chunk's own header of 24 bytes, and chunks lie on multiples of 8."""
        at, per_second = 40, 0
        for _ in range(_MOST_CHUNKS):
            name, size = struct.unpack("<16sQ", self._at(at, 24).ljust(24, b"\0"))
            if not 24 < size < _LARGEST:
                return None
            if name == _W64_DATA:
                return (size - 24) / per_second if per_second else None
            if name == _W64_FMT:
                per_second = self._pcm_rate(at + 24)
            at += size + -size % 8
        return None

    def _caf_seconds(self) -> float | None:
        """Apple's Core Audio Format: a size of -1 is unknown, and the sound comes after an edit count."""
        at, per_second = 8, 0.0
        for _ in range(_MOST_CHUNKS):
            name, size = struct.unpack(">4sq", self._at(at, 12).ljust(12, b"\0"))
            if not 0 <= size < _LARGEST:
                return None
            if name == b"data":
                return (size - 4) / per_second if size > 4 and per_second else None
            if name == b"desc":
                rate, packet, frames = struct.unpack(">d8xII", self._at(at + 12, 24).ljust(24, b"\0"))
                is_known = SAMPLE_RATES.start <= rate < SAMPLE_RATES.stop and frames
                per_second = rate * packet / frames if is_known else 0.0
            at += 12 + size
        return None

    def _pcm_rate(self, at: int) -> int:
        """Bytes a second by the WAVEFORMATEX there; 0 if it isn't PCM."""
        tag, rate, align = struct.unpack("<H2xI4xH", self._at(at, 14).ljust(14, b"\0"))
        return int(rate * align) if tag in _PCM_TAGS else 0

    def _mp3_seconds(self) -> float | None:
        at = 0
        if self.head.startswith(b"ID3"):
            a, b, c, d = self.head[6:10].ljust(4, b"\0")
            at = 10 + (a << 21 | b << 14 | c << 7 | d)
        frame = self._at(at, 192)
        if not (
            tag := re.match(rb"\xff[\xe0-\xff].{2}.{9,32}?(?:Xing|Info)\0{3}[\x01-\x0f]", frame, re.DOTALL)
        ):
            return None
        if not tag[0][-1] & 1:
            return None
        kind, rate = frame[1] >> 3 & 3, frame[2] >> 2 & 3
        samples = int.from_bytes(frame[tag.end() : tag.end() + 4]) * (1152 if kind == 3 else 576)
        return samples / _MP3_RATES[kind][rate] or None

    def ogg_fault(self) -> str | None:
        """What an Ogg that has been read to its end lacks there; None if it is whole.

        Every logical stream has its last page marked (RFC 3533, section 6), so the file's last page is marked
        however many streams there are. Recorders of live streams may leave the mark out.
        """
        # Twice, as something else may come after it: FFmpeg gives up where it finds no page for one's length.
        tail = self._at(max(0, self._file.tell() - 2 * _OGG_PAGE), 2 * _OGG_PAGE)
        page = tail[tail.rfind(b"OggS\0") :]
        if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
            return "its last page is incomplete"
        return None if page[5] & _OGG_LAST else "its last page is missing"

    def voc_fault(self) -> str | None:
        """What a Creative Voice that has been read to its end lacks there; None if it is whole.

        It is a chain of blocks, each with its type and its size, to one of type 0.
        """
        place = int.from_bytes(self._at(20, 2), "little")
        for _ in range(_MOST_BLOCKS):
            block = self._at(place, 4)
            if not block:
                return "its last block is missing"
            if not block[0]:
                return None
            place += 4 + int.from_bytes(block[1:], "little")
            if len(block) < 4 or not self._at(place - 1, 1):
                return "its last block is incomplete"
        return None

    def _at(self, place: int, size: int) -> bytes:
        self._file.seek(place)
        found = b""
        while len(found) < size and (more := self._file.read(size - len(found))):
            found += more
        return found

    def seekable(self) -> bool:
        return not _LINEAR.match(self.head)

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        # A file that still grows has no end, and durations guessed from a size are not the file's own.
        return -1 if whence == 2 or not 0 <= offset < _FARTHEST else self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _open(source: _Source) -> InputContainer:
    try:
        container: InputContainer = av.open(
            source, "r", container_options=OPTIONS, io_open=_refuse, **METADATA
        )
    except av.FFmpegError as error:
        if _QUICKTIME.match(source.head):
            raise NotMedia("the MP4's index (moov) is missing or broken: was the upload cut off?") from error
        if source.head.startswith(b"OggS"):
            raise NotMedia(
                "the Ogg is damaged or breaks off before its first sound: was the upload cut off?"
            ) from error
        if source.head.startswith(b"caff"):
            raise NotMedia(
                "the CAF is damaged or its packet table is missing: was the upload cut off?"
            ) from error
        raise NotMedia("the file is not of an audio or video format that this server takes") from error
    return container


def _open_raw(source: _Source, raw: RawSound) -> InputContainer:
    container: InputContainer = av.open(
        source,
        "r",
        format=raw.encoding,
        container_options={
            **OPTIONS,
            "format_whitelist": raw.encoding,
            "sample_rate": str(raw.rate),
            "ch_layout": "mono",
        },
        io_open=_refuse,
        **METADATA,
    )
    return container


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise NotMedia("the media refers to another file")


def _choose(container: InputContainer, wanted: str | None) -> AudioStream:
    """The track that was asked for, or else the best."""
    tracks = container.streams.audio
    if not tracks:
        raise NoAudio("the media has no audio")
    fitting = [track for place, track in enumerate(tracks) if not wanted or _fits(track, place, wanted)]
    if not fitting:
        raise NoAudio(f"the media has no audio track {wanted!r}; it has {_listed(tracks)}")
    best = max(fitting, key=_merit)
    if best.codec_context is None:
        raise NotMedia(f"this server has no decoder for the media's audio codec: {_codec(container, best)}")
    return best


def _fits(track: AudioStream, place: int, wanted: str) -> bool:
    if wanted.strip().isdecimal():
        return place == int(wanted)
    language = _language(wanted)
    return bool(language) and language == _language(_tag(track))


def _tag(track: AudioStream) -> str:
    """The track's language tag, fit to be shown."""
    return track.metadata.get("language", "").encode("ascii", "replace").decode()[:20]


def _language(tag: str) -> str:
    """The language without region and script, one code for the several that it has."""
    main = re.split(r"[-_]", tag.strip().lower())[0]
    return _CODES.get(main, main)


def _merit(track: AudioStream) -> tuple[bool, bool, int, int, int]:
    codec = track.codec_context
    if codec is None:
        return (False, False, 0, 0, -track.index)
    return (
        True,
        _has(track.disposition, _DEFAULT),
        codec.layout.nb_channels,
        codec.bit_rate or 0,
        -track.index,
    )


def _listed(tracks: Iterable[AudioStream]) -> str:
    return ", ".join(f"{place} ({_tag(track) or 'no language'})" for place, track in enumerate(tracks))


def _codec(container: InputContainer, stream: AudioStream) -> str:
    """The name or number of a codec without a decoder: only FFmpeg's own description gives it, as a log."""
    av.logging.set_level(av.logging.INFO)
    described: str = container.dumps_format()  # type: ignore[attr-defined]
    av.logging.set_level(None)
    line = re.search(rf"Stream #0:{stream.index}\b.*?Audio: (\w+)(?:.*?(0x\w+))?", described)
    if not line:
        return "unknown"
    return f"number {line[2]}" if line[1] in ("none", "unknown") else line[1]


def _info(container: InputContainer, stream: AudioStream, declared: float | None) -> MediaInfo:
    return MediaInfo(
        duration=declared,
        container=container.format.name,
        codec=stream.codec_context.name,
        sample_rate=stream.codec_context.sample_rate,
        channels=stream.codec_context.layout.nb_channels,
    )


def _declared_end(container: InputContainer, stream: AudioStream) -> float | None:
    """Where the track ends by the file's own word, in seconds on the media's axis; None if it has none."""
    origin = _origin(container)
    if stream.duration and stream.time_base:
        return ((stream.start_time or 0) + stream.duration) * float(stream.time_base) - origin
    if tag := re.match(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    return None


def _is_unknown(size: int) -> bool:
    """Whether this is one of the sizes that programs write into a WAV header before they know it."""
    return any(0 <= unknown - size < 2**16 for unknown in (2**31, 2**32))


def _origin(container: InputContainer) -> float:
    """Seconds to subtract from timestamps, in formats where they start anywhere."""
    anywhere = _has(container.format.flags, _TS_DISCONT)
    return (container.start_time or 0) / av.time_base if anywhere else 0.0


def _has(flags: Any, bit: int) -> bool:
    """PyAV has flags as numbers, or as enumerations of either kind, by its version."""
    return bool(getattr(flags, "value", flags) & bit)


class _Axis:
    """Where decoding stands on the media's axis, by the timestamps where they make sense."""

    def __init__(self, origin: float, longest: float) -> None:
        self.at: float | None = None
        """Seconds at which the next frame is expected; None before the first."""
        self._origin = origin
        self._longest = longest

    def places(self, frame: AudioFrame) -> tuple[float, bool] | None:
        """The second at which this frame starts and whether that is apart from the last; None: drop it."""
        lasts = frame.samples / frame.sample_rate
        time = self._time(frame)
        if time + lasts <= 0:
            return None
        apart = self.at is None or time - self.at > GAP
        start = max(time, 0.0) if apart or self.at is None else self.at
        self.at = start + lasts
        return start, apart

    def _time(self, frame: AudioFrame) -> float:
        expected = self.at or 0.0
        if frame.time is None:
            return expected
        time = frame.time - self._origin
        if self.at is None and (0 < time < PRIMING or not -1 <= time <= self._longest):
            self._origin += time
            return 0.0
        return time if time <= self._longest and (self.at is None or time > expected) else expected


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbouring frames of one shape."""

    start: float
    """Seconds on the media's axis."""
    apart: bool
    """Whether there is a gap before it."""
    shape: tuple[str, str, int, int]
    """Sample format, layout, channels, rate."""
    frames: list[AudioFrame]


def _group(frames: Iterable[AudioFrame], axis: _Axis) -> Iterator[_Group]:
    """Joins frames to about a second: filter graphs cost per call, not per sample."""
    group: _Group | None = None
    for frame in frames:
        if not frame.samples or (place := axis.places(frame)) is None:
            continue
        start, apart = place
        shape = _shape(frame)
        if group and (apart or shape != group.shape or start - group.start >= BLOCK):
            yield group
            group = None
        group = group or _Group(start, apart, shape, [])
        group.frames.append(frame)
    if group:
        yield group


def _shape(frame: AudioFrame) -> tuple[str, str, int, int]:
    return frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate


def _audible(groups: Iterable[_Group]) -> Iterator[_Group]:
    """The groups; of two channels of opposite polarity, of which mixing leaves nothing, only the first."""
    for group in groups:
        opposite = group.shape[2] == 2 and _opposite(group.frames)
        yield _of_channel(0, group) if opposite else group


def _opposite(frames: Iterable[AudioFrame]) -> bool:
    sound = np.concatenate([_channels(frame)[:, ::THINNED] for frame in frames], axis=1)
    values = _floats(sound)
    with np.errstate(all="ignore"):  # floats can be no numbers
        left = float((values.mean(axis=0) ** 2).mean())
        return left < CANCELLED * float((values**2).mean(axis=1).min())


def _resample(groups: Iterable[_Group], rate: int) -> Iterator[Block]:
    resampler: _Resampler | None = None
    for group in groups:
        if resampler is None or group.apart or group.shape != resampler.shape:
            if resampler:
                yield from resampler.drain()
            resampler = _Resampler(group, rate)
        yield from resampler.feed(group.frames)
    if resampler:
        yield from resampler.drain()


def _separated(groups: Iterator[_Group], rate: int) -> Iterator[tuple[Block, ...]]:
    """The blocks of each channel; a later change of their number repeats or leaves out the last ones."""
    first = next(groups, None)
    if first is None:
        return
    count = first.shape[2]
    if count > MIXED_CHANNELS:
        raise NotMedia(f"the media has {count} channels; at most {MIXED_CHANNELS} can be heard one by one")
    copies = tee(chain((first,), groups), count)
    channels = (_resample(_only(channel, copy), rate) for channel, copy in enumerate(copies))
    for blocks in zip(*channels, strict=True):
        yield tuple(replace(block, channel=channel) for channel, block in enumerate(blocks))


def _only(channel: int, groups: Iterable[_Group]) -> Iterator[_Group]:
    for group in groups:
        yield _of_channel(channel, group)


def _of_channel(channel: int, group: _Group) -> _Group:
    frames = [_mono(values[min(channel, len(values) - 1)], frame) for frame, values in _valued(group)]
    return _Group(group.start, group.apart, _shape(frames[0]), frames)


def _valued(group: _Group) -> Iterator[tuple[AudioFrame, NDArray[np.float64]]]:
    for frame in group.frames:
        yield frame, _floats(_channels(frame))


def _mono(values: NDArray[np.float64], frame: AudioFrame) -> AudioFrame:
    """A channel of a frame, or the mean of several."""
    mono = AudioFrame.from_ndarray(values.astype(np.float32)[np.newaxis], format="flt", layout="mono")
    mono.sample_rate = frame.sample_rate
    return mono


class _Resampler:
    """Turns sound of one shape without gaps into mono of one rate."""

    def __init__(self, first: _Group, rate: int) -> None:
        self._rate = rate
        self.shape = first.shape
        _refuse_absurd(first.shape[-1])
        self._start = first.start
        self._made = 0
        self._graph, self._averages = _mixer(first.frames[0], rate)

    def feed(self, frames: Iterable[AudioFrame]) -> Iterator[Block]:
        for frame in frames:
            self._graph.push(_average(frame) if self._averages else frame)
        yield from self._blocks()

    def drain(self) -> Iterator[Block]:
        """The last samples, held back by the filter."""
        self._graph.push(None)
        yield from self._blocks()

    def _blocks(self) -> Iterator[Block]:
        parts = list(_pull(self._graph))
        if parts:
            pcm = _clean(np.concatenate(parts))
            yield Block(self._start + self._made / self._rate, pcm, rate=self._rate)
            self._made += len(pcm)


def _mixer(frame: AudioFrame, rate: int) -> tuple[Graph, bool]:
    """A graph that mixes and resamples, and whether the channels are to be averaged before."""
    unknown = frame.layout.name.endswith("channels") and frame.layout.nb_channels > MIXED_CHANNELS
    with suppress(av.FFmpegError):
        if not unknown:
            return _graph(frame, rate), False
    return _graph(_average(frame), rate), True


def _graph(frame: AudioFrame, rate: int) -> Graph:
    graph = Graph()
    graph.link_nodes(
        graph.add(
            "abuffer",
            sample_rate=str(frame.sample_rate),
            sample_fmt=frame.format.name,
            channel_layout=frame.layout.name,
            time_base=f"1/{frame.sample_rate}",
        ),
        # Without this bound floats are mixed louder than they were: two equal channels by 3 dB.
        graph.add("aresample", rematrix_maxval="1.0"),
        graph.add("aformat", sample_rates=str(rate), sample_fmts="flt", channel_layouts="mono"),
        graph.add("abuffersink"),
    )
    graph.configure()
    return graph


def _pull(graph: Graph) -> Iterator[Pcm]:
    """What the graph has ready: it says "not yet" and "no more" by errors."""
    with suppress(BlockingIOError, EOFError):
        while True:
            yield graph.pull().to_ndarray()[0]


def _average(frame: AudioFrame) -> AudioFrame:
    """The mean of all channels, for layouts that libswresample does not mix."""
    return _mono(_floats(_channels(frame)).mean(axis=0), frame)


def _channels(frame: AudioFrame) -> NDArray[Any]:
    """The samples by channel. PyAV's own `to_ndarray` reads past the end of eight planes and more."""
    dtype = _DTYPES[frame.format.name.removesuffix("p")]
    channels, planar = frame.layout.nb_channels, frame.format.is_planar
    planes = [AudioPlane(frame, plane) for plane in range(channels if planar else 1)]
    count = frame.samples * (1 if planar else channels)
    values = np.stack([np.frombuffer(bytes(plane), dtype, count) for plane in planes])
    return values if planar else values.reshape(-1, channels).T


def _floats(values: NDArray[Any]) -> NDArray[np.float64]:
    if values.dtype == np.uint8:
        return (values - 128.0) / 128.0
    return values / (-float(np.iinfo(values.dtype).min) if values.dtype.kind == "i" else 1.0)


def _clean(pcm: Pcm) -> Pcm:
    """Finite and within [-1, 1]."""
    np.nan_to_num(pcm, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(pcm, -1.0, 1.0, out=pcm)


def _refuse_absurd(rate: int) -> None:
    # 0 is what a container says before the first frame tells.
    if rate and rate not in SAMPLE_RATES:
        raise NotMedia(f"the media claims a sample rate of {rate} Hz")


def _readable(seconds: float) -> str:
    """ "12 h", "13.5 h", "25 min", "90.5 s"."""
    size, unit = (3600, "h") if seconds >= 3600 else (60, "min") if seconds >= 600 else (1, "s")
    return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
