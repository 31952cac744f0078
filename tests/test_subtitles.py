"""Cues as broadcasters want them: short lines, whole words, natural breaks, long enough to be read."""

import random
import re

import pytest

from server.subtitles import Cue, Cues, text, timestamp
from server.types import Segment, Style, Word
from tests.formats.test_contract import MOON, TOKYO, spoken


def cues(style: Style, *segments: Segment) -> list[Cue]:
    shaping = Cues(style)
    return [cue for segment in segments for cue in shaping.add(segment)] + list(shaping.end())


def lines(*made: Cue) -> list[list[str]]:
    return [[text(line) for line in cue.lines] for cue in made]


def times(made: list[Cue]) -> list[tuple[float, float]]:
    return [(cue.start, cue.end) for cue in made]


def test_without_limits_a_segment_is_a_cue_of_one_line() -> None:
    (cue,) = cues(Style(), Segment(0, 1.0, 2.0, "  two\nlines \x00 here "))
    assert lines(cue) == [["two lines here"]]
    assert (cue.start, cue.end) == (1.0, 2.0)
    assert cues(Style(), Segment(0, 1.0, 2.0, " \n ")) == []


def test_lines_keep_their_width_and_their_words() -> None:
    chance = random.Random(5)
    for _ in range(200):
        said = " ".join("x" * chance.randint(1, 14) + chance.choice(["", "", ",", "."]) for _ in range(40))
        width, count = chance.randint(14, 50), chance.randint(1, 3)
        words = spoken(said, 3.0, 0.2) if chance.random() < 0.5 else ()
        made = cues(
            Style(max_line_width=width, max_line_count=count), Segment(0, 3.0, 11.0, " " + said, words)
        )
        shown = [line for cue in lines(*made) for line in cue]
        assert " ".join(shown) == said
        assert all(len(line) <= max(width, 15) for line in shown)
        assert all(len(cue.lines) <= count for cue in made)
        edges = [edge for cue in made for edge in (cue.start, cue.end)]
        assert edges == sorted(edges)
        assert (edges[0], edges[-1]) == (3.0, 11.0)


def test_a_word_that_is_wider_than_the_line_stays_whole() -> None:
    made = cues(Style(max_line_width=10), Segment(0, 0.0, 3.0, " a Donaudampfschiff b"))
    assert lines(*made) == [["a", "Donaudampfschiff", "b"]]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("I came home late, the dog was asleep.", ["I came home late,", "the dog was asleep."]),
        ("Yes. The weather is beautiful today.", ["Yes. The weather", "is beautiful today."]),
        ("He said that the house was sold to a friend", ["He said that the house", "was sold to a friend"]),
        ("„Komm her!“ rief der Mann aus dem Haus.", ["„Komm her!“ rief", "der Mann aus dem Haus."]),
    ],
)
def test_lines_break_where_readers_expect_it(said: str, shown: list[str]) -> None:
    assert lines(*cues(Style(max_line_width=26, max_line_count=2), Segment(0, 0.0, 3.0, said))) == [shown]


def test_one_line_is_better_than_two() -> None:
    (cue,) = cues(Style(max_line_width=42, max_line_count=2), Segment(0, 0.0, 3.0, "No, it is not, is it?"))
    assert len(cue.lines) == 1


def test_wide_characters_take_two_columns_and_closing_ones_never_begin_a_line() -> None:
    made = cues(Style(max_line_width=16, max_line_count=1), Segment(0, 0.0, 8.0, TOKYO))
    shown = [line for cue in lines(*made) for line in cue]
    assert "".join(shown) == TOKYO
    assert all(len(line) <= 8 for line in shown)
    assert not any(re.match("[、。」ーょ]", line) for line in shown)
    assert not any(line.endswith("「") for line in shown)


def test_combining_marks_take_no_column() -> None:
    (cue,) = cues(Style(max_line_width=9, max_line_count=1), Segment(0, 0.0, 1.0, "cafe\u0301 ole\u0301!"))
    assert len(cue.lines) == 1


def test_cues_begin_when_their_words_do() -> None:
    made = cues(
        Style(max_line_width=20, max_line_count=1),
        Segment(
            0,
            1.0,
            9.0,
            " Good evening all. And now the news.",
            words=(
                Word("Good", 1.0, 1.2),
                Word("evening", 1.3, 1.6),
                Word("all.", 1.6, 2.0),
                Word("And", 7.0, 7.2),
                Word("now", 7.2, 7.4),
                Word("the", 7.4, 7.6),
                Word("news.", 7.6, 8.4),
            ),
        ),
    )
    assert times(made) == [(1.0, 2.0), (7.0, 9.0)]


