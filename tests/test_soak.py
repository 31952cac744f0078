"""What the server takes stays the same while it does everything again and again; longer: scripts/soak."""

from pathlib import Path

import pytest

from bench.soak import growth, soak
from tests.serving import serving


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_handles_threads_and_processes_stay_the_same(tmp_path: Path) -> None:
    with serving(tmp_path, "--log-level", "warning") as server:
        done, looks = soak(server, 180)
    grown = growth(looks)
    assert len(done) == 7
    assert grown["server_mb"] < 20, grown
    assert grown["all_mb"] < 250, grown  # readers above the warm number are kept for a minute
    assert grown["all_handles"] < 40, grown
    assert grown["threads"] < 10, grown
    assert grown["processes"] < 4, grown
