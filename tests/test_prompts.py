"""What is said to Whisper before a window, and what is said of what was left out."""

from server.prompts import LONGEST, LONGEST_KEYWORDS, listed, prompt
from server.types import Listen


def test_keywords_come_before_the_clients_own_text() -> None:
    listen = Listen(model="", prompt=" About the house. ", keywords=("Zoë", " the  kitchen", "Zoë", " "))
    assert prompt(listen) == ("Zoë, the kitchen. About the house.", ())
    assert prompt(Listen(model="")) == ("", ())


def test_keywords_have_little_room() -> None:
    listen = Listen(model="", prompt="Mine.", keywords=tuple(f"word{number:03}" for number in range(100)))
    text, (warning,) = prompt(listen)
    assert len(text) <= LONGEST_KEYWORDS + len(" Mine.")
    assert text.startswith("word000, word001, ")
    assert text.endswith(" Mine.")
    kept = text.count("word")
    assert f"the last {100 - kept} of 100 keywords were left out" in warning


def test_hotwords_are_keywords_in_one_text() -> None:
    assert listed("Zoë, New York;\nSão Paulo、東京") == ("Zoë", "New York", "São Paulo", "東京")
    assert listed("one phrase") == ("one phrase",)
    assert listed(" , ") == ()
    long = "word " * 100
    assert listed(long) == ("word",) * 100
    assert prompt(Listen(model="", keywords=listed(long))) == ("word.", ())


def test_a_long_prompt_is_told() -> None:
    assert prompt(Listen(model="", prompt="x " * (LONGEST // 2)))[1] == ()
    (warning,) = prompt(Listen(model="", prompt="x " * LONGEST))[1]
    assert "only the last 1,000 characters" in warning
