"""Media of every kind, written here by PyAV, comes back as the sound that went in; bait bites nothing."""

import ctypes
import io
import os
import re
import socket
import struct
import wave
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from server import media
from server.errors import NoAudio, NotMedia, SpeechError, TooLarge, TooShort
from server.media import Block, open_media
from server.types import SAMPLE_RATE, MediaEnd, MediaInfo, RawSound
from tests.speech import talk, wav

Pcm = NDArray[np.float32]

LEVEL = 20 * np.log10(0.3 / np.sqrt(2))
"""Decibels of the test tone."""
RECORDINGS = Path(__file__).parent.parent.parent / "shared" / "audio"


class Sound(NamedTuple):
    blocks: list[Block]
    info: MediaInfo
    end: MediaEnd

    @property
    def pcm(self) -> Pcm:
        return np.concatenate([block.pcm for block in self.blocks])


def decode(data: bytes, track: str | None = None, longest: float = 12 * 3600) -> Sound:
    with open_media(io.BytesIO(data), track, longest) as opened:
        return Sound(list(opened.blocks()), opened.info, opened.end)


def tone(hertz: float = 440, seconds: float = 2.0, rate: int = 48_000, level: float = 0.3) -> Pcm:
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encode(
    pcm: Pcm,
    format: str,
    codec: str,
    rate: int = 48_000,
    layout: str = "mono",
    video: str | None = None,
    options: dict[str, str] | None = None,
    starts: tuple[float, ...] = (0.0,),
    codec_options: dict[str, str] | None = None,
) -> bytes:
    """`pcm` in each channel, one part of it at each of `starts`, and three seconds of video from 0 on."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format, options=options or {}) as out:
        # Before the first packet all streams must be there.
        picture: Any = out.add_stream(video, rate=10) if video else None
        sound: Any = out.add_stream(codec, rate=rate)
        sound.layout = layout
        sound.codec_context.options = {"strict": "experimental", **(codec_options or {})}
        sound.bit_rate = 128_000
        if picture:
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
            for packet in encoded_pictures(picture):
                out.mux(packet)
        for part, start in zip(np.array_split(pcm, len(starts)), starts, strict=True):
            for packet in encoded_sound(sound, part, rate, layout, start):
                out.mux(packet)
        out.mux(sound.encode(None))
    return buffer.getvalue()


def encoded_pictures(stream: Any) -> Iterator[Any]:
    """Three seconds."""
    for _ in range(30):
        yield from stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8)))
    yield from stream.encode(None)


def encoded_sound(stream: Any, pcm: Pcm, rate: int, layout: str, start: float) -> Iterator[Any]:
    stream.codec_context.open(strict=False)
    channels = av.AudioLayout(layout).nb_channels
    # PyAV cannot fill eight planes; packed samples it can.
    whole = av.AudioFrame.from_ndarray(np.repeat(pcm, channels)[np.newaxis], format="flt", layout=layout)
    whole.sample_rate = rate
    whole.pts = int(start * rate)
    size = stream.codec_context.frame_size or 1024
    shaper = av.AudioResampler(format=stream.format, layout=layout, rate=rate, frame_size=size)
    for frame in shaper.resample(whole) + shaper.resample(None):
        yield from stream.encode(frame)


def pitch(pcm: Pcm) -> float:
    """The loudest frequency, in hertz."""
    inner = pcm[len(pcm) // 4 : -len(pcm) // 4]
    loudest = int(np.abs(np.fft.rfft(inner * np.hanning(len(inner)))).argmax())
    return loudest * SAMPLE_RATE / len(inner)


def decibels(pcm: Pcm) -> float:
    inner = pcm[len(pcm) // 4 : -len(pcm) // 4]
    return float(20 * np.log10(np.sqrt((inner**2).mean()) + 1e-9))


def assert_tone(sound: Sound, seconds: float = 2.0) -> None:
    """That it is the tone that was written, at its level."""
    assert sound.end.warnings == ()
    assert len(sound.pcm) / SAMPLE_RATE == pytest.approx(seconds, abs=0.1)
    assert sound.end.duration == pytest.approx(seconds, abs=0.1)
    assert pitch(sound.pcm) == pytest.approx(440, abs=2)
    assert decibels(sound.pcm) == pytest.approx(LEVEL, abs=3 if sound.info.codec == "amrnb" else 1)


# Formats


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("codec", ["u8", "s16le", "s24le", "s32le", "f32le", "f64le", "alaw", "mulaw"])
def test_wav_of_every_width_and_rate(codec: str, rate: int) -> None:
    sound = decode(encode(tone(rate=rate), "wav", f"pcm_{codec}", rate))
    assert_tone(sound)
    assert sound.info == MediaInfo(pytest.approx(2.0, abs=0.001), "wav", f"pcm_{codec}", rate, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("format", "codec", "rate", "video"),
    [
        ("mp3", "libmp3lame", 44_100, None),
        ("mp3", "libmp3lame", 16_000, None),
        ("mp2", "mp2", 48_000, None),
        ("ipod", "aac", 44_100, None),
        ("ipod", "alac", 44_100, None),
        ("mp4", "aac", 48_000, "libx264"),
        ("mp4", "libmp3lame", 44_100, "mpeg4"),
        ("mov", "pcm_s16le", 48_000, "mpeg4"),
        ("3gp", "aac", 16_000, None),
        ("matroska", "flac", 48_000, "libx264"),
        ("matroska", "pcm_s24le", 48_000, None),
        ("matroska", "aac", 44_100, "mpeg4"),
        ("webm", "libopus", 48_000, None),
        ("webm", "libopus", 48_000, "libvpx"),
        ("ogg", "libopus", 48_000, None),
        ("ogg", "flac", 44_100, None),
        ("flac", "flac", 44_100, None),
        ("adts", "aac", 44_100, None),
        ("aiff", "pcm_s16be", 44_100, None),
        ("au", "pcm_s16be", 22_050, None),
        ("caf", "pcm_s16le", 44_100, None),
        ("caf", "alac", 44_100, None),
        ("w64", "pcm_s16le", 44_100, None),
        ("rf64", "pcm_s16le", 44_100, None),
        ("mpegts", "aac", 44_100, "mpeg2video"),
        ("mpeg", "mp2", 48_000, "mpeg2video"),
        ("avi", "libmp3lame", 44_100, "mpeg4"),
        ("avi", "pcm_s16le", 44_100, None),
        ("flv", "aac", 44_100, "flv"),
        ("ac3", "ac3", 48_000, None),
        ("eac3", "eac3", 48_000, None),
        ("tta", "tta", 44_100, None),
        ("wv", "wavpack", 44_100, None),
        ("nut", "aac", 44_100, "mpeg4"),
        ("voc", "pcm_u8", 11_025, None),
        ("amr", "libopencore_amrnb", 8_000, None),
        ("wav", "adpcm_ima_wav", 22_050, None),
        ("wav", "libmp3lame", 44_100, None),
    ],
)
def test_containers_and_codecs(format: str, codec: str, rate: int, video: str | None) -> None:
    if format == "rf64":
        data = encode(tone(rate=rate), "wav", codec, rate, options={"rf64": "always"})
    else:
        data = encode(tone(rate=rate), format, codec, rate, video=video)
    assert_tone(decode(data))


@pytest.mark.parametrize(("format", "codec", "rate"), [("ogg", "vorbis", 44_100), ("asf", "wmav2", 44_100)])
def test_codecs_that_want_stereo(format: str, codec: str, rate: int) -> None:
    assert_tone(decode(encode(tone(rate=rate), format, codec, rate, "stereo")))


@pytest.mark.parametrize("layout", ["stereo", "2.1", "quad", "5.1", "7.1", "7.1.4", "hexadecagonal"])
def test_channels_are_mixed_at_their_level(layout: str) -> None:
    assert_tone(decode(encode(tone(), "wav", "pcm_f32le", layout=layout)))


@pytest.mark.parametrize(
    ("channels", "width"),
    [(1, 1), (1, 3), (2, 2), (3, 2), (6, 3), (8, 1), (9, 1), (9, 2), (12, 3), (64, 2), (300, 2)],
)
def test_channels_without_a_layout(channels: int, width: int) -> None:
    assert_tone(decode(plain_wav(np.tile(tone()[:, np.newaxis], channels), width, 48_000)))


@pytest.mark.parametrize(
    ("format", "codec", "layout"),
    [("wv", "wavpack", "9C"), ("matroska", "libopus", "ambisonic 2"), ("tta", "tta", "10C")],
)
def test_channels_that_are_no_loudspeakers(format: str, codec: str, layout: str) -> None:
    options = {"mapping_family": "2"} if codec == "libopus" else {}
    assert_tone(decode(encode(tone(), format, codec, layout=layout, codec_options=options)))


def test_opposite_channels_of_an_unknown_layout_cancel() -> None:
    silent = np.stack([tone(), -tone()] * 6, axis=1)
    assert decibels(decode(plain_wav(silent, 2, 48_000)).pcm) < -80


@pytest.mark.parametrize("gain", [1.0, 1.2])
@pytest.mark.parametrize("width", [1, 2])
def test_opposite_channels_of_stereo_do_not_cancel(gain: float, width: int) -> None:
    sound = np.stack([tone(), -gain * tone()], axis=1)
    assert_tone(decode(plain_wav(sound, width, 48_000)))


def test_only_opposite_channels_are_not_mixed() -> None:
    """Two that speak by turns are heard both, also where one of them was recorded with reversed polarity."""
    turns = np.repeat([[1.0, 0.0], [0.0, -1.0]], 24_000, axis=0).astype(np.float32)
    heard = decode(plain_wav(turns * tone(seconds=1.0)[:, np.newaxis], 2, 48_000)).pcm
    assert decibels(heard[1_000:7_000]) == pytest.approx(LEVEL - 6, abs=0.3)
    assert decibels(heard[9_000:15_000]) == pytest.approx(LEVEL - 6, abs=0.3)


def plain_wav(pcm: Pcm, width: int, rate: int) -> bytes:
    """A WAV file of integers without a channel layout; `pcm` has the shape (samples, channels)."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(pcm.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        whole = (pcm * (2 ** (8 * width - 1) - 1)).astype("<i4") + (128 if width == 1 else 0)
        file.writeframes(whole[..., np.newaxis].view(np.uint8)[..., :width].tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize(("rate", "codec"), [(44_100, "pcm_s16le"), (48_000, "pcm_f32le"), (96_000, "flac")])
def test_what_16_khz_cannot_hold_does_not_fold_back(rate: int, codec: str) -> None:
    data = encode(tone(10_000, rate=rate), "matroska", codec, rate)
    assert decibels(decode(data).pcm) < -70


def test_speech_comes_back_sample_by_sample() -> None:
    speech = talk(["The weather is beautiful today."])
    sound = decode(wav(speech))
    np.testing.assert_allclose(sound.pcm, speech, atol=2 / 32768)
    assert all(block.pcm.dtype == np.float32 for block in sound.blocks)


@pytest.mark.parametrize(("encoding", "rate"), [("s16le", 24_000), ("s16le", 16_000), ("mulaw", 8_000)])
def test_samples_without_a_header(encoding: Literal["s16le", "mulaw"], rate: int) -> None:
    data = encode(tone(rate=rate), "wav", f"pcm_{encoding}", rate)
    samples = data[data.index(b"data") + 8 :]
    for end in (b"", b"\0"):
        with open_media(io.BytesIO(samples + end), raw=RawSound(rate, encoding)) as opened:
            assert_tone(Sound(list(opened.blocks()), opened.info, opened.end))


def test_samples_are_samples_whatever_they_look_like() -> None:
    looks = b"RIFF\xff\xff\0\0WAVE" + wav(tone(rate=SAMPLE_RATE))[44:]
    with open_media(io.BytesIO(looks), raw=RawSound(SAMPLE_RATE)) as opened:
        assert sum(len(block.pcm) for block in opened.blocks()) == len(looks) // 2
        assert (opened.info.container, opened.end.warnings) == ("s16le", ())


def test_no_samples_are_no_media() -> None:
    for nothing, error in ((b"", NotMedia), (b"x", NotMedia), (b"ab" * 10, TooShort)):
        with pytest.raises(error), open_media(io.BytesIO(nothing), raw=RawSound(SAMPLE_RATE)) as opened:
            list(opened.blocks())


def test_blocks_are_about_a_second() -> None:
    sound = decode(encode(tone(seconds=10, rate=44_100), "mp3", "libmp3lame", 44_100))
    assert all(0.5 < len(block.pcm) / SAMPLE_RATE < 2 for block in sound.blocks[:-2])
    ends = [block.end for block in sound.blocks]
    assert [block.start for block in sound.blocks[1:]] == pytest.approx(ends[:-1], abs=1e-6)


def test_what_is_no_number_becomes_silence() -> None:
    pcm = tone(rate=16_000)
    pcm[8_000:8_010] = np.nan
    pcm[9_000:9_010] = np.inf
    pcm[10_000:10_010] = 50.0
    found = decode(encode_floats(pcm)).pcm
    assert np.isfinite(found).all()
    assert np.abs(found).max() == 1.0
    assert not found[8_000:8_010].any()
    assert not found[9_000:9_010].any()
    np.testing.assert_allclose(found[:8_000], pcm[:8_000], atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 48_000])
