"""Who said what, through the HTTP door, with a small real pipeline and dialogues of synthetic voices."""

import base64
import json
import shutil
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from server.types import SAMPLE_RATE
from tests import tinydiarize
from tests.dialogue import PIPELINE, TWO, dialogue
from tests.serving import Server, serving, started, until
from tests.speech import say, silence, talk, wav

DIARIZE = "/v1/audio/diarize"
TRANSCRIBE = "/v1/audio/transcriptions"

TALK = dialogue(lines=6)
MEDIA = wav(TALK.pcm)
LINES = [line.lower() for line in TALK.lines]

Event = tuple[str, Any]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("data")
    shutil.copytree(PIPELINE, data / "models" / "talk")
    with serving(data) as server:
        yield server


@pytest.fixture(scope="module")
def http(running: Server) -> Iterator[httpx.Client]:
    with running.client(timeout=300) as client:
        yield client


def post(http: httpx.Client, route: str = DIARIZE, media: bytes = MEDIA, **fields: Any) -> httpx.Response:
    answer = http.post(route, files={"file": ("board meeting.wav", media)}, data={"language": "en", **fields})
    assert answer.status_code == 200, answer.text
    return answer


def speakers_of_turns(found: list[dict[str, Any]]) -> list[str]:
    """Who is heard for the longest in each true turn, of things with start, end and speaker."""
    heard = []
    for turn in TALK.turns:
        shares: dict[str, float] = {}
        for one in found:
            shared = min(turn.end, one["end"]) - max(turn.start, one["start"])
            shares[one["speaker"]] = shares.get(one["speaker"], 0.0) + max(0.0, shared)
        heard.append(max(shares, key=lambda speaker: shares[speaker]))
    return heard


