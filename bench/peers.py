"""Other programs with the same weights, each in a process of its own: what whisperd is held against.

A child is `python -m bench.peers NAME MODEL`. For each line, a JSON object with `path` and `mixed`, it
answers with a line of JSON: an `Answer`.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import children
from bench.bare import CORES
from bench.recordings import decoded
from tests.speech import Pcm

Span = tuple[str, float, float]
"""Text, start and end in seconds."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program heard in a file."""

    text: str
    words: list[Span] = field(default_factory=list)
    segments: list[Span] = field(default_factory=list)
    language: str = ""
    languages: list[str] = field(default_factory=list)
    """Of each segment, where it is told."""


Hear = Callable[[Path, bool], Answer]
"""A file, and whether several languages are spoken in it."""


@contextmanager
def child(name: str, model: Path) -> Iterator[Hear]:
    """A program with the model loaded."""
    with children.child("bench.peers", name, str(model)) as process:
        assert process.stdin
        assert process.stdout
        asked, answered = process.stdin, process.stdout

        def hear(path: Path, mixed: bool) -> Answer:
            print(json.dumps({"path": str(path), "mixed": mixed}), file=asked, flush=True)
            return Answer(**json.loads(answered.readline()))

        yield hear


def main(name: str, model: str) -> None:
    """The child."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whisper.cpp prints
    hear = {"pywhispercpp": _pywhispercpp, "faster-whisper": _faster_whisper}[name](Path(model))
    print("loaded", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = hear(decoded(Path(asked["path"])), asked["mixed"])
        print(json.dumps(asdict(answer)), file=answers, flush=True)


def _pywhispercpp(model: Path) -> Callable[[Pcm, bool], Answer]:
    """The whole sound at once; segments of one word each tell the times of words."""
    import _pywhispercpp as cpp
    from pywhispercpp.model import Model

    whisper: Any = Model(str(model), redirect_whispercpp_logs_to=None, print_progress=False)

    def hear(pcm: Pcm, mixed: bool) -> Answer:
        found = whisper.transcribe(
            pcm, language="auto", n_threads=CORES, token_timestamps=True, max_len=1, split_on_word=True
        )
        words = [(one.text.strip(), one.t0 / 100, one.t1 / 100) for one in found if one.text.strip()]
        language = cpp.whisper_lang_str(cpp.whisper_full_lang_id(whisper._ctx))
        return Answer(" ".join(word for word, _, _ in words), words, [], language)

    return hear


def _faster_whisper(model: Path) -> Callable[[Pcm, bool], Answer]:
    """As its own page shows it, with voice activity and times of words."""
    from faster_whisper import WhisperModel

    whisper = WhisperModel(str(model), compute_type="int8", cpu_threads=CORES, local_files_only=True)

    def hear(pcm: Pcm, mixed: bool) -> Answer:
        found, info = whisper.transcribe(pcm, vad_filter=True, word_timestamps=True, multilingual=mixed)
        segments: list[Any] = list(found)
        words = [
            (word.word.strip(), float(word.start), float(word.end))
            for segment in segments
            for word in segment.words or ()
        ]
        spans = [(segment.text.strip(), float(segment.start), float(segment.end)) for segment in segments]
        return Answer(" ".join(text for text, _, _ in spans), words, spans, info.language)

    return hear


def write_tokenizer(folder: Path) -> None:
    """The tokenizer that faster-whisper wants beside a converted model, from the model's own vocabulary.

    Merges are not in a GGML file; they follow from the ranks of the tokens.
    """
    names: list[str] = json.loads((folder / "vocabulary.json").read_text("utf-8"))
    ordinary = [name for name in names if not (name.startswith("<|") and name.endswith("|>"))]
    ranks = {name: rank for rank, name in enumerate(ordinary)}
    special = [
        {"id": rank, "content": name, "special": True} | dict.fromkeys(_PLAIN, False)
        for rank, name in enumerate(names)
        if name not in ranks
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    merges = [list(pair) for name in ordinary if (pair := _pair(name, ranks))]
    document = {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": ranks, "merges": merges},
    }
    (folder / "tokenizer.json").write_text(json.dumps(document), "utf-8")


_PLAIN = ("single_word", "lstrip", "rstrip", "normalized")


def _pair(name: str, ranks: dict[str, int]) -> tuple[str, str] | None:
    """The two parts that a token was merged of: what is left when lower ranks have been merged."""
    parts = list(name)
    while len(parts) > 2:
        best = min(pairwise(parts), key=lambda pair: ranks.get("".join(pair), len(ranks)))
        at = next(place for place, pair in enumerate(pairwise(parts)) if pair == best)
        if ranks.get("".join(best), len(ranks)) >= ranks[name]:
            return None
        parts[at : at + 2] = ["".join(best)]
    return (parts[0], parts[1]) if len(parts) == 2 else None


if __name__ == "__main__":
    main(*sys.argv[1:])
