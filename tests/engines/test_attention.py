"""What whisper.cpp reads off a model's attention, on random weights of `tiny`'s dimensions, where OpenAI's
heads for it exist: that there are times, not that they are true."""

from pathlib import Path

import numpy as np
import pytest

from bench.fixed import write_fixed
from server.engines.whisper_cpp import Engine
from server.types import Decode, Loading, Token
from tests.speech import say

_WORDS = 12


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fixed(tmp_path_factory.mktemp("tiny") / "ggml-tiny.bin", "tiny", _WORDS)


def tokens(model: Path, heads: str, seconds: float = 6.0) -> list[Token]:
    engine = Engine(model, Loading(path=model, heads=heads, device="cpu"))
    pcm = np.tile(say("Nobody knows what it says."), 5)[: round(seconds * 16_000)]
    decode = Decode(language="en", words=True, threads=2)
    heard = engine.transcribe(pcm, decode, lambda: False)
    return [token for segment in heard.segments for token in segment.logprobs]


def test_each_token_has_the_time_at_which_attention_hears_it(tiny: Path) -> None:
    starts = [token.start for token in tokens(tiny, "tiny")]
    assert len(starts) == _WORDS
    times = [start for start in starts if start is not None]
    assert len(times) == _WORDS
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= 30
    assert {token.start for token in tokens(tiny, "")} == {None}


def test_a_short_sound_has_enough_for_it(tiny: Path) -> None:
    """whisper.cpp ends the process where its filter is wider than the sound."""
    for seconds in (0.25, 3.3):
        assert all(token.start is not None for token in tokens(tiny, "tiny", seconds))
