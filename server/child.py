"""Child processes: how they are started, how they die with us, and how both sides talk.

A child runs one function of one of our modules. Its environment is an allow-list (no keys, no tokens), its
working directory is empty, its only open door is a socket to its parent. Messages are msgpack of the
`msgspec.Struct` types that both sides name, each behind its length in four bytes; a child cannot make its
parent run anything by what it sends.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from server import logs

log = logging.getLogger(__name__)

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "TZ")
_KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "GGML_", "OMP_")

_LARGEST = 1 << 26
"""Bytes; far above any window, so that a broken child cannot make us allocate without end."""

_MOMENT = 0.5

_LOOK = 2.0
"""Seconds between two looks whether a child was stopped; one that two find stopped is ended."""

_LONGEST_LINE = 500
_MOST_LINES = 100
"""Of what a child prints, characters of a line and lines of a request that go into the log."""

_NICE = 5
"""How much later than the server itself its children get a core, where more want one than there are: they
work for seconds, the server for moments, on which everybody waits."""

_LENGTH = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1

Incoming = TypeVar("Incoming")


class ChildGone(Exception):
    """The child process has ended; whatever it was doing is lost."""


def environment() -> dict[str, str]:
    """What other programs may know of ours: no keys, no tokens."""
    kept = {key: value for key, value in os.environ.items() if key in _KEPT or key.startswith(_KEPT_PREFIXES)}
    # GNU OpenMP's idle threads spin: beside any busy process that made whisper.cpp fifteen times slower.
    # A short spin is as fast on an idle machine and tame on a busy one. numpy's matrices here are small:
    # OpenBLAS's threads only spin beside them, which made spectra five times as dear (measured).
    return {"GOMP_SPINCOUNT": "1000", "OPENBLAS_NUM_THREADS": "1", **kept}


class Child(Generic[Incoming]):
    """The parent's side of a child process that answers with messages of type `Incoming`."""

    def __init__(self, process: asyncio.subprocess.Process, incoming: Any, printed: "_Printed") -> None:
        self._process = process
        self._decoder = msgspec.msgpack.Decoder(incoming)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._printed = printed
        self._watching: asyncio.TimerHandle | None = None

    def serve(self, request: str) -> None:
        """From now on, what it prints belongs to this request's log; empty: to nobody's."""
        self._printed.serve(request)

    @classmethod
    async def spawn(cls, entry: str, incoming: Any, folder: Path, *arguments: str) -> "Child[Incoming]":
        """Start `entry` ("module:function") in a fresh interpreter; `incoming` is what it may send.

        `folder` becomes its working directory: an empty one, made here if it is missing.
        """
        await asyncio.to_thread(folder.mkdir, mode=0o500, parents=True, exist_ok=True)
        module, function = entry.split(":")
        ours, theirs = socket.socketpair()
        printed, prints = os.pipe()
        with theirs, os.fdopen(prints, "wb") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-c",
                f"from {module} import {function}; {function}()",
                str(theirs.fileno()),
                str(os.getpid()),
                *arguments,
                pass_fds=(theirs.fileno(),),
                env=environment(),
                cwd=folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
            )
        child = cls(process, incoming, _Printed(printed, module, process.pid))
        try:
            child._reader, child._writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:  # cancelled
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await child.ended()
            raise
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it may still answer: its end of the socket, or ours, closes before its exit is known."""
        closed = self._reader.at_eof() or self._writer.is_closing()
        return self._process.returncode is None and not closed

    async def send(self, message: msgspec.Struct) -> None:
        """Hand a message over. A child that is gone is noticed by `receive`, not here."""
        if self._writer.is_closing():
            return  # uvloop raises an error of no kind in particular then
        body = msgspec.msgpack.encode(message)
        with contextlib.suppress(ConnectionError):
            self._writer.writelines((_LENGTH.pack(len(body)), body))
            await self._writer.drain()

    async def receive(self) -> Incoming:
        """The next message. Raises ChildGone once the child has ended or talks nonsense."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > _LARGEST:
                raise ChildGone(f"process {self.pid} sent {length} bytes")
            message: Incoming = self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.MsgspecError) as error:
            raise ChildGone(f"process {self.pid} has ended{await self._how()}") from error
        if self._watching is None:  # a child that starts may take its time
            self._watch(stopped=False)
        return message

    def _watch(self, stopped: bool) -> None:
        """Look now and then; a stopped process answers nobody, and its memory is still taken."""
        if self._process.returncode is not None:
            return
        stops = _is_stopped(self.pid)
        if stops and stopped:
            log.warning("process %d was stopped from outside, and is ended", self.pid)
            self.kill()
            return
        self._watching = asyncio.get_running_loop().call_later(_LOOK, self._watch, stops)

    async def _how(self) -> str:
        """How it ended, where that is known within a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MOMENT):
                code = await self._process.wait()
                return f" by signal {-code}" if code < 0 else f" with code {code}"
        return ""

    def kill(self) -> None:
        """End the process now. `ended` waits until it has."""
        if self._watching:
            self._watching.cancel()
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> None:
        await self._process.wait()
        self._printed.close()


class _Printed:
    """What a child prints on standard error, which becomes lines of our log."""

    def __init__(self, pipe: int, name: str, pid: int) -> None:
        self._pipe = pipe
        self._log = logging.getLogger(name)
        self._pid = pid
        self._request = ""
        self._lines = 0
        self._rest = b""
        os.set_blocking(pipe, False)
        asyncio.get_running_loop().add_reader(pipe, self._read)

    def serve(self, request: str) -> None:
        if request != self._request:
            self._request, self._lines = request, 0

    def close(self) -> None:
        """Nothing more is wanted of it."""
        while self._pipe >= 0 and self._read():
            pass
        self._close()

    def _read(self) -> bool:
        """What is there; whether there may be more."""
        try:
            data = os.read(self._pipe, 1 << 16)
        except BlockingIOError:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._tell(line)
        if not data:
            self._close()
        elif len(self._rest) > _LONGEST_LINE:
            self._rest = self._rest[:_LONGEST_LINE]
        return bool(data)

    def _tell(self, line: bytes) -> None:
        text = line[:_LONGEST_LINE].decode("utf-8", "replace").rstrip()
        self._lines += 1
        if self._lines > _MOST_LINES or not text:
            return
        about = {**logs.of(self._request), "child": self._pid}
        self._log.warning("process %d: %s", self._pid, text, extra=about)
        if self._lines == _MOST_LINES:
            self._log.warning("process %d: what more it prints is left out", self._pid, extra=about)

    def _close(self) -> None:
        if self._pipe >= 0:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
        if self._rest:
            rest, self._rest = self._rest, b""
            self._tell(rest)


def _is_stopped(pid: int) -> bool:
    """Whether the process was stopped by a signal; not by a debugger, and not for want of a processor."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


