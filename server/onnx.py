"""ONNX models run by onnxruntime in a worker process, in the threads given and able to stop in the middle."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LOOK = 0.05
"""Seconds between two looks at whether the work is still wanted."""


class Terminated(Exception):
    """The run was given up because nobody waits for it."""


class Session:
    """An InferenceSession on the CPU; all it has can be asked of this."""

    def __init__(self, model: Path, threads: int) -> None:
        """Load the model. Raises onnxruntime's own errors, which have no class in common."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait make everything beside them slower.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._options = onnxruntime.RunOptions
        self._session: Any = onnxruntime.InferenceSession(
            str(model), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self.stop: Callable[[], bool] = lambda: False
        """Asked during a run: True ends it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, names: list[str] | None, inputs: Mapping[str, Any]) -> Any:
        """The outputs. Raises Terminated when `stop()` is."""
        options = self._options()
        options.log_severity_level = 4  # that a run was ended is no news
        try:
            with self._watched(options):
                return self._session.run(names, inputs, options)
        except Exception as error:
            if options.terminate:
                raise Terminated from error
            raise

    @contextmanager
    def _watched(self, options: Any) -> Iterator[None]:
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_LOOK):
                if self.stop():
                    options.terminate = True
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
