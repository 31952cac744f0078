"""Every format, whatever files there are: its document is whole, chunked, and the sum of its pieces."""

import json
import re

import pytest

from server import formats
from server.types import Segment, Transcript, Word

SEGMENTS = (
    Segment(
        0,
        0.5,
        2.0,
        " Hello Anna.",
        words=(Word("Hello", 0.5, 1.0, 0.9), Word("Anna.", 1.0, 2.0)),
        tokens=(1, 2),
    ),
    Segment(1, 2.5, 3661.25, " A < B & C --> D.", seek=2.4, avg_logprob=-0.5),
)
TRANSCRIPT = Transcript("transcribe", "en", 3662.0004, SEGMENTS, "ggml-demo", ("careful",))
EMPTY = Transcript("transcribe", "", 1.5, (), "ggml-demo")


@pytest.fixture(params=formats.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_formats_are_those_that_are_documented() -> None:
    assert formats.names() == ("json", "srt", "text", "verbose_json", "vtt")


def test_an_unknown_name_is_never_imported() -> None:
    for name in ("xml", "os", "", "../json", "__init__"):
        with pytest.raises(KeyError):
            formats.find(name)


@pytest.mark.parametrize("transcript", [TRANSCRIPT, EMPTY])
def test_a_document_is_of_its_media_type(name: str, transcript: Transcript) -> None:
    format = formats.find(name)
    document = "".join(format.write(transcript, words=True))
    if format.MEDIA_TYPE == "application/json":
        assert json.loads(document)["text"] == transcript.text
    else:
        assert all(segment.text.split()[0] in document for segment in transcript.segments)


def test_text_pieces_are_the_document(name: str) -> None:
    format = formats.find(name)
    pieces = [format.piece(segment) for segment in SEGMENTS]
    if format.MEDIA_TYPE == "application/json":
        assert [piece["text"] for piece in pieces if isinstance(piece, dict)] == [s.text for s in SEGMENTS]
    else:
        joined = "".join(piece for piece in pieces if isinstance(piece, str))
        assert joined.strip() == "".join(format.write(TRANSCRIPT, words=False)).strip()


def test_long_documents_come_in_chunks() -> None:
    long = Transcript("transcribe", "en", 9.0, SEGMENTS * 500, "m")
    for name in ("verbose_json", "srt", "vtt"):
        assert max(len(chunk) for chunk in formats.find(name).write(long, words=True)) < 50_000


def test_srt_to_the_letter() -> None:
    assert "".join(formats.find("srt").write(TRANSCRIPT, words=False)) == (
        "1\n00:00:00,500 --> 00:00:02,000\nHello Anna.\n\n"
        "2\n00:00:02,500 --> 01:01:01,250\nA < B & C -> D.\n\n"
    )


def test_vtt_to_the_letter() -> None:
    assert "".join(formats.find("vtt").write(TRANSCRIPT, words=False)) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\nHello Anna.\n\n"
        "00:00:02.500 --> 01:01:01.250\nA &lt; B &amp; C --&gt; D.\n\n"
    )
    assert "".join(formats.find("vtt").write(EMPTY, words=False)) == "WEBVTT\n\n"


def test_text_to_the_letter() -> None:
    assert "".join(formats.find("text").write(TRANSCRIPT, words=False)) == "Hello Anna. A < B & C --> D.\n"


def test_json_has_no_fraction() -> None:
    document = "".join(formats.find("json").write(TRANSCRIPT, words=False))
    assert json.loads(document)["usage"] == {"type": "duration", "seconds": 3663}
    assert not re.search(r"\d\.\d", document)


def test_verbose_json_says_null_where_the_engine_said_nothing() -> None:
    document = json.loads("".join(formats.find("verbose_json").write(TRANSCRIPT, words=True)))
    assert document["language"] == "english"
    assert document["duration"] == 3662.0
    assert document["warnings"] == ["careful"]
    assert [segment["avg_logprob"] for segment in document["segments"]] == [None, -0.5]
    assert [segment["seek"] for segment in document["segments"]] == [0, 240]
    assert document["words"][0] == {"word": "Hello", "start": 0.5, "end": 1.0, "probability": 0.9}
    assert "words" not in json.loads("".join(formats.find("verbose_json").write(TRANSCRIPT, words=False)))
