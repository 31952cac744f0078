"""Copies of files on this machine."""

import os
from pathlib import Path

import pytest

from server.sources import local
from tests.hub import model


@pytest.mark.parametrize("data", [b"", b"x", model(3)], ids=["empty", "one", "model"])
def test_copy(tmp_path: Path, data: bytes) -> None:
    source = tmp_path / "source"
    source.write_bytes(data)
    local.copy(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert not source.samefile(tmp_path / "copy")


def test_copy_across_file_systems(tmp_path: Path) -> None:
    """The kernel may refuse to do it by itself."""
    memory = os.memfd_create("model")
    try:
        os.write(memory, model(3))
        local.copy(Path(f"/proc/self/fd/{memory}"), tmp_path / "copy")
    finally:
        os.close(memory)
    assert (tmp_path / "copy").read_bytes() == model(3)


def test_copy_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        local.copy(Path(__file__), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"mine"


def test_candidates(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "model").write_bytes(b"lmgg and more")
    (tmp_path / "ggml-cut.bin").write_bytes(b"")
    (tmp_path / "notes.bin").write_bytes(b"other")
    (tmp_path / "folder.bin").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "ggml-pipe.bin")
    assert list(local.candidates(tmp_path)) == [tmp_path / "deep" / "model", tmp_path / "ggml-cut.bin"]
