"""CTranslate2: converted Whisper models, fastest on CPUs, and on NVIDIA cards with several windows at once.

One set of weights serves all slots. It cannot be stopped inside a window; the result is thrown away then.
Fallback, segments and word times are written here, after OpenAI's own code (openai/whisper, transcribe.py and
timing.py): CTranslate2 gives tokens, scores and attention.
"""

import importlib.metadata
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, groupby, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
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
from server.errors import ModelBroken
from server.types import LONGEST_WINDOW, SAMPLE_RATE, Decode, Heard, Loading, Segment, Token

log = logging.getLogger(__name__)

READS = "ctranslate2"
"""Folders as CTranslate2's converter writes them."""

Pcm = NDArray[np.float32]
Tokens = list[int]

_HOP = 160
"""Samples of one mel frame; the encoder makes one of two."""

_FULL = round(LONGEST_WINDOW * SAMPLE_RATE) // _HOP
"""Mel frames of a full context."""

_TICK = 0.02
"""Seconds of a timestamp token, and of an encoder frame."""

_SPECTRUM = 400
"""Samples of one Fourier transform."""

_FIRST_BY = 1.0
"""Seconds by which the first timestamp must come."""

_SILENT = 0.6
"""No-speech probability above which a text that is unsure counts as none (openai/whisper, transcribe.py)."""

_STEP, _HOTTEST = 0.2, 1.0
"""Temperatures of the fallback."""

_GREEDY: dict[str, Any] = {"beam_size": 1}
_SAMPLED: dict[str, Any] = {"beam_size": 1, "num_hypotheses": 5, "sampling_topk": 0}

_MULTILINGUAL = 51865
"""Tokens of the smallest vocabulary with languages."""

_WORD = re.compile(r"'(?:[stmd]|re|ve|ll)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
"""What is encoded by itself (openai/gpt-2, src/encoder.py)."""

_SIGNS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))"),
    *("[[", "]]", "{{", "}}", "♪♪", "♪♪♪"),
)
_NOTES = tuple("♩♪♫♬♭♮♯")

_LEAST_SHARE = 1e-10
"""What a token's probability is at least, so that its logarithm is a number."""

_LONGEST_PROMPT = 223
"""Tokens of the prompt that Whisper looks at."""

_LONGEST_TEXT = 224
"""Tokens of one pass."""