def test_words_that_the_text_does_not_have_do_no_harm() -> None:
    words = (Word("Good", 1.0, 1.5), Word("???", 1.5, 2.0), Word("news.", 4.0, 5.0))
    made = cues(Style(max_line_width=8, max_line_count=1), Segment(0, 1.0, 5.0, "Good big news.", words))
    assert lines(*made) == [["Good big"], ["news."]]
    assert times(made) == [(1.0, pytest.approx(4.0, abs=0.6)), (4.0, 5.0)]


def test_no_cue_stands_longer_than_it_may() -> None:
    segment = Segment(0, 2.5, 14.8, MOON, words=spoken(MOON, 2.5, 0.3))
    made = cues(Style(max_cue_duration=5.0), segment)
    assert all(cue.end - cue.start <= 5.0 for cue in made)
    assert " ".join(text(cue.atoms) for cue in made) == MOON.strip()
    assert len(made) == 3


def test_a_short_cue_stays_until_shortly_before_the_next() -> None:
    style = Style(min_cue_duration=1.0)
    alone = cues(style, Segment(0, 1.0, 1.2, "Yes."))
    assert times(alone) == [(1.0, 2.0)]
    followed = cues(style, Segment(0, 1.0, 1.2, "Yes."), Segment(1, 2.1, 5.0, "I know."))
    assert times(followed) == [(1.0, 2.0), (2.1, 5.0)]


def test_a_short_cue_that_cannot_stay_is_joined_with_the_next() -> None:
    style = Style(min_cue_duration=1.0, max_line_width=42, max_line_count=2)
    made = cues(style, Segment(0, 1.0, 1.2, " Yes."), Segment(1, 1.4, 3.0, " I know."))
    assert (times(made), lines(*made)) == ([(1.0, 3.0)], [["Yes. I know."]])
    full = Segment(1, 1.4, 3.0, " ".join(["words"] * 14))
    assert len(cues(style, Segment(0, 1.0, 1.2, " Yes."), full)) == 2
    other = Segment(1, 1.4, 3.0, " I know.", speaker="anna")
    assert len(cues(style, Segment(0, 1.0, 1.2, " Yes.", speaker="otto"), other)) == 2
    chinese = cues(style, Segment(0, 1.0, 1.2, "是。"), Segment(1, 1.4, 3.0, "我知道。"))
    assert lines(*chinese) == [["是。我知道。"]]


def test_what_is_spoken_too_fast_stays_long_enough_to_be_read() -> None:
    style = Style(max_reading_speed=10.0)
    said = Segment(0, 1.0, 2.0, "Twenty characters ok")
    assert times(cues(style, said)) == [(1.0, 3.0)]
    followed = cues(style, said, Segment(1, 2.5, 9.0, "Next."))
    assert times(followed)[0][1] == pytest.approx(2.417)
    held = Style(max_reading_speed=10.0, max_cue_duration=1.5)
    assert times(cues(held, said)) == [(1.0, 2.5)]


def test_only_one_cue_is_held_back() -> None:
    shaping = Cues(Style(min_cue_duration=1.0))
    assert list(shaping.add(Segment(0, 0.0, 2.0, "a"))) == []
    assert [text(cue.atoms) for cue in shaping.add(Segment(1, 3.0, 4.0, "b"))] == ["a"]
    assert [text(cue.atoms) for cue in shaping.end()] == ["b"]
    assert list(shaping.end()) == []


def test_a_very_long_segment_takes_no_time() -> None:
    """A hallucinating model can write thousands of characters into one segment."""
    for said in ("字" * 2000, "word " * 2000, "x" * 20000):
        made = cues(
            Style(max_line_width=30, max_line_count=2, max_cue_duration=7), Segment(0, 0.0, 30.0, said)
        )
        assert "".join(text(cue.atoms) for cue in made).replace(" ", "") == said.replace(" ", "")


def test_timestamps_round_to_the_millisecond() -> None:
    assert timestamp(59.9996, ".") == "00:01:00.000"
    assert timestamp(360000.0, ",") == "100:00:00,000"
