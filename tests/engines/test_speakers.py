"""Every engine that speaks, whatever files there are, on a real voice: what a piece must sound like."""

import hashlib
import shutil
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from server import voices
from server.engines import Cloner, Speaker, Stopped, pocket
from server.errors import ModelBroken
from server.types import Piece, Sample, Voice
from tests import tiny_voices
from tests.speech import Pcm

ENGINES = tuple(voices.engines_here())
CLONERS = [name for name in ENGINES if hasattr(import_module(f"server.engines.{name}"), "cloners")]

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
    tiny_voices.pocket(folder)
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


def test_its_sentences_are_of_one_loudness(speaking: Speaking) -> None:
    said = ("No.", TEXT, "Sissy hisses at six sheep.", "Is it?", "Many men mine more money!")
    decibels = [20 * np.log10(loudness(speaking.say(Piece(text)))) for text in said]
    assert max(decibels) - min(decibels) < 3
    assert -23 < np.mean(decibels) < -16, "of other engines' loudness"


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


def test_a_sentence_is_given_up_in_the_middle(tmp_path: Path) -> None:
    speaker = import_module("server.engines.piper").Speaker(tiny_voices.endless(tmp_path), 1)
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 3

    speaker.say(Piece(TEXT), "0", lambda sound: None, stop)
    assert len(asked) > 3


def test_it_says_what_it_is(speaking: Speaking) -> None:
    assert len(speaking.speaker.describe()) > 10


def test_its_voices_have_names_of_their_own(speaking: Speaking) -> None:
    assert speaking.voice.id.split(".")[0].lower() == speaking.voice.engine
    assert speaking.voice.locale.upper() == speaking.voice.id.split(".")[1]


@pytest.fixture(scope="module", params=CLONERS)
def cloning(request: pytest.FixtureRequest, folder: Path) -> Speaking:
    module = import_module(f"server.engines.{request.param}")
    voice = module.cloners(folder)[0]
    return Speaking(module.Speaker(voice.model, 1), voice)


def sample(folder: Path, frequency: float, seconds: float = 4.0) -> Sample:
    pcm = (tiny_voices.tone(frequency, seconds) * 32767).astype("<i2").tobytes()
    file = folder / f"{frequency}.pcm"
    file.write_bytes(pcm)
    return Sample(str(file), hashlib.sha256(pcm).hexdigest())


def like(cloning: Speaking, sample: Sample) -> Pcm:
    speaker = cast(Cloner, cloning.speaker)
    name = speaker.clone(sample, lambda: False)
    return replace(cloning, voice=replace(cloning.voice, speaker=name)).say(Piece(TEXT))


def test_a_clone_is_like_its_sample(cloning: Speaking, tmp_path: Path) -> None:
    low, high = like(cloning, sample(tmp_path, 110)), like(cloning, sample(tmp_path, 250))
    assert loudness(low) > 0.03
    assert np.abs(low - high).mean() > 0.01
    assert np.abs(low - like(cloning, sample(tmp_path, 110))).max() < 0.01


def test_what_was_made_of_a_sample_is_kept(cloning: Speaking, tmp_path: Path) -> None:
    once = replace(sample(tmp_path, 180), kept=str(tmp_path))
    first = like(cloning, once)
    kept = [file for file in tmp_path.iterdir() if file != Path(once.path)]
    assert len(kept) == 1
    Path(once.path).unlink()
    speaker = cast(Cloner, type(cloning.speaker)(cloning.voice.model, 1))
    again = like(replace(cloning, speaker=speaker), once)
    assert np.abs(first - again).max() < 0.01


def test_what_was_kept_and_is_broken_is_made_again(cloning: Speaking, tmp_path: Path) -> None:
    once = replace(sample(tmp_path, 190), kept=str(tmp_path))
    first = like(cloning, once)
    for file in tmp_path.iterdir():
        if file != Path(once.path):
            file.write_bytes(file.read_bytes()[:100])
    speaker = cast(Cloner, type(cloning.speaker)(cloning.voice.model, 1))
    assert np.abs(first - like(replace(cloning, speaker=speaker), once)).max() < 0.01


def test_cloning_stops_when_told_to(cloning: Speaking, tmp_path: Path) -> None:
    speaker = cast(Cloner, cloning.speaker)
    with pytest.raises(Stopped):
        speaker.clone(sample(tmp_path, 200), lambda: True)
    assert len(like(cloning, sample(tmp_path, 200)))


def test_weights_without_an_encoder_do_not_clone(tmp_path: Path) -> None:
    tiny_voices.pocket(tmp_path, "de_tiny", clones=False)
    (voice,) = [voice for voice in pocket.voices(tmp_path) if voice.id.endswith("low")]
    assert voice.id == "Pocket.DE.tiny.low"
    assert not voice.clones
    assert not pocket.cloners(tmp_path)
    with pytest.raises(ModelBroken, match="cannot clone"):
        pocket.Speaker(voice.model, 1).clone(sample(tmp_path, 110), lambda: False)


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.yaml", "model.safetensors"])
def test_a_model_that_is_not_whole_has_no_voices(folder: Path, tmp_path: Path, missing: str) -> None:
    copy = Path(shutil.copytree(folder / "english_tiny", tmp_path / "english_tiny"))
    assert len(pocket.voices(tmp_path)) == 2
    (copy / missing).unlink()
    assert not pocket.voices(tmp_path)
    assert not pocket.cloners(tmp_path)


def test_a_long_stretch_is_given_breath(folder: Path) -> None:
    speaker = pocket.Speaker(folder / "english_tiny", 1)
    said = speaker._with_breaths("so it goes on and on and on " * 8 + "and on. Then it ends.")
    assert said.replace(",", "") == "so it goes on and on and on " * 8 + "and on. Then it ends."
    assert said.count(",") >= 2
    assert speaker._with_breaths("A short one, as they are.") == "A short one, as they are."


@pytest.mark.parametrize("name", ENGINES)
def test_a_file_that_is_no_voice_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "x.onnx"
    file.write_bytes(b"this is not a voice" * 100)
    with pytest.raises(ModelBroken):
        import_module(f"server.engines.{name}").Speaker(file, 1)


@pytest.mark.parametrize("name", ENGINES)
def test_an_empty_folder_is_no_error(name: str, tmp_path: Path) -> None:
    import_module(f"server.engines.{name}").voices(tmp_path / "none")
