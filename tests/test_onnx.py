"""Runs of ONNX models: ended in the middle when nobody waits for them."""

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from server.onnx import Session, Terminated


def endless(file: Path) -> Path:
    """A model that counts for minutes."""

    def flag(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.BOOL, [])

    def number(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])

    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "one"], ["y"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), flag("go"), number("x")],
        [flag("on"), number("y")],
        [numpy_helper.from_array(np.array([1], np.float32), "one")],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["times", "", "from"], ["to"], body=body)],
        "endless",
        [number("from")],
        [number("to")],
        [numpy_helper.from_array(np.array(10**9, np.int64), "times")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, file)
    return file


def test_a_run_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
    session = Session(endless(tmp_path / "endless.onnx"), threads=1)
    asked: list[float] = []

    def stop() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 2

    session.stop = stop
    with pytest.raises(Terminated):
        session.run(None, {"from": np.zeros(1, np.float32)})
    assert time.monotonic() - asked[2] < 30


def test_an_error_of_the_run_stays_one(tmp_path: Path) -> None:
    session = Session(endless(tmp_path / "endless.onnx"), threads=1)
    with pytest.raises(Exception, match="nobody"):
        session.run(None, {"nobody": np.zeros(1, np.float32)})
