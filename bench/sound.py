"""Recordings whose words are known: sentences of the demo model's grammar, spoken by espeak-ng.

The same seed gives the same recording wherever the same espeak-ng is installed.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from random import Random

import av
import jiwer
import numpy as np

from server.types import SAMPLE_RATE
from tests.speech import Pcm, say, silence, talk, wav

PAUSES = (0.5, 1.2)
"""Seconds between two sentences: at least, at most."""

NOISE = 2.0
"""Standard deviation, in steps of 16-bit sound, of what a recorder hears in a quiet room."""

_DIGITS = "zero one two three four five six seven eight nine"

LISTS = {
    "num": "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "color": "red green blue yellow black white",
    "thing": "house car book table door garden train bread",
    "city": "Paris Berlin London Madrid Rome",
    "room": "kitchen bedroom office bathroom",
    "weather": "cold warm beautiful",
    "name": "Anna Peter Maria David Laura Thomas Julia Martin Sarah Paul",
    "digit": _DIGITS.removeprefix("zero "),
    "tens": "twenty thirty forty fifty sixty seventy eighty ninety",
    "food": "milk bread butter cheese rice eggs coffee sugar",
    "music": "jazz rock classical piano",
    "drink": "tea coffee water",
}

TEMPLATES = (
    "The meeting is on {day} at {num}.",
    "{name} lives in {city}.",
    "The {thing} is very beautiful.",
    "My favorite color is {color}.",
    "Turn on the light in the {room}.",
    "Turn off the light in the {room}.",
    "I have {num} apples and {num} oranges.",
    "Good morning, {name}, how are you?",
    "The weather is {weather} today.",
    "Where is the {thing}?",
    "Thank you very much, {name}.",
    "The train to {city} leaves at {num}.",
    "Please call {name} at {num}.",
    "My number is {digits}.",
    "The code is {digits}.",
    "Set a timer for {tens} minutes.",
    "Remind me to buy {food} on {day}.",
    "What time is it in {city}?",
    "Play some {music} music.",
    "Stop the music.",
    "Open the window.",
    "Close the {thing}.",
    "The answer is {tens} {digit}.",
    "We are learning to speak.",
    "This is a test of the system.",
    "The quick brown fox jumps over the lazy dog.",
    "She sells sea shells by the sea shore.",
    "Welcome to the demo, {name}.",
    "{name} and {name} are talking about the {thing}.",
    "I would like a cup of {drink}, please.",
    "Yes, that is right.",
    "No, thank you.",
    "Can you hear me now?",
    "Hello {name}.",
    "Goodbye {name}.",
    "The temperature is {tens} degrees.",
    "Volume up.",
    "Volume down.",
    "Next song.",
    "Add {food} to the shopping list.",
    "How far is it to {city}?",
)
"""The English ones of models/ggml-demo.md, without the two that are nothing but numbers."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A file of speech, and what is said in it."""

    path: Path
    seconds: float
    """Of the whole file."""
    speech: float
    """Seconds of it in which a sentence is being spoken."""
    text: str


def word_errors(recording: Recording, heard: str) -> float:
    """Wrong, missing and added words over the words that were said; case and punctuation do not count."""
    return float(jiwer.wer(_plain(recording.text), _plain(heard)))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def sentences(random: Random) -> Iterator[str]:
    """Without end."""

    def fill(place: re.Match[str]) -> str:
        if place[1] == "digits":
            return " ".join(random.choices(_DIGITS.split(), k=random.randint(3, 7)))
        return random.choice(LISTS[place[1]].split())

    while True:
        yield re.sub(r"\{(\w+)\}", fill, random.choice(TEMPLATES))


def monologue(folder: Path, seconds: float, seed: int = 1) -> Recording:
    """A WAV file of exactly `seconds`: sentences with pauses between them."""
    random = Random(seed)
    sound, texts = silence(0), []
    for text in sentences(random):
        longer = np.concatenate([sound, say(text), silence(random.uniform(*PAUSES))])
        if len(longer) > seconds * SAMPLE_RATE:
            break
        sound = longer
        texts.append(text)
    path = folder / f"{seconds:g}s.wav"
    path.write_bytes(wav(_filled(sound, seconds)))
    return Recording(path, seconds, _spoken(texts), " ".join(texts))


def clip(folder: Path, text: str = "The quick brown fox jumps over the lazy dog.") -> Recording:
    """A WAV file of one sentence: some 3 s."""
    path = folder / "clip.wav"
    path.write_bytes(wav(say(text)))
    return Recording(path, _spoken([text]), _spoken([text]), text)


def hours(folder: Path, hours: float, sentences_a_minute: int, seed: int = 1) -> Recording:
    """A FLAC file of many hours: some sentences at the start of each minute, then the noise of a quiet room.

    It is made a minute at a time, so that its length costs no memory.
    """
    random = Random(seed)
    pool = list(islice(sentences(random), 100))
    minutes = [random.sample(pool, sentences_a_minute) for _ in range(round(hours * 60))]
    path = folder / "hours.flac"
    _write_flac(path, (_minute(texts) for texts in minutes))
    texts = list(chain.from_iterable(minutes))
    return Recording(path, len(minutes) * 60.0, _spoken(texts), " ".join(texts))


def _minute(texts: list[str]) -> Pcm:
    sound = talk(texts)
    return _filled(sound, 60) + _room_tone()


@lru_cache(maxsize=1)
def _room_tone() -> Pcm:
    noise = np.random.default_rng(1).standard_normal(60 * SAMPLE_RATE, np.float32)
    return noise * np.float32(NOISE / 32768)


def _filled(sound: Pcm, seconds: float) -> Pcm:
    """The sound with silence after it, `seconds` long."""
    return np.pad(sound, (0, int(seconds * SAMPLE_RATE) - len(sound)))


def _spoken(texts: list[str]) -> float:
    """Seconds that it takes to say them."""
    return sum(len(say(text)) for text in texts) / SAMPLE_RATE


def _write_flac(path: Path, sounds: Iterable[Pcm]) -> None:
    with av.open(str(path), "w", format="flac") as file:
        stream = file.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        for sound in sounds:
            samples = np.rint(sound * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
