"""Runs of ONNX models: ended in the middle when nobody waits for them."""

import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from server.onnx import Session, Terminated
from tests import tiny_voices

INPUTS = {
    "input": np.zeros((1, 1), np.int64),
    "input_lengths": np.ones(1, np.int64),
    "scales": np.zeros(3, np.float32),
}


@pytest.fixture
def session(tmp_path: Path) -> Session:
    onnx.save(tiny_voices.counting(), tmp_path / "endless.onnx")
    return Session(tmp_path / "endless.onnx", threads=1)


def test_a_run_ends_when_nobody_waits_for_it(session: Session) -> None:
    asked: list[float] = []

    def stop() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 2

    session.stop = stop
    with pytest.raises(Terminated):
        session.run(None, INPUTS)
    assert time.monotonic() - asked[2] < 30


def test_an_error_of_the_run_stays_one(session: Session) -> None:
    with pytest.raises(ValueError, match="nobody"):
        session.run(None, {"nobody": np.zeros(1, np.float32)})
