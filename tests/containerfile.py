"""As much of a container engine as it takes to try the Containerfile where there is none.

It reads the Containerfile itself and does what its lines say: RUN in a copy-on-write view of this machine's
root folder, COPY from what .containerignore lets through, the server under the user, environment, read-only
root and volume that the lines ask for. The one thing it makes up is the base image: this machine's own
system, with a Python put where the image has its own.

Needs root, and a mount and process namespace of its own:

    unshare --mount --pid --fork --kill-child \\
        python -m tests.containerfile TARGET REPOSITORY SCRATCH [NAME=VALUE ...]

It answers in lines of JSON: `{"started": true}` once the server runs; then, for each line `["command", ...]`
on its standard input, what that command did inside the container; and after the last one it stops the server
as an engine would and says how it ended. All that it starts and mounts is gone when it is.
"""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from dockerfile_parse import DockerfileParser  # type: ignore[import-untyped]
from dockerfile_parse.util import WordSplitter  # type: ignore[import-untyped]

STOP_WITHIN_S = 10
"""How long engines wait between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class Step:
    """One instruction, such as COPY, and all that follows it, its continued lines joined."""

    name: str
    value: str
    line: int

    def words(self, variables: Mapping[str, str]) -> list[str]:
        """The instruction's words, or the items of its list."""
        if self.value.lstrip().startswith("["):
            return [str(item) for item in json.loads(self.value)]
        return list(WordSplitter(self.value, envs=dict(variables)).split())

    def pairs(self, variables: Mapping[str, str]) -> dict[str, str]:
        return dict(_pair(word) for word in self.words(variables))


