"""Samples of voices: recordings of strangers, checked and decoded, so that an engine can speak like them."""

import asyncio
from contextlib import aclosing
from pathlib import Path

from server.errors import TooLong, TooShort
from server.files import digest
from server.reader import Readers, Reading, Recording
from server.spool import Spool
from server.types import CLONING_RATE, MediaEnd, Sample, Window, WindowShape

SHORTEST, LONGEST = 3.0, 30.0
"""Seconds of a sample."""

_PADDING = 0.5
"""Seconds that encoders add at the ends."""

_LEAST_SPEECH = 1.5
"""Seconds of it in which somebody is heard."""

_SHAPE = WindowShape(target=25.0, longest=29.0, gap=2.0)


async def take(media: Spool, into: Path, readers: Readers, quality: int = 20) -> Sample:
    """A recording in any format as a sample in the file `into`, which is there and empty.

    Raises BadMedia (TooShort, TooLong where its length is none of a sample's), Busy and NoSpace.
    """
    lasts = spoken = 0.0
    async with aclosing(readers.read(media, _SHAPE, end=LONGEST + 1)) as reading:
        async for item in reading:
            lasts = _end(item) or lasts
            spoken += _speech(item)
    if lasts < SHORTEST:
        raise TooShort(f"the sample lasts {lasts:.1f} s; at least {SHORTEST:g} s are needed")
    if lasts > LONGEST + _PADDING:
        raise TooLong(f"the sample lasts longer than {LONGEST:g} s")
    if spoken < _LEAST_SPEECH:
        raise TooShort(f"only {spoken:.1f} s of speech are in the sample; {_LEAST_SPEECH:g} s are needed")
    taking = readers.read(media, _SHAPE, end=LONGEST, recording=Recording(into, CLONING_RATE))
    async with aclosing(taking):
        async for _ in taking:
            pass
    return Sample(str(into), await asyncio.to_thread(digest, into), quality)


def _end(item: Reading) -> float | None:
    return item.duration if isinstance(item, MediaEnd) else None


def _speech(item: Reading) -> float:
    if not isinstance(item, Window):
        return 0.0
    if item.speech is None:
        return item.duration
    return sum(end - start for start, end in item.speech)