def events(text: str) -> list[Event]:
    """Name and data of each event but beats."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines.get("data", "") == "[DONE]":
            continue
        if "event" in lines or "data" in lines:
            name = lines.get("event", "")
            found.append((name, json.loads(lines["data"]) if "data" in lines else None))
    return [event for event in found if event[0] != "ping"]


def data_url(pcm: Any) -> str:
    return "data:audio/wav;base64," + base64.b64encode(wav(pcm)).decode()


def voice(name: str, seconds: float = 6.0) -> str:
    """A sample of a voice."""
    pcm = say("I would like a cup of tea, please. The quick brown fox jumps over the lazy dog.", name)
    return data_url(pcm[: int(seconds * SAMPLE_RATE)])


# Whole ------------------------------------------------------------------------------------------------


def test_nothing_loads_torch_until_somebody_asks_for_speakers(running: Server, http: httpx.Client) -> None:
    post(http, TRANSCRIBE)
    for process in (running.process.pid, *(child.pid for child in running.children())):
        assert "libtorch" not in Path(f"/proc/{process}/maps").read_text()
    post(http)
    assert len(running.children("server.diarizers")) == 1


def test_every_word_and_segment_has_its_speaker(http: httpx.Client) -> None:
    fields: dict[str, Any] = {"timestamp_granularities[]": "word"}
    told = post(http, response_format="verbose_json", **fields).json()
    assert [speaker["id"] for speaker in told["speakers"]] == ["SPEAKER_00", "SPEAKER_01"]
    assert all(speaker.keys() == {"id", "seconds"} for speaker in told["speakers"])
    assert speakers_of_turns(told["segments"]) == ["SPEAKER_00", "SPEAKER_01"] * 3
    expected = [
        (word.strip(".,?!"), f"SPEAKER_0{number % 2}")
        for number, line in enumerate(LINES)
        for word in line.split()
    ]
    heard = [(word["word"].lower().strip(".,?!"), word["speaker"]) for word in told["words"]]
    assert [word for word, _ in heard] == [word for word, _ in expected]
    assert [speaker for _, speaker in heard] == [speaker for _, speaker in expected]
    turns = [segment["speaker_turn"] for segment in told["segments"]]
    speakers = [segment["speaker"] for segment in told["segments"]]
    assert turns == [a != b for a, b in zip(speakers, speakers[:1] + speakers, strict=False)]
    assert all(segment["speaker_certain"] and not segment["overlap"] for segment in told["segments"])
    assert "".join(segment["text"] for segment in told["segments"]).strip() == told["text"]


def test_json_has_segments_with_turns(http: httpx.Client) -> None:
    told = post(http).json()
    keys = {"id", "start", "end", "text", "speaker", "speaker_certain", "overlap", "speaker_turn"}
    assert all(segment.keys() == keys for segment in told["segments"])
    assert sum(segment["speaker_turn"] for segment in told["segments"]) == 5
    assert [segment["id"] for segment in told["segments"]] == list(range(len(told["segments"])))


def test_a_transcription_has_speakers_when_asked(http: httpx.Client) -> None:
    assert "segments" not in post(http, TRANSCRIBE).json()
    told = post(http, TRANSCRIBE, diarize="true").json()
    assert speakers_of_turns(told["segments"]) == ["SPEAKER_00", "SPEAKER_01"] * 3


def test_formats_of_text_name_the_speakers(http: httpx.Client) -> None:
    cues = post(http, response_format="vtt").text.split("\n\n")[1:-1]
    assert all(cue.split("\n")[1].startswith("<v SPEAKER_0") for cue in cues)
    cues = post(http, response_format="srt").text.strip().split("\n\n")
    assert cues[0].split("\n")[2].startswith("SPEAKER_00: ")
    rows = [row.split("\t") for row in post(http, response_format="tsv").text.splitlines()]
    assert rows[0] == ["start", "end", "text", "speaker"]
    assert {row[3] for row in rows[1:]} == {"SPEAKER_00", "SPEAKER_01"}


def test_rttm_has_the_turns(http: httpx.Client) -> None:
    lines = [line.split() for line in post(http, TRANSCRIBE, response_format="rttm").text.splitlines()]
    assert {line[1] for line in lines} == {"board_meeting"}
    turns = [
        {"start": float(line[3]), "end": float(line[3]) + float(line[4]), "speaker": line[7]}
        for line in lines
    ]
    assert speakers_of_turns(turns) == ["SPEAKER_00", "SPEAKER_01"] * 3


def test_the_number_of_speakers_is_heeded(http: httpx.Client) -> None:
    told = post(http, num_speakers="1").json()
    assert [speaker["id"] for speaker in told["speakers"]] == ["SPEAKER_00"]
    assert not any(segment["speaker_turn"] for segment in told["segments"])


def test_in_silence_nobody_speaks(http: httpx.Client) -> None:
    told = post(http, media=wav(silence(6))).json()
    assert (told["text"], told["segments"], told["speakers"]) == ("", [], [])


def test_a_job_keeps_the_speakers(http: httpx.Client) -> None:
    answer = http.post(
        DIARIZE, params={"async": "true"}, files={"file": ("a.wav", MEDIA)}, data={"language": "en"}
    )
    job = answer.json()["id"]
    until(lambda: http.get(f"/v1/jobs/{job}").json()["status"] == "succeeded", 120)
    told = http.get(f"/v1/jobs/{job}/result", params={"response_format": "verbose_json"}).json()
    assert speakers_of_turns(told["segments"]) == ["SPEAKER_00", "SPEAKER_01"] * 3
    said = [data for name, data in events(http.get(f"/v1/jobs/{job}/events").text) if name == "segment"]
    assert all(segment["speaker"] for segment in said)


# Known voices -----------------------------------------------------------------------------------------


def test_known_voices_have_their_names(running: Server) -> None:
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    told = client.audio.transcriptions.create(
        model="ggml-demo",
        language="en",
        file=("a.wav", MEDIA),
        response_format="diarized_json",
        known_speaker_names=["Ada"],
        known_speaker_references=[voice(TWO[1])],
        chunking_strategy="auto",
    )
    found = [segment.model_dump() for segment in told.segments]
    assert speakers_of_turns(found) == ["A", "Ada"] * 3
    assert told.segments[0].type == "transcript.text.segment"
    assert told.segments[0].id == "seg_0"
    assert told.text.lower().startswith(LINES[0][:20])


def test_likeness_and_embeddings_are_told_when_asked_for(http: httpx.Client) -> None:
    fields: dict[str, Any] = {
        "known_speaker_names[]": "Ada",
        "known_speaker_references[]": voice(TWO[0]),
        "include[]": "embeddings",
    }
    near = post(http, **fields).json()["speakers"]
    assert [speaker["id"] for speaker in near] == ["Ada", "SPEAKER_00"]
    assert 0.5 <= near[0]["score"] <= 1
    assert len(near[0]["embedding"]) == len(near[1]["embedding"]) > 0
    far = post(http, **fields, threshold="0.999").json()["speakers"]
    assert [speaker["id"] for speaker in far] == ["SPEAKER_00", "SPEAKER_01"]


def test_enrolled_voices_are_named_without_being_sent(running: Server, http: httpx.Client) -> None:
    folder = running.data / "known_speakers"
    folder.mkdir()
    sample = base64.b64decode(voice(TWO[0]).partition(",")[2])
    (folder / "Ada Lovelace.wav").write_bytes(sample)
    told = post(http, known_speakers="Ada Lovelace").json()
    assert speakers_of_turns(told["segments"]) == ["Ada Lovelace", "SPEAKER_00"] * 3
    told = post(http, known_speakers="*", threshold="0.999").json()
    assert speakers_of_turns(told["segments"]) == ["SPEAKER_00", "SPEAKER_01"] * 3
    for name in ("Grace", "../known_speakers/Ada Lovelace", "Ada Lovelace.wav"):
        answer = http.post(DIARIZE, files={"file": ("a.wav", BOTH)}, data={"known_speakers": name})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "known_speakers")
    fields = {
        "known_speakers": "*",
        "known_speaker_names[]": "Ada Lovelace",
        "known_speaker_references[]": voice(TWO[1]),
    }
    answer = http.post(DIARIZE, files={"file": ("a.wav", BOTH)}, data=fields)
    assert "was also sent as a sample" in answer.json()["error"]["message"]
    for name, sample, sentence in (
        ("Alan", wav(silence(1)), "must have 2 to 10 s"),
        ("Edsger", wav(silence(4)), "only 0.0 s of speech"),
        ("Barbara", b"nothing", "the sample enrolled for Barbara is of no use"),
    ):
        (folder / f"{name}.wav").write_bytes(sample)
        answer = http.post(DIARIZE, files={"file": ("a.wav", BOTH)}, data={"known_speakers": name})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "known_speakers"), error
        assert f"the sample enrolled for {name} " in error["message"]
        assert sentence in error["message"]


BOTH = wav(talk(["Peter lives in London."]))
BAD: list[tuple[dict[str, str], str, str]] = [
    ({"num_speakers": "0"}, "num_speakers", "greater than or equal to 1"),
    ({"min_speakers": "3", "max_speakers": "2"}, "min_speakers", "more than max_speakers"),
    ({"known_speaker_names": "Ada"}, "known_speaker_references", "0 samples were sent for 1 names"),
    ({"known_speaker_names": "SPEAKER_01"}, "known_speaker_names", "none of SPEAKER_00"),
    (
        {"known_speaker_names": "Ada", "known_speaker_references": "nothing"},
        "known_speaker_references",
        "must be a data URL",
    ),
    (
        {"known_speaker_names": "Ada", "known_speaker_references": "data:audio/wav;base64,AAAA"},
        "known_speaker_references",
        "the sample of Ada is of no use",
    ),
    (
        {"known_speaker_names": "Ada", "known_speaker_references": data_url(silence(1))},
        "known_speaker_references",
        "must have 2 to 10 s",
    ),
    (
        {"known_speaker_names": "Ada", "known_speaker_references": data_url(silence(4))},
        "known_speaker_references",
        "only 0.0 s of speech",
    ),
]


@pytest.mark.parametrize(("fields", "param", "sentence"), BAD)
def test_wrong_hints_are_told(http: httpx.Client, fields: dict[str, str], param: str, sentence: str) -> None:
    answer = http.post(DIARIZE, files={"file": ("a.wav", BOTH)}, data=fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert sentence in error["message"]


# Streams ----------------------------------------------------------------------------------------------


def test_go_whispers_stream_ends_with_all_segments_and_their_speakers(http: httpx.Client) -> None:
    found = events(post(http, DIARIZE + "?stream=true").text)
    assert found[0][0] == "task"
    early = [data for name, data in found if name == "segment"]
    assert early
    assert not any("speaker" in segment for segment in early)
    name, last = found[-1]
    assert name == "ok"
    assert speakers_of_turns(last["segments"]) == ["SPEAKER_00", "SPEAKER_01"] * 3
    assert [speaker["id"] for speaker in last["speakers"]] == ["SPEAKER_00", "SPEAKER_01"]
    assert "".join(one["text"] for one in early) == "".join(one["text"] for one in last["segments"])


def test_a_stream_of_text_waits_for_the_speakers(http: httpx.Client) -> None:
    pieces = [
        data
        for name, data in events(post(http, DIARIZE + "?stream=true", response_format="vtt").text)
        if name == "segment"
    ]
    assert "".join(pieces) == post(http, response_format="vtt").text


@pytest.mark.parametrize("format", ["diarized_json", "verbose_json"])
def test_openais_stream_has_segments_with_speakers_before_its_end(http: httpx.Client, format: str) -> None:
    fields: dict[str, Any] = {"stream": "true", "response_format": format, "diarize": "true"}
    found = [data for _, data in events(post(http, TRANSCRIBE, **fields).text)]
    kinds = [data["type"].rpartition(".")[2] for data in found]
    assert kinds == sorted(kinds, key=["delta", "segment", "done"].index)
    one, other = ("A", "B") if format == "diarized_json" else ("SPEAKER_00", "SPEAKER_01")
    segments = [data for data in found if data["type"].endswith(".segment")]
    assert speakers_of_turns(segments) == [one, other] * 3
    assert "".join(data["delta"] for data in found if "delta" in data) == found[-1]["text"]
    assert [speaker["id"] for speaker in found[-1]["speakers"]] == [one, other]


def test_who_leaves_ends_the_work(running: Server, http: httpx.Client) -> None:
    long = wav(np.tile(TALK.pcm, 8))
    with http.stream(
        "POST", DIARIZE + "?stream=true", files={"file": ("a.wav", long)}, data={"language": "en"}
    ) as answer:
        lines = answer.iter_lines()
        assert any(line.startswith("event: segment") for line in lines)
        until(lambda: _busy(http) == 1)
    until(lambda: _busy(http) == 0)


def _busy(http: httpx.Client) -> int:
    found = {model["id"]: model for model in http.get("/v1/models/loaded").json()["data"]}
    return int(found["talk"]["busy"])


# Clients made for other servers -----------------------------------------------------------------------


def test_whisper_asr_webservices_query_asks_who_speaks(http: httpx.Client) -> None:
    def asr(**query: str) -> httpx.Response:
        return http.post(
            "/asr", params={"language": "en", **query}, files={"audio_file": ("a.wav", MEDIA)}
        ).raise_for_status()

    told = asr(output="json", diarize="true", min_speakers="1", max_speakers="3").json()
    assert speakers_of_turns(told["segments"]) == ["SPEAKER_00", "SPEAKER_01"] * 3
    one = asr(diarize="true", min_speakers="1", max_speakers="1").text
    assert {line.split(": ")[0] for line in one.splitlines()} == {"[SPEAKER_00]"}
    wrong = http.post("/asr", params={"diarize": "true", "min_speakers": "3", "max_speakers": "2"})
    assert (wrong.status_code, wrong.text) == (400, "")
    assert "min_speakers: more than" in wrong.headers["x-whisperd-error"]


def test_whisper_cpps_server_tells_who_speaks(http: httpx.Client) -> None:
    fields = {"diarize": "true", "language": "en", "response_format": "verbose_json"}
    answer = http.post("/inference", files={"file": ("a.wav", MEDIA)}, data=fields).raise_for_status()
    assert speakers_of_turns(answer.json()["segments"]) == ["SPEAKER_00", "SPEAKER_01"] * 3
    assert answer.json()["text"].startswith("(SPEAKER_00) ")


def test_fals_whisper_tells_who_speaks(http: httpx.Client) -> None:
    audio = "data:audio/wav;base64," + base64.b64encode(MEDIA).decode()
    body = {"audio_url": audio, "diarize": True, "num_speakers": 2, "language": "en"}
    told = http.post("/fal/run/fal-ai/whisper", json=body).raise_for_status().json()
    turns = [
        {"start": turn["timestamp"][0], "end": turn["timestamp"][1], "speaker": turn["speaker"]}
        for turn in told["diarization_segments"]
    ]
    assert speakers_of_turns(turns) == ["SPEAKER_00", "SPEAKER_01"] * 3
    assert {chunk["speaker"] for chunk in told["chunks"]} == {"SPEAKER_00", "SPEAKER_01"}


# A pipeline is a model --------------------------------------------------------------------------------


def test_pipelines_are_listed_loaded_unloaded_and_deleted(running: Server, http: httpx.Client) -> None:
    shutil.copytree(PIPELINE, running.data / "models" / "other")
    try:
        told = http.get("/v1/models/other").json()
        assert (told["engine"], told["capabilities"]["diarize"]) == ("pyannote", True)
        assert http.post("/v1/models/other/load").json()["loaded"] is True
        loaded = {model["id"]: model for model in http.get("/v1/models/loaded").json()["data"]}
        assert loaded["other"]["engine"].startswith("pyannote.audio ")
        assert loaded["other"]["memory"] > 1e8
        assert http.post("/v1/models/other/unload").json()["loaded"] is False
        assert len(running.children("server.diarizers")) <= 1
        assert http.delete("/v1/models/other").json()["deleted"] is True
        assert not (running.data / "models" / "other").exists()
        assert http.get("/v1/models/other").status_code == 404
    finally:
        shutil.rmtree(running.data / "models" / "other", ignore_errors=True)


def test_a_pipeline_without_its_parts_says_what_it_lacks(running: Server, http: httpx.Client) -> None:
    folder = running.data / "models" / "half"
    folder.mkdir()
    shutil.copy(PIPELINE / "config.yaml", folder)
    try:
        answer = http.post(DIARIZE, files={"file": ("a.wav", BOTH)}, data={"diarize_model": "half"})
        assert answer.status_code == 500
        assert "lacks segmentation/pytorch_model.bin" in answer.json()["error"]["message"]
        unknown = http.post(DIARIZE, files={"file": ("a.wav", BOTH)}, data={"diarize_model": "third"})
        assert unknown.status_code == 404
        assert "there are half, talk" in unknown.json()["error"]["message"]
    finally:
        shutil.rmtree(folder)


def test_without_a_pipeline_the_error_tells_where_it_is(client: httpx.Client) -> None:
    answer = client.post(DIARIZE, files={"file": ("a.wav", BOTH)})
    assert answer.status_code == 404
    assert "https://huggingface.co/pyannote/speaker-diarization-community-1" in answer.text
    assert "read token" in answer.text


# Turns of speakers, heard by the model itself --------------------------------------------------------


SAID = talk(
    ["Peter lives in London.", "Where is the house?", "Turn on the light in the kitchen.", "Next song."]
)


@pytest.fixture(scope="module")
def turning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a model that hears turns, and no pipeline."""
    data = tmp_path_factory.mktemp("turning")
    (data / "models").mkdir()
    tinydiarize.write(data / "models" / "ggml-demo-tdrz.bin")
    with serving(data, "--tuning", "{ggml-forced-tdrz: {engine: ctranslate2}}") as server:
        yield server


