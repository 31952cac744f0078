"""The whole way of a text: cleaned, SSML read, written out, cut; nothing is lost, nothing spoken twice."""

import random
import re

import pytest

from server.errors import BadField, TextTooLong
from server.text import dictionary, pieces, sentences
from server.types import Piece, Pronounced


def said(text: str, language: str = "en-US") -> str:
    return " ".join(piece.text for piece in pieces(text, language) if piece.text)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


# Sentences ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("A line\nanother line", ["A line", "another line"]),
        ("你好。再见。", ["你好。", "再见。"]),
        ("Wait... what?", ["Wait...", "what?"]),
        ("No end", ["No end"]),
        ("...", []),
        ("", []),
        ("v1.2 is out", ["v1.2 is out"]),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert sentences.split(text) == parts


def test_a_long_sentence_is_cut_where_a_reader_pauses() -> None:
    text = ", ".join(["this is a part of a very long sentence"] * 30)
    parts = sentences.split(text)
    assert all(len(part) <= sentences.LONGEST for part in parts)
    assert all(part.endswith(",") for part in parts[:-1])
    assert words(" ".join(parts)) == words(text)


def test_the_first_piece_is_short() -> None:
    text = "Well, as I said to you yesterday, the weather would be beautiful today, and so it is, isn't it?"
    first, *_ = sentences.split(text)
    assert len(first) <= sentences.FIRST
    assert first.endswith(",")


def test_a_word_without_an_end_is_cut_too() -> None:
    parts = sentences.split("a" * 1000)
    assert "".join(parts) == "a" * 1000
    assert max(map(len, parts)) <= sentences.LONGEST


@pytest.mark.parametrize("seed", range(20))
def test_no_word_is_lost_or_spoken_twice(seed: int) -> None:
    chance = random.Random(seed)
    signs = [" ", " ", " ", " ", ", ", ". ", "! ", "; ", " - ", "\n", " (", ") ", ' "', "... "]
    text = "".join(f"word{'abcdefgh'[i % 8]}{chance.choice(signs)}" for i in range(chance.randrange(1, 400)))
    assert words(" ".join(sentences.split(text))) == words(text)


# Cleaning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\0b", "a b"),
        ("Hello 🙂 world 👍🏽!", "Hello world!"),
        ("👨‍👩‍👧 family", "family"),
        ("🇩🇪 Germany", "Germany"),
        ("𝓗𝓮𝓵𝓵𝓸 𝐰𝐨𝐫𝐥𝐝 𝟐𝟎", "Hello world twenty"),
        ("Ｈｅｌｌｏ！", "Hello!"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
        ("“quotes” ‘here’", "\"quotes\" 'here'"),
        ("e\u0301te\u0301", "été"),
        ("tab\tand\u00a0space", "tab and space"),
        ("🙂", ""),
    ],
)
def test_what_cannot_be_read_is_left_out(text: str, clean: str) -> None:
    assert said(text) == clean


# SSML --------------------------------------------------------------------------------------------------


def test_tags_are_not_read_aloud() -> None:
    text = "<speak>Hello <emphasis level='strong'>big</emphasis> <mark name='x'/>world.</speak>"
    assert said(text) == "Hello big world."


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff<speak>Hello world.</speak>",
        "<!-- a --> <!-- b -->\n<speak>Hello world.</speak>",
        '<?xml version="1.0" encoding="UTF-8"?>\n<!-- a --><speak version="1.0">Hello world.</speak>\n',
        "<speak>Hello\0 \x07world.\ufeff</speak>",
    ],
)
def test_what_stands_around_ssml_is_not_read_aloud(text: str) -> None:
    assert said(text) == "Hello world."


def test_an_empty_element_says_nothing() -> None:
    assert pieces("<speak/>", "en") == []


def test_a_break_is_silence() -> None:
    first, silence, second = pieces('<speak>One.<break time="1.5s"/>Two.</speak>', "en-US")
    assert (first.text, silence.text, silence.pause, second.text) == ("One.", "", 1.5, "Two.")
    strong = pieces('<speak>a<break strength="strong"/>b<break time="60s"/></speak>', "en")
    assert [piece.pause for piece in strong] == [0.0, 0.7, 0.0, 10.0]


def test_sub_says_its_alias_alone() -> None:
    assert said('<speak><sub alias="World Wide Web">WWW</sub> is 5.</speak>') == "World Wide Web is five."


