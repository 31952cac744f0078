"""Every engine that speaks, whatever files there are, on a real voice: what a piece must sound like."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from server import voices
from server.engines import Speaker
from server.errors import ModelBroken
from server.types import Piece, Voice
from tests import tiny_voices
from tests.speech import Pcm

ENGINES = tuple(voices.engines_here())

TEXT = "The weather is beautiful today."


@dataclass(frozen=True)
class Speaking:
    """An engine with one of its voices."""

    speaker: Speaker
    voice: Voice

    def say(self, piece: Piece) -> Pcm:
        sounds: list[bytes] = []
        self.speaker.say(piece, self.voice.speaker, sounds.append, lambda: False)
        return np.frombuffer(b"".join(sounds), "<i2").astype(np.float32) / np.float32(32768)

    def seconds(self, piece: Piece) -> float:
        return len(self.say(piece)) / self.voice.sample_rate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice of each engine that needs files."""
    folder = tmp_path_factory.mktemp("voices")
    tiny_voices.piper(folder)
    tiny_voices.kokoro(folder / "Kokoro-82M")
    return folder


@pytest.fixture(scope="module", params=ENGINES)
def speaking(request: pytest.FixtureRequest, folder: Path) -> Speaking:
    module = import_module(f"server.engines.{request.param}")
    found = [voice for voice in module.voices(folder) if voice.locale == "en-US"]
    return Speaking(module.Speaker(found[0].model, 1), found[0])


def loudness(pcm: Pcm) -> float:
    """Root mean square of what sounds."""
    return float(np.sqrt(np.mean(np.square(pcm[np.abs(pcm) > 0.01]))))


def test_it_speaks(speaking: Speaking) -> None:
    pcm = speaking.say(Piece(TEXT))
    assert 0.8 < len(pcm) / speaking.voice.sample_rate < 8
    assert 0.03 < loudness(pcm) < 0.5


def test_more_text_is_more_sound(speaking: Speaking) -> None:
    assert speaking.seconds(Piece(TEXT * 3)) > 1.8 * speaking.seconds(Piece(TEXT))


def test_its_speeds(speaking: Speaking) -> None:
    slowest, fastest = speaking.speaker.speeds
    normal = speaking.seconds(Piece(TEXT))
    for speed in {slowest, min(fastest, 2.0)}:
        assert normal / speaking.seconds(Piece(TEXT, speed=speed)) == pytest.approx(speed, rel=0.3)


def test_a_piece_leaves_nothing_for_the_next(speaking: Speaking) -> None:
    before = speaking.seconds(Piece(TEXT))
    speaking.say(Piece("Hello?", speed=speaking.speaker.speeds[1], pitch=1.5))
    assert speaking.seconds(Piece(TEXT)) == pytest.approx(before, rel=0.15)


@pytest.mark.parametrize("text", ["", "...", "a", "日本語", "Ω ≈ 3"])
def test_odd_texts_do_no_harm(speaking: Speaking, text: str) -> None:
    speaking.say(Piece(text))
    assert speaking.seconds(Piece(TEXT)) > 0.5


def test_it_stops_when_told_to(speaking: Speaking) -> None:
    sounds: list[bytes] = []
    text = TEXT * 8
    speaking.speaker.say(Piece(text), speaking.voice.speaker, sounds.append, lambda: True)
    assert sum(map(len, sounds)) / 2 < 0.5 * len(speaking.say(Piece(text)))


def test_it_says_what_it_is(speaking: Speaking) -> None:
    assert len(speaking.speaker.describe()) > 10


def test_its_voices_have_names_of_their_own(speaking: Speaking) -> None:
    assert speaking.voice.id.split(".")[0].lower() == speaking.voice.engine
    assert speaking.voice.locale.upper() == speaking.voice.id.split(".")[1]


@pytest.mark.parametrize("name", ENGINES)
def test_a_file_that_is_no_voice_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "x.onnx"
    file.write_bytes(b"this is not a voice" * 100)
    with pytest.raises(ModelBroken):
        import_module(f"server.engines.{name}").Speaker(file, 1)


@pytest.mark.parametrize("name", ENGINES)
def test_an_empty_folder_is_no_error(name: str, tmp_path: Path) -> None:
    import_module(f"server.engines.{name}").voices(tmp_path / "none")
