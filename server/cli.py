"""The `whisperd` command: serve, transcribe, models, keys, doctor."""

import asyncio
import inspect
import logging
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from server import (
    __version__,
    cli_jobs,
    cli_keys,
    cli_models,
    cli_speak,
    client,
    config,
    doctor,
    formats,
    prompts,
    serve,
    tuning,
)
from server.config import Config, ConfigError
from server.errors import SpeechError, WorkFailed
from server.languages import code as language_code
from server.services import running
from server.spool import Spool, on_disk, spooled
from server.state import StateError
from server.terminal import ApiKey, ConfigFile, Data, Folder, Url, err, run
from server.types import Done, Event, Listen, Segment, Started, Style, Transcript
from server.types import Progress as Position

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_models.app)
app.add_typer(cli_jobs.app)
app.add_typer(cli_keys.app)
app.add_typer(cli_speak.app)
app.command("speak")(cli_speak.speak_command)


def main() -> None:
    """Run the command line. A mistake of the user's ends in one sentence and exit code 1."""
    try:
        app()
    except (SpeechError, ConfigError, StateError, OSError) as error:
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    err.print(f"whisperd: {error}", style="red", markup=False, highlight=False)
    raise SystemExit(1)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Say the version.")] = False) -> None:
    """The speech server for your own machine."""
    if show:
        typer.echo(f"whisperd {__version__}")
        raise typer.Exit


# serve ------------------------------------------------------------------------------------------------


def _flag_type(annotation: Any) -> Any:
    """What typer can parse for a setting: itself where it is plain, else text that `config` reads."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if get_origin(annotation) is tuple:
        return list[str]
    if Path in kinds:
        return Path
    return annotation if annotation in (int, str) else str


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a flag for every setting, named and explained as in config.yaml."""
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _flag_type(setting.annotation) | None,
                typer.Option("--" + name.replace("_", "-"), help=setting.description, show_default=False),
            ],
        )
        for name, setting in Config.model_fields.items()
    ]
    own = list(inspect.signature(command).parameters.values())[:1]
    command.__signature__ = inspect.Signature(own + parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in own + parameters}
    return command


@app.command("serve")
@_with_settings
def serve_command(config_file: ConfigFile = None, **flags: Any) -> None:
    """Serve on one port.

    Examples:

    - `whisperd serve --demo true`: try it with the bundled demo model
    - `whisperd serve --port 9000 --models ~/models --default-model ggml-base`
    - `WHISPERD_PORT=9000 whisperd serve --config /etc/whisperd.yaml`
    """
    settings = config.read(
        config_file, flags={key: value for key, value in flags.items() if value not in (None, [])}
    )
    run(serve.serve(settings))


# transcribe -------------------------------------------------------------------------------------------

_FORMATS = [name for name in formats.names() if not formats.needs_speakers(name)]
"""Nobody here tells speakers apart."""


