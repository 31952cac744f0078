"""How much a key may ask for, and when a refused client is told to come back."""

from pathlib import Path

import pytest

from server import errors, keys
from server.keys import Key
from server.limits import Limits
from server.reader import Readers
from tests.serving import serving
from tests.speech import SENTENCES, say, talk, wav

PATH = "/v1/audio/transcriptions"
CLIP = wav(say(SENTENCES[0]))
ANNA, BERT = Key("anna", "use"), Key("bert", "use")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_requests_in_a_minute_are_counted_for_each_key() -> None:
    clock = Clock()
    limits = Limits(in_a_minute=3, clock=clock)
    for _ in range(3):
        with limits.asking(ANNA):
            clock.now += 10
    with pytest.raises(errors.TooMany) as caught, limits.asking(ANNA):
        pass
    assert caught.value.retry_after == 30
    with limits.asking(BERT):
        pass
    clock.now += caught.value.retry_after
    with limits.asking(ANNA):
        pass


def test_requests_at_a_time_are_counted_however_they_end() -> None:
    clock = Clock()
    limits = Limits(at_once=2, clock=clock)
    with pytest.raises(RuntimeError), limits.asking(ANNA), limits.asking(ANNA):
        with pytest.raises(errors.TooMany), limits.asking(ANNA):
            pass
        clock.now += 100
        raise RuntimeError
    with limits.asking(ANNA), limits.asking(ANNA):
        with pytest.raises(errors.TooMany) as caught, limits.asking(ANNA):
            pass
    assert caught.value.retry_after > 10, "by how long the first ones took"


def test_a_key_at_its_bound_is_told_429_and_others_go_on(tmp_path: Path) -> None:
    mine, yours = keys.make(), keys.make()
    lines = f"mine={keys.line(mine, 'use')},yours={keys.line(yours, 'use')}"
    environment = {"WHISPERD_KEYS": lines, "WHISPERD_REQUESTS_OF_KEY": "1"}
    film = {"file": ("a.wav", wav(talk(SENTENCES * 6)))}
    clip = {"file": ("a.wav", CLIP)}
    with serving(tmp_path, environment=environment) as server, server.client() as client:
        bearer = {"Authorization": f"Bearer {mine}"}
        with client.stream("POST", PATH + "?stream=1", files=film, headers=bearer) as first:
            events = first.iter_lines()  # httpx hangs up when this goes
            assert any(line == "event: segment" for line in events)
            with server.client() as other:
                refused = other.post(PATH, files=clip, headers=bearer)
                assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
                assert int(refused.headers["retry-after"]) >= 1
                assert other.get("/v1/ping").status_code == 200
                allowed = other.post(PATH, files=clip, headers={"Authorization": f"Bearer {yours}"})
                assert allowed.status_code == 200
            assert list(events)
        assert client.post(PATH, files=clip, headers=bearer).status_code == 200


async def test_who_finds_the_line_full_is_told_by_how_long_media_take(tmp_path: Path) -> None:
    readers = Readers(tmp_path, warm=0, streams=2, queue=0, memory=1 << 30, longest=3600)
    async with readers._place(), readers._place():
        with pytest.raises(errors.Busy) as caught:
            readers.refuse_if_full()
        assert caught.value.retry_after == 1
        readers._begun = [began - 60 for began in readers._begun]
        with pytest.raises(errors.Busy) as caught:
            readers.refuse_if_full()
        assert 30 <= caught.value.retry_after <= 60
        readers._begun = [began + 60 for began in readers._begun]
    readers._took = 20.0
    async with readers._place(), readers._place():
        with pytest.raises(errors.Busy) as caught:
            readers.refuse_if_full()
        assert caught.value.retry_after == 10


async def test_who_is_refused_is_told_to_come_after_the_one_before(tmp_path: Path) -> None:
    """But no later than after all of the line, however many are refused."""
    readers = Readers(tmp_path, warm=0, streams=2, queue=4, memory=1 << 30, longest=3600)
    readers._took, readers.waiting = 20.0, 4
    told = []
    async with readers._places, readers._places:
        for _ in range(6):
            with pytest.raises(errors.Busy) as caught:
                readers.refuse_if_full()
            told.append(caught.value.retry_after)
    assert told == [10, 20, 30, 40, 40, 40]
