"""From media to transcript, with an engine that does what real ones do wrong."""

import io
import re
import wave
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.engines import Transcriber
from server.memory import Memory
from server.models import Models, bundled
from server.reader import Readers
from server.spool import on_disk
from server.transcribe import choose, detect, transcribe
from server.types import (
    Decode,
    Done,
    Event,
    Heard,
    Listen,
    MediaEnd,
    MediaInfo,
    Segment,
    Started,
    Token,
    Transcript,
    Window,
)
from server.vote import Vote
from tests.scripted import Engine, Runner, Say, segment, texts
from tests.speech import SENTENCES, Pcm, say, silence, talk, wav
from tests.voices import Voice, speak


@pytest.fixture
async def readers(tmp_path: Path) -> AsyncIterator[Readers]:
    readers = Readers(tmp_path, warm=1, streams=2, queue=2, memory=1 << 30, longest=3600)
    await readers.start()
    yield readers
    await readers.stop()


async def hear(
    readers: Readers, tmp_path: Path, pcm: Pcm, say: Say | Engine, listen: Listen, slots: int = 2
) -> tuple[Transcript, list[Event], Engine]:
    """The transcript, all events, and the engine that was asked."""
    file = tmp_path / "media.wav"
    file.write_bytes(wav(pcm))
    engine = say if isinstance(say, Engine) else Engine(say)
    transcript, events = await hear_file(readers, tmp_path, file, engine, listen, slots)
    assert_sane(transcript, len(pcm) / 16000)
    return transcript, events, engine


async def hear_file(
    readers: Readers, tmp_path: Path, file: Path, engine: Engine, listen: Listen, slots: int = 2
) -> tuple[Transcript, list[Event]]:
    runner = Runner(engine, slots)
    model = choose(Models(tmp_path, bundled(), default="", demo="true", aliases={}), listen)
    memory = Memory(runner, budget=1 << 40, keep_alive=60, keep_alive_of={}, pinned=())
    events = [event async for event in transcribe(listen, model, on_disk(file), readers, memory, runner)]
    await memory.stop()
    done = events[-1]
    assert isinstance(done, Done)
    assert tuple(event for event in events if isinstance(event, Segment)) == done.transcript.segments
    return done.transcript, events


