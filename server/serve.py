"""Running the application on its port, and showing at start-up that it works."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import httpx
import uvicorn
from rich.console import Console

from server import app, config, connection, garbage, keys, logs, models, services, state
from server.config import Config, ConfigError
from server.errors import SpeechError

log = logging.getLogger(__name__)

_SWITCH = 0.0005
"""Seconds that another thread may keep the interpreter when the one that answers wants it. The engine of jobs
alone keeps it for half a second when it is first imported."""

CLIP = "hello.ogg"
"""The clip beside the bundled models: two sentences that the demo model knows too."""


async def serve(settings: Config) -> None:
    """Serve until a signal ends it.

    Raises OSError where the address cannot be listened on, ConfigError where it would be open to all unasked,
    StateError where the data folder cannot be used.
    """
    logs.set_up(settings.log_level, settings.log_format)
    sys.setswitchinterval(_SWITCH)
    garbage.keep()
    with _listening(settings) as listening, state.held(settings.data):
        settings = _guarded(settings, listening)
        async with services.starting(settings) as serving:
            await _serve(settings, serving, listening)


async def _serve(settings: Config, serving: services.Services, listening: socket.socket) -> None:
    """Serve, and warm up meanwhile: the port tells from the start whether it is ready."""
    server = uvicorn.Server(
        uvicorn.Config(
            app.build(serving),
            http=partial(connection.Connection, patience=settings.upload_grace),  # type: ignore[arg-type]
            lifespan="on",
            log_config=None,
            log_level=settings.log_level,
            timeout_graceful_shutdown=settings.shutdown_grace,  # type: ignore[arg-type]  # it waits for fractions too
        )
    )
    # uvicorn ends by raising the signal again that ended it; by then it has been obeyed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    warming = asyncio.create_task(_warm_up(server, serving))
    showing = asyncio.create_task(_show(server, serving, f"http://{_address(listening)}"))
    ending = asyncio.create_task(_end_pulls(server, serving))
    try:
        await server.serve(sockets=[listening])
    finally:
        showing.cancel()
        ending.cancel()
        warming.cancel()
        await asyncio.wait({warming})
    if not warming.cancelled():
        warming.result()


async def _warm_up(server: uvicorn.Server, serving: services.Services) -> None:
    """Without what was to be there from the start, the server ends; its command says why in one sentence."""
    try:
        await serving.warm_up()
        garbage.keep()
    except Exception:
        server.should_exit = True
        raise


async def _end_pulls(server: uvicorn.Server, serving: services.Services) -> None:
    """Downloads go on after the next start: who waits for one need not hold up the end."""
    while not server.should_exit:
        await asyncio.sleep(0.1)
    await serving.pulls.stop()


def _listening(settings: Config) -> socket.socket:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
    except OSError as error:
        raise OSError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        ) from error
    return listening


def _guarded(settings: Config, listening: socket.socket) -> Config:
    """The settings, with keys where others than this machine will reach the port. Raises ConfigError."""
    host = listening.getsockname()[0]
    if settings.keys or settings.open or ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        return settings
    if settings.make_key:
        return settings.model_copy(update={"keys": _made(settings.key_file)})
    raise ConfigError(
        f"{settings.host} is reached from beyond this machine, and there is no API key: anybody could use "
        "and change this server. Make a key with `whisperd keys make NAME` and put its line under `keys` in "
        "the settings, or have one in WHISPERD_API_KEY; or open it to all with `open: true` (--open true)"
    )


def _made(file: Path) -> dict[str, str]:
    """The key of the first start: made and shown now, or its hash as it was kept then."""
    if not file.exists():
        secret = keys.make()
        part = file.with_name(file.name + ".part")
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as kept:
            kept.write(f"keys:\n  first: {keys.line(secret, 'admin')}\n")
        part.replace(file)
        Console(highlight=False, soft_wrap=True).print(
            f"[bold]this server's API key, shown only now: {secret}[/]\n"
            f"(scope admin; {file} keeps its hash. Without that file the next start makes another.)"
        )
    if found := config.read(file, environment={}).keys:
        return found
    raise ConfigError(f"{file} has no key; delete it, and the next start makes one")


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _show(server: uvicorn.Server, serving: services.Services, url: str) -> None:
    """Once ready: say so, transcribe the bundled clip through our own door, and tell what to try next."""
    while not server.started:
        await asyncio.sleep(0.02)
    await serving.warm.wait()
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"[bold green]whisperd is ready[/] on {url}")
    clip = clip_path()
    if not clip:
        return
    try:
        model = await asyncio.to_thread(serving.models.find, None)
    except SpeechError as error:
        out.print(f"[yellow]{error}[/]")
        return
    began = time.monotonic()
    own = {"Authorization": f"Bearer {serving.keys.lend('whisperd itself', 'use', 600)}"}
    async with httpx.AsyncClient(trust_env=False, timeout=600) as client:
        answer = await client.post(
            f"{url}/v1/audio/transcriptions",
            headers=own,
            files={"file": (clip.name, clip.read_bytes())},
            data={"response_format": "text"},
        )
    took = time.monotonic() - began
    if answer.is_error:
        out.print(f"[red]its own clip failed: {answer.text}[/]")
        return
    out.print(f'the bundled clip, heard by {model.id} in {took:.2f} s: "{answer.text.strip()}"')
    if model.notice:
        out.print(f"[yellow]{model.notice}[/]")
    key = ' -H "Authorization: Bearer $WHISPERD_API_KEY"' if serving.keys.needed else ""
    out.print(f"try: [bold]curl {url}/v1/audio/transcriptions -F file=@{_shown(clip)}{key}[/]")


def clip_path() -> Path | None:
    """The bundled clip, where the bundled folder is there."""
    folder = models.bundled()
    return folder / CLIP if folder and (folder / CLIP).is_file() else None


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
