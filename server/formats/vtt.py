"""vtt: WebVTT. Cue text escapes &, < and >; highlighted words stand in `<c>` after the time they begin at.

Source: W3C WebVTT, sections 4.1 (file structure) and 4.2.2 (cue text). A style sheet lights the words up:
`::cue(c:future) { opacity: 0.5 }`. A speaker is the voice span (`<v Name>`) that a cue begins with.
"""

import html
from collections.abc import Callable, Iterator

from server import formats
from server.formats import Pieces
from server.subtitles import Atom, Cue, Cues, joined, plain, timestamp
from server.types import Style, Transcript

MEDIA_TYPE = "text/vtt; charset=utf-8"

_HEAD = "WEBVTT\n\n"


def write(transcript: Transcript, style: Style) -> Iterator[str]:
    return formats.joined(pieces(style), transcript.segments)


def pieces(style: Style) -> Pieces:
    return formats.Headed(
        _HEAD, formats.OfCues(Cues(style), _highlighted if style.highlight_words else _plain)
    )


def _plain(cue: Cue) -> str:
    return _cue(cue, _escaped)


def _highlighted(cue: Cue) -> str:
    return _cue(cue, _Marks(cue))


def _cue(cue: Cue, mark: Callable[[Atom], str]) -> str:
    text = "\n".join(joined(line, mark) for line in cue.lines)
    voice = f"<v {html.escape(plain(cue.speaker), quote=False)}>" if cue.speaker else ""
    return f"{timestamp(cue.start, '.')} --> {timestamp(cue.end, '.')}\n{voice}{text}\n\n"


def _escaped(atom: Atom) -> str:
    return html.escape(atom.text, quote=False)


class _Marks:
    """A cue's words with the times they begin at: inside the cue and rising, as the specification wants."""

    def __init__(self, cue: Cue) -> None:
        self._last = cue.start
        self._end = cue.end

    def __call__(self, atom: Atom) -> str:
        text = _escaped(atom)
        if not atom.is_timed:
            return text
        if not self._last < atom.start < self._end:
            return f"<c>{text}</c>"
        self._last = atom.start
        return f"<{timestamp(atom.start, '.')}><c>{text}</c>"
