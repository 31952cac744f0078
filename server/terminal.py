"""What the commands share at a terminal."""

from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import uvloop
from rich.console import Console

from server.config import API_KEY

Result = TypeVar("Result")

err = Console(stderr=True)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings file; see config.yaml.")]
Data = Annotated[Path | None, typer.Option(help="Data folder.")]
Folder = Annotated[Path | None, typer.Option("--models", help="Folder of models.")]
ApiKey = Annotated[
    str | None, typer.Option("--key", envvar=API_KEY, help="API key for --url; better given as the variable.")
]
Url = Annotated[str | None, typer.Option(help="Ask this whisperd instead of working here.")]


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """The work's result; an interrupt ends the command without a word."""
    try:
        return uvloop.run(work)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
