"""`python -m bench.ping URL` pings a server until its input ends, then prints what each ping took, in ms."""

import http.client
import json
import sys
import threading
import time

_PAUSE = 0.02
"""Seconds between two pings."""


def main() -> None:
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    connection = http.client.HTTPConnection(sys.argv[1].removeprefix("http://"), timeout=60)
    took = []
    while not ended.wait(_PAUSE):
        began = time.perf_counter()
        connection.request("GET", "/v1/ping")
        connection.getresponse().read()
        took.append((time.perf_counter() - began) * 1000)
    print(json.dumps(took))


if __name__ == "__main__":
    main()
