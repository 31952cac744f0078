"""Turns laid over words."""

import random
from dataclasses import replace

import pytest

from server.turns import laid_over, numbered, renamed
from server.types import Diarized, Segment, Turn, Word

A, B = "A", "B"


def segment(*words: tuple[str, float, float], id: int = 0) -> Segment:
    said = tuple(Word(text, start, end) for text, start, end in words)
    text = "".join(f" {word.text}" for word in said)
    return Segment(id, said[0].start, said[-1].end, text, words=said)


def turns(*turns: tuple[float, float, str]) -> Diarized:
    found = tuple(Turn(*turn) for turn in turns)
    return Diarized(found, found)


def speakers(*segments: Segment, diarized: Diarized) -> list[str | None]:
    return [word.speaker for piece in laid_over(segments, diarized) for word in piece.words]


def test_a_word_goes_to_the_turn_that_overlaps_it_most() -> None:
    said = segment(("one", 0.0, 0.5), ("two", 0.8, 1.3), ("three", 1.5, 2.0))
    assert speakers(said, diarized=turns((0.0, 1.0, A), (1.0, 2.0, B))) == [A, B, B]


def test_of_a_word_stretched_over_a_pause_only_the_beginning_counts() -> None:
    said = segment(("yes", 0.0, 3.0), ("no", 3.1, 3.5))
    assert speakers(said, diarized=turns((0.0, 0.5, A), (0.7, 4.0, B))) == [A, B]


def test_a_word_outside_all_turns_goes_to_the_nearest_edge_not_the_nearest_middle() -> None:
    said = segment(("um", 10.2, 10.4))
    assert speakers(said, diarized=turns((0.0, 10.0, A), (11.0, 11.2, B))) == [A]


def test_a_segment_far_from_every_turn_has_a_speaker_and_says_that_it_is_not_certain() -> None:
    near, far = segment(("yes", 0.2, 0.5)), segment(("no", 9.0, 9.4), id=1)
    first, second = laid_over((near, far), turns((0.0, 1.0, A)))
    assert (first.speaker, first.speaker_certain) == (A, True)
    assert (second.speaker, second.speaker_certain) == (A, False)


def test_without_turns_nobody_has_a_speaker() -> None:
    said = segment(("yes", 0.2, 0.5))
    assert laid_over([said], turns()) == (replace(said, turn=False),)


def test_a_segment_without_words_takes_the_speaker_of_its_time() -> None:
    (piece,) = laid_over([Segment(0, 4.0, 6.0, " Hello.")], turns((0.0, 3.0, A), (3.5, 7.0, B)))
    assert piece.speaker == B


def test_a_segment_is_cut_where_the_speaker_changes_and_loses_nothing() -> None:
    said = segment(
        ("How", 0.0, 0.3), ("are", 0.4, 0.6), ("you?", 0.7, 1.0), ("Fine,", 1.2, 1.5), ("you?", 1.6, 2.0)
    )
    pieces = laid_over([said], turns((0.0, 1.05, A), (1.1, 2.0, B)))
    assert [(piece.id, piece.speaker, piece.text) for piece in pieces] == [
        (0, A, " How are you?"),
        (1, B, " Fine, you?"),
    ]
    assert [(piece.start, piece.end) for piece in pieces] == [(0.0, 1.0), (1.2, 2.0)]


@pytest.mark.parametrize("boundary", [0.65, 1.35], ids=["early", "late"])
def test_a_change_of_speaker_is_moved_to_the_end_of_the_sentence(boundary: float) -> None:
    said = segment(
        ("How", 0.0, 0.3), ("are", 0.4, 0.6), ("you?", 0.7, 1.0), ("Fine", 1.1, 1.3), ("thanks.", 1.4, 1.8)
    )
    pieces = laid_over([said], turns((0.0, boundary, A), (boundary, 2.0, B)))
    assert [piece.text for piece in pieces] == [" How are you?", " Fine thanks."]


def test_a_short_answer_between_two_turns_keeps_its_speaker() -> None:
    said = segment(("Really?", 0.0, 0.5), ("Yes.", 0.9, 1.2), ("Good.", 1.6, 2.0))
    assert speakers(said, diarized=turns((0.0, 0.6, A), (0.8, 1.3, B), (1.5, 2.0, A))) == [A, B, A]


def test_overlapping_speech_is_marked() -> None:
    together = Diarized(turns=(Turn(0.0, 4.0, A), Turn(1.0, 3.0, B)), exclusive=(Turn(0.0, 4.0, A),))
    first, second = segment(("alone", 0.0, 0.9)), segment(("together", 1.1, 2.8), id=1)
    assert [piece.overlap for piece in laid_over((first, second), together)] == [False, True]


def test_speakers_are_numbered_by_their_first_word() -> None:
    found = Diarized(
        turns=(Turn(0.0, 1.0, B), Turn(1.0, 2.0, A)),
        exclusive=(Turn(0.0, 1.0, B), Turn(1.0, 2.0, A)),
        embeddings={A: (1.0,), B: (2.0,)},
    )
    assert numbered(found)[0].speakers == ("SPEAKER_00", "SPEAKER_01")
    assert numbered(found)[0].embeddings == {"SPEAKER_01": (1.0,), "SPEAKER_00": (2.0,)}
    spoken = laid_over([segment(("hi", 1.2, 1.6))], found)
    assert [turn.speaker for turn in numbered(found, spoken)[0].turns] == ["SPEAKER_01", "SPEAKER_00"]
    assert renamed(found, {A: "Anna"}).speakers == (B, "Anna")


def test_no_word_is_lost_or_moved_in_a_thousand_random_talks() -> None:
    dice = random.Random(7)
    for _ in range(1000):
        said, at = [], 0.0
        for number in range(dice.randint(1, 5)):
            words = []
            for _ in range(dice.randint(1, 6)):
                at += dice.uniform(0.0, 0.5)
                words.append((dice.choice(["a", "b.", "cc", "d?"]), at, at + 0.2))
                at += 0.2
            said.append(segment(*words, id=number))
        found, moment = [], 0.0
        while moment < at:
            end = moment + dice.uniform(0.1, 2.0)
            found.append((moment, end, dice.choice("ABC")))
            moment = end + dice.choice([0.0, 0.0, 3.0])
        pieces = laid_over(said, turns(*found))
        assert "".join(piece.text for piece in pieces) == "".join(one.text for one in said)
        assert [word.start for piece in pieces for word in piece.words] == [
            word.start for one in said for word in one.words
        ]
        assert [piece.id for piece in pieces] == list(range(len(pieces)))
        assert all({word.speaker for word in piece.words} == {piece.speaker} for piece in pieces)
