"""Whatever the media: no segment or word out of order, doubled, or outside of it."""

from pathlib import Path

import pytest

from tests.random_files import faults, random_file
from tests.serving import serving


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 100), marks=pytest.mark.long)])
def test_answers_to_random_files_are_in_order(data: Path, seeds: range) -> None:
    """The accuracy bench does the same with a thousand: scripts/bench accuracy --files 1000."""
    with serving(data) as server, server.client() as client:
        for seed in seeds:
            media, seconds, fields = random_file(seed)
            answer = client.post("/v1/audio/transcriptions", files={"file": media}, data=fields)
            assert answer.status_code == 200, (seed, answer.text)
            assert list(faults(answer.json(), seconds)) == [], seed
