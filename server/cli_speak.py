"""`whisperd speak` and `whisperd voices`: text into a file of sound, by this machine or a running server."""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from server import cli_models, client, config, folders, services, voice_catalogue, voices
from server.config import Config
from server.errors import BadField, MissingField, VoiceNotFound
from server.memory import megabytes
from server.speak import wav_header
from server.terminal import ApiKey, ConfigFile, Data, Url, err, run
from server.types import Audio, Speak, Voice
from server.voice_catalogue import Entry
from server.voices import Voices

_FORMATS: tuple[Audio, ...] = get_args(Audio)
_SUFFIXES: dict[str, Audio] = {"ogg": "opus", "raw": "pcm"}
"""Of files, where they are not the format's name."""

_RATE = 24_000
_WIDE = 200
"""Columns where nobody looks at them: lines go to another program whole."""

_Made = tuple[str, client.Sound]
"""The name of a voice, and its sound."""

app = typer.Typer(
    name="voices",
    no_args_is_help=True,
    help="See and delete the voices that this machine can speak in.",
)


def speak_command(
    text: Annotated[str, typer.Argument(help="The text, plain or SSML; - reads standard input.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; its suffix says the format.")
    ] = Path("speech.mp3"),
    voice: Annotated[str, typer.Option(help="A voice of `whisperd voices list`.")] = "",
    language: Annotated[str, typer.Option(help='The text\'s language ("de-DE").')] = "",
    speed: Annotated[float, typer.Option(min=0.25, max=4.0, help="1 is the voice's own.")] = 1.0,
    url: Url = None,
    key: ApiKey = None,
    config_file: ConfigFile = None,
    data: Data = None,
) -> None:
    """Speak a text into a file; no server needed, `--url` asks a running one.

    Examples:

    - `whisperd speak "Good morning." -o morning.mp3 --voice Espeak.EN-GB.default`
    - `whisperd speak - -o book.opus --language de-DE < book.txt`
    - `whisperd speak "Good morning." --url http://localhost:8080`
    """
    said = sys.stdin.read() if text == "-" else text
    if not said.strip():
        raise MissingField("there is no text to speak")
    asked = Speak(said, voice, language, speed=speed, format=_format(output), sample_rate=_RATE)
    name = run(_spoken(asked, output, _sound(asked, _settings(config_file, data), url, key)))
    err.print(f"{output}, spoken by {name}", highlight=False, markup=False)


def _format(output: Path) -> Audio:
    suffix = output.suffix.removeprefix(".").lower()
    format = _SUFFIXES.get(suffix) or next((known for known in _FORMATS if known == suffix), None)
    if format is None:
        raise BadField(f"{output}: its suffix is none of .{', .'.join((*_FORMATS, *_SUFFIXES))}")
    return format


def _settings(config_file: Path | None, data: Path | None) -> Config:
    return config.read(config_file, flags={"data": data})


@asynccontextmanager
async def _sound(asked: Speak, settings: Config, url: str | None, key: str | None) -> AsyncIterator[_Made]:
    """The voice's name and its sound, made here or by the server at `url`."""
    if url:
        async with client.speech(url, asked, key) as made:
            yield made
        return
    async with services.starting(settings) as serving:
        spoken = await serving.prepare(asked, None)
        async with aclosing(serving.speak(spoken)) as sound:
            yield spoken.voice.id, sound


async def _spoken(asked: Speak, output: Path, making: AbstractAsyncContextManager[_Made]) -> str:
    """Writes the file; the voice's name. A WAV file knows its size at the end."""
    part = output.with_name(output.name + ".part")
    try:
        async with making as (name, sound):
            with part.open("wb") as file:
                async for data in sound:
                    file.write(data)
                if asked.format == "wav":
                    size = file.tell()
                    file.seek(0)
                    file.write(wav_header(_RATE, size - len(wav_header(_RATE))))
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    return name


@app.command("list")
def list_command(
    language: Annotated[str, typer.Option(help='Only those of a language ("de").')] = "",
    available: Annotated[bool, typer.Option("--available", help="Also what can be pulled.")] = False,
    config_file: ConfigFile = None,
    data: Data = None,
) -> None:
    """The voices that are installed.

    Examples:

    - `whisperd voices list --language de --available`
    """
    columns = ("voice", "locale", "what it is", *(("size", "licence", "state") if available else ()))
    table = Table(*columns, box=None, pad_edge=False, header_style="dim")
    settings = _settings(config_file, data)
    for voice in _voices(settings).installed():
        if voice.locale.lower().startswith(language.lower()):
            size = megabytes(voice.size) if voice.size else ""
            told = (size, voice.licence, "installed") if available else ()
            table.add_row(voice.id, voice.locale, voice.title, *told)
    for entry in voice_catalogue.entries() if available else ():
        installed = (settings.voice_folder / entry.id).is_dir()
        if not installed and entry.locale.lower().startswith(language.lower() if entry.locale else ""):
            size = megabytes(entry.size)
            table.add_row(entry.id, entry.locale, entry.title, size, entry.licence, "can be pulled")
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


@app.command("pull")
def pull_command(
    name: Annotated[str, typer.Argument(help='A voice of the catalogue ("en_US-lessac-medium"), or kokoro.')],
    url: Url = None,
    key: ApiKey = None,
    config_file: ConfigFile = None,
    data: Data = None,
) -> None:
    """Download a voice. One that broke off goes on where it was.

    Examples:

    - `whisperd voices pull en_US-lessac-medium`
    - `whisperd voices pull kokoro`
    - `whisperd voices pull de_DE-thorsten-high --url http://localhost:8080`
    """
    entry = voice_catalogue.find(name)
    if entry is None:
        near = ", ".join(voice_catalogue.near(name))
        raise VoiceNotFound(
            f"there is no voice {name!a} in the catalogue{f'; near it: {near}' if near else ''}"
        )
    cli_models.pull_command(entry.id, None, url, key, config_file, data, None)
    if not url:
        _tell_of(entry, _voices(_settings(config_file, data)).installed())


def _tell_of(entry: Entry, installed: Sequence[Voice]) -> None:
    """How to speak in what has just come."""
    voice = next((voice for voice in installed if entry.id in voice.model.parts), None)
    if voice is None:
        print(f"it takes the engine {entry.engine}: scripts/serve --with {entry.engine}")
        return
    print(f"speak in it as {voice.id}")
    if voice.licence:
        print(f"its licence: {voice.licence}")


@app.command("rm")
def rm_command(
    name: Annotated[str, typer.Argument(help='A voice ("Piper.EN-US.lessac-medium").')],
    config_file: ConfigFile = None,
    data: Data = None,
) -> None:
    """Delete a voice's files, with all its speakers, or all voices of its model."""
    voice = _voices(_settings(config_file, data)).find(name)
    files = voices.files(voice)
    if not files:
        raise VoiceNotFound(f"{voice.id} comes with its engine and has no files of its own here")
    home = _settings(config_file, data).voice_folder
    pulled = home / voice.model.relative_to(home).parts[0]
    if folders.origin(pulled):
        folders.remove(pulled)
        print(f"deleted {pulled}")
        return
    for file in files:
        file.unlink(missing_ok=True)
        print(f"deleted {file}")


def _voices(settings: Config) -> Voices:
    return Voices(settings.voice_folder, default=settings.default_voice, aliases=settings.voice_aliases)
