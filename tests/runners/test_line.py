"""Who waits for a worker: requests before jobs, and yet neither kind for ever."""

import asyncio
from dataclasses import replace

from server.runners.local import _Job, _Line
from tests.runners.test_contract import unit
from tests.speech import silence

WINDOW = unit(silence(1.0))


def waiting(requests: int, jobs: int) -> _Line:
    """A line with so many windows of each kind, each window somebody else's."""
    line = _Line()
    for kind, count in ((False, requests), (True, jobs)):
        for place in range(count):
            window = replace(WINDOW, request=f"{kind} {place}", background=kind)
            line.put(_Job(window, asyncio.get_running_loop().create_future()))
    return line


def taken(line: _Line) -> str:
    """All of it in order: r of requests, j of jobs."""
    order = []
    while one := line.take():
        order.append("j" if one.unit.background else "r")
    return "".join(order)


async def test_neither_requests_nor_jobs_starve() -> None:
    assert taken(waiting(12, 4)) == "rrrrjrrrrjrrrrjj"
    assert taken(waiting(3, 2)) == "rrrjj"
    assert taken(waiting(2, 0)) == "rr"


async def test_a_request_that_comes_later_goes_before_the_jobs_in_line() -> None:
    line = waiting(0, 3)
    assert line.take()
    line.put(_Job(replace(WINDOW, request="late"), asyncio.get_running_loop().create_future()))
    assert taken(line) == "rjj"