def test_a_model_that_hears_turns_tells_them_without_torch(turning: Server) -> None:
    with turning.client(timeout=300) as http:
        listed = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
        assert listed["ggml-demo-tdrz"]["capabilities"]["diarize"] is True
        assert listed["ggml-demo"]["capabilities"]["diarize"] is False
        # Nobody names it: it is the only one here that can.
        told = post(http, media=wav(SAID)).json()
        assert [segment["speaker_turn"] for segment in told["segments"]] == [False, True, False, True]
        assert [segment["speaker"] for segment in told["segments"]] == [None] * 4
        assert told["speakers"] == []
        assert not turning.children("server.diarizers")
        plain = post(http, TRANSCRIBE, media=wav(SAID), model="demo-tdrz")
        assert "segments" not in plain.json()
        assert plain.json()["text"].endswith("Next song.")
        fields: dict[str, Any] = {"timestamp_granularities[]": "word", "response_format": "verbose_json"}
        verbose = post(http, TRANSCRIBE, media=wav(SAID), model="demo-tdrz", diarize="true", **fields).json()
        assert [segment["speaker_turn"] for segment in verbose["segments"]] == [False, True, False, True]


def test_turns_are_streamed_as_they_are_heard(turning: Server) -> None:
    with turning.client(timeout=300) as http:
        found = events(post(http, DIARIZE + "?stream=true", media=wav(SAID), model="demo-tdrz").text)
    early = [data["speaker_turn"] for name, data in found if name == "segment"]
    assert early == [False, True, False, True]
    assert [segment["speaker_turn"] for segment in found[-1][1]["segments"]] == early


