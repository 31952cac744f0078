"""Text on its way to a voice: one path for all engines. Each step is a file; `pieces` joins them.

What comes out holds every word that went in, once, in order, written out for reading aloud.
"""

from server.errors import TextTooLong
from server.text import clean, sentences
from server.types import Piece


def pieces(text: str, language: str, *, speed: float = 1.0, longest: int = 0) -> list[Piece]:
    """The pieces in which a text is spoken; none where it has nothing to say.

    `language` in BCP 47; `longest`: characters of the text when it is written out, 0: any number. Raises
    TextTooLong.
    """
    written = clean.clean(text)
    if longest and len(written) > longest:
        raise TextTooLong(len(written), longest)
    return [Piece(text=part, language=language, speed=speed) for part in sentences.split(written)]
