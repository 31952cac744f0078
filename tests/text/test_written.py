"""What is written in figures and signs, as people read it aloud: a hundred cases for each language."""

import re
from pathlib import Path

import pytest

from server.text.written import say_as, write_out

CASES = [
    (file.stem, *line.split("\t"))
    for file in sorted(Path(__file__).parent.glob("*.tsv"))
    for line in file.read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("language", ["en", "de", "es", "fr"])
def test_there_are_a_hundred_cases(language: str) -> None:
    assert len([case for case in CASES if case[0] == language]) >= 100


@pytest.mark.parametrize(("language", "text", "read"), CASES)
def test_it_is_read_as_people_do(language: str, text: str, read: str) -> None:
    assert write_out(text, language) == read


@pytest.mark.parametrize(("language", "text"), [case[:2] for case in CASES])
def test_no_figure_is_left_and_what_is_read_stays(language: str, text: str) -> None:
    once = write_out(text, language)
    assert not re.search(r"\d", once)
    assert write_out(once, language) == once


def test_words_around_figures_stay() -> None:
    text = "One, two; three 4 five: six - seven? Eight!"
    assert write_out(text, "en-GB") == "One, two; three four five: six - seven? Eight!"


def test_a_language_without_a_reading_is_left_alone() -> None:
    assert write_out("5 км", "ru-RU") == "5 км"


@pytest.mark.parametrize(
    ("text", "kind", "language", "read"),
    [
        ("123", "digits", "en-US", "one two three"),
        ("123", "cardinal", "en-US", "one hundred and twenty-three"),
        ("3", "ordinal", "en-US", "third"),
        ("3", "ordinal", "de-DE", "dritte"),
        ("3", "ordinal", "fr-FR", "troisième"),
        ("3", "ordinal", "es-ES", "tercero"),
        ("AB1", "characters", "en-US", "A B one"),
        ("AB", "spell-out", "ja-JP", "A B"),
        ("555 12", "telephone", "de-DE", "fünf fünf fünf, eins zwei"),
        ("2025-03-04", "date", "en-US", "March fourth, twenty twenty-five"),
        ("$5", "currency", "en-US", "five dollars"),
        ("abc", "nonsense", "en-US", "abc"),
    ],
)
def test_say_as(text: str, kind: str, language: str, read: str) -> None:
    assert say_as(text, kind, language) == read


def test_a_long_hostile_text_takes_no_long_time() -> None:
    for text in (
        "1" * 4000,
        "1," * 2000,
        "1 " * 2000,
        "$" * 4000,
        "a.b" * 1300,
        "1-" * 2000,
        "I" * 4000,
        "1:" * 2000,
    ):
        write_out(text, "en")
        write_out(text, "de")
