"""Speech becomes windows: all of it, once, in order, and no silence."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
from numpy.typing import NDArray

from server.media import Block, open_media
from server.types import SAMPLE_RATE, Activity, Window, WindowShape
from server.windows import FRAME, Cutter, Resume, VoiceActivity, cut
from tests.speech import SENTENCES, say, silence, talk

Pcm = NDArray[np.float32]

RECORDINGS = Path(__file__).parent.parent.parent / "shared" / "audio"
SHORT = WindowShape(target=6.0, longest=9.0, gap=1.6)
LONG = WindowShape(target=22.0, longest=29.0, gap=2.0)


def blocks(pcm: Pcm, size: int = SAMPLE_RATE, start: float = 0.0) -> Iterator[Block]:
    for place in range(0, len(pcm), size):
        yield Block(start + place / SAMPLE_RATE, pcm[place : place + size])


def samples(window: Window) -> Pcm:
    return np.frombuffer(window.pcm, "<i2").astype(np.float32) / np.float32(32768)


def covered(windows: Iterable[Window], length: int) -> NDArray[np.int64]:
    """How many windows hold each sample."""
    times = np.zeros(length, np.int64)
    for window in windows:
        first = round(window.start * SAMPLE_RATE)
        times[first : first + len(window.pcm) // 2] += 1
    return times


def loud(pcm: Pcm) -> NDArray[np.bool_]:
    """Whether there is sound around each sample (within 25 ms)."""
    around: NDArray[np.float64] = np.convolve(np.abs(pcm), np.ones(800) / 800, "same")
    return around > 0.005


def assert_sane(windows: list[Window], pcm: Pcm, shape: WindowShape, start: float = 0.0) -> None:
    """In order, numbered, of the right length, and each holds the sound of its place."""
    assert [window.index for window in windows] == list(range(len(windows)))
    assert all(0 < window.duration <= shape.longest for window in windows)
    for one, other in pairwise(windows):
        assert other.start >= one.end - other.overlap - 1e-6
        assert other.overlap in (0, one.overlapped)
    for window in windows:
        assert window.speech
        times = [time for span in window.speech for time in span]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= window.duration
    for window in windows:
        first = round((window.start - start) * SAMPLE_RATE)
        np.testing.assert_allclose(samples(window), pcm[first : first + len(window.pcm) // 2], atol=1 / 32000)


# Voice activity


@pytest.fixture(scope="module")
def speech() -> Pcm:
    return talk(SENTENCES[:6])


@pytest.mark.parametrize(
    "sizes", [(FRAME,), (10 * FRAME, 3 * FRAME, FRAME), (31 * FRAME,), (10_000 * FRAME,)]
)
def test_voice_activity_as_a_stream_is_that_of_the_whole(speech: Pcm, sizes: tuple[int, ...]) -> None:
    # Imported here: it brings all of CTranslate2.
    from faster_whisper.vad import get_vad_model

    whole = np.concatenate([speech, silence(FRAME / SAMPLE_RATE)])
    whole = whole[: len(whole) // FRAME * FRAME]
    voice, place = VoiceActivity(), 0
    found: list[NDArray[np.float32]] = []
    while place < len(whole):
        size = sizes[len(found) % len(sizes)]
        found.append(voice(whole[place : place + size]))
        place += size
    expected = get_vad_model()(whole.copy()).reshape(-1)
    assert expected.max() > 0.9
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4)


def test_voice_activity_forgets(speech: Pcm) -> None:
    part = speech[: 50 * FRAME]
    voice = VoiceActivity()
    first = voice(part)
    assert np.abs(voice(part) - first).max() > 0.01
    voice.forget()
    np.testing.assert_allclose(voice(part), first, atol=1e-6)


def test_voice_activity_does_not_bring_ctranslate2() -> None:
    code = (
        "import sys, numpy as np; from server.windows import VoiceActivity;"
        "VoiceActivity()(np.zeros(512, np.float32));"
        "print([name for name in ('ctranslate2', 'faster_whisper', 'torch') if name in sys.modules])"
    )
    found = run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=dict(os.environ)
    )
    assert found.stdout.strip() == "[]"
    assert found.stderr == ""


# Windows


@pytest.mark.parametrize("shape", [SHORT, LONG])
@pytest.mark.parametrize("pause", [0.6, 1.2, 4.0])
def test_all_speech_and_little_else(shape: WindowShape, pause: float) -> None:
    pcm = talk(SENTENCES[:8], pause)
    windows = list(cut(blocks(pcm), shape))
    assert_sane(windows, pcm, shape)
    times = covered(windows, len(pcm))
    assert times.max() == 1
    assert (times[loud(pcm)] == 1).mean() > 0.995
    if pause > shape.gap:
        # espeak's own pauses, and the padding.
        assert (times[~loud(pcm)] == 1).sum() < 8 * 1.2 * SAMPLE_RATE


def test_windows_are_filled_to_the_target() -> None:
    pcm = talk(SENTENCES * 3, 0.7)
    windows = list(cut(blocks(pcm), LONG))
    assert all(LONG.target <= window.duration for window in windows[:-1])
    windows = list(cut(blocks(pcm), SHORT))
    # Closed at the target, or before the sentence that would not have fitted.
    assert all(SHORT.target - 3.5 <= window.duration for window in windows[:-1])


def test_a_window_ends_in_a_pause() -> None:
    pcm = talk(SENTENCES * 2, 0.5)
    windows = list(cut(blocks(pcm), SHORT))
    assert len(windows) > 6
    assert all(np.abs(samples(window)[-800:]).max() < 0.02 for window in windows)
    assert all(np.abs(samples(window)[:800]).max() < 0.02 for window in windows[1:])


def test_a_long_silence_ends_a_window() -> None:
    one, two = say(SENTENCES[0]), say(SENTENCES[1])
    apart = np.concatenate([silence(1), one, silence(SHORT.gap + 0.5), two, silence(1)])
    near = np.concatenate([silence(1), one, silence(SHORT.gap - 1.2), two, silence(1)])
    assert len(list(cut(blocks(apart), SHORT))) == 2
    assert len(list(cut(blocks(near), SHORT))) == 1


def test_speech_without_a_pause_is_cut_in_a_quiet_place() -> None:
    words = [part[loud(part)] for part in (say(text) for text in SENTENCES * 2)]
    # A dip of 160 ms in the last third of the first window, far too short for a pause.
    pcm = np.concatenate([silence(0.5), *words])
    dip = int(7.4 * SAMPLE_RATE)
    pcm[dip - 1500 : dip + 1500] *= 0.003
    windows = list(cut(blocks(pcm), SHORT))
    assert_sane(windows, pcm, SHORT)
    times = covered(windows, len(pcm))
    # No sample of speech is lost, and only those around the cuts are given twice.
    assert (times[SAMPLE_RATE:] >= 1).all()
    twice = sum(window.overlap for window in windows) * SAMPLE_RATE
    assert (times == 2).sum() == pytest.approx(twice, abs=1)
    assert [window.overlap for window in windows[1:]] == [window.overlapped for window in windows[:-1]]
    assert windows[0].end - windows[0].overlapped / 2 == pytest.approx(dip / SAMPLE_RATE, abs=0.1)
    assert all(window.duration >= SHORT.longest * 2 / 3 - 0.1 for window in windows[:-1])


@pytest.mark.parametrize("size", [160, 4_000, 7_777, 100_000])
def test_the_size_of_blocks_does_not_matter(speech: Pcm, size: int) -> None:
    assert list(cut(blocks(speech, size), SHORT)) == list(cut(blocks(speech), SHORT))


@pytest.mark.parametrize("start", [0.5, 3_600.0, 35_999.123])
def test_times_are_the_media_s(speech: Pcm, start: float) -> None:
    plain = list(cut(blocks(speech), SHORT))
    moved = list(cut(blocks(speech, start=start), SHORT))
    assert [window.pcm for window in moved] == [window.pcm for window in plain]
    expected = [window.start + start for window in plain]
    assert [window.start for window in moved] == pytest.approx(expected, abs=1e-6)


class Forgetful(VoiceActivity):
    """Counts how often it was told to forget."""

    times = -1

    def forget(self) -> None:
        self.times += 1
        super().forget()


def test_a_gap_is_forgotten_over(speech: Pcm) -> None:
    voice = Forgetful()
    assert voice.times == 0
    cutter = Cutter(SHORT, voice=voice)
    for block in [*blocks(speech), *blocks(speech, start=100.0)]:
        list(cutter.feed(block))
    assert voice.times == 2


def test_a_gap_ends_a_window() -> None:
    sentence = say(SENTENCES[5])
    middle = len(sentence) // 2
    there = [*blocks(sentence[:middle]), *blocks(sentence[middle:], start=100.0)]
    windows = list(cut(there, LONG))
    assert len(windows) == 2
    assert windows[0].end == pytest.approx(middle / SAMPLE_RATE, abs=1e-6)
    assert windows[1].start == 100.0
    # The halves joined: one window, across the place where the gap was.
    assert len(list(cut(blocks(sentence), LONG))) == 1


@pytest.mark.parametrize("level", [0.0, 0.003, 0.03, 0.2])
def test_noise_and_silence_give_no_windows(level: float) -> None:
    noise = np.random.default_rng(1).normal(0, level, 20 * SAMPLE_RATE).astype(np.float32)
    assert list(cut(blocks(noise), LONG)) == []


def test_clicks_give_no_windows() -> None:
    pcm = silence(10)
    pcm[5 * SAMPLE_RATE : 5 * SAMPLE_RATE + 1600] = say(SENTENCES[0])[4000:5600]
    assert list(cut(blocks(pcm), LONG)) == []


def test_a_client_tells_how_much_silence_ends_a_window() -> None:
    pcm = talk(SENTENCES[:2], pause=0.8)
    shorter, longer = (LONG.heard_by(Activity(silence=silence)) for silence in (0.4, 1.5))
    assert [len(list(cut(blocks(pcm), shape))) for shape in (shorter, longer)] == [2, 1]


def test_a_client_tells_how_much_sound_comes_before_speech() -> None:
    pcm = np.concatenate([silence(3), say(SENTENCES[0])])
    plain, wider = (
        next(cut(blocks(pcm), LONG.heard_by(Activity(padding=padding)))).start for padding in (None, 1.2)
    )
    assert plain - wider == pytest.approx(1.0, abs=0.01)


def test_a_client_tells_from_where_sound_is_speech(speech: Pcm) -> None:
    noise = np.random.default_rng(1).normal(0, 0.3, len(speech)).astype(np.float32)
    timid, eager = (
        sum(
            window.duration
            for window in cut(blocks(speech + noise), LONG.heard_by(Activity(threshold=threshold)))
        )
        for threshold in (0.9, 0.1)
    )
    assert timid < 0.8 * eager


def test_no_sound_gives_no_windows() -> None:
    assert list(cut([], LONG)) == []
    assert list(cut(blocks(silence(0.01)), LONG)) == []


@pytest.mark.parametrize("factor", [0.1, 0.03, 0.01])
def test_quiet_speech_is_heard(speech: Pcm, factor: float) -> None:
    normal = sum(window.duration for window in cut(blocks(speech), SHORT))
    quiet = sum(window.duration for window in cut(blocks(speech * np.float32(factor)), SHORT))
    assert quiet == pytest.approx(normal, rel=0.1)


def test_speech_up_to_the_last_sample() -> None:
    sentence = say(SENTENCES[5])
    pcm = sentence[: len(sentence) // 2]
    (window,) = cut(blocks(pcm), LONG)
    assert window.end == pytest.approx(len(pcm) / SAMPLE_RATE, abs=1e-9)


def test_pcm_is_the_same_number_for_number() -> None:
    pcm = np.round(say(SENTENCES[0]) * 32768) / np.float32(32768)
    (window,) = cut(blocks(pcm), LONG)
    first = round(window.start * SAMPLE_RATE)
    found = np.frombuffer(window.pcm, "<i2")
    assert (found == (pcm[first : first + len(found)] * 32768).astype(int)).all()


def test_full_scale_does_not_wrap() -> None:
    pcm = np.sign(say(SENTENCES[5])).astype(np.float32) * (np.abs(say(SENTENCES[5])) > 0.02)
    (window,) = cut(blocks(pcm), LONG)
    first = round(window.start * SAMPLE_RATE)
    found = np.frombuffer(window.pcm, "<i2")
    assert (np.sign(found) == np.sign(pcm[first : first + len(found)])).all()


# In good time


def left_at(pcm: Pcm, shape: WindowShape) -> list[tuple[float, Window]]:
    """Each window and the second of sound at which it left."""
    cutter = Cutter(shape)
    left = []
    for block in blocks(pcm, FRAME):
        left += [(cutter.position, window) for window in cutter.feed(block)]
    return left


def test_a_window_leaves_when_the_silence_is_long_enough() -> None:
    pcm = np.concatenate([say(SENTENCES[0]), silence(60), say(SENTENCES[1])])
    (at, window), *_ = left_at(pcm, LONG)
    assert window.index == 0
    assert at - window.end < LONG.gap + 0.1


def test_a_full_window_leaves_at_the_next_pause() -> None:
    pcm = talk(SENTENCES, 1.0)
    for at, window in left_at(pcm, SHORT)[:-1]:
        assert at - window.end < 0.4 or window.duration < SHORT.target


def test_a_window_leaves_before_speech_ends() -> None:
    words = [part[loud(part)] for part in (say(text) for text in SENTENCES * 2)]
    pcm = np.concatenate(words)
    assert all(at - window.start <= SHORT.longest + 0.1 for at, window in left_at(pcm, SHORT))


def test_only_the_pending_window_is_kept(speech: Pcm) -> None:
    cutter = Cutter(SHORT)
    for block in blocks(np.concatenate([speech, silence(30), speech, np.tile(say(SENTENCES[5]), 10)])):
        list(cutter.feed(block))
        assert cutter._stretch
        assert len(cutter._stretch._sound._pcm) <= (SHORT.longest + 1.5) * SAMPLE_RATE


# Going on after another reader


@pytest.mark.parametrize("shape", [SHORT, LONG])
@pytest.mark.parametrize("kind", ["pauses", "no pauses"])
def test_a_resumed_reading_gives_the_rest(shape: WindowShape, kind: str) -> None:
    if kind == "pauses":
        pcm = talk(SENTENCES, 0.9)
    else:
        pcm = np.concatenate([part[loud(part)] for part in (say(text) for text in SENTENCES)])
    there = [*blocks(pcm, start=0.7), *blocks(np.tile(pcm, 2), start=200.0)]
    whole = list(cut(there, shape))
    assert len(whole) >= 3
    for done, window in enumerate(whole, 1):
        rest = list(cut(there, shape, Resume(window.end, done, window.overlapped)))
        assert [replace(one, speech=()) for one in rest] == [replace(one, speech=()) for one in whole[done:]]
        for one, other in zip(rest, whole[done:], strict=True):
            # Voice activity that has heard less before may differ in a frame.
            assert np.ravel(one.speech or ()) == pytest.approx(np.ravel(other.speech or ()), abs=0.04)


def test_what_was_heard_is_not_heard_again(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = 0
    call = VoiceActivity.__call__

    def counted(self: VoiceActivity, pcm: Pcm) -> NDArray[np.float32]:
        nonlocal heard
        heard += len(pcm)
        return call(self, pcm)

    monkeypatch.setattr(VoiceActivity, "__call__", counted)
    pcm = talk(SENTENCES * 2, 0.9)
    list(cut(blocks(pcm), SHORT, Resume(len(pcm) / SAMPLE_RATE - 10, 5)))
    assert 10 * SAMPLE_RATE < heard < 15 * SAMPLE_RATE


def test_how_far_the_sound_was_read(speech: Pcm) -> None:
    cutter = Cutter(SHORT)
    assert cutter.position == 0
    for block in blocks(speech, start=7.0):
        list(cutter.feed(block))
        assert cutter.position == pytest.approx(block.start + len(block.pcm) / SAMPLE_RATE)


# Recordings


@pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings are not here")
@pytest.mark.parametrize(("name", "least"), [("jfk.wav", 9), ("en-office.mp3", 44), ("ami/dev00.wav", 20)])
def test_recordings(name: str, least: float) -> None:
    with (RECORDINGS / name).open("rb") as file, open_media(file) as media:
        windows = list(cut(media.blocks(), LONG))
    assert least < sum(window.duration for window in windows) <= media.end.duration
    assert windows[-1].end <= media.end.duration + 1e-6
