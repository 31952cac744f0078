"""Speech with the true times of its words: espeak-ng's library says a text and tells where each word lies.

The library is the one that the program espeak-ng uses, called through ctypes.
"""

import ctypes
import re
import subprocess
from collections.abc import Iterator
from ctypes.util import find_library
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from server.types import SAMPLE_RATE, Word
from tests.speech import Pcm

_SYNCHRONOUS = 2
"""AUDIO_OUTPUT_SYNCHRONOUS: sound is handed to the callback, nothing is played."""

_DONT_EXIT = 0x8000
"""espeakINITIALIZE_DONT_EXIT: what goes wrong is told, and does not end the process."""

_LIST_END, _WORD = 0, 1
"""espeak_EVENT_TYPE: no more events; a word begins."""

_UTF8 = 1

_SPEED, _PITCH = 1, 3
"""espeakRATE, words a minute; espeakPITCH, 0 to 100."""

_AUDIBLE = 0.003
"""Of full scale: what is quieter at the edges of a word is not part of it."""


_FULL_NAMES = {"fr-fr": "French (France)"}
"""Where the library does not know a name that the program does."""


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True, slots=True)
class Spoken:
    """A sentence, and where its words lie."""

    text: str
    pcm: Pcm
    words: tuple[Word, ...]
    """Those whose times are known, in seconds from the start of the sound. Of words that run together
    ("in the") espeak-ng tells one time for both: they are left out."""


@dataclass(frozen=True, slots=True)
class Voice:
    """How espeak-ng speaks."""

    name: str = "en-us"
    """As espeak-ng lists it, with a variant: "en-us+f3"."""
    speed: int = 160
    """Words a minute."""
    pitch: int = 50


@lru_cache(maxsize=4096)
def speak(text: str, voice: Voice = Voice()) -> Spoken:
    """`text` spoken, and where its words lie."""
    library, rate = _library()
    chunks: list[Pcm] = []
    starts: list[tuple[int, int, int]] = []

    def take(wav: Any, samples: int, events: Any) -> int:
        if samples:
            chunks.append(np.ctypeslib.as_array(wav, (samples,)).astype(np.float32) / np.float32(32768))
        starts.extend(_words_of(events))
        return 0

    callback = _CALLBACK(take)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(_FULL_NAMES.get(voice.name, voice.name).encode()):
        raise ValueError(f"espeak-ng has no voice {voice.name}")
    library.espeak_SetParameter(_SPEED, voice.speed, 0)
    library.espeak_SetParameter(_PITCH, voice.pitch, 0)
    data = text.encode()
    library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
    pcm = np.concatenate(chunks)
    return Spoken(text, _resampled(pcm, rate), tuple(_timed(text, pcm, rate, starts)))


@lru_cache(maxsize=1)
def _library() -> tuple[Any, int]:
    """The library and its samples per second."""
    library = ctypes.CDLL(_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, None, _DONT_EXIT)
    if rate <= 0:
        raise RuntimeError(f"{_path()} does not find its data")
    return library, rate


def _path() -> str:
    """The program's own library. By its name alone one would get another one of that name that has been
    loaded before, as the engine's, which has its data elsewhere."""
    said = subprocess.run(["espeak-ng", "--version"], check=True, capture_output=True, text=True).stdout
    beside = Path(said.partition("Data at:")[2].strip()).with_name("libespeak-ng.so.1")
    return str(beside) if beside.exists() else find_library("espeak-ng") or beside.name


def _words_of(events: Any) -> Iterator[tuple[int, int, int]]:
    """Place in the text, length in it, and first sample of each word."""
    index = 0
    while events[index].type != _LIST_END:
        event = events[index]
        if event.type == _WORD:
            yield event.text_position - 1, event.length, event.sample
        index += 1


def _timed(text: str, pcm: Pcm, rate: int, starts: list[tuple[int, int, int]]) -> Iterator[Word]:
    """Words as the text has them between its spaces, each with the sound it can be heard in."""
    ends = [start for _, _, start in starts[1:]] + [len(pcm)]
    words = list(re.finditer(r"\S*\w\S*", text))
    inside = [
        [
            (start, end)
            for (place, length, start), end in zip(starts, ends, strict=True)
            if word.start() <= place < place + length <= word.end()
        ]
        for word in words
    ]
    for word, own, following in zip(words, inside, [*inside[1:], [()]], strict=True):
        if own and following:
            begin, end = own[0][0], own[-1][1]
            audible = np.flatnonzero(np.abs(pcm[begin:end]) > _AUDIBLE)
            if len(audible):
                yield Word(word[0], float(begin + audible[0]) / rate, float(begin + audible[-1]) / rate)


def _resampled(pcm: Pcm, rate: int) -> Pcm:
    frame = av.AudioFrame.from_ndarray(pcm[np.newaxis], format="flt", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([made.to_ndarray()[0] for made in frames])
