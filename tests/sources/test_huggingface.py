"""What the hub says of a file, and its bytes from any place on."""

import pytest

from server.errors import Gated, NotAtSource, PullFailed
from server.sources import Broken, Changed, Found, Source
from server.sources.huggingface import Hub as Source_
from tests.hub import HOME, Hub, model, sha256

TINY = "ggml-tiny.bin"
MODEL = model(1)


@pytest.fixture
def revision(hub: Hub) -> str:
    return hub.add(HOME, TINY, MODEL)


@pytest.fixture
def source(hub: Hub, revision: str) -> Source:
    return Source_(hub.url + "/", stall=5.0)


async def read(source: Source, found: Found, start: int) -> tuple[int, bytes]:
    async with source.read(found, start) as stream:
        return stream.start, b"".join([chunk async for chunk in stream.chunks])


def test_describe(source: Source, revision: str) -> None:
    digest = sha256(MODEL)
    found = source.describe(TINY, HOME, "main")
    assert found == Found(HOME, TINY, revision, len(MODEL), digest, digest)
    assert source.describe(TINY, HOME, revision) == found


def test_describe_fetches_nothing(source: Source, hub: Hub) -> None:
    source.describe(TINY, HOME, "main")
    assert [asked.method for asked in hub.asked] == ["HEAD"]
    assert "whisperd/" in hub.asked[0].headers["user-agent"]


def test_describe_by_the_listing_where_tags_are_no_hashes(source: Source, hub: Hub) -> None:
    hub.faults.own_etags = True
    found = source.describe(TINY, HOME, "main")
    assert (found.sha256, found.size) == (sha256(MODEL), len(MODEL))
    assert found.etag.startswith("v")


@pytest.mark.parametrize("start", [0, 1, 65_536, len(MODEL) - 1])
async def test_read(source: Source, start: int) -> None:
    found = source.describe(TINY, HOME, "main")
    assert await read(source, found, start) == (start, MODEL[start:])


async def test_read_where_ranges_are_not_known(source: Source, hub: Hub) -> None:
    hub.faults.ignore_ranges = True
    found = source.describe(TINY, HOME, "main")
    assert await read(source, found, 1000) == (0, MODEL)


async def test_read_a_line_that_breaks(source: Source, hub: Hub) -> None:
    hub.faults.break_after = [100_000]
    found = source.describe(TINY, HOME, "main")
    came = []
    with pytest.raises(Broken):
        async with source.read(found, 7) as stream:
            async for chunk in stream.chunks:
                came.append(chunk)
    assert b"".join(came) == MODEL[7:100_007]


async def test_read_what_has_changed(source: Source, hub: Hub) -> None:
    hub.faults.no_commit = True
    found = source.describe(TINY, HOME, "main")
    hub.add(HOME, TINY, model(2))
    with pytest.raises(Changed):
        await read(source, found, 0)


async def test_read_what_has_gone(source: Source, hub: Hub) -> None:
    found = source.describe(TINY, HOME, "main")
    hub.repositories[HOME].gated = True
    with pytest.raises(Gated):
        await read(source, found, 0)
    hub.faults.hub_statuses = [404]
    with pytest.raises(NotAtSource):
        await read(source, found, 0)
    hub.faults.hub_statuses = [418]
    with pytest.raises(PullFailed, match="418"):
        source.describe(TINY, HOME, "main")


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("99999", 60.0), ("tomorrow", 0.0), ("-1", 0.0)])
async def test_waits_as_long_as_it_is_asked_to(source: Source, hub: Hub, value: str, seconds: float) -> None:
    found = source.describe(TINY, HOME, "main")
    hub.faults.error_headers = {"Retry-After": value}
    hub.faults.hub_statuses = [429]
    with pytest.raises(Broken) as caught:
        source.describe(TINY, HOME, "main")
    assert caught.value.after == seconds
    hub.faults.statuses = [503]
    with pytest.raises(Broken) as caught:
        await read(source, found, 0)
    assert caught.value.after == seconds