def assert_sane(transcript: Transcript, seconds: float) -> None:
    """Segments and words in order, none twice, none outside the media or its segment."""
    segments = transcript.segments
    assert [one.id for one in segments] == list(range(len(segments)))
    assert all(0 <= one.start <= one.end <= seconds + 0.05 for one in segments)
    assert all(one.end <= other.start for one, other in pairwise(segments))
    for one in segments:
        times = [time for word in one.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert not times or one.start <= times[0] <= times[-1] <= one.end


def plain(*found: Segment, language: str = "en") -> Say:
    return lambda pcm, decode: Heard(decode.language or language, found, {language: 1.0})


ENGLISH = Listen(model="demo", language="en", words=True)
ONE = np.concatenate([silence(0.5), say(SENTENCES[0]), silence(0.5)])
LOOP = "and then we go to the shop "


async def test_a_loop_is_decoded_again_with_other_settings(readers: Readers, tmp_path: Path) -> None:
    def loops_when_greedy(pcm: Pcm, decode: Decode) -> Heard:
        text = "It is fine." if decode.temperature else "It is fine. " + LOOP * 10
        return Heard("en", (segment(text, 0.2, 2.0),))

    listen = Listen(model="demo", language="en", prompt="names")
    transcript, _, engine = await hear(readers, tmp_path, ONE, loops_when_greedy, listen)
    assert transcript.text == "It is fine."
    assert [(guard.kind, guard.action) for guard in transcript.guards] == [("loop", "decoded_again")]
    assert "repeated 10 times" in transcript.guards[0].reason
    first, second = engine.asked
    assert (first.temperature, first.prompt) == (0.0, "names")
    assert (second.temperature, second.prompt, second.short_context) == (0.4, "", False)


async def test_a_loop_that_stays_is_cut_and_told(readers: Readers, tmp_path: Path) -> None:
    def loops(pcm: Pcm, decode: Decode) -> Heard:
        return Heard("en", (segment("It is fine. " + LOOP * (5 if decode.temperature else 9), 0.2, 2.0),))

    transcript, _, _ = await hear(readers, tmp_path, ONE, loops, ENGLISH)
    assert transcript.text == "It is fine. " + LOOP.strip()
    assert [word.text for word in transcript.words] == transcript.text.split()
    again, cut = transcript.guards
    assert (again.action, cut.action) == ("decoded_again", "cut")
    assert cut.text == (LOOP * 4).strip()
    assert "repeated 5 times" in cut.reason
    assert 0.5 <= cut.start < cut.end <= 2.5
    (looped,) = transcript.segments
    assert len(looped.tokens) == len(["It", "is", "fine", ".", *LOOP.split()])
    assert (looped.compression_ratio or 9) < 2.4


async def test_a_loop_over_segments_is_cut(readers: Readers, tmp_path: Path) -> None:
    def loops(pcm: Pcm, decode: Decode) -> Heard:
        count = 12 if decode.temperature else 14
        return Heard(
            "en", tuple(segment("Thank you, David.", 0.2 + i / 8, 0.3 + i / 8) for i in range(count))
        )

    transcript, _, _ = await hear(readers, tmp_path, ONE, loops, ENGLISH)
    assert transcript.text == "Thank you, David."
    assert [guard.action for guard in transcript.guards] == ["decoded_again", "cut"]


async def test_a_repetition_that_was_said_stays(readers: Readers, tmp_path: Path) -> None:
    """Two decodings agree, and there is time enough to say it."""
    chant = "no " * 9 + "no"
    pcm = np.concatenate([silence(0.3), say(SENTENCES[0]), silence(0.2), say(SENTENCES[1]), silence(0.3)])
    transcript, _, engine = await hear(readers, tmp_path, pcm, plain(segment(chant, 0.2, 3.5)), ENGLISH)
    assert transcript.text == chant
    assert [guard.action for guard in transcript.guards] == ["decoded_again"]
    assert len(engine.asked) == 2


async def test_what_is_written_twice_and_said_once_is_cut(readers: Readers, tmp_path: Path) -> None:
    """Whisper writes the last sentence again into what is left of its window; people do say things twice."""
    spoken = say(SENTENCES[0])
    end = 0.3 + len(spoken) / 16_000
    pcm = np.concatenate([silence(0.3), spoken, hum(1.5), spoken, silence(0.3)])
    text = "The weather is fine."
    said = plain(
        segment(text, 0.2, end - 0.1),
        segment(text, end + 0.4, end + 0.9),
        segment(text, end + 1.4, 2 * end + 0.9),
    )
    transcript, _, _ = await hear(readers, tmp_path, pcm, said, ENGLISH)
    assert texts(transcript.segments) == [text] * 2
    assert transcript.segments[1].start > end + 1.2
    (guard,) = (guard for guard in transcript.guards if guard.kind == "loop")
    assert (guard.action, guard.text) == ("cut", text)
    assert guard.reason == "it was written again, voice activity hears nobody there"


async def test_nobody_says_the_same_again_in_half_the_time(readers: Readers, tmp_path: Path) -> None:
    text = "The weather is fine."
    end = 0.2 + len(say(SENTENCES[0])) / 16_000
    said = plain(segment(text, 0.2, end - 0.6), segment(text, end - 0.6, end - 0.2))
    transcript, _, _ = await hear(readers, tmp_path, ONE, said, ENGLISH)
    assert texts(transcript.segments) == [text]
    assert re.fullmatch(r"it was written again, in 0\.\d\d s after \d\.\d\d s", transcript.guards[0].reason)


async def test_what_is_said_twice_stays_where_its_times_are_wrong(readers: Readers, tmp_path: Path) -> None:
    """The first is laid over both, the second over what is left: there is speech enough for two."""
    text = "The weather is beautiful today."
    pcm = np.concatenate([silence(0.2), say(SENTENCES[0]), say(SENTENCES[0]), silence(0.3)])
    end = len(pcm) / 16_000
    said = plain(segment(text, 0.2, end - 0.9), segment(text, end - 0.9, end - 0.3))
    transcript, _, _ = await hear(readers, tmp_path, pcm, said, ENGLISH)
    assert texts(transcript.segments) == [text] * 2
    assert not transcript.guards


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Thank you.", "en"),
        ("Untertitel der Amara.org-Community", "de"),
        ("ご視聴ありがとうございました", "ja"),
    ],
)
async def test_known_phrases_are_dropped_only_where_nobody_speaks(
    readers: Readers, tmp_path: Path, text: str, language: str
) -> None:
    """The model writes it where it is said, and again into the hum after that."""
    spoken = say(SENTENCES[0])
    pcm = np.concatenate([silence(0.3), spoken, hum(1.5), spoken, silence(0.3)])
    end = 0.3 + len(spoken) / 16_000
    said = plain(segment(text, 0.2, end - 0.2), segment(text, end + 0.4, end + 0.9), language=language)
    transcript, _, _ = await hear(readers, tmp_path, pcm, said, Listen(model="demo", language="en"))
    assert texts(transcript.segments) == [text]
    (guard,) = transcript.guards
    assert (guard.kind, guard.action, guard.text) == ("phantom", "dropped", text)
    assert guard.start == pytest.approx(end + 0.5, abs=0.4)