def test_what_is_no_number_does_not_spread(rate: int) -> None:
    pcm = tone(rate=rate)
    pcm[rate // 2] = np.nan
    found = decode(encode_floats(pcm, rate)).pcm
    assert np.isfinite(found).all()
    assert decibels(found) == pytest.approx(-13.5, abs=1)


def encode_floats(pcm: Pcm, rate: int = SAMPLE_RATE) -> bytes:
    data = pcm.astype("<f4").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
    return b"RIFF" + struct.pack("<I4s", 36 + len(data), b"WAVE") + form + chunk(b"data", data)


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def test_mp3_with_a_cover() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp3") as out:
        sound: Any = out.add_stream("libmp3lame", rate=44_100)
        sound.layout = "mono"
        cover: Any = out.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = 1 << 10
        packets = list(encoded_sound(sound, tone(rate=44_100), 44_100, "mono", 0.0)) + sound.encode(None)
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))
        for packet in [*cover.encode(picture), *cover.encode(None), *packets]:
            out.mux(packet)
    with av.open(io.BytesIO(buffer.getvalue())) as written:
        assert len(written.streams.video) == 1
    assert_tone(decode(buffer.getvalue()))


@pytest.mark.parametrize("options", [{"write_xing": "0"}, {"write_xing": "1"}, {"id3v2_version": "0"}])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_mp3_says_how_long_it_is_only_in_its_header(options: dict[str, str], rate: int) -> None:
    sound = decode(encode(tone(rate=rate, seconds=20), "mp3", "libmp3lame", rate, options=options))
    assert_tone(sound, 20)
    expected = None if options.get("write_xing") == "0" else pytest.approx(20, abs=0.1)
    assert sound.info.duration == expected


