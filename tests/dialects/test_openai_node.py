"""OpenAI's audio API, spoken to by OpenAI's own client for Node."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.node import fetched
from tests.serving import Server
from tests.speech import SENTENCES, talk, wav

TEXT = " ".join(SENTENCES[:4])
PACKAGE = "openai@6"


@pytest.fixture(scope="module")
def told(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What openai.mjs tells; the client is fetched once, beside the Python packages."""
    folder = fetched(PACKAGE)
    media = tmp_path_factory.mktemp("node") / "talk.wav"
    media.write_bytes(wav(talk(SENTENCES[:4])))
    script = Path(__file__).with_name("openai.mjs")
    done = subprocess.run(
        ["node", script, folder, f"{server.url}/v1", media], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_whole_answers(told: Any) -> None:
    assert told["json"]["text"] == TEXT
    assert (
        bytes(byte for token in told["json"]["logprobs"] for byte in token["bytes"]).decode().strip() == TEXT
    )
    assert told["json"]["usage"] == {"type": "duration", "seconds": 10}
    assert told["text"].strip() == TEXT
    assert [word["word"] for word in told["verbose"]["words"]] == TEXT.split()
    assert [segment["text"].strip() for segment in told["verbose"]["segments"]] == list(SENTENCES[:4])
    assert told["translation"]["text"]


def test_objects_and_lists_in_the_form(told: Any) -> None:
    assert len({segment["seek"] for segment in told["chunks"]["segments"]}) == 4
    assert told["hinted"]["text"]
    assert told["hinted"]["languages"] == [{"code": "en"}]


def test_a_stream(told: Any) -> None:
    *deltas, done = told["events"]
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert "".join(event["delta"] for event in deltas) == done["text"] == TEXT
    assert done["usage"]["type"] == "tokens"


def test_models(told: Any) -> None:
    assert [model["id"] for model in told["models"]] == ["ggml-demo"]
    assert told["model"]["owned_by"] == "whisperd"


def test_errors(told: Any) -> None:
    assert [(error["status"], error["code"], error["param"]) for error in told["errors"]] == [
        (404, "model_not_found", None),
        (404, "model_not_found", None),
        (404, "model_not_found", None),
        (404, "model_not_found", None),
        (400, "invalid_value", "temperature"),
    ]
    assert {error["type"] for error in told["errors"]} == {"invalid_request_error"}
    assert "no model 'nvidia/parakeet'" in told["errors"][0]["message"]