async def test_other_words_in_a_pause_stay_and_move_to_the_speech(readers: Readers, tmp_path: Path) -> None:
    pcm = np.concatenate([silence(0.3), say(SENTENCES[0]), silence(1.2), say(SENTENCES[1]), silence(0.3)])
    first_end = 0.3 + len(say(SENTENCES[0])) / 16_000
    said = plain(segment("Well then.", first_end + 0.4, first_end + 0.9))
    transcript, _, _ = await hear(readers, tmp_path, pcm, said, ENGLISH)
    assert transcript.text == "Well then."


def hum(seconds: float) -> Pcm:
    """Loud enough to be taken for sound that words can lie in, and no speech."""
    return 0.2 * np.sin(2 * np.pi * 120 * np.arange(int(seconds * 16_000)) / 16_000).astype(np.float32)


async def test_times_outside_of_speech_are_moved_to_it(readers: Readers, tmp_path: Path) -> None:
    """One segment ends far in the hum that follows its speech, another lies in it."""
    spoken = say(SENTENCES[0])
    end = 0.3 + len(spoken) / 16_000
    pcm = np.concatenate([silence(0.3), spoken, hum(1.5), spoken, silence(0.3)])
    said = plain(segment("Long.", 0.3, end + 0.8), segment("Far off.", end + 0.8, end + 0.9))
    transcript, _, _ = await hear(readers, tmp_path, pcm, said, ENGLISH)
    assert texts(transcript.segments) == ["Long.", "Far off."]
    first, second = transcript.segments
    assert end - 0.3 < first.end < end + 0.5
    assert end + 1.1 < second.start < end + 1.6
    moved = transcript.guards[0]
    assert (moved.kind, moved.action, moved.text) == ("time", "moved", "Long.")
    assert (moved.start, moved.end) == (first.start, first.end)
    assert re.fullmatch(r"the model put it at \d\.\d\d to \d\.\d\d s of its window", moved.reason)


async def test_words_in_a_window_without_speech_are_dropped(tmp_path: Path) -> None:
    """Whatever the window's maker was thinking: what the model wrote there is told, and not believed."""
    noise = np.random.default_rng(1).normal(0, 0.1, 48_000)
    pcm = (noise * 32767).astype("<i2").tobytes()

    class Reading(Readers):
        async def read(self, *asked: Any, **how: Any) -> AsyncGenerator[Any]:
            yield MediaInfo(6.0, "wav", "pcm_s16le", 16_000, 1)
            yield Window(0, 0.0, pcm, speech=((0.5, 2.5),))
            yield Window(1, 3.0, pcm, speech=((0.2, 0.25),))
            yield MediaEnd(6.0)

    readers = Reading(tmp_path, warm=0, streams=1, queue=1, memory=1 << 30, longest=3600)
    said = plain(segment("It is fine.", 0.6, 1.2))
    transcript, _, _ = await hear(readers, tmp_path, silence(6), said, ENGLISH)
    assert texts(transcript.segments) == ["It is fine."]
    (guard,) = transcript.guards
    assert (guard.kind, guard.action, guard.text) == ("no_speech", "dropped", "It is fine.")
    assert guard.reason == "voice activity hears nobody in this window"
    assert 3.0 <= guard.start < guard.end <= 6.0


