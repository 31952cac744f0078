"""Processes of other programs that answer each line with one: those that whisperd is held against."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

PATIENT = {"GOMP_SPINCOUNT": "1000"}
"""As whisperd starts its workers: without it the threads of OpenMP spin while they wait."""


@contextmanager
def child(
    module: str, *arguments: str, environment: Mapping[str, str] = PATIENT
) -> Iterator[subprocess.Popen[str]]:
    """`python -m module arguments`, from its first line on, which says that all is loaded."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout
        assert process.stdout.readline(), f"{module} {' '.join(arguments)} does not start"
        yield process
    finally:
        process.kill()
        process.communicate()
