"""The scripts set up what they need, once, and mend what was broken off.

They run for real, in a copy beside a project that takes a moment to install instead of minutes: pip builds it
with a few lines of its own and is not allowed near the network.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
CI = Path(__file__).parents[1] / ".ci" / "run"

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "whisperd"
version = "1"
scripts = { whisperd = "program:main" }
optional-dependencies = { test = [], bench = [], espeak = [], piper = [], supply = [] }
"""

BACKEND = '''
"""Builds an editable wheel. While there is a file named `wait`, it says so and waits."""
import pathlib, time, zipfile

INFO = "whisperd-1.dist-info/"

def build_editable(folder, config_settings=None, metadata_directory=None):
    with open("builds", "a") as builds:
        builds.write("built\\n")
    while pathlib.Path("wait").exists():
        time.sleep(0.01)
    files = {
        "whisperd.pth": str(pathlib.Path.cwd()),
        INFO + "METADATA": "Metadata-Version: 2.1\\nName: whisperd\\nVersion: 1\\n"
        "Provides-Extra: test\\nProvides-Extra: bench\\n"
        "Provides-Extra: espeak\\nProvides-Extra: piper\\nProvides-Extra: supply\\n",
        INFO + "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        INFO + "entry_points.txt": "[console_scripts]\\nwhisperd = program:main\\n",
        INFO + "RECORD": "",
    }
    with zipfile.ZipFile(pathlib.Path(folder) / "whisperd-1-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "whisperd-1-py3-none-any.whl"
'''

PROGRAM = """
import os, sys

def main():
    opened = [os.path.realpath("/proc/self/fd/" + number) for number in os.listdir("/proc/self/fd")]
    assert not any(path.endswith("/scripts") for path in opened), "the lock is kept"
    print(os.getcwd(), os.environ["WHISPERD_DEMO"], *sys.argv[1:])
"""

PYTEST = """
import os, sys

print("pytest in", os.path.basename(os.getcwd())[:7], *sys.argv[1:])
sys.exit(5 if "slow" in sys.argv else 0)
"""

AUDIT = """
import json, pathlib, sys

asked, answer = sys.argv[2], sys.argv[-1]
state = pathlib.Path("advisories").read_text()
if state == "unreachable":
    sys.exit("no route to the index")
found = []
for name, version in (line.strip().split("==") for line in open(asked)):
    vulnerable = [{"id": "CVE-1", "fix_versions": ["9"]}] if name == state else []
    found.append({"name": name, "version": version, "vulns": vulnerable})
    if state == "none" or state == "some" and name != "pywhispercpp":
        found[-1] = {"name": name, "skip_reason": f"{name} was not found"}
pathlib.Path(answer).write_text(json.dumps({"dependencies": found}))
sys.exit(any(one.get("vulns") for one in found))
"""

QUICK = "pytest in a clone -m not slow -n auto --dist loadfile --max-worker-restart 0"


class Checkout:
    """A fresh clone, with a small project in place of ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(SCRIPTS, root / "scripts")
        (root / ".ci").mkdir()
        shutil.copy(CI, root / ".ci" / "run")
        for name, text in (
            ("pyproject.toml", PROJECT),
            ("backend.py", BACKEND),
            ("program.py", PROGRAM),
            ("pytest.py", PYTEST),
            ("pip_audit.py", AUDIT),
            ("advisories", "all"),
            ("ruff.py", ""),
            ("mypy.py", ""),
        ):
            (root / name).write_text(text)
        shutil.copytree(SCRIPTS.parent / "requirements", root / "requirements")
        (root / "bin").mkdir()
        espeak = root / "bin" / "espeak-ng"
        espeak.write_text("")
        espeak.chmod(0o755)

    @property
    def env(self) -> dict[str, str]:
        ours = {
            name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "WHISPERD_"))
        }
        return ours | {"PIP_NO_INDEX": "1", "PATH": f"{self.root / 'bin'}:{ours['PATH']}"}

    def run(
        self, script: str, *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / script, *arguments],
            cwd=cwd or self.root,
            env=self.env | (env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def builds(self) -> int:
        """How often pip has installed the project."""
        return len((self.root / "builds").read_text().splitlines())

    def stand_in(self, name: str, text: str) -> None:
        """Put a program of this name before all others of it."""
        program = self.root / "bin" / name
        program.write_text(text)
        program.chmod(0o755)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A clone in which everything has been set up once. Its path has a space, as people's paths do."""
    checkout = Checkout(tmp_path_factory.mktemp("a clone"))
    first = checkout.run("scripts/test")
    assert first.returncode == 0, first.stderr
    return checkout