async def test_what_the_model_itself_takes_for_silence_is_dropped(readers: Readers, tmp_path: Path) -> None:
    said = plain(
        segment("Yes.", 0.3, 1.0, logprob=-1.4, no_speech=0.9),
        segment("It is fine.", 1.0, 2.0, logprob=-0.2, no_speech=0.9),
    )
    transcript, _, _ = await hear(readers, tmp_path, ONE, said, ENGLISH)
    assert transcript.text == "It is fine."
    (guard,) = transcript.guards
    assert (guard.kind, guard.action, guard.text) == ("no_speech", "dropped", "Yes.")
    assert guard.reason == "no-speech probability 0.90, mean log probability -1.40"


async def test_sentences_become_segments_with_their_own_tokens_and_times(
    readers: Readers, tmp_path: Path
) -> None:
    first, second = (speak(text) for text in SENTENCES[:2])
    pcm = np.concatenate([silence(0.4), first.pcm, silence(0.6), second.pcm, silence(0.4)])
    whole = segment(" ".join(SENTENCES[:2]), 0.2, 4.0)
    transcript, _, _ = await hear(readers, tmp_path, pcm, plain(whole), ENGLISH)
    assert texts(transcript.segments) == list(SENTENCES[:2])
    one, other = transcript.segments
    assert one.tokens + other.tokens == whole.tokens
    assert one.start == pytest.approx(0.4, abs=0.1)
    assert one.end == pytest.approx(0.4 + first.words[-1].end, abs=0.15)
    assert other.start == pytest.approx(1.0 + len(first.pcm) / 16_000, abs=0.15)
    assert one.seek == other.seek


async def test_halves_of_a_sentence_become_one_segment(readers: Readers, tmp_path: Path) -> None:
    said = plain(segment("The weather is", 0.2, 1.0), segment("beautiful today.", 1.0, 2.0))
    transcript, _, _ = await hear(readers, tmp_path, ONE, said, ENGLISH)
    assert texts(transcript.segments) == ["The weather is beautiful today."]


async def test_numbers_and_abbreviations_do_not_end_a_sentence(readers: Readers, tmp_path: Path) -> None:
    said = plain(segment("Dr. Smith paid 3.50 for the U.S. edition. Then he left.", 0.3, 2.2))
    transcript, _, _ = await hear(readers, tmp_path, ONE, said, ENGLISH)
    assert texts(transcript.segments) == ["Dr. Smith paid 3.50 for the U.S. edition.", "Then he left."]


# Languages --------------------------------------------------------------------------------------------


FOUR = talk(SENTENCES * 2, pause=0.7)
"""Some thirty seconds: four windows or more of the demo model."""


def spoken_in(*shares: dict[str, float]) -> Say:
    """The windows' languages in turn, the last one's for all others."""
    turns = list(shares)

    def say(pcm: Pcm, decode: Decode) -> Heard:
        found = {} if decode.language else (turns.pop(0) if len(turns) > 1 else turns[0])
        language = decode.language or max(found, key=found.__getitem__)
        return Heard(language, (segment(f"{language}!", 0.2, len(pcm) / 16_000),), found)

    return say