def test_mp3_with_tags_at_its_end() -> None:
    data = encode(tone(rate=44_100), "mp3", "libmp3lame", 44_100)
    assert_tone(decode(data + b"TAG" + b"x" * 125))


def test_tags_in_an_old_encoding() -> None:
    title = chunk(b"LIST", b"INFO" + chunk(b"INAM", b"Caf\xe9"))
    data = wav(tone(rate=16_000))
    assert_tone(decode(data[:36] + title + data[36:]))


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0xFFFFFFFF])
def test_wav_that_did_not_know_its_size(size: int) -> None:
    data = wav(tone(rate=16_000))
    sound = decode(data[:40] + struct.pack("<I", size) + data[44:])
    assert sound.info.duration is None
    assert_tone(sound)


# Times


@pytest.mark.parametrize(("format", "codec"), [("mp4", "aac"), ("matroska", "flac"), ("mov", "pcm_s16le")])
@pytest.mark.parametrize("offset", [0.5, 7.25])
def test_a_late_start_is_kept(format: str, codec: str, offset: float) -> None:
    sound = decode(encode(tone(), format, codec, starts=(offset,)))
    assert sound.blocks[0].start == pytest.approx(offset, abs=0.03)
    assert sound.end.duration == pytest.approx(offset + 2, abs=0.1)
    assert sound.end.warnings == ()


@pytest.mark.parametrize("format", ["mpegts", "mpeg"])
def test_a_late_start_counts_from_the_video(format: str) -> None:
    sound = decode(encode(tone(seconds=3), format, "mp2", video="mpeg2video", starts=(0.5,)))
    assert sound.blocks[0].start == pytest.approx(0.5, abs=0.11)


def test_priming_is_no_late_start() -> None:
    assert decode(encode(tone(), "matroska", "flac", starts=(0.05,))).blocks[0].start == 0


@pytest.mark.parametrize(("offset", "seconds"), [(-0.5, 5.5), (-5.0, 6.0)])
def test_what_lies_before_the_start_is_left_out(offset: float, seconds: float) -> None:
    """Unless it is so far before it that these are no times."""
    never = {"avoid_negative_ts": "disabled"}
    data = encode(tone(seconds=6, rate=44_100), "matroska", "flac", 44_100, starts=(offset,), options=never)
    sound = decode(data)
    assert sound.blocks[0].start == 0
    assert len(sound.pcm) / SAMPLE_RATE == pytest.approx(seconds, abs=0.1)


