"""Small media of every container that PyAV writes here, and what is wrong with them: for fuzzing.

The mutations know what containers are made of: boxes of MP4, chunks of RIFF, AIFF and CAF, elements of
Matroska, pages of Ogg (whose checksums are made right again, or nothing behind them would be looked at).
"""

import io
import re
import struct
import zlib
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any, NamedTuple

import av
import numpy as np

from tests.speech import SENTENCES, Pcm, say

SECONDS = 1.0

INTERESTING = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFF0,
    0xFFFFFFFF,
)
"""Values of fields at which decoders err: none, signs, largest."""

_ELEMENTS = rb"\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x16\x54\xae\x6b|\x1f\x43\xb6\x75|\xae|\xa3|\xe1|\x63\xa2"
"""EBML, Segment, Tracks, Cluster, TrackEntry, SimpleBlock, Audio, CodecPrivate (RFC 9559)."""

Bytes = bytearray
Mutation = Callable[[Bytes, Random], Bytes]


class Kind(NamedTuple):
    """One way to write a media."""

    format: str
    codec: str
    rate: int = 44_100
    layout: str = "mono"
    video: str = ""


KINDS = (
    *(
        Kind("wav", codec)
        for codec in ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_f32le", "adpcm_ms", "pcm_mulaw")
    ),
    *(Kind(format, "pcm_s16be") for format in ("aiff", "au", "caf")),
    *(Kind(format, "aac", 48_000, video="mpeg4") for format in ("mp4", "mov")),
    *(Kind("matroska", codec, video="mpeg4") for codec in ("aac", "flac", "pcm_s16le")),
    *(Kind("mp4", codec) for codec in ("alac", "flac")),
    *(Kind("ogg", codec, 48_000, "stereo") for codec in ("vorbis", "libopus", "flac")),
    Kind("mp3", "libmp3lame"),
    Kind("mp2", "mp2", 48_000),
    Kind("ac3", "ac3", 48_000),
    Kind("adts", "aac"),
    Kind("flac", "flac"),
    Kind("webm", "libopus", 48_000, video="libvpx"),
    Kind("mpegts", "aac", video="mpeg2video"),
    Kind("mpeg", "mp2", 48_000, video="mpeg2video"),
    Kind("avi", "libmp3lame", video="mpeg4"),
    Kind("flv", "aac", video="flv"),
    Kind("asf", "wmav2", layout="stereo"),
    Kind("caf", "alac"),
    Kind("w64", "pcm_s16le"),
    Kind("wv", "wavpack"),
    Kind("tta", "tta"),
    Kind("voc", "pcm_u8", 11_025),
    Kind("amr", "libopencore_amrnb", 8_000),
)


@cache
def seeds() -> dict[str, bytes]:
    """A sound in each kind that this build of FFmpeg can write, by its name."""
    found = {}
    for kind in KINDS:
        try:
            found[f"{kind.format} with {kind.codec}"] = _written(
                kind, say(SENTENCES[0])[: int(SECONDS * 16_000)]
            )
        except (av.error.FFmpegError, ValueError):
            continue
    return found


def mutant(seed: int) -> tuple[str, bytes]:
    """What the file of that number was made from, and the file; always the same."""
    random = Random(seed)
    name = random.choice(sorted(seeds()))
    data = Bytes(seeds()[name])
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice(MUTATIONS)(data, random) or Bytes(b"\0")
    return name, bytes(checksums(data) if data.startswith(b"OggS") and random.random() < 0.8 else data)


def _written(kind: Kind, pcm: Pcm) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind.format) as out:
        picture: Any = out.add_stream(kind.video, rate=10) if kind.video else None
        sound: Any = out.add_stream(kind.codec, rate=kind.rate)
        sound.layout = kind.layout
        sound.codec_context.options = {"strict": "experimental"}
        if picture:
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
            for _ in range(5):
                out.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
            out.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(pcm[np.newaxis], format="flt", layout="mono")
        frame.sample_rate = 16_000
        sound.codec_context.open(strict=False)
        size = sound.codec_context.frame_size or 1024
        shaper = av.AudioResampler(sound.format, kind.layout, kind.rate, frame_size=size)
        for part in shaper.resample(frame) + shaper.resample(None):
            out.mux(sound.encode(part))
        out.mux(sound.encode(None))
    return buffer.getvalue()


# Mutations