def _pair(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    steps: tuple[Step, ...]

    def named(self, name: str) -> list[Step]:
        return [step for step in self.steps if step.name == name]


@dataclass
class Image:
    """What an image says about how it is to be run."""

    env: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    workdir: str = "/"
    user: str = "0:0"
    volumes: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def take(self, step: Step) -> None:
        """Note what `step` sets. RUN, COPY and ARG change no settings; what we do not know is an error."""
        match step.name:
            case "ENV":
                self.env |= step.pairs(self.env)
            case "WORKDIR":
                self.workdir = os.path.join(self.workdir, *step.words(self.env))
            case "USER":
                self.user = step.words(self.env)[0]
            case "VOLUME":
                self.volumes += step.words(self.env)
            case "EXPOSE":
                self.ports += [int(word) for word in step.words(self.env)]
            case "ENTRYPOINT":
                self.entrypoint = json.loads(step.value)
            case "CMD":
                self.cmd = json.loads(step.value)
            case "HEALTHCHECK":
                self.healthcheck = json.loads(step.value.partition("CMD")[2])
            case "RUN" | "COPY" | "ARG":
                pass
            case unknown:
                raise ValueError(f"line {step.line}: {unknown} is an instruction that these tests cannot try")


def read(path: Path) -> dict[str, Stage]:
    """The stages of a Containerfile by their names, in order."""
    steps = [
        Step(found["instruction"], found["value"], found["startline"] + 1)
        for found in DockerfileParser(fileobj=BytesIO(path.read_bytes())).structure
        if found["instruction"] != "COMMENT"
    ]
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    for step in steps:
        if step.name == "FROM":
            base, _, name = step.words(arguments)
            stages[name] = Stage(name, base, ())
        elif not stages:
            arguments |= step.pairs(arguments)  # only ARG may stand before the first FROM
        else:
            stage = stages.popitem()[1]
            stages[stage.name] = Stage(stage.name, stage.base, (*stage.steps, step))
    return stages


def settings(stage: Stage) -> Image:
    """What an image of `stage` says about how it is to be run."""
    image = Image()
    for step in stage.steps:
        image.take(step)
    return image


def copied_from(step: Step, variables: Mapping[str, str]) -> tuple[str | None, list[str], str]:
    """Of a COPY: the stage it copies from, or None for the repository; what; and where to."""
    words = step.words(variables)
    flags = [word for word in words if word.startswith("--")]
    if any(not flag.startswith("--from=") for flag in flags):
        raise ValueError(f"line {step.line}: of COPY's flags these tests know --from only")
    *sources, target = words[len(flags) :]
    return (flags[0].removeprefix("--from=") if flags else None), sources, target


class Ignore:
    """.containerignore: patterns from the repository's root; the last to match a path or its folder wins."""

    def __init__(self, file: Path) -> None:
        lines = (line.strip() for line in file.read_text("utf-8").splitlines())
        self.patterns = [line for line in lines if line and not line.startswith("#")]

    def covers(self, path: str) -> bool:
        parts = path.split("/")
        ignored = False
        for pattern in self.patterns:
            if any(_matches(pattern.lstrip("!"), parts[:depth]) for depth in range(1, len(parts) + 1)):
                ignored = not pattern.startswith("!")
        return ignored


def _matches(pattern: str, parts: Sequence[str]) -> bool:
    if pattern.startswith("**/"):
        return any(_matches(pattern[3:], parts[skipped:]) for skipped in range(len(parts)))
    wanted = pattern.split("/")
    return len(wanted) == len(parts) and all(map(fnmatch.fnmatchcase, parts, wanted))


def host_python(version: str) -> Path | None:
    """A Python of this machine to stand in for a base image's: of that version, or else the running one."""
    candidates = [
        shutil.which(f"python{version}"),
        *(Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"),
        os.path.join(sys.base_prefix, "bin", "python3"),
    ]
    for candidate in candidates:
        probe = [str(candidate), "-c", "import ensurepip, sys; print(sys.executable)"]
        if candidate and (found := subprocess.run(probe, capture_output=True, text=True)).returncode == 0:
            return Path(found.stdout.strip()).resolve()
    return None


class Root:
    """A root folder in the making: this machine's, with all changes kept in a scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self.path = scratch / "root"
        changes, work = scratch / "changes", scratch / "work"
        for folder in (self.path, changes, work):
            folder.mkdir(parents=True)
        mount("overlay", self.path, kind="overlay", options=f"lowerdir=/,upperdir={changes},workdir={work}")
        mount("proc", self.path / "proc", kind="proc")
        mount("/dev", self.path / "dev", options="rbind")

    def at(self, path: str | Path) -> Path:
        """Where `path` of the container lies."""
        return self.path / str(path).lstrip("/")

    def put_python(self, python: Path) -> None:
        """Put this machine's `python` where the official Python images have theirs."""
        for name in ("python", "python3"):
            self.at("/usr/local/bin").joinpath(name).unlink(missing_ok=True)
            self.at("/usr/local/bin").joinpath(name).symlink_to(python)
        for folder in python.parents:  # it may lie in a home folder that other users may not enter
            self.at(folder).chmod(self.at(folder).stat().st_mode | 0o111)

    def hide(self, folder: Path) -> None:
        """What lies in the repository must not be found there instead of in the image."""
        mount("tmpfs", self.at(folder), kind="tmpfs")

    def home(self, user: str) -> str:
        """The home folder of a user, given by number as in USER."""
        accounts = [line.split(":") for line in self.at("/etc/passwd").read_text("utf-8").splitlines()]
        return next((home for *_, uid, _, _, home, _ in accounts if uid == user.partition(":")[0]), "/")

    def command(self, image: Image, command: Sequence[str]) -> list[str]:
        return [
            *("chroot", f"--userspec={image.user}", str(self.path)),
            *("env", f"--chdir={image.workdir}", *command),
        ]


def mount(what: str, where: Path, kind: str | None = None, options: str | None = None) -> None:
    flags = [*(["-t", kind] if kind else []), *(["-o", options] if options else [])]
    subprocess.run(["mount", *flags, what, str(where)], check=True)


def network() -> dict[str, str]:
    """What this machine needs to reach package indexes: engines pass a proxy's variables on as well."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_")
        or name.upper().endswith(("_PROXY", "_CERT_FILE", "_CERT_DIR", "_CA_BUNDLE"))
    }


class Builder:
    """Builds stages, each once, and only those that are asked for."""

    def __init__(self, repository: Path, scratch: Path) -> None:
        self.repository = repository
        self.scratch = scratch
        self.stages = read(repository / "Containerfile")
        self.ignore = Ignore(repository / ".containerignore")
        self.roots: dict[str, Root] = {}

    def build(self, name: str) -> Root:
        if name not in self.roots:
            stage = self.stages[name]
            self.roots[name] = self._start(stage)
            image = Image()
            arguments: dict[str, str] = {}
            for step in stage.steps:
                image.take(step)
                self.roots[name].at(image.workdir).mkdir(parents=True, exist_ok=True)
                if step.name == "ARG":
                    arguments |= step.pairs(image.env)
                elif step.name == "RUN":
                    self._run(step, self.roots[name], image, arguments)
                elif step.name == "COPY":
                    self._copy(step, self.roots[name], image)
        return self.roots[name]

    def _start(self, stage: Stage) -> Root:
        image, _, tag = stage.base.partition(":")
        if image != "python":
            raise ValueError(f"nothing on this machine can stand in for {stage.base}")
        if (python := host_python(tag.split("-")[0])) is None:
            raise ValueError("this machine has no Python that makes virtual environments")
        print(f"{stage.name}: {python} in place of {stage.base}", file=sys.stderr)
        root = Root(self.scratch / stage.name)
        root.put_python(python)
        root.hide(self.repository)
        return root

    def _run(self, step: Step, root: Root, image: Image, arguments: Mapping[str, str]) -> None:
        print(f"RUN {step.value}", file=sys.stderr)
        subprocess.run(
            root.command(image, ["sh", "-c", step.value]),
            env={"HOME": root.home(image.user)} | network() | dict(arguments) | image.env,
            stdout=sys.stderr,
            stdin=subprocess.DEVNULL,
            check=True,
        )

    def _copy(self, step: Step, root: Root, image: Image) -> None:
        print(f"COPY {step.value}", file=sys.stderr)
        stage, sources, target = copied_from(step, image.env)
        to = root.at(os.path.join(image.workdir, target))
        for source in sources:
            if stage:
                to.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-aT", "--", str(self.build(stage).at(source)), str(to)], check=True)
            elif (self.repository / source).is_dir():
                for path in self.files(source):
                    _copy_file(self.repository / path, to / os.path.relpath(path, source))
            else:
                is_folder = target.endswith("/")
                _copy_file(self.repository / source, to / Path(source).name if is_folder else to)

    def files(self, folder: str) -> Iterator[str]:
        """The files under a folder of the repository that .containerignore lets through."""
        for path in sorted((self.repository / folder).rglob("*")):
            name = str(path.relative_to(self.repository))
            if path.is_file() and not self.ignore.covers(name):
                yield name


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def run(root: Root, image: Image, scratch: Path) -> None:
    """Start what the image starts, and answer the lines on standard input until there are no more."""
    for volume in image.volumes:  # a new volume takes over its folder's owner and contents
        shutil.copytree(root.at(volume), scratch / volume.strip("/"))
        owner = root.at(volume).stat()
        os.chown(scratch / volume.strip("/"), owner.st_uid, owner.st_gid)
    mount("overlay", root.path, options="remount,ro")
    mount("tmpfs", root.at("/tmp"), kind="tmpfs")
    for volume in image.volumes:
        mount(str(scratch / volume.strip("/")), root.at(volume), options="bind")
    env = {"HOME": root.home(image.user)} | image.env
    server = subprocess.Popen(
        root.command(image, [*image.entrypoint, *image.cmd]),
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
    )
    print(json.dumps({"started": True}), flush=True)
    for line in sys.stdin:
        command = root.command(image, json.loads(line))
        done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace")
        answer = {"code": done.returncode, "output": done.stdout + done.stderr, "ended": server.poll()}
        print(json.dumps(answer), flush=True)
    server.terminate()
    try:
        print(json.dumps({"ended": server.wait(STOP_WITHIN_S)}), flush=True)
    except subprocess.TimeoutExpired:
        print(json.dumps({"ended": "killed"}), flush=True)


def main(target: str, repository: str, scratch: str, *environment: str) -> None:
    builder = Builder(Path(repository), Path(scratch))
    root = builder.build(target)
    image = settings(builder.stages[target])
    image.env |= dict(_pair(word) for word in environment)
    run(root, image, Path(scratch))


if __name__ == "__main__":
    main(*sys.argv[1:])
