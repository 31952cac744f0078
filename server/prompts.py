"""What is said to Whisper before every window: keywords to expect, and the client's own text.

Whisper uses at most 224 tokens of it, and hears worse the longer it is; what is left out is told.
"""

import re

from server.types import Listen

LONGEST = 1000
"""Characters of a prompt; Whisper's 224 tokens are fewer in any language."""

LONGEST_KEYWORDS = 300
"""Characters of all keywords together: some fifty words."""


def prompt(listen: Listen) -> tuple[str, tuple[str, ...]]:
    """The text, and what of it was left out, as warnings for the client."""
    keywords, left_out = _fitting(listen.keywords)
    own = listen.prompt.strip()
    warnings = []
    if left_out:
        warnings.append(
            f"the last {left_out} of {left_out + len(keywords)} keywords were left out: Whisper hears worse "
            f"with more than {LONGEST_KEYWORDS} characters of them"
        )
    if len(own) > LONGEST:
        warnings.append(
            f"of the prompt only the last {LONGEST:,} characters were used: Whisper takes no more"
        )
    return " ".join(part for part in (_sentence(keywords), own) if part), tuple(warnings)


def listed(text: str) -> tuple[str, ...]:
    """The keywords of a text that has commas, semicolons or lines between them: faster-whisper's hotwords.

    A text that has none is one phrase; where that is too long, each of its words is one.
    """
    parts = tuple(part.strip() for part in re.split(r"[,;\n，；、]", text) if part.strip())
    return tuple(text.split()) if len(parts) == 1 and len(text) > LONGEST_KEYWORDS else parts


def _fitting(keywords: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """The first keywords, as many as there is room for, each once; and how many others there are."""
    wanted = tuple(dict.fromkeys(" ".join(keyword.split()) for keyword in keywords if keyword.strip()))
    room = LONGEST_KEYWORDS
    for count, keyword in enumerate(wanted):
        room -= len(keyword) + 2
        if room < 0:
            return wanted[:count], len(wanted) - count
    return wanted, 0


def _sentence(keywords: tuple[str, ...]) -> str:
    return ", ".join(keywords) + "." if keywords else ""