def test_whisper_cpps_server_tells_turns_too(turning: Server) -> None:
    with turning.client(timeout=300) as http:
        fields = {"tinydiarize": "true", "language": "en"}
        told = http.post("/inference", files={"file": ("a.wav", wav(SAID))}, data=fields).raise_for_status()
        ends = [line.endswith(" [SPEAKER_TURN]") for line in told.json()["text"].splitlines()]
        assert ends == [True, False, True, False]
        fields["response_format"] = "verbose_json"
        told = http.post("/inference", files={"file": ("a.wav", wav(SAID))}, data=fields).raise_for_status()
        assert [segment["speaker_turn_next"] for segment in told.json()["segments"]] == ends


def test_an_engine_that_cannot_hear_turns_is_told(turning: Server) -> None:
    forced = tinydiarize.write(turning.data / "models" / "ggml-forced-tdrz.bin")
    try:
        with turning.client(timeout=300) as http:
            fields = {"tinydiarize": "true", "model": "ggml-forced-tdrz"}
            answer = http.post("/inference", files={"file": ("a.wav", BOTH)}, data=fields)
            assert answer.status_code == 400
            assert "tuning: {ggml-forced-tdrz: {engine: whisper.cpp}}" in answer.json()["error"]
            answer = http.post(DIARIZE, files={"file": ("a.wav", BOTH)}, data={"model": "ggml-forced-tdrz"})
            assert "no pipeline is installed" in answer.json()["error"]["message"]
    finally:
        forced.unlink()


