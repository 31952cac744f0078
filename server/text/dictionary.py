"""A client's own pronunciations: words, and how they sound in IPA."""

import re
import unicodedata

from server.errors import BadField
from server.types import Pronounced

_MOST = 1000


def parse(text: str) -> dict[str, str]:
    """The entries by their words in small letters, as NVIDIA's clients write them.

    "word  ipa, word  ipa" or one pair a line; two spaces or more, or a tab, stand between. Raises BadField.
    """
    entries = {}
    for entry in re.split(r"[\n,]", text):
        if not entry.strip():
            continue
        word, _, ipa = re.sub(r"\t|\s{2,}", "\t", entry.strip()).partition("\t")
        if not word or not ipa:
            raise BadField(
                f"custom_dictionary: {entry.strip()[:60]!a} is no word with its sounds behind two spaces",
                "custom_dictionary",
            )
        entries[unicodedata.normalize("NFC", word).lower()] = unicodedata.normalize(
            "NFC", ipa.strip().strip("/")
        )
    if len(entries) > _MOST:
        raise BadField(f"custom_dictionary: more than {_MOST:,} words", "custom_dictionary")
    return entries


def found(text: str, entries: dict[str, str]) -> tuple[Pronounced, ...]:
    """Where in a text words of the dictionary stand."""
    if not entries:
        return ()
    words = "|".join(re.escape(word) for word in sorted(entries, key=len, reverse=True))
    return tuple(
        Pronounced(place.start(), place.end(), entries[place[0].lower()])
        for place in re.finditer(rf"(?<!\w)(?:{words})(?!\w)", text, re.IGNORECASE)
    )
