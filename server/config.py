"""Every setting, read once into one frozen value: config file, then environment, then flags.

An unknown key stops start-up and names the nearest one, in each of the three.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from server import keys as api_keys
from server import logs, trust

ENVIRONMENT = "WHISPERD_"

API_KEY = ENVIRONMENT + "API_KEY"
"""A key itself, for a server a further one of scope admin, for a client the one that it sends."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")


class ConfigError(Exception):
    """The settings do not make sense; `str()` says which and why."""


def seconds(value: object) -> object:
    """A duration as people and Go write it: 30, "30s", "500ms", "5m", "1h30m0s" -> seconds."""
    if isinstance(value, bool):
        raise ValueError("must be a duration")
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([a-z]+)", value))
    return value


def pairs(value: object) -> object:
    """A mapping as the environment and flags write it: "ggml-base=10m,ggml-tiny=-1"."""
    if not isinstance(value, str):
        return value
    lines = [line.strip() for line in value.split(",") if line.strip()]
    if not all("=" in line for line in lines):
        raise ValueError("write NAME=VALUE, with a comma between two")
    return dict(line.split("=", 1) for line in lines)


def written(value: object) -> object:
    """What the environment and flags write as YAML: "{ggml-base: {engine: ctranslate2}}"."""
    return yaml.safe_load(value) if isinstance(value, str) else value


def numbers(value: object) -> object:
    """Numbers as the environment and flags write them: "0,1"."""
    return tuple(value.split(",")) if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(seconds), Field(ge=0)]
KeepAlive = Annotated[
    float,
    BeforeValidator(seconds),
    Field(ge=-1, allow_inf_nan=False),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": -1},
                {"type": "string", "pattern": r"^(-1|[0-9]+(\.[0-9]+)?|([0-9]+(\.[0-9]+)?(ms|[smhd]))+)$"},
            ]
        }
    ),
]
KeyName = Annotated[str, AfterValidator(api_keys.named)]
KeyLine = Annotated[str, AfterValidator(api_keys.kept)]
Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


def default_data() -> Path:
    """Where state and downloads go: $XDG_DATA_HOME/whisperd."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "whisperd"


EngineName = Literal["auto", "whisper.cpp", "ctranslate2"]
Device = Literal["auto", "cpu", "cuda"]
ComputeType = Literal[
    "", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "float16", "bfloat16", "float32"
]
Devices = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(numbers), Field(min_length=1)]


class Tuning(BaseModel):
    """How a model is run; 0 and empty: as it is best here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineName = "auto"
    slots: int = Field(0, ge=0, le=256)
    threads: int = Field(0, ge=0, le=256)
    batch: int = Field(0, ge=0, le=64)
    short_context: bool | None = None
    dtw: bool = False
    device: Device = "auto"
    devices: Devices = (0,)
    compute_type: ComputeType = ""