def _bits(data: Bytes, random: Random) -> Bytes:
    for _ in range(random.choice((1, 4, 16, 64))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def _values(data: Bytes, random: Random) -> Bytes:
    for _ in range(random.randint(1, 8)):
        _put(data, _place(data, random), random)
    return data


def _sizes(data: Bytes, random: Random) -> Bytes:
    """A size, count or length field says something else: those beside the names of parts."""
    names = [match.start() for match in re.finditer(rb"[A-Za-z][A-Za-z0-9 _]{3}", bytes(data[: 1 << 16]))]
    for _ in range(random.randint(1, 3)):
        if names:
            _put(data, random.choice(names) + random.choice((-4, 4, 8, 12)), random, width=4)
    return data


def _elements(data: Bytes, random: Random) -> Bytes:
    """An element of Matroska has another length, among them "unknown"."""
    ends = [match.end() for match in re.finditer(_ELEMENTS, bytes(data))]
    if ends:
        place = random.choice(ends)
        data[place : place + 1] = random.choice(
            (b"\x01\xff\xff\xff\xff\xff\xff\xff", b"\x80", b"\xff", b"\xfe")
        )
    return data


def _cut(data: Bytes, random: Random) -> Bytes:
    return data[: random.randint(1, len(data))]


def _dropped(data: Bytes, random: Random) -> Bytes:
    start, end = _span(data, random)
    del data[start:end]
    return data


def _repeated(data: Bytes, random: Random) -> Bytes:
    start, end = _span(data, random)
    times = random.choice((1, 2, 50))
    return data[:end] + data[start:end] * min(times, (1 << 20) // max(1, end - start)) + data[end:]


def _moved(data: Bytes, random: Random) -> Bytes:
    start, end = _span(data, random)
    part = data[start:end]
    del data[start:end]
    place = random.randint(0, len(data))
    return data[:place] + part + data[place:]


def _noise(data: Bytes, random: Random) -> Bytes:
    start, end = _span(data, random)
    data[start:end] = random.randbytes(end - start)
    return data


def _grafted(data: Bytes, random: Random) -> Bytes:
    """The beginning of one file and the end of another."""
    other = seeds()[random.choice(sorted(seeds()))]
    return data[: random.randint(1, len(data))] + other[random.randrange(len(other)) :]


def _tagged(data: Bytes, random: Random) -> Bytes:
    """A tag before it that promises more than there is, or less."""
    size = random.choice(INTERESTING) & 0x7F7F7F7F
    return Bytes(b"ID3\x04\0\0" + struct.pack(">I", size) + random.randbytes(random.randint(0, 200))) + data


MUTATIONS: tuple[Mutation, ...] = (
    *(
        _bits,
        _values,
        _sizes,
        _sizes,
        _elements,
        _cut,
        _dropped,
        _repeated,
        _moved,
        _noise,
        _grafted,
        _tagged,
    ),
)


def _place(data: Bytes, random: Random) -> int:
    """Rather near the beginning, where headers are."""
    return random.randrange(min(len(data), random.choice((64, 512, 4096, len(data)))))


def _span(data: Bytes, random: Random) -> tuple[int, int]:
    start = _place(data, random)
    return start, min(len(data), start + random.choice((1, 4, 16, 188, 1024, 8192)))


def _put(data: Bytes, place: int, random: Random, width: int = 0) -> None:
    width = width or random.choice((1, 2, 4, 8))
    value = random.choice((*INTERESTING, random.getrandbits(32))) & (1 << 8 * width) - 1
    field = value.to_bytes(width, random.choice(("big", "little")))
    if 0 <= place <= len(data) - width:
        data[place : place + width] = field


def checksums(data: Bytes) -> Bytes:
    """With the checksum of each page of Ogg made right (RFC 3533, section 6)."""
    pages = [match.start() for match in re.finditer(b"OggS", bytes(data))]
    for start, end in zip(pages, [*pages[1:], len(data)], strict=True):
        if end - start >= 27:
            data[start + 22 : start + 26] = bytes(4)
            data[start + 22 : start + 26] = struct.pack("<I", _ogg_crc(bytes(data[start:end])))
    return data


def _ogg_crc(page: bytes) -> int:
    """Ogg's CRC-32 is zlib's polynomial unreflected, from zero, without the final inversion."""
    mirrored = page.translate(_MIRROR)
    # zlib starts from and ends with ones; starting it from ones inverted gives the plain remainder.
    return int(f"{zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)


_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
