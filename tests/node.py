"""Packages of npm that the tests drive: official clients for Node, fetched once."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from tests.serving import ROOT

FOLDER = ROOT / ".venv" / "node"
"""Where they lie, under `node_modules`."""

_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def fetched(package: str) -> Path:
    """The folder with a package ("openai@6") in it. Tests in several processes may ask at the same time."""
    npm = shutil.which("npm")
    assert npm, "npm is missing; scripts/test installs it"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        name = package[0] + package[1:].partition("@")[0]
        if not (FOLDER / "node_modules" / name / "package.json").is_file():
            install = [npm, "install", "--prefix", str(FOLDER), "--no-audit", "--no-fund", package]
            done = subprocess.run(install, timeout=300, env=_environment(), capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return FOLDER


def _environment() -> dict[str, str]:
    """Node brings certificates of its own; those of the system count as well, as they do for pip."""
    system = {"NODE_EXTRA_CA_CERTS": str(_AUTHORITIES)} if _AUTHORITIES.is_file() else {}
    return system | dict(os.environ)