class Config(BaseModel):
    """The settings. Each field's description is its line in config.yaml and in `whisperd serve --help`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    keys: Annotated[dict[KeyName, KeyLine], BeforeValidator(pairs)] = Field(
        {},
        description="API keys by name, as `whisperd keys make NAME` prints them; without any, all may.",
    )
    requests_of_key: int = Field(
        0, ge=0, description="Requests of one API key at the same time; more are refused; 0: no such bound."
    )
    rate_of_key: int = Field(0, ge=0, description="The same in a minute.")
    open: bool = Field(
        False, description="Whether whoever reaches the port may use the server, beyond this machine too."
    )
    make_key: bool = Field(
        False,
        description="Whether a key is made at the first start that listens beyond this machine without one.",
    )
    data: Folder = Field(
        default_factory=default_data, description="Folder for state, uploads on their way and downloads."
    )
    models: Folder | None = Field(
        None, description="Folder of GGML models; by default `models` in the data folder."
    )
    default_model: str = Field(
        "", description="Model of requests that name none; by default the best installed one."
    )
    aliases: Annotated[dict[str, str], BeforeValidator(pairs)] = Field(
        {}, description="Other names for models, by name."
    )
    voices: Folder | None = Field(
        None, description="Folder of voices; by default `voices` in the data folder."
    )
    custom_voices: int = Field(
        100, ge=0, description="Voices that each key may make of samples, and consents that it may keep."
    )
    default_voice: str = Field(
        "", description="Voice of requests that name none; by default the best installed English one."
    )
    voice_aliases: Annotated[dict[str, str], BeforeValidator(pairs)] = Field(
        {}, description="Other names for voices, by name: alloy, or Magpie-Multilingual.EN-US.Aria."
    )
    max_text: int = Field(
        4096, ge=1, description="Most characters of a text to be spoken, as OpenAI's API has it."
    )
    speech_cache: ByteSize = Field(
        ByteSize(0),
        description="Disk for sentences that were spoken, to be asked for again; 0: none is kept.",
    )
    demo: Literal["true", "false", "auto"] = Field(
        "false", description="Whether the demo model is the default; auto: when no other model is installed."
    )
    preload: tuple[str, ...] = Field((), description="Models that are loaded at start-up.")
    pinned: tuple[str, ...] = Field((), description="Models that are loaded at start-up and stay.")
    keep_alive: KeepAlive = Field(
        300.0, description="How long a model stays loaded after its last use; 0: not at all, -1: for good."
    )
    keep_alive_of: Annotated[dict[str, KeepAlive], BeforeValidator(pairs)] = Field(
        {}, description="The same for some models, by id."
    )
    memory: ByteSize = Field(
        ByteSize(0), description="Memory that loaded models may take; 0: three quarters of the machine's."
    )
    card_memory: ByteSize = Field(
        ByteSize(0), description="The same of the NVIDIA card that is used; 0: three quarters of its own."
    )
    auto_pull: bool = Field(
        False, description="Whether a catalogue model that a request names is pulled first, if it is missing."
    )
    trusted_repos: tuple[Annotated[str, AfterValidator(trust.entry)], ...] = Field(
        (),
        description="What of repositories is pulled: owner/name@COMMIT, owner/name/FILE@sha256:HASH.",
    )
    pull_goes_on: bool = Field(
        True, description="Whether a download goes on when all who asked for it have left."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Names under which this server may be asked for, beside loopback and addresses."
    )
    slots: int = Field(
        0, ge=0, le=256, description="Windows of one model at a time; 0: at most one a core, as suits it."
    )
    threads: int = Field(
        0,
        ge=0,
        le=256,
        description="Threads of a window; 0: as suits the engine and the size of the model.",
    )
    batch: int = Field(
        0,
        ge=0,
        le=64,
        description="Windows that go through CTranslate2 together; 0: up to 8, by their speed.",
    )
    engine: EngineName = Field(
        "auto",
        description="What runs models: whisper.cpp, ctranslate2; auto: that on GPUs, this on CPUs.",
    )
    device: Device = Field("auto", description="What models run on: cpu, cuda; auto: a GPU if there is one.")
    devices: Devices = Field((0,), description="Numbers of the GPUs: each model lies on all of them.")
    compute_type: ComputeType = Field(
        "", description="Numbers that CTranslate2 calculates with; empty: int8 on CPUs, float16 on GPUs."
    )
    tuning: Annotated[dict[str, Tuning], BeforeValidator(written)] = Field(
        {},
        description="The same for some models, by id; short_context: encode sound at its own length; dtw: "
        "words by attention in whisper.cpp.",
    )
    known_speakers: Folder | None = Field(
        None,
        description="Folder of people's voices, each as NAME.wav or such; by default `known_speakers` in the "
        "data folder.",
    )
    speaker_threshold: float = Field(
        0.5, ge=-1, le=1, description="Likeness from which a voice is one that the request knows, -1 to 1."
    )
    streams: int = Field(16, ge=1, description="Media read at the same time; more wait in line.")
    readers: int = Field(2, ge=0, description="Reader processes kept warm, ready for the next media.")
    queue: int = Field(64, ge=0, description="Requests that may wait in line; more are refused as busy.")
    reader_memory: ByteSize = Field(
        ByteSize(1 << 30), description="Memory that one reader may take for decoding its media."
    )
    max_upload: ByteSize = Field(ByteSize(10**10), description="Largest body of a request.")
    max_duration: Seconds = Field(12 * 3600.0, description="Longest sound of one media.")
    upload_grace: Seconds = Field(
        30.0,
        description="Time after which half a header, or a body slower than upload_rate, is refused.",
    )
    upload_rate: ByteSize = Field(ByteSize(1000), description="Slowest body, in bytes per second.")
    jobs_at_once: int = Field(
        0,
        ge=0,
        le=256,
        description="Jobs that are done at the same time; 0: two more than slots, at most half of streams.",
    )
    jobs_queue: int = Field(10_000, ge=1, description="Jobs that may wait in line; more are refused as busy.")
    jobs_keep: Seconds = Field(86400.0, description="How long a job and its result are kept after its end.")
    jobs_size: ByteSize = Field(
        ByteSize(10**9), description="Disk that kept results may take; beyond it the oldest go first."
    )
    files_keep: Seconds = Field(86400.0, description="How long a file that a client stored is kept.")
    storage: ByteSize = Field(
        ByteSize(2 * 10**10), description="Disk that clients' files and the media of waiting jobs may take."
    )
    storage_of_key: ByteSize = Field(
        ByteSize(0), description="The same for each API key; 0: no other bound than storage."
    )
    private: bool = Field(
        False, description="Whether nothing of jobs and stored files is kept once their result has been told."
    )
    private_keys: tuple[KeyName, ...] = Field(
        (), description="Names of API keys of whose jobs and files alone nothing is kept then."
    )
    private_keep: Seconds = Field(
        3600.0, description="How long a private result, or file, waits for a client that does not come."
    )
    public_url: str = Field(
        "",
        description="Address of this server in its answers; by default the one it was asked at.",
    )
    allow_private_urls: bool = Field(
        False, description="Whether media and webhooks may lie at private addresses."
    )
    allowed_url_hosts: tuple[str, ...] = Field(
        (), description="Hosts of media and webhooks that are taken whatever their address is."
    )
    url_timeout: Seconds = Field(3600.0, description="Longest time for fetching media from an address.")
    webhook_wait: Seconds = Field(
        5.0,
        description="Time before a failed webhook's second try; each wait is three times the last, up to 1h.",
    )
    webhook_patience: Seconds = Field(21600.0, description="Time after which a webhook is given up.")
    fal_apps: Annotated[dict[str, str], BeforeValidator(pairs)] = Field(
        {"nvidia/nemotron-asr-multilingual/asr": "", "fal-ai/whisper": ""},
        description="Application ids of fal's clients, and their models; empty: the default one.",
    )
    window_timeout: Seconds = Field(
        600.0, gt=0, description="Longest work on one window before its worker is replaced."
    )
    recycle: int = Field(
        5000, ge=1, description="Windows after which a worker process is replaced by a fresh one."
    )
    shutdown_grace: Seconds = Field(
        10.0, description="Time that requests have to be answered when the server is told to end."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What goes into the log."
    )
    log_format: logs.Format = Field(
        "text", description="Lines of the log: text, for people, or json, an object a line."
    )

    @property
    def custom_voice_folder(self) -> Path:
        return self.data / "custom_voices"

    @property
    def model_folder(self) -> Path:
        return self.models or self.data / "models"

    @property
    def voice_folder(self) -> Path:
        return self.voices or self.data / "voices"

    @property
    def known_speaker_folder(self) -> Path:
        return self.known_speakers or self.data / "known_speakers"

    @property
    def phrase_folder(self) -> Path:
        return self.data / "phrases"

    @property
    def converted_folder(self) -> Path:
        return self.data / "converted"

    @property
    def every(self) -> Tuning:
        """How models are run where nothing else is said of them."""
        return Tuning(
            engine=self.engine,
            slots=self.slots,
            threads=self.threads,
            batch=self.batch,
            device=self.device,
            devices=self.devices,
            compute_type=self.compute_type,
        )

    @property
    def spool_folder(self) -> Path:
        return self.data / "spool"

    @property
    def key_file(self) -> Path:
        """Where a key that was made at the first start is kept."""
        return self.data / "key.yaml"

    @field_validator("private_keys")
    @classmethod
    def _refuse_strangers(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """A mistyped name would keep what must not be kept."""
        if unknown := [name for name in names if name not in info.data.get("keys", {})]:
            raise ValueError(f"there is no key {unknown[0]!a} under keys")
        return names

    def is_private(self, owner: str) -> bool:
        """Whether nothing is to be kept of what the key of that name asks for."""
        return self.private or owner in self.private_keys


SETTINGS = tuple(Config.model_fields)


def _refuse_unknown(keys: Mapping[str, object], where: str, prefix: str = "") -> None:
    for key in keys:
        if key not in SETTINGS:
            nearest = difflib.get_close_matches(key, SETTINGS, n=1, cutoff=0.4)
            hint = (
                f'; did you mean "{prefix}{nearest[0] if not prefix else nearest[0].upper()}"?'
                if nearest
                else ""
            )
            name = key if not prefix else prefix + key.upper()
            raise ConfigError(f'{where}: there is no setting "{name}"{hint}')


def _from_file(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: settings are lines of `name: value`")
    if not isinstance(found.get("keys") or {}, dict):
        raise ConfigError(f"{path}: keys are lines of `name: key`")
    keyed = {str(key): value for key, value in found.items()}
    _refuse_unknown(keyed, str(path))
    return keyed


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        key.removeprefix(ENVIRONMENT).lower(): value
        for key, value in environment.items()
        if key.startswith(ENVIRONMENT) and key != API_KEY
    }
    _refuse_unknown(found, "environment", ENVIRONMENT)
    if "keys" in found:
        found["keys"] = _hashed(ENVIRONMENT + "KEYS", found["keys"])
    return found


def _hashed(variable: str, lines: object) -> dict[str, str]:
    """Of keys by name. From here on nobody here knows the keys themselves."""
    try:
        named = pairs(lines)
        assert isinstance(named, dict)
        return {name: api_keys.hashed(line) for name, line in named.items()}
    except ValueError as error:
        raise ConfigError(f"{variable}: {error}") from error


_LISTS = ("preload", "pinned", "allowed_hosts", "trusted_repos", "allowed_url_hosts", "private_keys")


def _plain(key: str, value: object) -> object:
    """YAML's booleans and a comma list from the environment, as the fields want them."""
    if key == "demo" and isinstance(value, bool):
        return str(value).lower()
    if key in _LISTS and isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


def read(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Config:
    """The settings in force. Flags win over the environment, which wins over the file.

    Raises ConfigError with the setting's name and what is wrong with it.
    """
    given = _from_file(file) if file else {}
    environment = os.environ if environment is None else environment
    given |= _from_environment(environment)
    if secret := environment.get(API_KEY, "").strip():
        keys = given.get("keys") or {}
        given["keys"] = keys | _hashed(API_KEY, {"environment": f"admin:{secret}"})
    _refuse_unknown(flags or {}, "flags")
    given |= {key: value for key, value in (flags or {}).items() if value is not None}
    try:
        return Config.model_validate(
            {key: _plain(key, value) for key, value in given.items() if value is not None}
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f'setting "{problem["loc"][0]}": {problem["msg"]}') from error