def test_prosody_multiplies() -> None:
    outer, inner = pieces(
        '<speak><prosody rate="slow">One. <prosody rate="200%" pitch="high" volume="soft">Two.</prosody>'
        "</prosody></speak>",
        "en",
        speed=2.0,
    )
    assert (outer.text, outer.speed, outer.pitch) == ("One.", 1.5, 1.0)
    assert (inner.text, inner.speed, inner.pitch, inner.volume) == ("Two.", 3.0, 1.25, 0.6)


@pytest.mark.parametrize(
    ("rate", "speed"),
    [("x-fast", 1.8), ("50%", 0.5), ("+20%", 1.2), ("1.5", 1.5), ("nonsense", 1.0), ("900%", 4.0)],
)
def test_rates(rate: str, speed: float) -> None:
    (piece,) = pieces(f'<speak><prosody rate="{rate}">a</prosody></speak>', "en")
    assert piece.speed == pytest.approx(speed)


def test_a_phoneme_stands_for_its_text_within_the_sentence() -> None:
    (piece,) = pieces(
        '<speak>I say <phoneme alphabet="ipa" ph="təˈmɑːtoʊ">tomato</phoneme>, you too.</speak>', "en"
    )
    assert piece.text == "I say tomato, you too."
    assert piece.pronounced == (Pronounced(6, 12, "təˈmɑːtoʊ"),)


def test_say_as_and_languages() -> None:
    text = '<speak><say-as interpret-as="digits">42</say-as> <lang xml:lang="de-DE">42</lang></speak>'
    english, german = pieces(text, "en-US")
    assert (english.text, german.text) == ("four two", "zweiundvierzig")
    assert (english.language, german.language) == ("en-US", "de-DE")


def test_paragraphs_and_sentences_end_sentences() -> None:
    parts = pieces("<speak><p><s>One</s><s>Two</s></p>Three</speak>", "en")
    assert [piece.text for piece in parts] == ["One", "Two", "Three"]


@pytest.mark.parametrize(
    "text", ["<speak>open", "<speak><a></b></speak>", "<speak>&nbsp;</speak>", "<speak>a</speak>x"]
)
def test_what_is_not_well_formed_is_refused(text: str) -> None:
    with pytest.raises(BadField, match="not well-formed"):
        pieces(text, "en")


def test_entities_that_grow_and_deep_nesting_are_refused() -> None:
    with pytest.raises(BadField):
        pieces('<?xml version="1.0"?><speak><!DOCTYPE x [<!ENTITY a "b">]>&a;</speak>', "en")
    with pytest.raises(BadField, match="elements in each other"):
        pieces("<speak>" + "<p>" * 60 + "</p>" * 60 + "</speak>", "en")


def test_other_xml_is_read_as_text() -> None:
    assert "b" in said("<b>bold</b>")


# Limits and dictionary ---------------------------------------------------------------------------------


def test_the_limit_counts_what_is_read() -> None:
    assert pieces("x" * 2000, "en", longest=2000)
    with pytest.raises(TextTooLong) as raised:
        pieces("1999 " * 100, "en", longest=2000)
    assert raised.value.size > 2000
    tags = "<speak>" + "<break time='1ms'/>" * 100 + "Hi.</speak>"
    assert [piece.text for piece in pieces(tags, "en", longest=1000) if piece.text] == ["Hi."]
    with pytest.raises(TextTooLong):
        pieces(tags, "en", longest=2)


def test_a_dictionary_as_nvidias_clients_write_it() -> None:
    parsed = dictionary.parse("NVIDIA  ɛnˈvɪdiə, tomato  /təˈmɑːtoʊ/\nGIF\tdʒɪf")
    assert parsed == {"nvidia": "ɛnˈvɪdiə", "tomato": "təˈmɑːtoʊ", "gif": "dʒɪf"}
    assert dictionary.parse("") == {}
    with pytest.raises(BadField, match="two spaces"):
        dictionary.parse("only-a-word")


def test_words_of_the_dictionary_are_found_wherever_they_stand() -> None:
    found = pieces("Tomato? Not tomatoes, a tomato.", "en", words={"tomato": "X"})
    assert [(piece.text, piece.pronounced) for piece in found] == [
        ("Tomato?", (Pronounced(0, 6, "X"),)),
        ("Not tomatoes, a tomato.", (Pronounced(16, 22, "X"),)),
    ]


def test_pieces_know_the_language_and_speed() -> None:
    assert pieces("Hallo.", "de-DE", speed=1.5) == [Piece("Hallo.", "de-DE", speed=1.5)]
