"""The languages of Whisper, and the names that people give them."""

from server.ggml import LANGUAGES

_OTHER_CODES = {
    "nb": "no",
    "iw": "he",
    "jv": "jw",
    "fil": "tl",
    "cmn": "zh",
    "in": "id",
    "ji": "yi",
}
"""Codes of the same languages that people send and Whisper does not know."""

MULTI = "multi"
"""What clients send where several languages are spoken."""

_DETECT = ("", "auto", MULTI, "none")


def code(text: str) -> str | None:
    """An ISO-639-1 code from what clients send: "en", "en-US", "EN_us", "english"; None for detection.

    Raises ValueError where Whisper has no such language.
    """
    wanted = text.strip().lower().replace("_", "-")
    if wanted in _DETECT:
        return None
    short = wanted.split("-")[0]
    by_name = {name: known for known, name in LANGUAGES.items()}
    found = by_name.get(wanted) or _OTHER_CODES.get(short, short)
    if found not in LANGUAGES:
        raise ValueError(f'"{text[:40]}" is not a language that Whisper knows; send a code such as "en"')
    return found


def name(code: str) -> str:
    """The English name, in lower case, as OpenAI's API writes it; a code that has none stays as it is."""
    return LANGUAGES.get(code, code)
