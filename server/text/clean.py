"""Characters that no voice can read."""

import re
import unicodedata

_EMOJI = re.compile(
    "["
    "\U0001f000-\U0001faff"  # pictures, faces, flags' letters, skin tones
    "\u2600-\u27bf"  # older signs and dingbats
    "\u2190-\u21ff\u2b00-\u2bff"  # arrows and stars
    "\ufe0e\ufe0f\u200d\u20e3"  # what joins and shapes them
    "\U000e0020-\U000e007f"
    "]+"
)

_LIKE = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201a": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u201e": '"',
        "\u00ab": '"',
        "\u00bb": '"',
        "\u2026": "...",
        "\u2010": "-",
        "\u2011": "-",
        "\u00ad": None,
        "\u200b": None,
        "\u2060": None,
        "\ufeff": None,
    }
)
"""Kinds of quotes, hyphens and dots that are read alike; what is not seen is not read."""


_STYLED = re.compile("[\U0001d400-\U0001d7ff\uff01-\uff5e]+")
"""Letters and figures in a style of their own: bold and such, as mathematics has them, and wide ones."""


def _plain(styled: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", styled[0])


def clean(text: str) -> str:
    """The text in NFC without emoji, control characters and needless space; paragraphs stay apart."""
    text = _STYLED.sub(_plain, unicodedata.normalize("NFC", text).translate(_LIKE))
    text = _EMOJI.sub(" ", text)
    text = "".join(
        char if char in "\n\t" or unicodedata.category(char) not in _UNREAD else " " for char in text
    )
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r" ?\n[ \n]*", "\n", text).strip()


_UNREAD = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
