"""What the tests share: one real server for those that do not harm it."""

import fcntl
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import huggingface_hub.constants  # noqa: F401  # it asks the environment when it is imported, before engines change it
import pytest

from tests.serving import Server, serving

pytest_plugins = ("tests.hub",)

# Run in the background by a shell, we and all that we start would ignore Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Several at a time -------------------------------------------------------------------------------------


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many as there are cores, up to four. A single file has nothing to share out."""
    only = config.args[0].partition("::")[0] if len(config.args) == 1 else ""
    return 0 if only.endswith(".py") else min(len(os.sched_getaffinity(0)), 4)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `long` run only where they are asked for, and as long as they take."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(0))
    if "long" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test marked `alone` begins when the tests of other workers have ended, and these wait for its end."""
    here = Path(__file__)
    kind = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
    with _locked(here.parent, kind, gate=here):
        try:
            return (yield)
        finally:
            # Engines that were tried in this very process say it, for theirs; servers would inherit it.
            os.environ.pop("HF_HUB_OFFLINE", None)


@contextmanager
def _locked(place: Path, kind: int, gate: Path) -> Iterator[None]:
    """The gate is held while waiting, so that who wants it alone is not overtaken for ever."""
    lock = os.open(place, os.O_RDONLY)
    try:
        queue = os.open(gate, os.O_RDONLY)
        try:
            fcntl.flock(queue, fcntl.LOCK_EX)
            fcntl.flock(lock, kind)
        finally:
            os.close(queue)
        yield
    finally:
        os.close(lock)


# Servers -----------------------------------------------------------------------------------------------


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
