"""How a language reads aloud what is written in figures and signs: one file a language, found by its name.

A module offers `READING`. Numbers come from num2words, names of units and of months from CLDR by Babel; what
stands here is what neither knows: which figure is read how.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What is a language's own."""

    code: str
    """ISO-639-1, for num2words and Babel."""
    decimal: str
    """The decimal mark as written, and as read."""
    point: str
    thousands: str
    """Marks between groups of three digits, as a class of a regular expression."""
    abbreviations: Mapping[str, str]
    """By their letters, their dots included; in the case that they are written in."""
    signs: Mapping[str, str]
    """Signs that stand alone, or before or behind a figure."""
    fractions: Mapping[str, str]
    """As "1/2"."""
    range: str
    """Between two figures."""
    minus: str
    number: str
    """Before a figure: "No. 5"."""
    at: str
    dot: str
    slash: str
    currencies: Mapping[str, tuple[str, str, str, str]]
    """By sign or code: one and several of it, one and several of its hundredth part."""
    money: str
    """Between the two."""
    coins_named: bool
    """Whether the hundredths are named behind a whole: "three euros fifty"."""
    ordinal: Callable[[str, str], str]
    """A written ordinal in words: "3rd", and the word before it."""
    ordinal_form: str
    """A regular expression of written ordinals."""
    date: Callable[[int, int, int | None, str], str]
    """Day, month and year in words, after the word before them."""
    time: Callable[[int, int, str], str]
    """Hour, minute and what followed ("pm", "Uhr") in words."""
    year: Callable[[int], str] | None = None
    """A year in words, where it is not read as any number; by context only."""
    year_words: tuple[str, ...] = ()
    """Words before a year."""
    month_first: bool = False
    """Whether 3/4 is a day in March."""
    ruler: Callable[[str, int], str] | None = None
    """A number in Roman figures after a name, in words."""
    feminine: tuple[str, ...] = ()
    """Beginnings of units' names of that gender."""
    one: Callable[[str, bool], str] = lambda words, feminine: words
    """A number's words before a noun, feminine or not."""
    digits_together: bool = False
    """Whether 3.14 is read as three point fourteen."""
    units: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Units by their signs, one and several, where CLDR's name is not what people say."""


@cache
def find(language: str) -> Reading | None:
    """The reading of a language, by its BCP-47 tag; None where there is none."""
    name = language.split("-")[0].lower()
    if name not in {module.name for module in pkgutil.iter_modules(__path__)}:
        return None
    reading: Reading = import_module(f"{__name__}.{name}").READING
    return reading
