"""Every format, whatever files there are: its document is whole, chunked, and the sum of its pieces.

The files in golden/ are made by hand from the formats' specifications.
"""

import json
import re
from pathlib import Path

import pytest

from server import formats
from server.types import Guard, Segment, Style, Token, Transcript, Word

GOLDEN = Path(__file__).parent / "golden"

SEGMENTS = (
    Segment(
        0,
        0.5,
        2.0,
        " Hello Anna.",
        words=(Word("Hello", 0.5, 1.0, 0.9), Word("Anna.", 1.0, 1.8)),
        tokens=(1, 2),
    ),
    Segment(1, 2.5, 3661.25, " A < B & C\t--> <i>D", seek=2.4, avg_logprob=-0.5),
    Segment(2, 3720.0, 3720.0, " 早上好。"),
)
PLAIN = Transcript("transcribe", "en", 3720.0004, SEGMENTS, "ggml-demo", ("careful",))
EMPTY = Transcript("transcribe", "", 1.5, (), "ggml-demo")

MOON = (
    " We choose to go to the moon in this decade and do the other things, not because they are easy, but "
    "because they are hard, because that goal will serve to organize and measure the best of our energies "
    "and skills."
)
TOKYO = "今日は天気がとても良いので、散歩に出かけることにしました。「東京タワー」へ行きます。"


def spoken(text: str, start: float, each: float) -> tuple[Word, ...]:
    """Words of the same length, one after the other."""
    return tuple(
        Word(word, round(start + index * each, 3), round(start + (index + 1) * each, 3))
        for index, word in enumerate(text.split())
    )


LONG = Transcript(
    "transcribe",
    "en",
    25.0,
    (Segment(0, 2.5, 14.8, MOON, words=spoken(MOON, 2.5, 0.3)), Segment(1, 20.3, 24.0, TOKYO)),
    "ggml-demo",
)
TURNS = Transcript(
    "transcribe",
    "en",
    6.0,
    (
        Segment(0, 0.5, 2.0, " Yes.", speaker="anna"),
        Segment(1, 2.2, 3.0, " Indeed.", speaker="anna"),
        Segment(2, 3.1, 4.5, " No.", speaker="SPEAKER_01"),
        Segment(3, 4.5, 4.6, " (a cough)"),
        Segment(4, 5.0, 6.0, " No!", speaker="SPEAKER_01"),
    ),
    "ggml-demo",
)
SCORED = Transcript(
    "translate",
    "en",
    4.5,
    (
        Segment(
            0,
            0.25,
            1.5,
            " Café.",
            words=(Word("Café.", 0.25, 1.5, 0.5),),
            tokens=(7, 8, 9),
            logprobs=(Token(b" Caf\xc3", -0.25), Token(b"\xa9", -0.5), Token(b".", -0.75)),
            temperature=0.2,
            avg_logprob=-0.5,
            compression_ratio=0.875,
            no_speech_prob=0.125,
            seek=0.1,
            language="fr",
        ),
    ),
    "ggml-base",
    guards=(Guard("phantom", "dropped", 2.0, 3.0, "Thank you.", "nobody speaks"),),
    languages={"en": 0.25, "fr": 0.75},
)

CASES = {
    "plain": (PLAIN, Style()),
    "highlighted": (PLAIN, Style(highlight_words=True)),
    "shaped": (LONG, Style(max_line_width=42, max_line_count=2)),
    "turns": (TURNS, Style(name="Board meeting", speakers=True)),
    "empty": (EMPTY, Style()),
    "scored": (SCORED, Style(words=True, logprobs=True, languages=True)),
}
FILES = sorted(GOLDEN.iterdir())


def document(name: str, transcript: Transcript, style: Style) -> str:
    return "".join(formats.find(name).write(transcript, style))


@pytest.fixture(params=formats.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_formats_are_those_that_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "transcription.md").read_text()
    for name in formats.names():
        assert f"`{name}`" in page


def test_an_unknown_name_is_never_imported() -> None:
    for name in ("xml", "os", "", "../json", "__init__"):
        with pytest.raises(KeyError):
            formats.find(name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_documents_to_the_byte(file: Path) -> None:
    assert document(file.suffix[1:], *CASES[file.stem]).encode() == file.read_bytes()


def test_every_format_has_a_golden_file(name: str) -> None:
    assert any(file.suffix == f".{name}" for file in FILES)


@pytest.mark.parametrize("transcript", [PLAIN, EMPTY])
def test_a_document_is_of_its_media_type(name: str, transcript: Transcript) -> None:
    text = document(name, transcript, Style(words=True))
    if formats.find(name).MEDIA_TYPE == "application/json":
        assert json.loads(text)["text"] == transcript.text
    elif not formats.needs_speakers(name):
        assert all(segment.text.split()[0] in text for segment in transcript.segments)


@pytest.mark.parametrize("case", CASES)
def test_text_pieces_are_the_document(name: str, case: str) -> None:
    transcript, style = CASES[case]
    pieces = formats.find(name).pieces(style)
    said = [piece for segment in transcript.segments for piece in pieces.add(segment)] + list(pieces.end())
    if formats.find(name).MEDIA_TYPE == "application/json":
        texts = [segment.text for segment in transcript.segments]
        assert [piece["text"] for piece in said if not isinstance(piece, str)] == texts
    else:
        joined = "".join(piece for piece in said if isinstance(piece, str))
        assert joined.strip() == document(name, transcript, style).strip()


def test_long_documents_come_in_chunks(name: str) -> None:
    if name in ("json", "text", "rttm"):
        return
    long = Transcript("transcribe", "en", 9.0, SEGMENTS * 500, "m")
    assert max(len(chunk) for chunk in formats.find(name).write(long, Style(words=True))) < 50_000


def test_json_has_no_fraction() -> None:
    assert not re.search(r"\d\.\d", document("json", PLAIN, Style()))


def test_verbose_json_says_null_where_the_engine_said_nothing() -> None:
    told = json.loads(document("verbose_json", PLAIN, Style(words=True)))
    assert told["language"] == "english"
    assert told["duration"] == 3720.0
    assert told["warnings"] == ["careful"]
    assert [segment["avg_logprob"] for segment in told["segments"]] == [None, -0.5, None]
    assert [segment["seek"] for segment in told["segments"]] == [0, 240, 0]
    assert told["words"][0] == {"word": "Hello", "start": 0.5, "end": 1.0, "probability": 0.9}
    assert "words" not in json.loads(document("verbose_json", PLAIN, Style()))