@app.command("transcribe")
def transcribe_command(
    file: Annotated[str, typer.Argument(help="Audio or video file; - reads standard input.")],
    model: Annotated[str, typer.Option(help="Model to use; by default as the server chooses.")] = "",
    language: Annotated[str, typer.Option(help='Language of the speech ("en"); by default detected.')] = "",
    translate: Annotated[bool, typer.Option("--translate", help="Translate into English.")] = False,
    format: Annotated[str, typer.Option(help="One of " + ", ".join(_FORMATS) + ".")] = "text",
    output: Annotated[Path | None, typer.Option(help="File to write; by default standard output.")] = None,
    words: Annotated[bool, typer.Option("--words", help="Times of words, in verbose_json.")] = False,
    highlight_words: Annotated[
        bool, typer.Option("--highlight-words", help="Mark words while they are spoken, in vtt, srt and lrc.")
    ] = False,
    max_line_width: Annotated[int | None, typer.Option(min=1, help="Columns of a line of subtitles.")] = None,
    max_line_count: Annotated[int | None, typer.Option(min=1, help="Lines of a cue.")] = None,
    min_cue_duration: Annotated[float, typer.Option(min=0, max=60, help="Seconds a cue stands.")] = 0.0,
    max_cue_duration: Annotated[float | None, typer.Option(min=0.1, help="Seconds a cue stands.")] = None,
    max_reading_speed: Annotated[
        float | None, typer.Option(min=0.1, help="Characters a second, above which cues stand longer.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="Names and spellings to expect.")] = "",
    hotwords: Annotated[str, typer.Option(help="Words to expect, with commas between them.")] = "",
    temperature: Annotated[float, typer.Option(min=0, max=1, help="Sampling temperature.")] = 0.0,
    audio_track: Annotated[
        str | None, typer.Option(help='Audio track: a number from 0, or a language ("eng").')
    ] = None,
    url: Url = None,
    key: ApiKey = None,
    config_file: ConfigFile = None,
    data: Data = None,
    models: Folder = None,
) -> None:
    """Write down what is said in a media file; no server needed.

    Examples:

    - `whisperd transcribe film.mkv --format srt --output film.srt`
    - `whisperd transcribe talk.mp3 --model ggml-base --language en`
    - `curl https://example.org/talk.mp3 | whisperd transcribe - --url http://localhost:8080`
    """
    if format not in _FORMATS:
        raise typer.BadParameter("one of " + ", ".join(_FORMATS), param_hint="--format")
    style = Style(
        words=words,
        highlight_words=highlight_words,
        max_line_width=max_line_width,
        max_line_count=max_line_count,
        min_cue_duration=min_cue_duration,
        max_cue_duration=max_cue_duration,
        max_reading_speed=max_reading_speed,
    )
    listen = Listen(
        model=model,
        task="translate" if translate else "transcribe",
        language=_language(language),
        prompt=prompt,
        keywords=prompts.listed(hotwords),
        temperature=temperature,
        words=style.needs_words,
        audio_track=audio_track,
    )
    settings = config.read(config_file, flags={"data": data, "models": models, "readers": 1})
    # Its warnings stand in the transcript and are shown with it.
    logging.getLogger("server").setLevel(logging.ERROR)
    transcript = run(_transcribe(settings, file, listen, url, key))
    _write(transcript, format, style, output)
    for warning in transcript.warnings:
        err.print(f"whisperd: {warning}", style="yellow", markup=False, highlight=False)


def _language(value: str) -> str | None:
    try:
        return language_code(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--language") from error


async def _transcribe(
    settings: Config, file: str, listen: Listen, url: str | None, key: str | None
) -> Transcript:
    if url:
        media = sys.stdin.buffer if file == "-" else Path(file)
        return await _shown(client.transcribe(url, media, listen, key))
    async with running(settings) as services, _media(settings, file) as media:
        return await _shown(services.transcribe(listen, media))


@asynccontextmanager
async def _media(settings: Config, file: str) -> AsyncIterator[Spool]:
    if file != "-":
        yield on_disk(Path(file))
        return
    async with spooled(settings.spool_folder, settings.max_upload) as spool:
        copying = asyncio.create_task(_copy_stdin(spool))
        try:
            yield spool
        finally:
            copying.cancel()


async def _copy_stdin(spool: Spool) -> None:
    while data := await asyncio.to_thread(os.read, sys.stdin.fileno(), 1 << 16):
        await spool.write(data)
    await spool.finish()


async def _shown(events: AsyncGenerator[Event]) -> Transcript:
    """The transcript, with a bar that shows how far it is."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("reading", total=None)
        async with aclosing(events):
            async for event in events:
                match event:
                    case Started(task=doing):
                        bar.update(task, description=doing)
                    case Position(done, total):
                        bar.update(task, completed=done, total=total)
                    case Segment(end=end):
                        bar.update(task, completed=end)
                    case Done(transcript):
                        bar.update(task, total=transcript.duration, completed=transcript.duration)
                        bar.refresh()
                        return transcript
    raise AssertionError("events end with Done")


def _write(transcript: Transcript, format: str, style: Style, output: Path | None) -> None:
    chunks = formats.find(format).write(transcript, style)
    if output is None:
        sys.stdout.writelines(chunks)
        sys.stdout.flush()
        return
    part = output.with_name(output.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.writelines(chunks)
    part.replace(output)


# doctor -----------------------------------------------------------------------------------------------


@app.command("bench")
def bench_command(
    model: Annotated[str, typer.Argument(help="Model to measure.")],
    config_file: ConfigFile = None,
    data: Data = None,
    models: Folder = None,
    write: Annotated[
        bool, typer.Option("--write", help="Put the best engine, slots and threads into the settings file.")
    ] = False,
) -> None:
    """Measure how a model is best run here: by which engine, with how many slots and threads.

    It takes under a minute for models up to `base`; larger ones take as long as they need for a few windows.
    The machine should have nothing else to do.
    """
    if write and config_file is None:
        raise typer.BadParameter("--write needs --config FILE", param_hint="--write")
    settings = config.read(config_file, flags={"data": data, "models": models, "readers": 1})
    logging.getLogger("server").setLevel(logging.ERROR)
    best = run(_bench(settings, model))
    if write and config_file:
        tuning.write(config_file, *best)
        err.print(f"written into {config_file}")


async def _bench(settings: Config, name: str) -> tuple[str, tuning.Way]:
    clip = serve.clip_path()
    if clip is None:
        raise WorkFailed("the bundled clip is not installed")
    measured = []
    async with running(settings) as services:
        model = services.models.find(name)
        async for way in tuning.compare(services, model, on_disk(clip)):
            measured.append(way)
            typer.echo(_told(way))
    best = tuning.best(measured)
    typer.echo("\n" + yaml.safe_dump({"tuning": tuning.lines(model.id, best)}, sort_keys=False), nl=False)
    return model.id, best


def _told(way: tuning.Way) -> str:
    """One line of a comparison."""
    which = f"{way.engine:11} {way.slots:3} x {way.threads:2} threads  "
    if way.failed:
        return f"{which}{way.failed}"
    return (
        f"{which}{way.speed:7.1f} times as fast as speech, one window {1000 * way.lone:6.0f} ms, "
        f"{way.memory // 10**6:6,} MB"
    )


@app.command("doctor")
def doctor_command(
    config_file: ConfigFile = None,
    data: Data = None,
    models: Folder = None,
    model: Annotated[str, typer.Option(help="Model for the self-test.")] = "",
) -> None:
    """Say what is installed, what this machine offers, and whether it all works."""
    settings = config.read(config_file, flags={"data": data, "models": models, "demo": "auto"})
    logging.getLogger("server").setLevel(logging.ERROR)
    if not run(doctor.examine(settings, model, Console())):
        raise SystemExit(1)