@pytest.fixture
def checkout(installed: Checkout) -> Iterator[Checkout]:
    """The clone that is set up; what a test adds to `bin` and changes in the project is taken back."""
    programs = set((installed.root / "bin").iterdir())
    yield installed
    for program in set((installed.root / "bin").iterdir()) - programs:
        program.unlink()
    (installed.root / "pyproject.toml").write_text(PROJECT)


@pytest.mark.parametrize("script", [*sorted(SCRIPTS.iterdir()), CI], ids=lambda path: path.name)
def test_the_script_is_one_that_bash_can_read(script: Path) -> None:
    if "bash" not in script.read_text("utf-8").partition("\n")[0]:
        pytest.skip("not a bash script")
    subprocess.run(["bash", "-n", script], check=True)


def test_serve_hands_its_flags_to_the_server_in_the_callers_folder(
    checkout: Checkout, tmp_path: Path
) -> None:
    served = checkout.run("scripts/serve", "--port", "9000", "--models", "my models", cwd=tmp_path)
    assert served.stdout.split("\n")[0] == f"{tmp_path} auto serve --port 9000 --models my models"
    assert served.returncode == 0


def test_who_sets_the_demo_setting_keeps_it(checkout: Checkout) -> None:
    assert " false serve" in checkout.run("scripts/serve", env={"WHISPERD_DEMO": "false"}).stdout


def test_a_second_start_installs_nothing(checkout: Checkout) -> None:
    before = checkout.builds()
    again = checkout.run("scripts/serve")
    assert (again.returncode, again.stderr) == (0, "")
    assert checkout.builds() == before


def test_another_pyproject_is_installed_once(checkout: Checkout) -> None:
    before = checkout.builds()
    (checkout.root / "pyproject.toml").write_text(PROJECT + "# changed\n")
    with ThreadPoolExecutor() as both:
        starts = list(both.map(checkout.run, ["scripts/serve", "scripts/serve"]))
    assert [start.returncode for start in starts] == [0, 0]
    assert checkout.builds() == before + 1, "of two starts at once, the second waits for the first"
    assert checkout.run("scripts/serve").stderr == ""
    assert "Installing whisperd[test]" in checkout.run("scripts/test").stderr, "the new extras are wanted too"


def test_one_extra_does_not_undo_another(checkout: Checkout) -> None:
    (checkout.root / "scripts" / "other").write_text('#!/bin/bash\n. "${0%/*}/setup"\nneed_python bench\n')
    (checkout.root / "scripts" / "other").chmod(0o755)
    assert checkout.run("scripts/test").returncode == 0
    assert "Installing whisperd[bench]" in checkout.run("scripts/other").stderr
    for script in ("scripts/serve", "scripts/test", "scripts/other"):
        assert checkout.run(script).stderr == ""


def test_serve_installs_the_engines_it_is_asked_to_and_keeps_them_from_the_server(checkout: Checkout) -> None:
    served = checkout.run("scripts/serve", "--with", "piper", "--port", "1")
    assert "Installing whisperd[espeak,piper]" in served.stderr
    assert served.stdout.endswith("serve --port 1\n")
    assert checkout.run("scripts/serve", "--with", "piper").stderr == ""
    assert checkout.run("scripts/serve").stderr == ""
    refused = checkout.run("scripts/serve", "--with", "--port")
    assert (refused.returncode, refused.stdout) == (1, "")


