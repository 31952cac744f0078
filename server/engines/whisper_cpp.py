"""whisper.cpp through pywhispercpp's bindings: any GGML Whisper file, on CPUs and GPUs.

The bindings are used directly rather than through pywhispercpp's Model, which hides tokens, their times and
the return code that tells an abort from silence.
"""

import atexit
import importlib.metadata
import logging
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _pywhispercpp as cpp
import numpy as np
from numpy.typing import NDArray

from server.engines import Stop, Stopped
from server.errors import ModelBroken, WorkFailed
from server.types import LONGEST_WINDOW, SAMPLE_RATE, Decode, Heard, Segment, Token

log = logging.getLogger(__name__)

_FRAMES_PER_SECOND = 50
"""Encoder frames; 1500 are Whisper's 30 s."""

_MARGIN = 1.3
"""Seconds of context after the speech; with less than 64 frames the words suffer (measured)."""

_LONGEST_PROMPT = 1000
"""Characters; more than 224 tokens in any language."""

_LONGEST_RUN = 250
"""Characters without a space, in languages that have none."""

_ERROR = 4
"""GGML_LOG_LEVEL_ERROR."""

_BEFORE_LANGUAGES = 51_766
"""Tokens of a multilingual vocabulary that are not languages."""

_TICK = 0.01
"""Seconds in one unit of whisper.cpp's times."""


class Engine:
    """One loaded model; one window at a time."""

    def __init__(self, path: Path) -> None:
        complaints: list[str] = []
        cpp.whisper_log_set(lambda level, message: _log(level, message, complaints))
        self._context = cpp.whisper_init_from_file_with_params(
            str(path), cpp.whisper_context_default_params()
        )
        cpp.whisper_log_set(lambda level, message: _log(level, message, []))
        # A callback into an interpreter that is shutting down aborts the process.
        atexit.register(cpp.whisper_log_set, None)
        # The binding wraps a null context as if it were one, and any use of it crashes.
        if complaints:
            raise ModelBroken(f"whisper.cpp cannot load {path.name}: {'; '.join(complaints)}")
        self._first_special = cpp.whisper_token_eot(self._context)

    def transcribe(self, pcm: NDArray[np.float32], decode: Decode, stop: Stop) -> Heard:
        languages = {} if decode.language else self._detect(pcm, decode)
        language = decode.language or max(languages, key=languages.__getitem__)
        if stop():
            raise Stopped
        if decode.only_language:
            return Heard(language, (), languages)
        params = self._params(pcm, decode)
        params.language = language
        cpp.assign_abort_callback(params, stop)
        code = cpp.whisper_full(self._context, params, pcm, len(pcm))
        # An abort may also end as a success without segments: the one who asked for it knows.
        if stop():
            raise Stopped
        if code:
            raise WorkFailed(f"whisper.cpp failed with code {code}")
        return Heard(language, tuple(self._segments(decode)), languages)

    def describe(self) -> str:
        version = importlib.metadata.version("pywhispercpp")
        return f"whisper.cpp (pywhispercpp {version}): {cpp.whisper_print_system_info()}"

    def _params(self, pcm: NDArray[np.float32], decode: Decode) -> Any:
        params = cpp.whisper_full_default_params(cpp.whisper_sampling_strategy.WHISPER_SAMPLING_GREEDY)
        params.print_progress = False
        params.no_context = True
        params.n_threads = decode.threads
        params.translate = decode.task == "translate"
        params.temperature = decode.temperature
        params.initial_prompt = _tail(decode.prompt)
        params.audio_ctx = _context_frames(len(pcm) / SAMPLE_RATE) if decode.short_context else 0
        return params

    def _detect(self, pcm: NDArray[np.float32], decode: Decode) -> dict[str, float]:
        """Probability of each language that the model knows.

        whisper.cpp's own detection within a window would be done in the context of the window before.
        """
        if not cpp.whisper_is_multilingual(self._context):
            return {"en": 1.0}
        params = self._params(pcm, decode)
        # Sound and context are taken in; a stretch this short ends before anything is encoded.
        params.duration_ms = 100
        cpp.whisper_full(self._context, params, pcm, len(pcm))
        found = np.zeros(cpp.whisper_lang_max_id() + 1, np.float32)
        if cpp.whisper_lang_auto_detect(self._context, 0, decode.threads, found) < 0:
            raise WorkFailed("whisper.cpp could not detect the language")
        # Beyond the last language that this model knows lie tokens of tasks.
        found = found[: cpp.whisper_n_vocab(self._context) - _BEFORE_LANGUAGES]
        codes = [cpp.whisper_lang_str(number) for number in range(len(found))]
        found = found * [not decode.languages or code in decode.languages for code in codes]
        return dict(zip(codes, (found / (found.sum() or 1)).tolist(), strict=True))

    def _segments(self, decode: Decode) -> Iterator[Segment]:
        for index in range(cpp.whisper_full_n_segments(self._context)):
            segment = self._segment(index, decode)
            if segment.text.strip():
                yield segment

    def _segment(self, index: int, decode: Decode) -> Segment:
        start = cpp.whisper_full_get_segment_t0(self._context, index) * _TICK
        end = cpp.whisper_full_get_segment_t1(self._context, index) * _TICK
        tokens = [
            token
            for position in range(cpp.whisper_full_n_tokens(self._context, index))
            if (token := cpp.whisper_full_get_token_data(self._context, index, position)).id
            < self._first_special
        ]
        pieces = [cpp.whisper_token_to_bytes(self._context, token.id) for token in tokens]
        text = b"".join(pieces).decode("utf-8", "replace")
        return Segment(
            id=index,
            start=start,
            end=end,
            text=text,
            tokens=tuple(token.id for token in tokens),
            logprobs=tuple(map(_scored, pieces, tokens)) if decode.logprobs else (),
            avg_logprob=float(np.mean([token.plog for token in tokens])) if tokens else None,
            compression_ratio=compression_ratio(text),
        )


def _scored(piece: bytes, token: Any) -> Token:
    return Token(piece, token.plog)


def compression_ratio(text: str) -> float:
    """Bytes of the text over its zlib-compressed bytes, as OpenAI's Whisper measures repetition."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _tail(prompt: str) -> str:
    """What Whisper can use of a prompt: it keeps the last 224 tokens.

    whisper.cpp's tokenizer takes the square of an unbroken run's length, and crashes on very long ones.
    """
    unrun = re.sub(
        rf"\S{{{_LONGEST_RUN},}}", lambda run: run[0][-_LONGEST_RUN:], prompt[-_LONGEST_PROMPT * 10 :]
    )
    return unrun[-_LONGEST_PROMPT:]


def _context_frames(seconds: float) -> int:
    return min(int((seconds + _MARGIN) * _FRAMES_PER_SECOND) + 1, int(LONGEST_WINDOW * _FRAMES_PER_SECOND))


def _log(level: int, message: str, complaints: list[str]) -> None:
    """whisper.cpp's chatter, for those who debug; its errors are kept."""
    log.debug("%s", message.rstrip())
    if level == _ERROR:
        complaints.append(message.strip())
