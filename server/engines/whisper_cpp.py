"""whisper.cpp through pywhispercpp's bindings: any GGML Whisper file, on CPUs and GPUs.

The bindings are used directly rather than through pywhispercpp's Model, which hides tokens, their times and
the return code that tells an abort from silence.
"""

import atexit
import importlib.metadata
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import _pywhispercpp as cpp
import numpy as np
from numpy.typing import NDArray

from server.engines import (
    LATE,
    REPEATS,
    UNSURE,
    Asked,
    Stop,
    Stopped,
    compression_ratio,
    context_frames,
    usable,
)
from server.errors import ModelBroken, WorkFailed
from server.types import SAMPLE_RATE, Decode, Heard, Loading, Segment, Token

log = logging.getLogger(__name__)

READS = "ggml"

_ERROR = 4
"""GGML_LOG_LEVEL_ERROR."""

_BEFORE_LANGUAGES = 51_766
"""Tokens of a multilingual vocabulary that are not languages."""

_TICK = 0.01
"""Seconds in one unit of whisper.cpp's times."""


class Engine:
    """One loaded model; one window at a time."""

    stops = True
    hears_turns = True

    def __init__(self, path: Path, loading: Loading) -> None:
        complaints: list[str] = []
        cpp.whisper_log_set(lambda level, message: _log(level, message, complaints))
        params = cpp.whisper_context_default_params()
        params.use_gpu = loading.device != "cpu"
        params.gpu_device = loading.devices[0]
        if loading.heads:
            params.flash_attn = False  # it leaves no attention to look at
            params.dtw_token_timestamps = True
            params.dtw_aheads_preset = _preset(loading.heads)
        self._aligns = bool(loading.heads)
        self._context = cpp.whisper_init_from_file_with_params(str(path), params)
        cpp.whisper_log_set(lambda level, message: _log(level, message, []))
        # A callback into an interpreter that is shutting down aborts the process.
        atexit.register(cpp.whisper_log_set, None)
        # The binding wraps a null context as if it were one, and any use of it crashes.
        if complaints:
            raise ModelBroken(f"whisper.cpp cannot load {path.name}: {'; '.join(complaints)}")
        self._first_special = cpp.whisper_token_eot(self._context)
        self._turn = cpp.whisper_token_solm(self._context)
        """What models with turns of speakers write where somebody else goes on."""

    def transcribe(self, pcm: NDArray[np.float32], decode: Decode, stop: Stop) -> Heard:
        languages = {} if decode.language else self._detect(pcm, decode)
        language = decode.language or max(languages, key=languages.__getitem__)
        if stop():
            raise Stopped
        if decode.only_language:
            return Heard(language, (), languages)
        segments = self._hear(pcm, decode, language, stop)
        if decode.short_context and _doubtful(segments, len(pcm) / SAMPLE_RATE):
            segments = self._hear(pcm, replace(decode, short_context=False), language, stop)
        return Heard(language, segments, languages)

    def together(self, asked: Sequence[Asked]) -> list[Heard | None]:
        return [self._one(one) for one in asked]

    def describe(self) -> str:
        version = importlib.metadata.version("pywhispercpp")
        return f"whisper.cpp (pywhispercpp {version}): {cpp.whisper_print_system_info()}"

    def _hear(
        self, pcm: NDArray[np.float32], decode: Decode, language: str, stop: Stop
    ) -> tuple[Segment, ...]:
        """What is said, by one run of whisper.cpp's. Raises Stopped and WorkFailed."""
        params = self._params(pcm, decode)
        params.language = language
        cpp.assign_abort_callback(params, stop)
        code = cpp.whisper_full(self._context, params, pcm, len(pcm))
        # An abort may also end as a success without segments: the one who asked for it knows.
        if stop():
            raise Stopped
        if code:
            raise WorkFailed(f"whisper.cpp failed with code {code}")
        return tuple(self._segments(decode))

    def _one(self, one: Asked) -> Heard | None:
        try:
            return self.transcribe(one.pcm, one.decode, one.stop)
        except Stopped:
            return None

    def _params(self, pcm: NDArray[np.float32], decode: Decode) -> Any:
        params = cpp.whisper_full_default_params(cpp.whisper_sampling_strategy.WHISPER_SAMPLING_GREEDY)
        params.print_progress = False
        params.no_context = True
        params.n_threads = decode.threads
        params.translate = decode.task == "translate"
        params.temperature = decode.temperature
        params.tdrz_enable = decode.turns
        params.initial_prompt = usable(decode.prompt)
        # Of what is left behind a timestamp there may be too little for DTW's filter, which ends the process.
        params.single_segment = self._aligns
        if decode.short_context:
            params.audio_ctx = context_frames(len(pcm) / SAMPLE_RATE)
            # What is in doubt is heard again in full, rather than hotter.
            params.temperature_inc = 0.0
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
        places = range(cpp.whisper_full_n_tokens(self._context, index))
        every = [cpp.whisper_full_get_token_data(self._context, index, place) for place in places]
        tokens = [token for token in every if token.id < self._first_special]
        pieces = [cpp.whisper_token_to_bytes(self._context, token.id) for token in tokens]
        scored = map(_scored, pieces, tokens, self._turns(every))
        text = b"".join(pieces).decode("utf-8", "replace")
        return Segment(
            id=index,
            start=start,
            end=end,
            text=text,
            tokens=tuple(token.id for token in tokens),
            logprobs=tuple(scored) if decode.logprobs or decode.words else (),
            avg_logprob=float(np.mean([token.plog for token in tokens])) if tokens else None,
            compression_ratio=compression_ratio(text),
        )

    def _turns(self, tokens: Sequence[Any]) -> Iterator[bool]:
        """For each token of the text, whether somebody else speaks after it."""
        places = [place for place, token in enumerate(tokens) if token.id < self._first_special]
        for place, following in pairwise([*places, len(tokens)]):
            yield any(token.id == self._turn for token in tokens[place:following])


def _preset(model: str) -> Any:
    """whisper.cpp's name of a model's alignment heads: WHISPER_AHEADS_SMALL_EN."""
    return getattr(cpp, f"WHISPER_AHEADS_{re.sub(r'[^a-z0-9]', '_', model).upper()}")


def _doubtful(segments: Sequence[Segment], seconds: float) -> bool:
    """Whether a run in a short context may have lost its way: it repeats itself, is unsure, or goes on after
    the sound."""
    if not segments:
        return False
    text = "".join(segment.text for segment in segments)
    tokens = sum(len(segment.tokens) for segment in segments) or 1
    score = sum((segment.avg_logprob or 0.0) * len(segment.tokens) for segment in segments) / tokens
    late = any(segment.end > seconds + LATE for segment in segments)
    return late or score < UNSURE or compression_ratio(text) > REPEATS


def _scored(piece: bytes, token: Any, ends_turn: bool) -> Token:
    start = None if token.t_dtw < 0 else token.t_dtw * _TICK
    return Token(piece, token.plog, start=start, ends_turn=ends_turn)


def _log(level: int, message: str, complaints: list[str]) -> None:
    """whisper.cpp's chatter, for those who debug; its errors are kept."""
    log.debug("%s", message.rstrip())
    if level == _ERROR:
        complaints.append(message.strip())
