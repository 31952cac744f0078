"""srt: SubRip subtitles. Cues are counted from 1, times have a comma; a highlighted word is underlined.
A speaker is named before the text, as `Name: `.

SubRip has no way to escape: what a player would take for a tag or for the line that starts a cue is parted.
Source: https://www.matroska.org/technical/subtitles.html#srt-subtitles
"""

import re
from collections.abc import Callable, Iterable, Iterator

from server import formats
from server.formats import Pieces
from server.subtitles import Atom, Cue, Cues, State, highlights, joined, plain, timestamp, unlit
from server.types import Style, Transcript

MEDIA_TYPE = "text/plain; charset=utf-8"

_PARTED = re.compile(r"(<(?=[/a-zA-Z])|\{(?=\\))")
"""What begins a tag of HTML or of SSA for a player."""


def write(transcript: Transcript, style: Style) -> Iterator[str]:
    return formats.joined(pieces(style), transcript.segments)


def pieces(style: Style) -> Pieces:
    states = highlights if style.highlight_words else unlit
    return formats.OfCues(Cues(style), _Numbered(states, style.first_number))


class _Numbered:
    """Blocks, counted: one for each cue, or where words are highlighted for each state of it."""

    def __init__(self, states: Callable[[Cue], Iterable[State]], first: int) -> None:
        self._states = states
        self._number = first - 1

    def __call__(self, cue: Cue) -> str:
        return "".join(self._block(cue, *state) for state in self._states(cue))

    def _block(self, cue: Cue, start: float, end: float, lit: Atom | None) -> str:
        self._number += 1
        times = f"{timestamp(start, ',')} --> {timestamp(end, ',')}"
        text = "\n".join(joined(line, lambda atom: _marked(atom, lit)) for line in cue.lines)
        return f"{self._number}\n{times}\n{_name(cue)}{text}\n\n"


def _name(cue: Cue) -> str:
    return f"{_parted(plain(cue.speaker))}: " if cue.speaker else ""


def _marked(atom: Atom, lit: Atom | None) -> str:
    text = _parted(atom.text)
    return f"<u>{text}</u>" if atom is lit else text


def _parted(text: str) -> str:
    return _PARTED.sub(r"\1 ", text).replace("-->", "->")