def test_what_turns_cannot_tell_needs_a_pipeline(turning: Server) -> None:
    with turning.client(timeout=300) as http:
        for fields in ({"num_speakers": "2"}, {"response_format": "diarized_json"}, {"model": "ggml-demo"}):
            answer = http.post(
                DIARIZE, files={"file": ("a.wav", BOTH)}, data={"model": "demo-tdrz", **fields}
            )
            assert answer.status_code == 404, fields
            assert "no pipeline is installed" in answer.json()["error"]["message"]


def test_without_the_extra_the_error_tells_what_to_install(tmp_path: Path) -> None:
    """In an environment with all that is installed here but for what the extra brings."""
    venv.create(tmp_path / "env", with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")}))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("torch", "pyannote")):
            (packages / entry.name).symlink_to(entry)
    data = tmp_path / "data"
    shutil.copytree(PIPELINE, data / "models" / "talk")
    python = str(tmp_path / "env" / "bin" / "python")
    command = [python, "-m", "server", "serve", "--port", "0", "--data", str(data)]
    with started(command, data, {"WHISPERD_DEMO": "true"}) as server, server.client() as http:
        answer = http.post(DIARIZE, files={"file": ("a.wav", BOTH)})
        assert answer.status_code == 404
        assert "pip install 'whisperd[diarize]'" in answer.json()["error"]["message"]
        assert http.post(TRANSCRIBE, files={"file": ("a.wav", BOTH)}).status_code == 200
