"""`whisperd keys`: API keys, made here and shown once."""

from typing import Annotated

import typer

from server import keys
from server.errors import BadField
from server.keys import Scope
from server.terminal import err

app = typer.Typer(
    name="keys", no_args_is_help=True, rich_markup_mode="markdown", help="Make API keys for a server."
)


@app.callback()
def _group() -> None:
    """With one command alone, typer would leave out its name."""


@app.command("make")
def make_command(
    name: Annotated[str, typer.Argument(help="Whose key it is, as the log and the settings tell it.")],
    scope: Annotated[
        Scope, typer.Option(help="admin may also pull, delete, load and unload models.")
    ] = "use",
) -> None:
    """Print a new key, this once, and its line for the settings.

    The key goes to standard output, all else to the terminal.

    Examples:

    - `whisperd keys make living-room`
    - `whisperd keys make me --scope admin`
    """
    try:
        keys.named(name)
    except ValueError as error:
        raise BadField(str(error), "name") from error
    secret = keys.make()
    err.print("The key, which nobody can show again:\n", markup=False)
    typer.echo(secret)
    err.print(
        "\nIts line for the server's settings, under `keys:` "
        "(or in WHISPERD_KEYS, with = in place of the colon and the blank):\n"
    )
    typer.echo(f"{name}: {keys.line(secret, scope)}", err=True)