def test_a_gap_is_not_filled() -> None:
    sound = decode(encode(tone(seconds=4), "matroska", "flac", starts=(0.0, 5.0)))
    second = next(block for block in sound.blocks if block.start > 4)
    assert second.start == pytest.approx(5.0, abs=0.03)
    assert len(sound.pcm) / SAMPLE_RATE == pytest.approx(4, abs=0.05)
    assert sound.end.duration == pytest.approx(7, abs=0.05)
    assert sound.end.warnings == ()


def test_a_jump_beyond_reason_is_no_gap() -> None:
    data = encode(tone(seconds=4), "matroska", "flac", starts=(0.0, 5000.0))
    data = re.sub(rb"\d\d:\d\d:\d\d\.\d{9}", b"", data)
    late = decode(data)
    assert late.blocks[-1].start > 5000
    with open_media(io.BytesIO(remux(data)), longest=600) as opened:
        assert [block.start for block in opened.blocks()][-1] < 4.1


def remux(data: bytes) -> bytes:
    """The same packets in Matroska as a live stream has them: without durations."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as source, av.open(buffer, "w", "matroska", {"live": "1"}) as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return buffer.getvalue()


def test_a_jump_back_goes_on() -> None:
    late, once = (encode(tone(), "ogg", "libopus", starts=(start,)) for start in (5.0, 0.0))
    sound = decode(late + once)
    assert_tone(sound, 4)
    assert [block.start for block in sound.blocks] == sorted(block.start for block in sound.blocks)


@pytest.mark.parametrize(
    ("format", "codec", "rates"),
    [
        ("adts", "aac", (44_100, 16_000)),
        ("mp3", "libmp3lame", (16_000, 44_100)),
        ("ac3", "ac3", (48_000, 32_000)),
    ],
)
def test_rate_and_layout_change_within_a_stream(format: str, codec: str, rates: tuple[int, int]) -> None:
    first, second = rates
    data = encode(
        tone(rate=first), format, codec, first, options={"write_xing": "0"} if format == "mp3" else {}
    )
    sound = decode(data + encode(tone(880, rate=second), format, codec, second, "stereo"))
    half = len(sound.pcm) // 2
    assert len(sound.pcm) / SAMPLE_RATE == pytest.approx(4, abs=0.2)
    assert pitch(sound.pcm[:half]) == pytest.approx(440, abs=2)
    assert pitch(sound.pcm[half:]) == pytest.approx(880, abs=2)
    ends = [block.end for block in sound.blocks]
    assert [block.start for block in sound.blocks[1:]] == pytest.approx(ends[:-1], abs=0.0003)


def test_tracks_that_turn_up_on_the_way() -> None:
    alone = encode(tone(rate=44_100), "mpegts", "mp2", 44_100)
    film = encode(tone(rate=44_100), "mpegts", "mp2", 44_100, video="mpeg2video")
    assert decode(alone * 3 + film).end.duration == pytest.approx(6, abs=0.3)


def test_a_track_that_is_no_sound_and_no_picture() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        sound: Any = out.add_stream("flac", rate=48_000)
        sound.layout = "mono"
        out.add_attachment("letters.ttf", "font/ttf", b"letters")
        for packet in [*encoded_sound(sound, tone(), 48_000, "mono", 0.0), *sound.encode(None)]:
            out.mux(packet)
    assert_tone(decode(untagged(buffer.getvalue())))


# Tracks


def tracks(
    languages: tuple[str, ...], default: int | None = None, layouts: tuple[str, ...] = ("mono",) * 4
) -> bytes:
    """Tracks of 300, 600, 900... hertz."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        streams: list[Any] = []
        for place, language in enumerate(languages):
            stream: Any = out.add_stream("flac", rate=48_000)
            stream.layout = layouts[place]
            stream.metadata["language"] = language
            stream.disposition = int(place == default)
            streams.append(stream)
        for place, stream in enumerate(streams):
            sound = tone(300 * (place + 1))
            for packet in [*encoded_sound(stream, sound, 48_000, layouts[place], 0.0), *stream.encode(None)]:
                out.mux(packet)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("wanted", "hertz"),
    [
        ("0", 300),
        ("1", 600),
        ("2", 900),
        ("de", 600),
        ("deu", 600),
        ("ger", 600),
        ("DE-at", 600),
        ("fr", 900),
    ],
)
def test_the_track_asked_for(wanted: str, hertz: int) -> None:
    data = tracks(("eng", "ger", "fra"), default=0)
    assert pitch(decode(data, wanted).pcm) == pytest.approx(hertz, abs=2)


def test_the_best_track() -> None:
    layouts = ("mono", "stereo", "5.1", "5.1")
    assert pitch(decode(tracks(("eng",) * 4, 1, layouts)).pcm) == pytest.approx(600, abs=2)
    assert pitch(decode(tracks(("eng",) * 4, None, layouts)).pcm) == pytest.approx(900, abs=2)
    assert pitch(decode(tracks(("eng",) * 2, None)).pcm) == pytest.approx(300, abs=2)


@pytest.mark.parametrize("wanted", ["2", "fr", "-1", "xyz"])
def test_a_track_that_is_not_there(wanted: str) -> None:
    with pytest.raises(NoAudio, match=r"no audio track '.*'; it has 0 \(eng\), 1 \(ger\)"):
        decode(tracks(("eng", "ger")), wanted)


# What cannot be used


def refused(data: bytes, error: type[SpeechError], sentence: str, **options: Any) -> None:
    with pytest.raises(error, match=sentence) as caught:
        decode(data, **options)
    assert "/" not in str(caught.value)
    assert "<none>" not in str(caught.value)


