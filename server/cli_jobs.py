"""`whisperd jobs`: the jobs of a running server, seen, cancelled and waited for."""

import time
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from server import client
from server.client import Document
from server.terminal import ApiKey, err, run

_WIDE = 200
"""Columns where nobody looks at them: lines go to another program whole."""

app = typer.Typer(
    name="jobs",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="See, cancel and wait for the jobs of a running server.",
)

Id = Annotated[str, typer.Argument(help="The job's id.")]
Server = Annotated[str, typer.Option("--url", help="The whisperd that has the jobs.")]

HERE = "http://127.0.0.1:8080"


@app.command("list")
def list_command(
    status: Annotated[str, typer.Option(help="Of these states alone: queued,running,…")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    url: Server = HERE,
    key: ApiKey = None,
) -> None:
    """List jobs, newest first.

    Examples:

    - `whisperd jobs list`
    - `whisperd jobs list --status queued,running`
    """
    table = Table("job", "status", "task", "model", "made", "took", "says", box=None, pad_edge=False)
    for job in run(client.Jobs(url, key).all(status, limit)):
        table.add_row(
            job["id"],
            job["status"],
            job["task"],
            job["model"],
            _clock(job["created_at"]),
            _took(job),
            _says(job),
        )
    _out().print(table)


@app.command("show")
def show_command(id: Id, url: Server = HERE, key: ApiKey = None) -> None:
    """Show all that is known of a job, with its log and the tries to send its webhook."""
    job = run(client.Jobs(url, key).one(id))
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in job.items():
        if name not in ("logs", "webhook", "object") and value is not None:
            table.add_row(name, _told(name, value))
    for line in job["logs"]:
        table.add_row(_clock(line["at"]), line["message"])
    webhook = job["webhook"] or {"deliveries": ()}
    for tried in webhook["deliveries"]:
        table.add_row(_clock(tried["at"]), f"webhook: {tried['status'] or tried['error']}")
    _out().print(table)


@app.command("cancel")
def cancel_command(id: Id, url: Server = HERE, key: ApiKey = None) -> None:
    """Cancel a job. One that has ended stays as it is."""
    _out().print(f"{id} is {run(client.Jobs(url, key).cancel(id))['status']}")


@app.command("wait")
def wait_command(
    id: Id,
    response_format: Annotated[
        str, typer.Option("--format", help="Format of the result; by default the one that the job asked for.")
    ] = "",
    url: Server = HERE,
    key: ApiKey = None,
) -> None:
    """Wait until a job has ended, and print its result; fail if it failed.

    Example: `whisperd jobs wait 0199… --format srt > film.srt`
    """
    typer.echo(run(_waited(client.Jobs(url, key), id, response_format)), nl=False)


async def _waited(jobs: client.Jobs, id: str, response_format: str) -> bytes:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("in line", total=None)
        async with aclosing(jobs.follow(id)) as steps:
            async for done, total in steps:
                bar.update(task, description="done", completed=done, total=total, refresh=True)
    return await jobs.result(id, response_format)


def _out() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=_WIDE)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%m-%d %H:%M:%S")


def _took(job: Document) -> str:
    if not job["started_at"]:
        return ""
    return f"{(job['finished_at'] or time.time()) - job['started_at']:.1f} s"


def _says(job: Document) -> str:
    if job["position"] is not None:
        return f"{job['position']} before it"
    if job["error"]:
        return str(job["error"]["message"])
    progress = job["progress"]
    if progress and progress["total"]:
        return f"{progress['done']:.0f} of {progress['total']:.0f} s"
    return ""


def _told(name: str, value: Any) -> str:
    if name.endswith("_at"):
        return _clock(value)
    return str(value["message"]) if name == "error" else str(value)
