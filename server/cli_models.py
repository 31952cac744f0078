"""`whisperd models`: what is installed, pulled, imported and deleted, here or by a running server."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table

from server import catalogue, client, config, kinds, services
from server.client import Document
from server.config import Config
from server.dialects.models import document, offer
from server.errors import BadRequest, ModelBroken
from server.kinds import Homes
from server.memory import megabytes
from server.pull import Pulling, Pulls
from server.terminal import ApiKey, ConfigFile, Data, Folder, Url, err, run
from server.types import ModelInfo

_WIDE = 200
"""Columns where nobody looks at them: lines go to another program whole."""

_FEW = 4
"""Languages that are named rather than counted."""

app = typer.Typer(
    name="models",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="See, pull, import and delete models, here or (`--url`) on a running server.",
)

Id = Annotated[str, typer.Argument(help='Model ("ggml-base", "base").')]


class Place(Protocol):
    """Where models lie. Models are objects of /v1/models."""

    async def all(self, available: bool) -> Sequence[Document]: ...

    async def one(self, id: str) -> Document: ...

    async def delete(self, id: str) -> str: ...

    def pull(self, path: str, repo: str | None) -> AsyncGenerator[Pulling | Document]: ...


class _Here:
    """The folders of this machine."""

    def __init__(self, settings: Config) -> None:
        self._store = services.store(settings)
        self._placement = services.placing(settings, self._store)
        self._settings = settings

    async def all(self, available: bool) -> Sequence[Document]:
        found = [self._told(info) for info in self._store.installed()]
        ids = {model["id"] for model in found}
        offers = [offer(entry) for entry in catalogue.entries() if entry.id not in ids]
        return found + (offers if available else [])

    async def one(self, id: str) -> Document:
        return self._told(self._store.named(id))

    async def delete(self, id: str) -> str:
        return self._store.delete(id).id

    async def pull(self, path: str, repo: str | None) -> AsyncGenerator[Pulling | Document]:
        pulls = Pulls(
            self._store,
            trusted=self._settings.trusted_repos,
            voices=self._settings.voice_folder,
            prepare=self._placement.make,
        )
        try:
            async with aclosing(pulls.pull(path, repo)) as pulled:
                async for item in pulled:
                    yield item if isinstance(item, Pulling) else self._told(item)
        finally:
            await self._placement.stop()

    def _told(self, info: ModelInfo) -> Document:
        return document(info, converted=self._placement.disk(info))


def _settings(config_file: Path | None, data: Path | None, folder: Path | None) -> Config:
    return config.read(config_file, flags={"data": data, "models": folder})


def _place(
    url: str | None, key: str | None, config_file: Path | None, data: Path | None, folder: Path | None
) -> Place:
    return client.Models(url, key) if url else _Here(_settings(config_file, data, folder))


# list and show ----------------------------------------------------------------------------------------


@app.command("list")
def list_command(
    available: Annotated[bool, typer.Option("--available", help="Also what can be pulled.")] = False,
    url: Url = None,
    key: ApiKey = None,
    config_file: ConfigFile = None,
    data: Data = None,
    folder: Folder = None,
) -> None:
    """List the installed models.

    Examples:

    - `whisperd models list --available`
    - `whisperd models list --url http://localhost:8080`
    """
    found = run(_place(url, key, config_file, data, folder).all(available))
    table = Table(
        "model", "size", "converted", "memory", "languages", "can", "state", box=None, pad_edge=False
    )
    for model in found:
        table.add_row(
            model["id"],
            _size(model["size"]),
            _size(model["converted"] or None),
            _size(model["memory"] or model.get("memory_needed")),
            _languages(model),
            _abilities(model),
            _state(model),
        )
    _out().print(table)


@app.command("show")
def show_command(
    id: Id,
    url: Url = None,
    key: ApiKey = None,
    config_file: ConfigFile = None,
    data: Data = None,
    folder: Folder = None,
) -> None:
    """Show all that is known of an installed model."""
    model = run(_place(url, key, config_file, data, folder).one(id))
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in model.items():
        if value is not None:
            table.add_row(key, _told(key, value))
    _out().print(table)


def _out() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=_WIDE)


def _told(key: str, value: Any) -> str:
    if key == "capabilities":
        return _abilities({key: value})
    if isinstance(value, list | tuple):
        return ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _size(size: int | None) -> str:
    return "" if size is None else megabytes(size)


def _languages(model: Document) -> str:
    codes = model["languages"]
    return ", ".join(codes) if len(codes) <= _FEW else f"{len(codes)} languages"


def _abilities(model: Document) -> str:
    return ", ".join(name for name, able in model["capabilities"].items() if able)


def _state(model: Document) -> str:
    if model.get("broken"):
        return f"broken: {model['broken']}"
    if model["loaded"]:
        return "loaded"
    return "installed" if model["installed"] else "can be pulled"


# pull -------------------------------------------------------------------------------------------------


@app.command("pull")
def pull_command(
    path: Annotated[
        str, typer.Argument(help='Model of the catalogue, file or repository ("base", "owner/name").')
    ],
    repo: Annotated[
        str | None, typer.Option(help='Repository of the hub ("owner/name"); by default whisper.cpp\'s.')
    ] = None,
    url: Url = None,
    key: ApiKey = None,
    config_file: ConfigFile = None,
    data: Data = None,
    folder: Folder = None,
) -> None:
    """Download a model. One that broke off goes on where it was.

    Examples:

    - `whisperd models pull ggml-large-v3-turbo.bin`
    - `whisperd models pull ggml-model.bin --repo someone/their-whisper`
    - `whisperd models pull Systran/faster-whisper-small`
    - `whisperd models pull base --url http://localhost:8080`
    """
    place = _place(url, key, config_file, data, folder)
    model, came = run(_shown(place.pull(path, repo)))
    what = "is installed" if came else "was already installed"
    _out().print(f"{model['id']} {what} ({megabytes(model['size'])})")


async def _shown(pulled: AsyncGenerator[Pulling | Document]) -> tuple[Document, bool]:
    """The model, and whether anything had to come for it; with a bar that shows how far it is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    came = False
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("asking the hub", total=None, pace="")
        async with aclosing(pulled):
            async for item in pulled:
                if not isinstance(item, Pulling):
                    return item, came
                came = True
                _show(bar, task, item)
    raise AssertionError("a pull ends with its model")