async def test_windows_vote_on_the_language(
    readers: Readers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is wrong, the others together know better; nothing of the wrong language stays."""
    # On a slow machine the first vote would not wait for the others.
    monkeypatch.setattr("server.transcribe.Vote", partial(Vote, patience=None))
    votes = spoken_in({"de": 0.6, "en": 0.4}, {"en": 0.9, "de": 0.1}, {"en": 0.9, "de": 0.1})
    transcript, events, _ = await hear(readers, tmp_path, FOUR, votes, Listen(model="demo"), slots=1)
    assert transcript.language == "en"
    assert {one.language for one in transcript.segments} == {"en"}
    assert set(texts(transcript.segments)) == {"en!"}
    assert transcript.languages["en"] > 0.6
    assert next(event for event in events if isinstance(event, Started)).language == "en"


async def test_a_clear_first_window_decides_alone(readers: Readers, tmp_path: Path) -> None:
    transcript, _, engine = await hear(
        readers, tmp_path, FOUR, spoken_in({"fr": 0.99, "en": 0.01}), Listen("demo")
    )
    assert transcript.language == "fr"
    assert sum(decode.language is None for decode in engine.asked) <= 3
    assert all(decode.language in (None, "fr") for decode in engine.asked)


async def test_a_window_without_words_has_no_vote(readers: Readers, tmp_path: Path) -> None:
    asked: list[Decode] = []

    def first_is_noise(pcm: Pcm, decode: Decode) -> Heard:
        asked.append(decode)
        if len(asked) == 1:
            return Heard("ja", (), {"ja": 0.99})
        return Heard(decode.language or "es", (segment("Hola.", 0.2, 2.0),), {"es": 0.8, "ja": 0.2})

    transcript, _, _ = await hear(readers, tmp_path, FOUR, first_is_noise, Listen(model="demo"))
    assert transcript.language == "es"


async def test_detection_is_a_vote_of_the_first_windows(readers: Readers, tmp_path: Path) -> None:
    """No more than three windows, of which nothing but the language is wanted; one clear one is enough."""
    file = tmp_path / "media.wav"
    file.write_bytes(wav(FOUR))

    async def detected(*shares: dict[str, float]) -> tuple[dict[str, float], Engine]:
        engine = Engine(spoken_in(*shares))
        runner = Runner(engine)
        models = Models(tmp_path, bundled(), default="", demo="true", aliases={})
        memory = Memory(runner, budget=1 << 40, keep_alive=60, keep_alive_of={}, pinned=())
        listen = Listen(model="demo", languages=("de", "en", "fr"))
        found = await detect(listen, on_disk(file), models, readers, memory, runner)
        await memory.stop()
        return found, engine

    found, engine = await detected({"de": 0.8, "en": 0.2}, {"en": 0.8, "de": 0.2}, {"en": 0.8, "de": 0.2})
    assert found["en"] == pytest.approx(0.6, abs=0.1)
    assert sum(found.values()) == pytest.approx(1.0)
    assert len(engine.asked) == 3
    assert all(decode.only_language and decode.languages == ("de", "en", "fr") for decode in engine.asked)
    found, engine = await detected({"fr": 0.99, "en": 0.01})
    assert (max(found, key=found.__getitem__), len(engine.asked)) == ("fr", 1)


async def test_silence_has_no_language(readers: Readers, tmp_path: Path) -> None:
    transcript, events, engine = await hear(readers, tmp_path, silence(3), plain(), Listen(model="demo"))
    assert (transcript.language, transcript.segments, transcript.languages) == ("", (), {})
    assert engine.asked == []
    assert any(isinstance(event, Started) for event in events)


async def test_the_choice_of_languages_reaches_the_engine(readers: Readers, tmp_path: Path) -> None:
    listen = Listen(model="demo", languages=("de", "en"))
    _, _, engine = await hear(readers, tmp_path, ONE, plain(segment("Ja.", 0.2, 1.0), language="de"), listen)
    assert engine.asked[0].languages == ("de", "en")


async def test_mixed_languages_are_heard_each_in_its_own(readers: Readers, tmp_path: Path) -> None:
    pcm = talk(SENTENCES[:4], pause=0.7)
    turns = spoken_in({"de": 0.9}, {"en": 0.9}, {"fr": 0.9}, {"en": 0.9})
    listen = Listen(model="demo", multilingual=True)
    transcript, _, engine = await hear(readers, tmp_path, pcm, turns, listen, slots=1)
    assert [one.language for one in transcript.segments] == ["de", "en", "fr", "en"]
    assert texts(transcript.segments) == ["de!", "en!", "fr!", "en!"]
    assert transcript.language == "en"
    assert {decode.language for decode in engine.asked} == {None}


async def test_windows_are_told_what_was_said_before_where_that_is_wanted(
    readers: Readers, tmp_path: Path
) -> None:
    numbers = iter(range(100))

    def counts(pcm: Pcm, decode: Decode) -> Heard:
        return Heard("en", (segment(f"Number {next(numbers)}.", 0.2, len(pcm) / 16_000 - 0.2),))

    listen = Listen(model="demo", language="en", prompt="Names.", conditioned=True)
    _, _, engine = await hear(readers, tmp_path, FOUR, counts, listen)
    assert len(engine.asked) >= 3
    expected = ["Names.", *(f"Names. Number {n}." for n in range(len(engine.asked) - 1))]
    assert [decode.prompt for decode in engine.asked] == expected
    unconditioned = Listen(model="demo", language="en", prompt="Names.")
    _, _, engine = await hear(readers, tmp_path, FOUR, counts, unconditioned)
    assert {decode.prompt for decode in engine.asked} == {"Names."}


async def test_words_are_aligned_where_times_are_seen(readers: Readers, tmp_path: Path) -> None:
    said = plain(segment("Somebody speaks.", 0.2, 2.0))
    for listen, aligned in (
        (Listen("demo", language="en"), {True}),
        (Listen("demo", language="en", times=False), {False}),
        (Listen("demo", language="en", times=False, words=True), {True}),
    ):
        _, _, engine = await hear(readers, tmp_path, FOUR, said, listen)
        assert {decode.aligned for decode in engine.asked} == aligned


# Channels ---------------------------------------------------------------------------------------------


def of_channels(*channels: Pcm) -> bytes:
    """A WAV file with a channel for each sound."""
    longest = max(len(pcm) for pcm in channels)
    samples = np.stack([np.pad(pcm, (0, longest - len(pcm))) for pcm in channels], axis=1)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


async def test_channels_are_heard_by_themselves_and_merged_by_time(readers: Readers, tmp_path: Path) -> None:
    """Two people talk by turns and at once; each side has its words, in its own time."""
    # Told apart by pitch: one speaks at half the other's level.
    ours = np.concatenate([silence(0.5), say(SENTENCES[0]), silence(3.0), say(SENTENCES[0]), silence(12)])
    theirs = np.concatenate([silence(3.0), say(SENTENCES[1]), silence(15), say(SENTENCES[1])]) * 0.3

    def loudness(pcm: Pcm, decode: Decode) -> Heard:
        who = "Loud" if np.abs(pcm).max() > 0.25 else "Soft"
        return Heard("en", (segment(f"{who}.", 0.2, len(pcm) / 16_000 - 0.2),))

    file = tmp_path / "call.wav"
    file.write_bytes(of_channels(ours / np.abs(ours).max() * 0.9, theirs / np.abs(theirs).max() * 0.2))
    listen = replace(ENGLISH, by_channel=True)
    found = (await hear_file(readers, tmp_path, file, Engine(loudness), listen))[0].segments
    assert {(one.channel, text) for one, text in zip(found, texts(found), strict=True)} == {
        (0, "Loud."),
        (1, "Soft."),
    }
    assert [one.start for one in found] == sorted(one.start for one in found)
    assert [one.id for one in found] == list(range(len(found)))
    soft = [one for one in found if one.channel == 1]
    assert soft[0].start == pytest.approx(3.0, abs=0.3)
    assert soft[-1].start == pytest.approx(18.0 + len(say(SENTENCES[1])) / 16_000, abs=0.3)


async def test_channels_are_each_in_their_own_language(readers: Readers, tmp_path: Path) -> None:
    def by_loudness(pcm: Pcm, decode: Decode) -> Heard:
        own = "en" if np.abs(pcm).max() > 0.25 else "de"
        spoken = segment(decode.language or own, 0.2, len(pcm) / 16_000 - 0.2)
        return Heard(decode.language or own, (spoken,), {} if decode.language else {own: 1.0})

    sound = np.concatenate([silence(0.5), say(SENTENCES[0]), silence(3.0), say(SENTENCES[1])])
    file = tmp_path / "call.wav"
    file.write_bytes(of_channels(sound / np.abs(sound).max() * 0.9, sound / np.abs(sound).max() * 0.2))
    listen = Listen(model="demo", by_channel=True)
    transcript, _ = await hear_file(readers, tmp_path, file, Engine(by_loudness), listen)
    heard = {(one.channel, one.language, one.text.strip()) for one in transcript.segments}
    assert heard == {(0, "en", "en"), (1, "de", "de")}
    assert transcript.languages == pytest.approx({"en": 0.5, "de": 0.5}, abs=0.1)


async def test_one_channel_is_a_recording_of_channels_too(readers: Readers, tmp_path: Path) -> None:
    file = tmp_path / "one.wav"
    file.write_bytes(wav(ONE))
    listen = replace(ENGLISH, by_channel=True)
    said = Engine(plain(segment("It is fine.", 0.3, 2.0)))
    (one,) = (await hear_file(readers, tmp_path, file, said, listen))[0].segments
    assert one.channel == 0


# Speech without a pause -------------------------------------------------------------------------------


def hears(spoken: Sequence[tuple[str, float, float]], media: Pcm) -> Say:
    """An engine that hears what of a media's words lies in its window, also the parts at its edges."""

    def say(pcm: Pcm, decode: Decode) -> Heard:
        start = place(media, pcm)
        end = start + len(pcm) / 16_000
        inside = [word for word in spoken if word[2] - 0.05 > start and word[1] + 0.05 < end]
        texts = [text if end - 0.05 > until else text[:2] for text, _, until in inside]
        times = [(since - start, min(until, end) - start) for _, since, until in inside]
        tokens = tuple(
            Token(f" {text}".encode(), -0.1, since) for text, (since, _) in zip(texts, times, strict=True)
        )
        one = segment(" ".join(texts), times[0][0], times[-1][1])
        return Heard("en", (replace(one, tokens=tuple(range(len(tokens))), logprobs=tokens),))

    return say


def place(media: Pcm, pcm: Pcm) -> float:
    """Where in the media a window was taken from."""
    sample = pcm[4000:4800]
    energy = np.convolve(media**2, np.ones(len(sample)), "valid")
    return (int((energy - 2 * np.correlate(media, sample)).argmin()) - 4000) / 16_000


async def test_speech_without_a_pause_has_each_word_once(readers: Readers, tmp_path: Path) -> None:
    """Windows that share some words are joined at these, also where the second begins within a word."""
    texts = [text for text in SENTENCES if not text.startswith("Turn")]
    parts, said, at = [silence(0.3)], [], 0.3
    for spoken in (speak(text, Voice(speed=speed)) for speed in (165, 140) for text in texts):
        begin, end = spoken.words[0].start, spoken.words[-1].end
        said += [(word.text, at + word.start - begin, at + word.end - begin) for word in spoken.words]
        parts.append(spoken.pcm[round(begin * 16_000) : round(end * 16_000)])
        at += len(parts[-1]) / 16_000
    pcm = np.concatenate([*parts, silence(0.3)])
    pcm = (np.round(pcm * 32767) / 32768).astype(np.float32)
    transcript, _, engine = await hear(readers, tmp_path, pcm, hears(said, pcm), ENGLISH)
    assert len(engine.asked) >= 3
    assert [word.text for word in transcript.words] == [text for text, _, _ in said]
    starts = [word.start for word in transcript.words]
    assert np.abs(np.subtract(starts, [since for _, since, _ in said])).max() < 0.4
    unseen = replace(ENGLISH, words=False, times=False)
    _, _, engine = await hear(readers, tmp_path, pcm, hears(said, pcm), unseen)
    assert True in {decode.aligned for decode in engine.asked}, "times tell which words two windows share"


def test_the_script_is_an_engine() -> None:
    engine: Transcriber = Engine(plain())
    assert engine.describe()
