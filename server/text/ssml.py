"""SSML, as far as it can be spoken here: speak, p, s, break, sub, say-as, phoneme, prosody, emphasis, lang.

Other elements are spoken as if their tags were not there. A text that is not one <speak> element is plain.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from xml.parsers import expat

from server.errors import BadField

_SPEEDS = {"x-slow": 0.5, "slow": 0.75, "medium": 1.0, "default": 1.0, "fast": 1.4, "x-fast": 1.8}
_PITCHES = {"x-low": 0.6, "low": 0.8, "medium": 1.0, "default": 1.0, "high": 1.25, "x-high": 1.5}
_VOLUMES = {
    "silent": 0.0,
    "x-soft": 0.3,
    "soft": 0.6,
    "medium": 1.0,
    "default": 1.0,
    "loud": 1.5,
    "x-loud": 2.0,
}
_PAUSES = {"none": 0.0, "x-weak": 0.1, "weak": 0.2, "medium": 0.4, "strong": 0.7, "x-strong": 1.2}
_EMPHASIS = {"strong": 1.4, "moderate": 1.2, "none": 1.0, "reduced": 0.8}

_BEFORE = re.compile(r"[\s\ufeff]+|<\?xml.*?\?>|<!--.*?-->", re.DOTALL)
_SPEAK = re.compile(r"<speak[\s/>]")

_NOT_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufefe\\uff00-\\ufffd\\U00010000-\\U0010ffff]")
"""What may not stand in XML, and no voice would read; also the mark of the order of bytes."""

LONGEST_PAUSE = 10.0
"""Seconds; longer breaks are cut to this."""

_DEEPEST = 50
"""Elements in each other."""


@dataclass(frozen=True, slots=True)
class Span:
    """Text that is spoken in one way."""

    text: str
    speed: float = 1.0
    pitch: float = 1.0
    volume: float = 1.0
    language: str = ""
    """BCP 47; empty: the request's."""
    say_as: str = ""
    ipa: str = ""
    """How it sounds, in IPA."""
    literal: bool = False
    """Whether it is to be read as it stands."""


@dataclass(frozen=True, slots=True)
class Break:
    """Silence."""

    seconds: float


Part = Span | Break


def is_ssml(text: str) -> bool:
    """Whether a text means to be SSML."""
    at = 0
    while found := _BEFORE.match(text, at):
        at = found.end()
    return bool(_SPEAK.match(text, at))


def parse(text: str) -> list[Part]:
    """What is to be spoken, in order. Raises BadField where it is not well-formed."""
    return _Parser().parse(text)


class _Parser:
    """Expat's events; entities of a document's own, through which a few bytes could grow, are refused."""

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self._open: list[Span] = [Span("")]
        self._skipped = 0
        self._said: list[str] = []

    def parse(self, text: str) -> list[Part]:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.EntityDeclHandler = self._refuse
        try:
            parser.Parse(_NOT_XML.sub(" ", text).strip(), True)
        except expat.ExpatError as error:
            raise BadField(f"the SSML is not well-formed: {error}", "input") from error
        return self._parts

    def _refuse(self, *declared: object) -> None:
        raise BadField("the SSML may not declare entities", "input")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        here = self._open[-1]
        if len(self._open) > _DEEPEST:
            raise BadField(f"the SSML has more than {_DEEPEST} elements in each other", "input")
        match name.rpartition(":")[2]:
            case "break":
                self._parts.append(Break(_pause(attributes)))
            case "p" | "s":
                self._parts.append(Span("\n"))
            case "prosody":
                here = replace(
                    here,
                    speed=here.speed * _factor(attributes.get("rate", ""), _SPEEDS),
                    pitch=here.pitch * _factor(attributes.get("pitch", ""), _PITCHES),
                    volume=here.volume * _loudness(attributes.get("volume", "")),
                )
            case "emphasis":
                here = replace(here, volume=here.volume * _EMPHASIS.get(attributes.get("level", ""), 1.2))
            case "say-as":
                here = replace(here, say_as=attributes.get("interpret-as", ""))
            case "lang":
                here = replace(here, language=attributes.get("xml:lang", ""))
            case "phoneme" if attributes.get("alphabet", "ipa") == "ipa":
                here = replace(here, ipa=attributes.get("ph", ""))
            case "sub" if "alias" in attributes:
                self._parts.append(replace(here, text=attributes["alias"]))
                here = replace(here, literal=True)
        self._open.append(here)
        self._said.append(name)

    def _end(self, name: str) -> None:
        self._open.pop()
        self._said.pop()
        if name.rpartition(":")[2] in ("p", "s"):
            self._parts.append(Span("\n"))

    def _text(self, text: str) -> None:
        here = self._open[-1]
        if not here.literal and self._said[-1] not in ("metadata", "desc"):
            self._parts.append(replace(here, text=re.sub(r"\s+", " ", text)))


def _pause(attributes: dict[str, str]) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(ms|s)\s*", attributes.get("time", ""))
    if found:
        seconds = float(found[1]) * (0.001 if found[2] == "ms" else 1.0)
    else:
        seconds = _PAUSES.get(attributes.get("strength", "medium"), _PAUSES["medium"])
    return min(seconds, LONGEST_PAUSE)


def _factor(value: str, names: dict[str, float]) -> float:
    """A factor as SSML writes one: a name, "120%", "+20%", "1.2"."""
    if value in names:
        return names[value]
    found = re.fullmatch(r"\s*([+-]?)(\d+(?:\.\d+)?)(%|st)?\s*", value)
    if not found:
        return 1.0
    number = float(found[2])
    if found[3] == "st":
        factor = 2 ** ((-number if found[1] == "-" else number) / 12)
    elif found[3] == "%":
        factor = {"+": 1 + number / 100, "-": 1 - number / 100, "": number / 100}[found[1]]
    else:
        factor = number
    return min(max(float(factor), 0.25), 4.0)


def _loudness(value: str) -> float:
    if value in _VOLUMES:
        return _VOLUMES[value]
    found = re.fullmatch(r"\s*([+-]?\d+(?:\.\d+)?)dB\s*", value)
    return float(min(10 ** (float(found[1]) / 20), 4.0)) if found else _factor(value, {})


def plain(text: str) -> Iterator[Part]:
    """A text without tags, as one part."""
    yield Span(text)
