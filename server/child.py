"""Child processes: how they are started, how they die with us, and how both sides talk.

A child runs one function of one of our modules. Its environment is an allow-list (no keys, no tokens), its
working directory is empty, its only open door is a socket to its parent. Messages are msgpack of the
`msgspec.Struct` types that both sides name, each behind its length in four bytes; a child cannot make its
parent run anything by what it sends.
"""

import asyncio
import contextlib
import ctypes
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

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "TZ")
_KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "GGML_", "OMP_")

_LARGEST = 1 << 26
"""Bytes; far above any window, so that a broken child cannot make us allocate without end."""

_MOMENT = 0.5

_LENGTH = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1

Incoming = TypeVar("Incoming")


class ChildGone(Exception):
    """The child process has ended; whatever it was doing is lost."""


def environment() -> dict[str, str]:
    """What other programs may know of ours: no keys, no tokens."""
    kept = {key: value for key, value in os.environ.items() if key in _KEPT or key.startswith(_KEPT_PREFIXES)}
    # GNU OpenMP's idle threads spin: beside any busy process that made whisper.cpp fifteen times slower.
    # A short spin is as fast on an idle machine and tame on a busy one.
    return {"GOMP_SPINCOUNT": "1000", **kept}


class Child(Generic[Incoming]):
    """The parent's side of a child process that answers with messages of type `Incoming`."""

    def __init__(self, process: asyncio.subprocess.Process, incoming: Any) -> None:
        self._process = process
        self._decoder = msgspec.msgpack.Decoder(incoming)
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    @classmethod
    async def spawn(cls, entry: str, incoming: Any, folder: Path, *arguments: str) -> "Child[Incoming]":
        """Start `entry` ("module:function") in a fresh interpreter; `incoming` is what it may send.

        `folder` becomes its working directory: an empty one, made here if it is missing.
        """
        await asyncio.to_thread(folder.mkdir, mode=0o500, parents=True, exist_ok=True)
        module, function = entry.split(":")
        ours, theirs = socket.socketpair()
        with theirs:
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
            )
        child = cls(process, incoming)
        child._reader, child._writer = await asyncio.open_unix_connection(sock=ours)
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
        return message

    async def _how(self) -> str:
        """How it ended, where that is known within a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MOMENT):
                code = await self._process.wait()
                return f" by signal {-code}" if code < 0 else f" with code {code}"
        return ""

    def kill(self) -> None:
        """End the process now. `ended` waits until it has."""
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> None:
        await self._process.wait()


class Parent(Generic[Incoming]):
    """The child's side: what the parent sends arrives by `receive`, or at `hear` as soon as it comes."""

    def __init__(self, incoming: Any) -> None:
        _die_with(int(sys.argv[2]))
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