class Parent(Generic[Incoming]):
    """The child's side: what the parent sends arrives by `receive`, or at `hear` as soon as it comes."""

    def __init__(self, incoming: Any) -> None:
        _die_with(int(sys.argv[2]))
        os.nice(_NICE)
        self._socket = socket.socket(fileno=int(sys.argv[1]))
        self._file = self._socket.makefile("rb", buffering=1 << 16)
        self._decoder = msgspec.msgpack.Decoder(incoming)

    def send(self, message: msgspec.Struct) -> None:
        """Hand a message over; blocks while the parent does not read, which is all our back-pressure."""
        body = msgspec.msgpack.encode(message)
        self._socket.sendall(_LENGTH.pack(len(body)) + body)

    def receive(self) -> Incoming:
        """The next message; the process ends when the parent has gone."""
        head = self._file.read(_LENGTH.size)
        body = self._file.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
        if not body:
            os._exit(0)
        message: Incoming = self._decoder.decode(body)
        return message

    def hear(self, handle: Callable[[Incoming], None]) -> None:
        """Receive in a thread from now on, handing each message to `handle`."""

        def listen() -> None:
            try:
                while True:
                    handle(self.receive())
            except BaseException:
                traceback.print_exc()
                # Without this thread the process would be deaf: better gone, which the parent notices.
                os._exit(1)

        threading.Thread(target=listen, name="parent", daemon=True).start()


def _die_with(parent: int) -> None:
    """Have the kernel kill us when the parent's thread ends, however it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    # Ctrl-C in a terminal reaches the whole group; ending children is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
