"""Sounds of one's own in a sentence's phonemes, for engines that are given phonemes and not text.

A word that is to sound otherwise is replaced by one of no language before the sentence is made phonemes, and
that one's phonemes by the wanted ones after: what is around it then sounds as it always does.
"""

from collections.abc import Callable, Iterator, Sequence

from server.types import Pronounced

_STAND_IN = "fanofi"
"""The word of no language."""

_STRESS = "ˈˌ"


def phonemes(
    text: str, pronounced: Sequence[Pronounced], phonemize: Callable[[str], Sequence[Sequence[str]]]
) -> list[list[str]]:
    """The phonemes of a text by its sentences, as `phonemize` makes them, with the given sounds in these."""
    if not pronounced:
        return [list(sentence) for sentence in phonemize(text)]
    found = phonemize(_stood_in(text, pronounced))
    stand_in = [p for part in phonemize(_STAND_IN) for p in part if p not in _STRESS and p.isalpha()]
    sounds = iter([list(sound.ipa) for sound in pronounced])
    return [_replaced(sentence, stand_in, sounds) for sentence in found]


def _stood_in(text: str, pronounced: Sequence[Pronounced]) -> str:
    said, at = "", 0
    for sound in pronounced:
        said += text[at : sound.start] + _STAND_IN
        at = sound.end
    return said + text[at:]


def _replaced(sentence: Sequence[str], stand_in: list[str], sounds: Iterator[list[str]]) -> list[str]:
    """The phonemes, those of the stand-in replaced by the next sounds, wherever the stress lies."""
    said: list[str] = []
    at = 0
    while at < len(sentence):
        end = _end(sentence, at, stand_in)
        if end and (sound := next(sounds, None)) is not None:
            said += sound
            at = end
        else:
            said.append(sentence[at])
            at += 1
    return said


def _end(sentence: Sequence[str], at: int, stand_in: list[str]) -> int:
    """Behind the stand-in that begins here; 0 where none does."""
    matched = 0
    while at < len(sentence) and matched < len(stand_in):
        if sentence[at] == stand_in[matched]:
            matched += 1
        elif sentence[at] not in _STRESS:
            break
        at += 1
    return at if matched == len(stand_in) else 0
