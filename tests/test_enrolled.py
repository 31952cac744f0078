"""Voices that the owner has enrolled."""

from pathlib import Path

import pytest

from server import enrolled
from server.errors import BadField
from server.types import KnownVoice

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Ada Lovelace.wav", "Grace.mp3", ".hidden.wav"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "folder").mkdir()
    return tmp_path


def test_those_who_are_named(folder: Path) -> None:
    ada, grace = (
        KnownVoice("Ada Lovelace", b"Ada Lovelace.wav", enrolled=True),
        KnownVoice("Grace", b"Grace.mp3", enrolled=True),
    )
    assert enrolled.voices(folder, ["Grace", "Ada Lovelace", "Grace"], 2) == (grace, ada)
    assert enrolled.voices(folder, ["*"], 2) == (ada, grace)
    assert enrolled.voices(folder, ["*", "Grace"], 2) == (ada, grace)


@pytest.mark.parametrize("name", ["Alan", "Grace.mp3", ".hidden", "folder", "../x/Grace", "", "."])
def test_nobody_else(folder: Path, name: str) -> None:
    with pytest.raises(BadField, match="nobody is enrolled as"):
        enrolled.voices(folder, [name], 2)


def test_too_many_too_large_and_no_folder(folder: Path) -> None:
    with pytest.raises(BadField, match="2 voices are more than 1"):
        enrolled.voices(folder, ["*"], 1)
    with (folder / "Large.wav").open("wb") as file:
        file.truncate(5 << 20)
    with pytest.raises(BadField, match="the sample of Large is larger than"):
        enrolled.voices(folder, ["Large"], 2)
    assert enrolled.voices(folder / "none", ["*"], 2) == ()