class Engine:
    """One loaded model; as many batches at a time as it has slots."""

    stops = False
    hears_turns = False

    def __init__(self, path: Path, loading: Loading) -> None:
        try:
            self._vocabulary = _Vocabulary(path)
            self._model = ctranslate2.models.Whisper(
                str(path),
                device=loading.device,
                device_index=list(loading.devices),
                compute_type=loading.compute_type or _compute_type(loading.device),
                inter_threads=max(1, loading.slots // len(loading.devices)) + loading.spare,
                intra_threads=loading.threads,
            )
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            raise ModelBroken(f"CTranslate2 cannot load {path.name}: {error}") from error
        self._threads = loading.threads
        self._slots = loading.slots
        self._mel = _Mel(_filters(path, self._model.n_mels))
        settings = _settings(path)
        self._aligns = settings.get("aligns", bool(settings.get("alignment_heads")))
        self._longest = settings.get("max_length", 2 * _LONGEST_TEXT)

    def transcribe(self, pcm: Pcm, decode: Decode, stop: Stop) -> Heard:
        (heard,) = self.together([Asked(pcm, decode, stop)])
        if heard is None:
            raise Stopped
        return heard

    def together(self, asked: Sequence[Asked]) -> list[Heard | None]:
        windows = [_Window(one) for one in asked]
        todo = [_Pass(window, window.asked.pcm, 0.0) for window in windows]
        while todo:
            todo = [rest for batch in self._batches(todo) for rest in self._pass(batch)]
        return [window.heard() for window in windows]

    def describe(self) -> str:
        version = importlib.metadata.version("ctranslate2")
        model = self._model
        workers = f"{self._slots} x {self._threads} threads" if model.device == "cpu" else "CUDA"
        return f"CTranslate2 {version}: {workers}, {model.compute_type}"

    def _batches(self, passes: "Iterable[_Pass]") -> "Iterator[list[_Pass]]":
        """Those that may go together: CTranslate2 wants prompts of one length."""
        for one in passes:
            one.prompt = self._vocabulary.prompt(one.decode.prompt)
        for _, batch in groupby(sorted(passes, key=attrgetter("kind")), key=attrgetter("kind")):
            yield list(batch)

    def _pass(self, batch: "list[_Pass]") -> "Iterator[_Pass]":
        """Hear a batch once; what is left to hear of its windows."""
        self._short(batch)
        in_doubt = [one for one in batch if one.doubt(self._vocabulary)]
        self._again(in_doubt)
        for one in batch:
            if one.text and not one.window.stopped:
                yield from self._read(one)

    def _short(self, batch: "list[_Pass]") -> None:
        """The first try, for all of the batch."""
        short = batch[0].decode.short_context
        frames = 2 * context_frames(max(one.seconds for one in batch)) if short else _FULL
        self._decode(batch, frames, batch[0].decode.temperature)

    def _again(self, batch: "list[_Pass]") -> None:
        """What the first try has not made clear: in full context, then with rising temperatures."""
        if batch and batch[0].decode.short_context:
            self._decode(batch, _FULL, batch[0].decode.temperature)
            batch = [one for one in batch if one.doubt(self._vocabulary)]
        temperature = (batch[0].decode.temperature if batch else 0.0) + _STEP
        while batch and temperature < _HOTTEST + _STEP / 2:
            self._decode(batch, _FULL, temperature)
            batch = [one for one in batch if one.doubt(self._vocabulary)]
            temperature += _STEP
        for one in batch:
            one.settle()

    def _decode(self, batch: "list[_Pass]", frames: int, temperature: float) -> None:
        batch = [one for one in batch if not one.window.stopped]
        if not batch:
            return
        encoded, views = self._encode([self._mel(one.pcm, frames) for one in batch])
        self._detect(batch, encoded)
        if batch[0].decode.only_language:
            return
        prompts = [one.prompt + self._vocabulary.start(one.window.language, one.decode.task) for one in batch]
        logprobs = any(one.decode.logprobs for one in batch)
        results = self._model.generate(
            encoded,
            prompts,
            max_length=min(self._longest, len(prompts[0]) + _LONGEST_TEXT),
            return_scores=True,
            return_no_speech_prob=True,
            return_logits_vocab=logprobs,
            suppress_tokens=self._vocabulary.suppressed,
            max_initial_timestamp_index=round(_FIRST_BY / _TICK),
            sampling_temperature=temperature or 1.0,
            **(_SAMPLED if temperature else _GREEDY),
        )
        for one, result, view in zip(batch, results, views, strict=True):
            one.take(_text(result, temperature, one.decode.logprobs), view, frames)
            self._cut(one)

    def _encode(self, spectra: list[NDArray[np.float32]]) -> tuple[Any, list[Any]]:
        """The encoder's output of all windows together, and of each.

        On a CPU one after the other: the states of a single window stay in the caches. The decoder, which
        reads all weights for each token, gains by a batch.
        """
        if len(spectra) == 1 or self._model.device != "cpu":
            encoded = self._model.encode(_view(np.stack(spectra)), to_cpu=len(spectra) > 1)
            return encoded, _rows(encoded, len(spectra))
        views = [self._model.encode(_view(spectrum[None])) for spectrum in spectra]
        return _view(np.concatenate([np.asarray(view) for view in views])), views

    def _cut(self, one: "_Pass") -> None:
        """Take away what is said to begin after the sound's end, and judge what is left by itself."""
        assert one.text
        at = self._vocabulary.beyond(one.text.tokens, one.seconds)
        if at is None:
            return
        one.text.tokens = one.text.tokens[:at]
        one.text.logprobs = one.text.logprobs[:at]
        if tokens := [token for token in one.text.tokens if token < self._vocabulary.end]:
            shares = self._align(one, tokens).text_token_probs
            one.text.avg_logprob = float(np.mean(np.log(np.maximum(shares, _LEAST_SHARE))))

    def _detect(self, batch: "list[_Pass]", encoded: Any) -> None:
        """The language of those windows that are to say it themselves."""
        unknown = [not one.window.language for one in batch]
        if not any(unknown):
            return
        if self._model.is_multilingual:
            found = [
                {token[2:-2]: share for token, share in shares}
                for shares in self._model.detect_language(encoded)
            ]
        else:
            found = [{"en": 1.0}] * len(batch)
        for one, shares in zip(compress(batch, unknown), compress(found, unknown), strict=True):
            one.window.detected(shares)

    def _read(self, one: "_Pass") -> "Iterator[_Pass]":
        """Segments of what was heard; what follows after the last of them is heard next."""
        assert one.text
        segments, end = one.segments(self._vocabulary)
        if one.decode.words:
            segments = self._with_places(one, segments)
        one.window.segments += segments
        if segments and end is not None and one.seconds - end > _FIRST_BY:
            rest = one.pcm[round(end * SAMPLE_RATE) :]
            yield _Pass(one.window, rest, one.offset + end)

    def _align(self, one: "_Pass", tokens: Tokens) -> Any:
        """Where the tokens lie in the sound, and how likely each is there."""
        start = self._vocabulary.start(one.window.language, one.decode.task)
        frames = min(one.frames, round(len(one.pcm) / _HOP))
        (found,) = self._model.align(one.encoded, start, [tokens], frames)
        return found

    def _with_places(self, one: "_Pass", segments: list[Segment]) -> list[Segment]:
        """The segments with their tokens' probabilities, and where the attention hears them."""
        tokens = [token for segment in segments for token in segment.tokens]
        if not tokens or (one.decode.logprobs and not self._aligns):
            return segments
        if not one.decode.aligned:
            return [_as_likely(segment, self._vocabulary) for segment in segments]
        found = self._align(one, tokens)
        starts = [one.offset + frame * _TICK for frame in _beginnings(found.alignments)]
        return list(
            _placed(segments, starts if self._aligns else [], found.text_token_probs, self._vocabulary)
        )


@dataclass(slots=True)
class _Text:
    """What one try gave."""

    tokens: Tokens
    temperature: float
    avg_logprob: float
    no_speech_prob: float
    logprobs: tuple[float, ...] = ()
    """Of each token, where they were asked for."""


def _text(result: Any, temperature: float, logprobs: bool) -> _Text:
    best = max(range(len(result.scores)), key=result.scores.__getitem__)
    tokens = result.sequences_ids[best]
    # The score is the mean over the text's tokens; the end of the text counts as one more.
    mean = result.scores[best] * len(tokens) / (len(tokens) + 1)
    scores = _logprobs(result.logits[best], tokens) if logprobs else ()
    return _Text(tokens, temperature, mean, result.no_speech_prob, tuple(scores))


def _logprobs(steps: Sequence[Any], tokens: Tokens) -> Iterator[float]:
    for step, token in zip(steps, tokens, strict=False):
        row = np.asarray(step.to_device(ctranslate2.Device.cpu), np.float32).ravel()
        highest = row.max()
        yield float(row[token] - highest - np.log(np.exp(row - highest).sum()))


def _rows(encoded: Any, count: int) -> list[Any]:
    """The encoder's output of each window of a batch."""
    if count == 1:
        return [encoded]
    numbers = np.asarray(encoded)
    return [_view(numbers[index : index + 1]) for index in range(count)]


@dataclass(slots=True)
class _Window:
    """One of the windows that were asked for."""

    asked: Asked
    language: str = ""
    languages: dict[str, float] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    _stopped: bool = False

    def __post_init__(self) -> None:
        self.language = self.asked.decode.language or ""

    @property
    def stopped(self) -> bool:
        self._stopped = self._stopped or self.asked.stop()
        return self._stopped

    def detected(self, shares: dict[str, float]) -> None:
        if among := self.asked.decode.languages:
            shares = {code: share * (code in among) for code, share in shares.items()}
            whole = sum(shares.values()) or 1.0
            shares = {code: share / whole for code, share in shares.items()}
        self.language, self.languages = max(shares, key=shares.__getitem__), shares

    def heard(self) -> Heard | None:
        """None where it was stopped."""
        if self.stopped:
            return None
        numbered = (replace(segment, id=index) for index, segment in enumerate(self.segments))
        return Heard(self.language, tuple(numbered), self.languages)


@dataclass(slots=True)
class _Pass:
    """A window, or what is left of it, on its way through the model."""

    window: _Window
    pcm: Pcm
    offset: float
    """Seconds from the window's start."""
    prompt: Tokens = field(default_factory=list)
    text: _Text | None = None
    encoded: Any = None
    """The encoder's output that it was read from, and the mel frames that went into that."""
    frames: int = 0
    _tries: list[tuple[_Text, Any, int]] = field(default_factory=list)

    @property
    def decode(self) -> Decode:
        return self.window.asked.decode

    @property
    def seconds(self) -> float:
        return len(self.pcm) / SAMPLE_RATE

    @property
    def kind(self) -> tuple[object, ...]:
        decode = self.decode
        return (len(self.prompt), decode.short_context, decode.temperature, decode.only_language)

    def take(self, text: _Text, encoded: Any, frames: int) -> None:
        self.text, self.encoded, self.frames = text, encoded, frames
        self._tries.append((text, encoded, frames))

    def settle(self) -> None:
        """No try was clear: the likeliest of those that do not repeat themselves."""
        if self._tries:
            self.text, self.encoded, self.frames = max(self._tries, key=lambda tried: tried[0].avg_logprob)

    def doubt(self, vocabulary: "_Vocabulary") -> bool:
        """Whether another try may do better."""
        text = self.text
        if text is None or self.silent:
            return False
        late = any(vocabulary.time(token) > self.seconds + LATE for token in text.tokens)
        repeats = compression_ratio(vocabulary.text(text.tokens)) > REPEATS
        return repeats or text.avg_logprob < UNSURE or (late and self.frames < _FULL)

    @property
    def silent(self) -> bool:
        text = self.text
        return bool(text and text.no_speech_prob > _SILENT and text.avg_logprob < UNSURE)

    def segments(self, vocabulary: "_Vocabulary") -> tuple[list[Segment], float | None]:
        """Between pairs of timestamps; and where to go on, if the model said that more follows."""
        assert self.text
        if self.silent:
            return [], None
        found: list[Segment] = []
        start, first, stamps = 0.0, 0, 0
        for at, token in enumerate(self.text.tokens):
            if (time := vocabulary.time(token)) < 0:
                stamps = 0
                continue
            time = min(time, self.seconds)
            found += self._segment(vocabulary, start, time, slice(first, at))
            start, first, stamps = time, at + 1, stamps + 1
        found += self._segment(vocabulary, start, self.seconds, slice(first, None))
        # A second timestamp begins what follows; one alone ends the sound.
        return found, start if stamps > 1 else None

    def _segment(self, vocabulary: "_Vocabulary", start: float, end: float, part: slice) -> list[Segment]:
        """The segment of a part of the tokens; none where that says nothing."""
        assert self.text
        tokens = [token for token in self.text.tokens[part] if token < vocabulary.end]
        text = vocabulary.text(tokens)
        if not text.strip():
            return []
        scores = self.text.logprobs[part]
        segment = Segment(
            id=0,
            start=self.offset + start,
            end=self.offset + max(start, end),
            text=text,
            tokens=tuple(tokens),
            logprobs=tuple(
                Token(vocabulary.piece(token), score) for token, score in zip(tokens, scores, strict=False)
            ),
            temperature=self.text.temperature,
            avg_logprob=float(np.mean(scores)) if scores else self.text.avg_logprob,
            compression_ratio=compression_ratio(text),
            no_speech_prob=self.text.no_speech_prob,
        )
        return [segment]


def _beginnings(alignments: Sequence[tuple[int, int]]) -> list[int]:
    """The encoder frame at which each token begins; `alignments` is a path through tokens and frames."""
    seen: dict[int, int] = {}
    for token, frame in alignments:
        seen.setdefault(token, frame)
    return list(seen.values())


def _as_likely(segment: Segment, vocabulary: "_Vocabulary") -> Segment:
    """The segment with its tokens, each as likely as all of them are where their own scores are unknown."""
    score = segment.avg_logprob or 0.0
    scored = tuple(Token(vocabulary.piece(token), score) for token in segment.tokens)
    return replace(segment, logprobs=segment.logprobs or scored)


def _placed(
    segments: list[Segment], starts: Sequence[float], shares: Sequence[float], vocabulary: "_Vocabulary"
) -> Iterator[Segment]:
    """The segments with their tokens: `starts` and `shares` are those of all tokens, one after the other."""
    at = 0
    for segment in segments:
        here = range(at, at := at + len(segment.tokens))
        scored = segment.logprobs or tuple(
            Token(vocabulary.piece(token), math.log(max(shares[index], _LEAST_SHARE)))
            for token, index in zip(segment.tokens, here, strict=True)
        )
        if starts:
            scored = tuple(
                replace(token, start=starts[index]) for token, index in zip(scored, here, strict=True)
            )
        score = float(np.mean([token.logprob for token in scored])) if scored else segment.avg_logprob
        yield replace(segment, logprobs=scored, avg_logprob=score)


class _Vocabulary:
    """The tokens of a model. Special ones are found by their names, as CTranslate2 does."""

    def __init__(self, folder: Path) -> None:
        names = _names(folder)
        self._ids = {name: id for id, name in enumerate(names)}
        self.end = self._ids["<|endoftext|>"]
        self._first_time = self._ids["<|notimestamps|>"] + 1
        self._multilingual = len(names) >= _MULTILINGUAL
        self._bytes = [bytes(_BYTES[letter] for letter in name) for name in names[: self.end]]
        self._ranks = {data: id for id, data in enumerate(self._bytes)}
        self.suppressed = sorted({*self._specials(), *self._not_spoken()})

    def start(self, language: str, task: str) -> Tokens:
        """What tells the model what to do."""
        start = [self._ids["<|startoftranscript|>"]]
        if self._multilingual:
            start += [self._ids[f"<|{language}|>"], self._ids[f"<|{task}|>"]]
        return start

    def prompt(self, text: str) -> Tokens:
        """A prompt's last tokens, as they stand before the start; empty where there is none."""
        tokens = self.encode(" " + usable(text).strip())[-_LONGEST_PROMPT:] if text.strip() else []
        return [self._ids["<|startofprev|>"], *tokens] if tokens else []

    def text(self, tokens: Iterable[int]) -> str:
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def piece(self, token: int) -> bytes:
        """A token's bytes; special ones have none."""
        return self._bytes[token] if token < self.end else b""

    def time(self, token: int) -> float:
        """Seconds that a timestamp says; negative for other tokens."""
        return (token - self._first_time) * _TICK if token >= self._first_time else -1.0

    def beyond(self, tokens: Tokens, seconds: float) -> int | None:
        """Where a text goes on after `seconds`: the place of the timestamp that says so."""
        said = False
        for at, token in enumerate(tokens):
            time = self.time(token)
            if time >= seconds and not said and at:
                return at
            said = time < 0
        return None

    def encode(self, text: str) -> Tokens:
        """The text as tokens, by their ranks (openai/tiktoken, _educational.py)."""
        return [token for word in _WORD.findall(text) for token in self._merged(word.encode())]

    def _merged(self, word: bytes) -> Tokens:
        parts = [word[index : index + 1] for index in range(len(word))]
        while len(parts) > 1:
            ranks = [self._ranks.get(left + right, self.end) for left, right in pairwise(parts)]
            best = min(ranks)
            if best == self.end:
                break
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [self._ranks[part] for part in parts if part in self._ranks]

    def _specials(self) -> Iterator[int]:
        for name in ("transcribe", "translate", "startoftranscript", "startoflm", "startofprev"):
            yield self._ids[f"<|{name}|>"]
        yield from (self._ids[name] for name in ("<|nospeech|>", "<|nocaptions|>") if name in self._ids)

    def _not_spoken(self) -> Iterator[int]:
        """Signs for music, speakers and sounds (openai/whisper, tokenizer.py, non_speech_tokens)."""
        for sign in (" -", " '"):
            yield from self.encode(sign)[:1]
        for sign in (*_SIGNS, *_NOTES):
            for tokens in self.encode(sign), self.encode(f" {sign}"):
                if len(tokens) == 1 or sign in _NOTES:
                    yield from tokens[:1]


def _names(folder: Path) -> list[str]:
    """Every token as its file spells it."""
    if (file := folder / "vocabulary.json").is_file():
        names: list[str] = json.loads(file.read_text("utf-8"))
        return names
    return (folder / "vocabulary.txt").read_text("utf-8").removesuffix("\n").split("\n")


def _settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return settings


def _byte_names() -> dict[str, int]:
    """The byte that each letter of GPT-2's vocabulary stands for (openai/gpt-2, src/encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_names()


class _Mel:
    """Sound as Whisper's encoder wants it (openai/whisper, audio.py, log_mel_spectrogram)."""

    def __init__(self, filters: NDArray[np.float32]) -> None:
        self._filters = filters
        self._window = np.hanning(_SPECTRUM + 1)[:-1].astype(np.float32)

    def __call__(self, pcm: Pcm, frames: int) -> NDArray[np.float32]:
        """Of shape (bands, frames): the sound, and silence after it."""
        loud = min(frames, (len(pcm) + _SPECTRUM) // _HOP + 1)
        left = _SPECTRUM // 2
        sound = np.zeros(loud * _HOP + _SPECTRUM, np.float32)
        pcm = pcm[: len(sound) - left]
        sound[left : left + len(pcm)] = pcm
        # The beginning is mirrored, as if the sound went on before it.
        mirrored = pcm[1 : left + 1][::-1]
        sound[left - len(mirrored) : left] = mirrored
        spectrum = np.fft.rfft(sliding_window_view(sound, _SPECTRUM)[::_HOP][:loud] * self._window)
        power = spectrum.real**2 + spectrum.imag**2
        bands = np.log10(np.maximum(self._filters @ power.T, 1e-10))
        floor = bands.max() - 8.0
        mel = np.full((len(self._filters), frames), max(floor, -10.0), np.float32)
        mel[:, :loud] = np.maximum(bands, floor)
        return (mel + 4.0) / 4.0


def _filters(folder: Path, bands: int) -> NDArray[np.float32]:
    """The model's own, or those that all of OpenAI's models have."""
    if (file := folder / "mel_filters.npy").is_file():
        filters: NDArray[np.float32] = np.load(file, allow_pickle=False)
        return filters
    return _slaney(bands)


def _slaney(bands: int) -> NDArray[np.float32]:
    """Triangles on Slaney's mel scale, linear up to 1 kHz and logarithmic above, each of the same energy
    (librosa, filters.mel)."""
    mels = np.linspace(0, 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4), bands + 2)
    hertz = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mels - 15)))
    spectrum = np.fft.rfftfreq(_SPECTRUM, 1 / SAMPLE_RATE)
    left, middle, right = hertz[:-2, None], hertz[1:-1, None], hertz[2:, None]
    rising, falling = (spectrum - left) / (middle - left), (right - spectrum) / (right - middle)
    triangles = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(triangles * 2 / (right - left), np.float32)


def _compute_type(device: str) -> str:
    """The fastest with weights as small as they are in the file."""
    return "float16" if device == "cuda" else "int8"


def _view(numbers: NDArray[np.float32]) -> Any:
    return ctranslate2.StorageView.from_array(np.ascontiguousarray(numbers))