def _show(bar: Progress, task: TaskID, pulling: Pulling) -> None:
    pace = f"{megabytes(round(pulling.speed))}/s"
    if pulling.remaining is not None:
        minutes, seconds = divmod(round(pulling.remaining), 60)
        pace += f", {minutes}:{seconds:02} left"
    bar.update(
        task,
        description=pulling.status,
        total=pulling.total or None,
        completed=pulling.completed,
        pace=pace,
        refresh=True,
    )


# rm and import ----------------------------------------------------------------------------------------


@app.command("rm")
def rm_command(
    id: Id,
    url: Url = None,
    key: ApiKey = None,
    config_file: ConfigFile = None,
    data: Data = None,
    folder: Folder = None,
) -> None:
    """Delete a model; a server waits until the requests that use it have ended."""
    _out().print(f"{run(_place(url, key, config_file, data, folder).delete(id))} is deleted")


@app.command("import")
def import_command(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE|DIR", help="GGML file, a model of several files, or a folder of such."),
    ],
    name: Annotated[str | None, typer.Option(help="Name for a single file.")] = None,
    url: Url = None,
    config_file: ConfigFile = None,
    data: Data = None,
    folder: Folder = None,
) -> None:
    """Copy models from a disk, for machines without internet. Each is checked before it is copied.

    Examples:

    - `whisperd models import /media/usb/ggml-base.bin`
    - `whisperd models import /media/usb/whisper`
    """
    if url:
        raise BadRequest(
            "import copies files of this machine into its own folder; for a server, copy them there"
        )
    if name and source.is_dir():
        raise BadRequest("--name is for a single file")
    settings = _settings(config_file, data, folder)
    store = services.store(settings)
    homes: Homes = {"models": settings.model_folder, "voices": settings.voice_folder}
    with err.status(f"importing {source}"):
        found = kinds.import_all(source, store, homes) if source.is_dir() else (store.import_(source, name),)
    for info in found:
        if not info.broken:
            _out().print(f"{info.id} is installed ({megabytes(info.size)})")
    if broken := [info.broken for info in found if info.broken]:
        raise ModelBroken("; ".join(broken))
