"""What the tests share: one real server for those that do not harm it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving import Server, serving

pytest_plugins = ("tests.hub",)

# Run in the background by a shell, we and all that we start would ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the demo model; for tests that leave it as they found it."""
    with serving(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def shared_audio() -> Path:
    """Real recordings beside the checkout."""
    folder = Path(__file__).parent.parent.parent / "shared" / "audio"
    if not folder.is_dir():
        pytest.skip("the recordings are not on this machine")
    return folder