def test_an_install_that_was_killed_is_begun_anew(checkout: Checkout) -> None:
    before = checkout.builds()
    (checkout.root / "pyproject.toml").write_text(PROJECT + "# changed again\n")
    (checkout.root / "wait").touch()
    killed = subprocess.Popen(
        [checkout.root / "scripts" / "serve"],
        env=checkout.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while checkout.builds() == before:
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    (checkout.root / "wait").unlink()
    (python,) = (checkout.root / ".venv" / "lib").glob("python3.*")
    half_installed = python / "site-packages" / "half.py"
    half_installed.touch()
    mended = checkout.run("scripts/serve", "--port", "1")
    assert mended.stdout.endswith("serve --port 1\n")
    assert not half_installed.exists()
    assert checkout.run("scripts/serve").stderr == ""


def test_an_install_that_fails_says_so_and_starts_nothing(installed: Checkout, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "clone")
    shutil.copytree(installed.root / ".venv", checkout.root / ".venv", symlinks=True)
    (checkout.root / "backend.py").write_text("raise SystemExit('no network')")
    failed = checkout.run("scripts/serve")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.endswith("the installation failed; the next start begins it anew\n")


def test_stand_ins_of_version_managers_are_passed_over(checkout: Checkout) -> None:
    checkout.stand_in("python3.13", "#!/bin/sh\necho 'python3.13: not installed' >&2\nexit 127\n")
    checkout.stand_in("python3.12", "#!/bin/sh\necho 3.10\n")
    assert checkout.run("scripts/serve").returncode == 0


def test_without_a_python_it_says_what_to_install(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "clone")
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        checkout.stand_in(name, "#!/bin/sh\necho 3.10\n")
    refused = checkout.run("scripts/serve")
    assert refused.returncode == 1
    assert "Python 3.11 or newer is needed" in refused.stderr


def test_what_debian_keeps_apart_from_python_comes_from_apt(tmp_path: Path) -> None:
    """Its Python has no ensurepip; package lists are missing at first, as on a fresh machine."""
    checkout = Checkout(tmp_path / "clone")
    for name in ("python3.13", "python3.12", "python3.11"):
        checkout.stand_in(name, "#!/bin/sh\nexit 127\n")
    checkout.stand_in("python3", '#!/bin/sh\ncase "$2" in *version_info*) echo 3.11;; *) exit 1;; esac\n')
    checkout.stand_in(
        "apt-get", f'#!/bin/sh\necho "$@" >>"{tmp_path}/calls"\n[ $(wc -l <"{tmp_path}/calls") -gt 1 ]\n'
    )
    checkout.stand_in("sudo", '#!/bin/sh\n[ "$1" = --non-interactive ] && shift && exec "$@"\n')
    checkout.run("scripts/serve")
    assert (tmp_path / "calls").read_text().splitlines() == [
        "install -qq -y --no-install-recommends python3.11-venv",
        "update -qq",
        "install -qq -y --no-install-recommends python3.11-venv",
    ]


def test_the_tests_leave_out_slow_ones_unless_asked_for(checkout: Checkout, tmp_path: Path) -> None:
    assert checkout.run("scripts/test", "-x", cwd=tmp_path).stdout == f"{QUICK} -x\n"
    assert checkout.run("scripts/test", "-m", "slow").stdout == f"{QUICK} -m slow\n"


@pytest.mark.parametrize(
    ("advisories", "code", "says"),
    [
        ("all", 0, "packages were audited, 0 with known vulnerabilities"),
        ("starlette", 1, "CVE-1, mended in 9"),
        ("some", 0, "not audited: starlette was not found"),
        ("none", 0, "nothing was audited: the package index has no advisories"),
        ("unreachable", 0, "nothing was audited: no route to the index"),
    ],
)
def test_an_audit_says_what_it_found_and_what_it_did_not_look_at(
    checkout: Checkout, advisories: str, code: int, says: str
) -> None:
    (checkout.root / "advisories").write_text(advisories)
    audited = checkout.run("scripts/audit")
    assert audited.returncode == code
    assert says in audited.stderr


def test_ci_runs_everything_and_ends_with_pytests_last_line(checkout: Checkout, tmp_path: Path) -> None:
    passed = checkout.run(".ci/run", cwd=tmp_path, env={"CI": "true"})
    assert passed.stdout.splitlines() == [
        "pytest in a clone --quiet tests/test_layout.py",
        f"{QUICK} --reruns 1",
        f"{QUICK} --reruns 1 -m slow",
    ]
    assert passed.returncode == 0, "no slow test was found, which is fine"


@pytest.mark.parametrize("broken", ["mypy.py", "ruff.py", "pytest.py"])
def test_ci_stops_at_the_first_failure(checkout: Checkout, broken: str) -> None:
    program = checkout.root / broken
    before = program.read_text()
    program.write_text("print('bad'); raise SystemExit(1)")
    try:
        failed = checkout.run(".ci/run")
    finally:
        program.write_text(before)
    assert failed.returncode == 1
    assert failed.stdout.splitlines() == ["bad"]