def test_an_empty_file() -> None:
    refused(b"", NotMedia, "the file is empty")


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"x" * 16,
        b"Dear reader, this is only a text, however it may be named.\n" * 100,
        b'<?xml version="1.0"?><html><body>404 Not Found</body></html>',
        b"#!/bin/sh\necho hello\n",
        b"1\n00:00:01,000 --> 00:00:02,000\nA subtitle\n\n",
        b"WEBVTT\n\n00:01.000 --> 00:02.000\nA subtitle\n",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 500,
        b"%PDF-1.7\n" + b"\0" * 500,
        b"PK\3\4" + b"\0" * 500,
        np.random.default_rng(1).bytes(20_000),
        b"\0" * 20_000,
        b"RIFF\0\0\0\0WAVE",
    ],
)
def test_what_is_no_media(data: bytes) -> None:
    refused(data, NotMedia, "the file is not of an audio or video format|no sound could be decoded")


@pytest.mark.parametrize("format", ["mp4", "ipod", "mov"])
def test_mp4_without_its_index(format: str) -> None:
    data = encode(tone(seconds=10), format, "aac")
    refused(
        data[: len(data) // 2], NotMedia, r"index \(moov\) is missing or broken: was the upload cut off\?"
    )


def test_video_without_sound() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream: Any = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for packet in encoded_pictures(stream):
            out.mux(packet)
    refused(buffer.getvalue(), NoAudio, "the media has no audio")


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_too_short(seconds: float) -> None:
    refused(wav(tone(rate=16_000, seconds=seconds)), TooShort, f"the media has {seconds:.2f} s of sound")
    decode(wav(tone(rate=16_000, seconds=0.11)))


def test_longer_than_allowed_by_its_header() -> None:
    refused(wav(tone(rate=16_000, seconds=100)), TooLarge, "is 100 s long.* at most 60 s", longest=60.0)


def test_longer_than_allowed_without_a_header() -> None:
    data = encode(tone(seconds=20, rate=16_000), "adts", "aac", 16_000)
    with open_media(io.BytesIO(data), longest=10) as opened:
        blocks = opened.blocks()
        assert next(blocks).start == 0
        with pytest.raises(TooLarge, match="more sound than the 10 s"):
            list(blocks)


@pytest.mark.parametrize(
    ("seconds", "words"), [(43_200, "12 h"), (48_600, "13.5 h"), (1500, "25 min"), (90.5, "90.5 s")]
)
def test_durations_are_readable(seconds: float, words: str) -> None:
    assert media._readable(seconds) == words


@pytest.mark.parametrize(
    ("channels", "rate", "sentence"),
    [
        (1, 1, "claims a sample rate of 1 Hz"),
        (1, 1_000_000, "claims a sample rate of 1000000 Hz"),
        (1, 2**31 - 1, "claims a sample rate of 2147483647 Hz"),
        (1, 2**32 - 1, "not of an audio or video format"),
        (65_535, 16_000, "no sound could be decoded"),
        (513, 16_000, "no sound could be decoded"),
        (0, 16_000, "not of an audio or video format|no sound could be decoded"),
    ],
)
def test_absurd_claims(channels: int, rate: int, sentence: str) -> None:
    form = struct.pack("<HHIIHH", 1, channels, rate, 2 * rate % 2**32, 2 * channels % 2**16, 16)
    data = b"RIFF" + struct.pack("<I4s", 0, b"WAVE") + chunk(b"fmt ", form) + chunk(b"data", b"\0" * 200_000)
    refused(data, NotMedia, sentence)


def test_a_codec_nobody_knows() -> None:
    data = wav(tone(rate=16_000))
    refused(data[:20] + struct.pack("<H", 0x1234) + data[22:], NotMedia, "no decoder for .*0x1234")


# Damage


@pytest.mark.parametrize(
    ("format", "codec", "options"),
    [
        ("wav", "pcm_s16le", {}),
        ("mp3", "libmp3lame", {}),
        ("flac", "flac", {}),
        ("matroska", "aac", {}),
        ("mov", "pcm_s16le", {"movflags": "frag_keyframe+empty_moov"}),
        ("aiff", "pcm_s16be", {}),
        ("flv", "aac", {}),
    ],
)
def test_a_file_that_breaks_off(format: str, codec: str, options: dict[str, str]) -> None:
    whole = encode(tone(seconds=10, rate=44_100), format, codec, 44_100, options=options)
    sound = decode(whole[: len(whole) // 2])
    assert sound.end.duration == pytest.approx(5, abs=0.6)
    assert pitch(sound.pcm) == pytest.approx(440, abs=2)
    if not options:
        assert re.fullmatch(
            r"the media breaks off at [45]\.\d s of 10\.\d s",
            sound.end.warnings[0],
        )


ENDED = [
    ("ogg", "libopus", "mono"),
    ("ogg", "vorbis", "stereo"),
    ("ogg", "flac", "mono"),
    ("w64", "pcm_s16le", "mono"),
    ("caf", "pcm_s16le", "mono"),
    ("caf", "pcm_mulaw", "stereo"),
    ("voc", "pcm_s16le", "mono"),
]
"""Formats whose end FFmpeg doesn't know."""

MARKED = ("ogg", "voc")
"""Those of them that say where they end, and not how long they are."""


@pytest.mark.parametrize(("format", "codec", "layout"), ENDED)
def test_no_silent_half(format: str, codec: str, layout: str) -> None:
    rate = 48_000
    whole = encode(tone(seconds=30, rate=rate), format, codec, rate, layout)
    assert_tone(decode(whole), 30)
    for part in (0.3, 0.6, 0.95):
        sound = decode(whole[: int(len(whole) * part)])
        assert sound.end.duration == pytest.approx(30 * part, abs=1.5)
        assert pitch(sound.pcm) == pytest.approx(440, abs=2)
        assert re.fullmatch(
            rf"the media breaks off at {sound.end.duration:.1f} s"
            + (r": its last (page|block) is (missing|incomplete)" if format in MARKED else r" of 30\.0 s"),
            sound.end.warnings[0],
        )


@pytest.mark.parametrize(("format", "codec", "layout"), [case for case in ENDED if case[0] not in MARKED])
def test_sizes_in_64_bits_tell_how_long_it_is(format: str, codec: str, layout: str) -> None:
    data = encode(tone(), format, codec, layout=layout)
    assert decode(data).info.duration == pytest.approx(2)
    refused(data, TooLarge, "is 2 s long", longest=0.5)


@pytest.mark.parametrize(("format", "size"), [("caf", -1), ("caf", 0), ("caf", 2**62), ("w64", 2**62)])
def test_w64_and_caf_that_did_not_know_their_size(format: str, size: int) -> None:
    data = encode(tone(), format, "pcm_s16le")
    place = data.index(b"data") + (16 if format == "w64" else 4)
    order = "<q" if format == "w64" else ">q"
    sound = decode(data[:place] + struct.pack(order, size) + data[place + 8 :])
    assert sound.info.duration is None
    assert_tone(sound)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0, 0.0, 1e-300])
def test_a_caf_whose_rate_is_none_says_no_length(rate: float) -> None:
    data = encode(tone(), "caf", "pcm_s16le")
    place = data.index(b"desc") + 12
    assert media._Source(io.BytesIO(data)).seconds() == pytest.approx(2)
    data = data[:place] + struct.pack(">d", rate) + data[place + 8 :]
    assert media._Source(io.BytesIO(data)).seconds() is None


def test_a_caf_without_its_packet_table() -> None:
    data = encode(tone(seconds=10), "caf", "alac")
    refused(data[: len(data) // 2], NotMedia, "its packet table is missing: was the upload cut off")


def test_the_sample_that_comes_along_is_whole() -> None:
    data = (Path(__file__).parent.parent / "models" / "hello.ogg").read_bytes()
    assert decode(data).end.warnings == ()
    assert decode(data[: len(data) * 6 // 10]).end.warnings == (
        "the media breaks off at 2.0 s: its last page is incomplete",
    )


@pytest.mark.parametrize("codec", ["libopus", "vorbis", "flac"])
def test_an_ogg_that_ends_in_its_first_sound(codec: str) -> None:
    data = encode(tone(seconds=10), "ogg", codec, layout="stereo")
    pages = [page.start() for page in re.finditer(rb"OggS\0", data)]
    for end in (pages[1] + 5, pages[2] + 28, (pages[2] + pages[3]) // 2):
        refused(data[:end], NotMedia, "breaks off before its first sound: was the upload cut off")


@pytest.mark.parametrize("rest", [b"", b"\1", b"\2\xff\xff", b"\2\xff\xff\xff"])
def test_a_voc_that_ends_between_its_blocks(rest: bytes) -> None:
    data = encode(tone(rate=11_025), "voc", "pcm_u8", 11_025)
    assert data.endswith(b"\0")
    assert decode(data).end.warnings == ()
    fault = "incomplete" if rest else "missing"
    assert decode(data[:-1] + rest).end.warnings == (
        f"the media breaks off at 2.0 s: its last block is {fault}",
    )


def test_an_ogg_that_was_live() -> None:
    """Its pages are whole, but none of them is the last: who stops recording a station gets this."""
    data = encode(tone(seconds=10), "ogg", "libopus")
    pages = [page.start() for page in re.finditer(rb"OggS\0", data)]
    sound = decode(data[: pages[-1]])
    assert sound.end.duration == pytest.approx(pages[-1] / len(data) * 10, abs=1)
    assert sound.end.warnings == (
        f"the media breaks off at {sound.end.duration:.1f} s: its last page is missing",
    )


@pytest.mark.parametrize("more", [5, 26, 27, 28, 40])
def test_an_ogg_that_breaks_off_within_a_page(more: int) -> None:
    data = encode(tone(seconds=10), "ogg", "libopus")
    last = data.rindex(b"OggS\0")
    assert decode(data[: last + more]).end.warnings[0].endswith(": its last page is incomplete")
    assert decode(data[:-1]).end.warnings[0].endswith(": its last page is incomplete")


def test_tags_behind_an_ogg() -> None:
    assert_tone(decode(encode(tone(), "ogg", "libopus") + b"TAG" + b"x" * 125))


def test_an_ogg_that_ends_in_nothing() -> None:
    """A download that was laid out in advance and never filled."""
    data = encode(tone(seconds=10), "ogg", "libopus")
    half = data[: data.rindex(b"OggS\0")]
    assert decode(half + bytes(20_000)).end.warnings[0].endswith(": its last page is missing")
    assert decode(half + bytes(200_000)).end.warnings[0].startswith("the media cannot be read any further")


def test_an_ogg_after_an_ogg_ends_with_the_last() -> None:
    once = encode(tone(), "ogg", "libopus")
    assert_tone(decode(once + once), 4)
    assert decode(once + once[: len(once) * 8 // 10]).end.warnings


PICTURES = {"mp4": "mpeg4", "matroska": "mpeg4", "flv": "flv"}


@pytest.mark.parametrize("format", PICTURES)
def test_a_film_that_breaks_off(format: str) -> None:
    whole = encode(tone(rate=44_100, seconds=10), format, "aac", 44_100, video=PICTURES[format])
    if format == "mp4":
        whole = index_in_front(whole)
    for data in (whole, untagged(whole)):
        assert decode(data).end.warnings == ()
        sound = decode(data[: len(data) // 2])
        assert 2 < sound.end.duration < 6
        assert sound.end.warnings[0].startswith("the media breaks off at ")


def untagged(data: bytes) -> bytes:
    """Matroska without the tags that say how long each track is: only the whole has a length then."""
    return data.replace(b"DURATION", b"UNWANTED")


def test_a_short_sound_beside_a_long_video_does_not_break_off() -> None:
    for format in ("mp4", "matroska", "flv"):
        data = encode(tone(rate=44_100, seconds=0.5), format, "aac", 44_100, video=PICTURES[format])
        assert decode(data).end.warnings == ()
        assert decode(untagged(data)).end.warnings == ()


def test_an_mp4_of_which_only_the_index_came() -> None:
    data = index_in_front(encode(tone(seconds=10), "mp4", "aac"))
    assert_tone(decode(data), 10)
    refused(
        data[: data.index(b"mdat") + 4], NotMedia, "no sound could be decoded|index .* is missing or broken"
    )


def index_in_front(data: bytes) -> bytes:
    """An MP4 with its index moved before the sound, as servers like it."""
    sound, index = data.index(b"mdat") - 4, data.index(b"moov") - 4
    moved = bytearray(data[index:])
    for table in re.finditer(rb"stco", bytes(moved)):
        count = int.from_bytes(moved[table.end() + 4 : table.end() + 8])
        for at in range(table.end() + 8, table.end() + 8 + 4 * count, 4):
            moved[at : at + 4] = (int.from_bytes(moved[at : at + 4]) + len(moved)).to_bytes(4)
    return data[:sound] + bytes(moved) + data[sound:index]


@pytest.mark.parametrize(("format", "codec"), [("ipod", "aac"), ("matroska", "aac"), ("ogg", "libopus")])
def test_damaged_packets_are_left_out(format: str, codec: str) -> None:
    data = bytearray(
        encode(np.random.default_rng(1).normal(0, 0.1, 480_000).astype(np.float32), format, codec)
    )
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(2).bytes(3000)
    sound = decode(bytes(data))
    assert sound.end.duration == pytest.approx(10, abs=0.5)
    if format == "ipod":
        assert re.search(r"^\d+ damaged packets? (was|were) left out$", sound.end.warnings[0])


def test_nothing_but_damage() -> None:
    data = bytearray(encode(tone(seconds=3), "ipod", "aac"))
    sound = slice(data.index(b"mdat") + 4, data.index(b"moov") - 4)
    data[sound] = np.random.default_rng(3).bytes(sound.stop - sound.start)
    with suppress(NotMedia):
        assert decode(bytes(data)).end.warnings


# Uploads that are still on their way


class Arriving(io.BytesIO):
    """A file of which only the beginning has come; reading on would wait."""

    class Wait(Exception):
        pass

    def __init__(self, data: bytes, there: int) -> None:
        super().__init__(data)
        self._there = there

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self._there:
            raise self.Wait
        return super().read(min(size or 0, self._there - self.tell()))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == 2:
            raise OSError("the end is not known")
        return super().seek(offset, whence)


@pytest.mark.parametrize(
    ("format", "codec"),
    [
        ("wav", "pcm_s16le"),
        ("aiff", "pcm_s16be"),
        ("w64", "pcm_s16le"),
        ("mp3", "libmp3lame"),
        ("matroska", "aac"),
        ("webm", "libopus"),
        ("ogg", "libopus"),
        ("flac", "flac"),
        ("adts", "aac"),
        ("mpegts", "aac"),
        ("flv", "aac"),
        ("mp4", "aac"),
    ],
)
def test_sound_comes_before_the_file_is_there(format: str, codec: str) -> None:
    data = encode(tone(seconds=30), format, codec)
    data = index_in_front(data) if format == "mp4" else data
    with open_media(Arriving(data, len(data) // 2)) as opened:
        blocks = opened.blocks()
        assert next(blocks).start == pytest.approx(0, abs=0.01)
        with pytest.raises(Arriving.Wait):
            list(blocks)


def test_an_index_at_the_end_is_waited_for() -> None:
    data = encode(tone(seconds=30), "mp4", "aac")
    with pytest.raises(Arriving.Wait):
        open_media(Arriving(data, len(data) // 2))
    with open_media(Arriving(data, len(data) + 1)) as opened:
        assert sum(len(block.pcm) for block in opened.blocks()) / SAMPLE_RATE == pytest.approx(30, abs=0.1)


def test_the_end_is_known_only_at_the_end() -> None:
    with open_media(io.BytesIO(wav(tone(rate=16_000)))) as opened:
        next(opened.blocks())
        with pytest.raises(RuntimeError):
            _ = opened.end


# Bait


class Watch:
    """Sees whether a file is opened by anybody, FFmpeg's C code included (inotify)."""

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(os.O_NONBLOCK)
        assert self._libc.inotify_add_watch(self._handle, bytes(path), 0x20) >= 0

    def opened(self) -> bool:
        try:
            return bool(os.read(self._handle, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._handle)


class Trap(NamedTuple):
    folder: Path
    secret: Path
    watch: Watch
    listener: socket.socket

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def sprung(self) -> bool:
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return self.watch.opened()
        return True


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    """A folder to work in with a secret recording in it, and a port on which nobody should knock."""
    secret = tmp_path / "secret.wav"
    secret.write_bytes(wav(tone(rate=16_000)))
    for number in range(3):
        (tmp_path / f"secret{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        watch = Watch(secret)
        yield Trap(tmp_path, secret, watch, listener)
        watch.close()


def bait(trap: Trap) -> dict[str, bytes]:
    address, secret = trap.address, trap.secret
    ism = f"<SmoothStreamingMedia><StreamIndex Url='http://{address}/x'/></SmoothStreamingMedia>"
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
    mpd = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="audio/wav"><Representation id="1" '
        'bandwidth="1000"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {} RTP/AVP 0\n"
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><image href="http://{}/a.png"/><image href="{}"/></svg>'
    texts = {
        "concat": "ffconcat version 1.0\nfile 'secret.wav'\n",
        "concat, absolute": f"ffconcat version 1.0\nfile '{secret}'\n",
        "concat, network": f"ffconcat version 1.0\nfile 'http://{address}/a.wav'\n",
        "hls": hls.format("secret.wav"),
        "hls, absolute": hls.format(f"file://{secret}"),
        "hls, network": hls.format(f"http://{address}/a.ts"),
        "hls, key": hls.replace("#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="secret.wav"\n#EXTINF').format(
            "a.ts"
        ),
        "dash": mpd.format(secret),
        "dash, network": mpd.format(f"http://{address}/a.mp4"),
        "smooth streaming": ism,
        "svg": svg.format(address, secret),
        "image2": "secret%d.png",
        "sdp": sdp.format(address.split(":")[1]),
        "subfile": f"subfile,,start,0,end,0,,:{secret}",
        "concat protocol": f"concat:{secret}|{secret}",
        "file": f"file:{secret}",
        "url": f"http://{address}/a.wav",
        "m3u": f"{secret}\n",
        "pls": f"[playlist]\nFile1={secret}\nLength1=2\nNumberOfEntries=1\n",
        "asx": f'<asx version="3.0"><entry><ref href="http://{address}/a.wav"/></entry></asx>',
        "real": f"rtsp://{address}/a.rm\n",
        "vobsub": "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 0\n",
        "imf": '<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"/>',
        "lavfi": "amovie=secret.wav",
    }
    return {name: text.encode() for name, text in texts.items()}


NAMES = [
    "concat", "concat, absolute", "concat, network", "hls", "hls, absolute", "hls, network", "hls, key",
    "dash", "dash, network", "smooth streaming", "svg", "image2", "sdp", "subfile", "concat protocol", "file",
    "url", "m3u", "pls", "asx", "real", "vobsub", "imf", "lavfi",
]  # fmt: skip


class Named(io.BytesIO):
    """FFmpeg also goes by names: this is a playlist's."""

    name = "playlist.m3u8"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [io.BytesIO, Named])
def test_bait_is_not_taken(trap: Trap, name: str, kind: type[io.BytesIO]) -> None:
    with pytest.raises(NotMedia, match="the file is not of an audio or video format") as caught:
        open_media(kind(bait(trap)[name]))
    assert "secret" not in str(caught.value)
    assert not trap.sprung()


def test_all_bait_is_laid(trap: Trap) -> None:
    assert list(bait(trap)) == NAMES


LAX = {"allowed_extensions": "ALL", "extension_picky": "0"}


def bite(data: bytes, options: dict[str, str], **more: Any) -> None:
    with av.open(Named(data), "r", container_options=LAX | options, **more) as container:
        list(container.decode(audio=0))


@pytest.mark.parametrize("name", ["concat", "hls", "hls, absolute"])
def test_the_trap_works(trap: Trap, name: str) -> None:
    """Without any of the defences the secret is read."""
    bite(bait(trap)[name], {})
    assert trap.sprung()


@pytest.mark.parametrize("name", ["concat", "hls", "hls, absolute", "hls, network", "concat, network"])
@pytest.mark.parametrize("defence", ["format_whitelist", "protocol_whitelist"])
def test_each_defence_holds_alone(trap: Trap, name: str, defence: str) -> None:
    with pytest.raises(av.FFmpegError):
        bite(bait(trap)[name], {defence: media.OPTIONS[defence]})
    assert not trap.sprung()


@pytest.mark.parametrize("name", ["hls", "hls, absolute", "hls, network"])
def test_no_second_file_is_opened(trap: Trap, name: str) -> None:
    with pytest.raises(NotMedia, match="refers to another file"):
        bite(bait(trap)[name], {}, io_open=media._refuse)
    assert not trap.sprung()


def test_a_track_in_another_file(trap: Trap) -> None:
    """A QuickTime file whose sound lies in the file beside it."""
    refused(elsewhere(trap.secret), NotMedia, "no sound could be decoded")
    assert not trap.sprung()


def test_the_track_in_another_file_is_one(trap: Trap) -> None:
    options = {"enable_drefs": "1"}
    with (
        suppress(av.FFmpegError),
        av.open(io.BytesIO(elsewhere(trap.secret)), "r", container_options=options) as file,
    ):
        list(file.decode(audio=0))
    assert trap.sprung()


def elsewhere(secret: Path) -> bytes:
    data = encode(tone(), "mov", "pcm_s16le")
    path = bytes(secret)
    alias = bytearray(150)
    alias[130:134] = struct.pack(">HH", 1, 1)
    alias[10:11] = b"\1"
    record = struct.pack(">hH", 2, len(path)) + path + b"\0" * (len(path) % 2) + struct.pack(">hH", -1, 0)
    entry = struct.pack(">4sI", b"alis", 0) + alias + record
    dref = struct.pack(">II", 0, 1) + struct.pack(">I", len(entry) + 4) + entry
    moov = data.index(b"moov") - 4
    return data[:moov] + replaced(data[moov:], dref)


def replaced(boxes: bytes, dref: bytes) -> bytes:
    """The boxes with another body of the data reference of the sound, sizes adjusted."""
    made = b""
    while boxes:
        size, name = struct.unpack(">I4s", boxes[:8])
        body, boxes = boxes[8:size], boxes[size:]
        if name in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
            body = replaced(body, dref)
        body = dref if name == b"dref" else body
        made += struct.pack(">I4s", len(body) + 8, name) + body
    return made


# Recordings


@pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings are not here")
@pytest.mark.parametrize(
    ("name", "seconds"),
    [("jfk.wav", 11.0), ("de-podcast.wav", 62.6), ("en-office.mp3", 47.6), ("ami/dev00.wav", 30.0)],
)
def test_recordings(name: str, seconds: float) -> None:
    sound = decode((RECORDINGS / name).read_bytes())
    assert sound.end.warnings == ()
    assert len(sound.pcm) / SAMPLE_RATE == pytest.approx(seconds, abs=0.1)
    assert decibels(sound.pcm) > -50
