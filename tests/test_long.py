"""Ten hours of sound need little more memory than a minute of it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from tests.serving import Server, serving
from tests.speech import SENTENCES, say, talk, wav

HOURS = 10
BOUND = 300 << 20


def write(file: Path, minutes: int) -> None:
    """A FLAC of quiet noise with two sentences a minute, never whole in memory."""
    noise = np.random.default_rng(7).normal(0, 0.0005, 60 * 16000).astype(np.float32)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("flac", rate=16000, layout="mono")
        for minute in range(minutes):
            pcm = noise.copy()
            for place, sentence in ((5, minute), (30, minute + 1)):
                speech = say(SENTENCES[sentence % len(SENTENCES)])
                pcm[place * 16000 : place * 16000 + len(speech)] += speech
            samples = (np.clip(pcm, -1, 1) * 32767).astype("<i2")
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def memory(server: Server) -> int:
    """Proportional memory (PSS) of the server and its children, in bytes."""
    total = 0
    for process in (psutil.Process(server.process.pid), *server.children()):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


@contextmanager
def watching(server: Server) -> Iterator[list[int]]:
    """Samples of the memory, taken while the block runs."""
    samples: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            samples.append(memory(server))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


@pytest.mark.long
@pytest.mark.alone
def test_ten_hours_stay_within_the_bound(tmp_path: Path) -> None:
    media = tmp_path / "day.flac"
    write(media, HOURS * 60)
    with serving(tmp_path / "data", "--max-upload", "2GB") as server, server.client(timeout=1200) as client:
        warm = {"file": ("a.wav", wav(talk(SENTENCES)))}
        assert client.post("/v1/audio/transcriptions", files=warm).status_code == 200
        time.sleep(1)
        before = memory(server)
        with watching(server) as samples, media.open("rb") as file:
            answer = client.post(
                "/v1/audio/transcriptions",
                files={"file": ("day.flac", file)},
                data={
                    "language": "en",
                    "response_format": "verbose_json",
                    "timestamp_granularities[]": "word",
                },
            )
    document = answer.json()
    assert document["duration"] == pytest.approx(HOURS * 3600, abs=1)
    heard = [segment["text"].strip() for segment in document["segments"]]
    assert len(heard) == pytest.approx(HOURS * 120, rel=0.05)
    assert sum(text in SENTENCES for text in heard) > 0.9 * len(heard)
    assert len(samples) > 10
    assert max(samples) - before < BOUND
