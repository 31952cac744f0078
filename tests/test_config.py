"""Settings: the file, the environment, the flags; what is unknown refuses to start."""

import re
from pathlib import Path

import pytest
import yaml

from server import config

YAML = Path(__file__).parent.parent / "config.yaml"


def test_config_yaml_lists_every_setting_with_its_default_and_meaning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    text = YAML.read_text()
    listed = dict(re.findall(r"^# (.+)\n(\w+): .*$", text, re.MULTILINE))
    assert {name: meaning for meaning, name in listed.items()} == {
        name: setting.description for name, setting in config.Config.model_fields.items()
    }
    assert list(yaml.safe_load(text)) == list(config.SETTINGS)
    assert config.read(YAML, environment={}) == config.read(environment={})


def test_flags_win_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("port: 1\nqueue: 1\nslots: 1\n")
    settings = config.read(
        file, {"WHISPERD_QUEUE": "2", "WHISPERD_SLOTS": "2", "OTHER": "x"}, {"slots": 3, "queue": None}
    )
    assert (settings.port, settings.queue, settings.slots) == (1, 2, 3)


@pytest.mark.parametrize(
    ("written", "settings"),
    [
        ("max_duration: 90s", {"max_duration": 90.0}),
        ("max_duration: 2h", {"max_duration": 7200.0}),
        ("max_duration: 5", {"max_duration": 5.0}),
        ("max_upload: 3GB", {"max_upload": 3_000_000_000}),
        ("demo: true", {"demo": "true"}),
        ("demo: auto", {"demo": "auto"}),
        ("preload: [a, b]", {"preload": ("a", "b")}),
    ],
)
def test_values_as_people_write_them(tmp_path: Path, written: str, settings: dict[str, object]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(written)
    read = config.read(file, {})
    assert {name: getattr(read, name) for name in settings} == settings


def test_a_list_from_the_environment() -> None:
    assert config.read(environment={"WHISPERD_PRELOAD": "a, b"}).preload == ("a", "b")


def test_unknown_keys_refuse_and_name_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("prot: 9000\n")
    with pytest.raises(config.ConfigError, match='no setting "prot"; did you mean "port"'):
        config.read(file, {})
    with pytest.raises(config.ConfigError, match='"WHISPERD_PROT"; did you mean "WHISPERD_PORT"'):
        config.read(environment={"WHISPERD_PROT": "1"})
    with pytest.raises(config.ConfigError, match='no setting "prot"'):
        config.read(environment={}, flags={"prot": 1})


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("port: eighty", 'setting "port"'),
        ("port: 99999", 'setting "port"'),
        ("max_duration: soon", 'setting "max_duration"'),
        ("max_duration: -5", 'setting "max_duration"'),
        ("demo: maybe", 'setting "demo"'),
        ("- a list", "lines of `name: value`"),
        ("port: [", "c.yaml"),
    ],
)
def test_bad_values_name_their_setting(tmp_path: Path, written: str, said: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(written)
    with pytest.raises(config.ConfigError, match=re.escape(said)):
        config.read(file, {})


def test_a_private_key_that_is_not_there_is_refused() -> None:
    known = {"WHISPERD_KEYS": "tv=a-key-of-the-tv-alone", "WHISPERD_PRIVATE_KEYS": "tv"}
    assert config.read(environment=known).private_keys == ("tv",)
    with pytest.raises(config.ConfigError, match="no key 'vt'"):
        config.read(environment=known | {"WHISPERD_PRIVATE_KEYS": "tv, vt"})


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"none\.yaml"):
        config.read(tmp_path / "none.yaml", {})
