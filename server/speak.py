"""Text to speech: what a client asks for becomes a stream of encoded sound."""

import asyncio
import os
import struct
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import msgspec

from server import __version__, text
from server.encoder import Encoder
from server.errors import BadField
from server.memory import Memory
from server.phrases import Phrases
from server.speaker import Speakers
from server.spool import Spool
from server.text import dictionary
from server.types import ModelInfo, Piece, Sound, Speak, Voice
from server.voices import Voices, files

SAMPLE_RATES = range(8_000, 48_001)
"""Hz in which speech can be had."""

_SILENCE = 0.25
"""Seconds of silence that a text without a word becomes."""

_AT_ONCE = 500
"""Characters up to which a text is prepared without leaving the event loop."""

_READ: set[str] = set()
"""Languages whose words are loaded; the first text of one takes longer than the server may stand still."""


@dataclass(slots=True)
class Spoken:
    """A text with its voice, ready to be spoken."""

    speak: Speak
    voice: Voice
    pieces: tuple[Piece, ...]
    seconds: float = 0.0
    """Of sound that has been made."""

    @property
    def sample_rate(self) -> int:
        """Hz of the answer."""
        return self.speak.sample_rate or self.voice.sample_rate

    @property
    def characters(self) -> int:
        """Of the text as it is read, everything written out."""
        return sum(len(piece.text) for piece in self.pieces)


async def prepare(speak: Speak, voices: Voices) -> Spoken:
    """Find the voice and make the text ready. Raises VoiceNotFound and BadField, TextTooLong among them."""
    if speak.sample:
        model = voices.cloner(speak.voice, speak.language, speak.engine)
        voice = replace(model, sample=speak.sample)
    else:
        voice = voices.find(speak.voice, speak.language, speak.engine)
    words = dictionary.parse(speak.dictionary)
    if words and not voice.ipa:
        raise BadField(f"the voice {voice.id} takes no sounds in IPA", "custom_dictionary")

    language = speak.language or voice.locale

    def pieces() -> tuple[Piece, ...]:
        found = text.pieces(speak.text, language, speed=speak.speed, longest=speak.longest, words=words)
        return tuple(found) or (Piece("", pause=_SILENCE),)

    if len(speak.text) <= _AT_ONCE and language in _READ:
        return Spoken(speak, voice, pieces())
    spoken = Spoken(speak, voice, await asyncio.to_thread(pieces))
    _READ.add(language)
    return spoken


async def sound(
    spoken: Spoken, memory: Memory, speakers: Speakers, encoder: Encoder, phrases: Phrases
) -> AsyncGenerator[bytes]:
    """The sound in the format asked for, as it is made.

    Raises Busy, NoMemory, ModelBroken and WorkFailed. Closing the iterator early stops the work.
    """
    # What a clone says is kept by nobody: a voice that is deleted must leave nothing.
    keep = (
        _Kept(phrases, spoken.voice)
        if phrases.size and spoken.speak.keep and not spoken.voice.sample
        else None
    )
    async with aclosing(_said(spoken, memory, speakers, keep)) as said:
        async with aclosing(_written(said, spoken, encoder)) as written:
            async for data in written:
                yield data


async def _said(
    spoken: Spoken, memory: Memory, speakers: Speakers, keep: "_Kept | None"
) -> AsyncGenerator[bytes]:
    """The pieces' sound. What was spoken before needs no model as long as nothing else was asked for."""
    voice, rest = spoken.voice, deque(spoken.pieces)
    while keep and rest and (pcm := await keep.get(rest[0])):
        rest.popleft()
        yield pcm
    if not rest:
        return
    model = model_of(voice)
    async with memory.using(model, spoken.speak.keep_alive):
        said = speakers.say(model, voice.speaker, voice.sample_rate, rest, voice.sample, keep)
        async with aclosing(said):
            async for pcm in said:
                yield pcm


class _Kept:
    """A voice's pieces that were spoken before, by all that changes how they sound."""

    def __init__(self, phrases: Phrases, voice: Voice) -> None:
        self._phrases = phrases
        stamps = [(file.name, status.st_size, status.st_mtime_ns) for file, status in _files(voice)]
        self._voice = (__version__, voice.engine, str(voice.model), stamps, voice.speaker, voice.sample_rate)

    async def get(self, piece: Piece) -> bytes | None:
        return await asyncio.to_thread(self._phrases.get, self._name(piece))

    async def put(self, piece: Piece, pcm: bytes) -> None:
        await asyncio.to_thread(self._phrases.put, self._name(piece), pcm)

    def _name(self, piece: Piece) -> str:
        return sha256(msgspec.json.encode((self._voice, piece))).hexdigest()


def _files(voice: Voice) -> Iterator[tuple[Path, os.stat_result]]:
    for file in (voice.model, *files(voice)):
        with suppress(OSError):
            yield file, file.stat()


async def _written(said: AsyncIterator[bytes], spoken: Spoken, encoder: Encoder) -> AsyncGenerator[bytes]:
    format, rate = spoken.speak.format, spoken.voice.sample_rate
    header = wav_header(spoken.sample_rate) if format == "wav" else b""
    if format in ("wav", "pcm") and rate == spoken.sample_rate:
        written = _counted(said, spoken)
    else:
        written = encoder.encode(_counted(said, spoken), format, rate, spoken.sample_rate)
    async with aclosing(written):
        async for data in written:
            # A header of its own would be an answer's begin before anything was known to have been spoken.
            yield header + data
            header = b""


async def into(
    path: Path, spoken: Spoken, sound: AsyncIterator[bytes], tell: Callable[[float], None]
) -> Sound:
    """All of the sound in a file of its own, that is on the disk then; `tell` hears of the seconds there are.

    Raises NoSpace, and what `sound` raises.
    """
    path.unlink(missing_ok=True)
    spool = Spool(path)
    async for data in sound:
        await spool.write(data)
        tell(spoken.seconds)
    await spool.finish()
    await asyncio.to_thread(_settle, path, spoken)
    speak = spoken.speak
    return Sound(
        spoken.voice.id, speak.format, spoken.sample_rate, round(spoken.seconds, 3), spool.size, str(path)
    )


def _settle(path: Path, spoken: Spoken) -> None:
    """A WAV file's header says how long it is, now that it is known."""
    with path.open("r+b") as file:
        if spoken.speak.format == "wav":
            header = wav_header(spoken.sample_rate, path.stat().st_size - len(wav_header(spoken.sample_rate)))
            file.write(header)
            file.flush()
        os.fsync(file.fileno())


async def _counted(said: AsyncIterator[bytes], spoken: Spoken) -> AsyncGenerator[bytes]:
    async for pcm in said:
        spoken.seconds += len(pcm) / 2 / spoken.voice.sample_rate
        yield pcm


def wav_header(sample_rate: int, size: int | None = None) -> bytes:
    """The 44 bytes before int16 mono PCM of `size` bytes; None: not known yet, as streams write it."""
    data, whole = (0xFFFFFFFF, 0xFFFFFFFF) if size is None else (size, size + 36)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, sample_rate * 2, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", whole, b"WAVE") + form + struct.pack("<4sI", b"data", data)


def model_of(voice: Voice) -> ModelInfo:
    """What holds the voice in memory."""
    id = f"{voice.engine}/{voice.model.stem}" if voice.size else voice.engine
    return ModelInfo(
        id=id,
        path=voice.model,
        size=voice.size,
        created=0,
        engine=voice.engine,
        overhead=voice.overhead,
    )
