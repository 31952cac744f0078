"""How whisperd speaks, over HTTP on loopback: `scripts/bench speech`.

Whether what it says is understood, how soon sound begins, what is added to Piper, and what stays in memory.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from random import Random
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import httpx
import jiwer
import typer
from rich.console import Console

from bench import grammar, measure, over_http, piper, report
from bench.report import Aim, Part, Row
from server.speak import wav_header
from tests import tiny_voices
from tests.speech import say, wav

out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True)

FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")

ACCURACY, PERFORMANCE = Path("docs/accuracy.md"), Path("docs/performance.md")

MARKS = ("<!-- speech: begin; written by scripts/bench speech -->", "<!-- speech: end -->")

SPEAK, HEAR = "/v1/audio/speech", "/v1/audio/transcriptions"

_RATE = 24_000
"""Of what /v1/audio/speech answers."""

_PROGRAMS = {"en": "en-us", "de": "de", "es": "es", "fr": "fr-fr"}
"""The program espeak-ng's voices."""

_TEXT = "The train to Paris leaves at seven. Good morning, Anna, how are you?"

_LONGER = (
    "Good morning, Anna, how are you? The weather is beautiful today. Please remind me to buy milk on "
    "Friday, and turn on the light in the kitchen. The train to Paris leaves at seven."
)

_WARM = 10
"""Requests of each kind that are not counted."""


def main(
    only: Annotated[str, typer.Option(help="Parts, with commas between; all by default.")] = "",
    sentences: Annotated[int, typer.Option(min=1, help="Of each language, said in each format.")] = 50,
    requests: Annotated[int, typer.Option(min=2, help="Of each kind whose first byte is timed.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Of Piper with and without a server.")] = 10,
    many: Annotated[int, typer.Option(min=100, help="Requests after which memory is compared.")] = 1000,
    write: Annotated[bool, typer.Option("--write", help="Put the tables into the pages.")] = False,
    accuracy: Annotated[Path, typer.Option(help="Page with the words' table.")] = ACCURACY,
    performance: Annotated[Path, typer.Option(help="Page with the others.")] = PERFORMANCE,
) -> None:
    """Measure how whisperd speaks on this machine, which should have nothing else to do."""
    over_http.forget_settings()
    about = report.machine()
    ways: dict[str, Callable[[Path], Part]] = {
        "first": lambda folder: first(requests),
        "engines": lambda folder: engines(folder, max(2, requests // 5)),
        "piper": lambda folder: overhead(folder, rounds),
        "memory": lambda folder: memory(many),
    }
    names = only.split(",") if only else ["words", *ways]
    if unknown := sorted({*names} - {"words", *ways}):
        known = ", ".join(("words", *ways))
        raise typer.BadParameter(f"{', '.join(unknown)}: parts are {known}", param_hint="--only")
    if "words" in names:
        _words(sentences, about, accuracy if write else None)
    with TemporaryDirectory(prefix="whisperd-speech-") as folder:
        for name in [name for name in ways if name in names]:
            part = ways[name](Path(folder))
            out.print(report.table([part]))
            if write:
                raw = performance.with_name(f"{performance.stem}-speech.json")
                report.write(performance, [part], about, whole=False, marks=MARKS, raw=raw)


def _words(sentences: int, about: dict[str, str], page: Path | None) -> None:
    """Measure them, and write the page where there is one to be written."""
    found = words(sentences)
    table = _heard_table(found, sentences)
    out.print(table, highlight=False)
    if page:
        kept = {"machine": about, "sentences": sentences, "word_errors": found}
        page.with_name(f"{page.stem}-speech.json").write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        report.replace(page, table, MARKS)


def _tell(doing: str) -> None:
    err.print(doing, style="dim", highlight=False)


# Words ------------------------------------------------------------------------------------------------

PROGRAM = "espeak-ng's own program, wav"

ONE = "English as one text"

Wrong = dict[str, float]
"""Shares of the words, by languages; and of all English sentences in one text."""


def words(sentences: int) -> dict[str, Wrong]:
    """What is heard wrong of sentences that are spoken in each format."""
    texts = {
        language: list(islice(grammar.sentences(language, Random(7)), sentences))
        for language in grammar.LANGUAGES
    }
    with over_http.server() as server, server.client() as client:
        trips: dict[str, _Trip] = {PROGRAM: lambda *said: _hear(client, *_program(*said))}
        trips |= {format: _round_trip(client, format) for format in FORMATS}
        return {name: dict(_wrongs(name, texts, trip)) for name, trip in trips.items()}


_Trip = Callable[[str, str], str]
"""A text and its language; what is heard of it."""


def _wrongs(name: str, texts: Mapping[str, Sequence[str]], trip: _Trip) -> Iterator[tuple[str, float]]:
    _tell(f"{name}: {sum(map(len, texts.values()))} sentences")
    heard = {
        language: [(text, trip(text, language)) for text in sentences]
        for language, sentences in texts.items()
    }
    for language, pairs in heard.items():
        yield language, _wrong(pairs)
    yield "all", _wrong([pair for pairs in heard.values() for pair in pairs])
    whole = " ".join(texts["en"])
    yield ONE, _wrong([(whole, trip(whole, "en"))])


def _wrong(pairs: Sequence[tuple[str, str]]) -> float:
    from whisper_normalizer.basic import BasicTextNormalizer

    plain = BasicTextNormalizer()
    said, heard = zip(*((plain(said), plain(heard)) for said, heard in pairs), strict=True)
    return float(jiwer.wer(list(said), list(heard)))


def _round_trip(client: httpx.Client, format: str) -> _Trip:
    def trip(text: str, language: str) -> str:
        body = {"input": text, "language": language, "response_format": format, "model": "espeak"}
        sound = client.post(SPEAK, json=body).raise_for_status().content
        if format == "pcm":  # has no header, and cannot be heard without one
            return _hear(client, wav_header(_RATE, len(sound)) + sound, "wav", language)
        return _hear(client, sound, format, language)

    return trip


def _program(text: str, language: str) -> tuple[bytes, str, str]:
    return wav(say(text, _PROGRAMS[language])), "wav", language


def _hear(client: httpx.Client, sound: bytes, suffix: str, language: str) -> str:
    files, data = {"file": (f"a.{suffix}", sound)}, {"language": language, "response_format": "json"}
    return str(client.post(HEAR, files=files, data=data).raise_for_status().json()["text"])


def _heard_table(found: Mapping[str, Wrong], sentences: int) -> str:
    columns = (*grammar.LANGUAGES, "all", ONE)
    lines = [
        f"Word errors, {sentences} sentences in each language:",
        "",
        f"| format | {' | '.join(columns)} |",
        f"| {' | '.join(['---'] * (len(columns) + 1))} |",
    ]
    for name, wrong in found.items():
        cells = [f"{wrong[column]:.1%}" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


# Times ------------------------------------------------------------------------------------------------


class Came(NamedTuple):
    """When sound came, in seconds from the request."""

    first: float
    whole: float
    size: int
    """Bytes."""


def _spoken(client: httpx.Client, text: str, **fields: str) -> Came:
    began = time.perf_counter()
    with client.stream("POST", SPEAK, json={"input": text, **fields}) as answer:
        return _came(answer, began)


def _online(client: httpx.Client, text: str) -> Came:
    """As the NIM's clients ask."""
    form = {"text": (None, text), "language": (None, "en-US")}
    began = time.perf_counter()
    with client.stream("POST", "/v1/audio/synthesize_online", files=form) as answer:
        return _came(answer, began)


def _came(answer: httpx.Response, began: float) -> Came:
    chunks = answer.raise_for_status().iter_raw()
    size = len(next(chunks))
    first = time.perf_counter() - began
    size += sum(map(len, chunks))
    return Came(first, time.perf_counter() - began, size)


def first(requests: int) -> Part:
    """How soon espeak-ng's sound begins, in each format by turns."""
    with over_http.server() as server, server.client() as client:
        ways: dict[str, Callable[[], Came]] = {
            "synthesize_online of the NIM, 22,050 Hz": lambda: _online(client, _TEXT)
        }
        for format in ("pcm", "wav", "flac", "mp3", "aac", "opus"):
            ways[format] = _asking(client, _TEXT, response_format=format, model="espeak")
        _tell(f"espeak-ng: {requests} requests of each of {len(ways)} kinds")
        came = _by_turns(ways, requests)
    rows = [row for name, runs in came.items() for row in _firsts(name, runs, name in ("pcm", "wav"))]
    return Part("first bytes of two sentences, espeak-ng warm", tuple(rows))


def _asking(client: httpx.Client, text: str, **fields: str) -> Callable[[], Came]:
    return lambda: _spoken(client, text, **fields)


def _by_turns(ways: Mapping[str, Callable[[], Came]], requests: int) -> dict[str, list[Came]]:
    came: dict[str, list[Came]] = {name: [] for name in ways}
    for number in range(_WARM + requests):
        for name, way in ways.items():
            run = way()
            if number >= _WARM:
                came[name].append(run)
    return came


def _firsts(name: str, runs: Sequence[Came], aimed: bool = False) -> Iterator[Row]:
    firsts = tuple(1000 * run.first for run in runs)
    yield Row(name, firsts, "ms", aim=Aim("<", 10) if aimed else None)
    yield Row(f"{name}, 95th percentile", (quantiles(firsts, n=20, method="inclusive")[-1],), "ms")


def engines(folder: Path, requests: int) -> Part:
    """The same of the neural engines, whose models are tiny ones but for Piper's large one."""
    voices = folder / "voices"
    tiny_voices.piper(voices)
    tiny_voices.kokoro(voices / "kokoro")
    tiny_voices.pocket(voices)
    piper.write_voice(voices)
    named = {
        "Piper, tiny voice": "Piper.EN-US.tiny-x_low.low",
        "Piper, a voice of 63 MB": f"Piper.EN-US.{piper.NAME.partition('-')[2]}",
        "Kokoro, tiny model": "Kokoro.EN-US.Heart",
        "Pocket TTS, tiny model": "Pocket.EN-US.tiny.low",
    }
    rows: list[Row] = []
    with over_http.server("--voices", str(voices), "--keep-alive", "-1") as server:
        with server.client() as client:
            for name, voice in named.items():
                _tell(f"{name}: {requests} requests")
                ask = _asking(client, _TEXT, response_format="wav", voice=voice)
                runs = _by_turns({name: ask}, requests)[name]
                rows += _firsts(name, runs)
    return Part("first bytes of the same as wav, other engines warm", tuple(rows))


def overhead(folder: Path, rounds: int) -> Part:
    """What the server adds to Piper: the same voice and text, by turns."""
    voices = folder / "voices"
    voices.mkdir(exist_ok=True)
    _tell("writing a voice of Piper's")
    file = piper.write_voice(voices)
    voice = f"Piper.EN-US.{piper.NAME.partition('-')[2]}"
    with ExitStack() as stack:
        alone = stack.enter_context(piper.child(file))
        server = stack.enter_context(over_http.server("--voices", str(voices)))
        client = stack.enter_context(server.client())
        ask = _asking(client, _LONGER, response_format="wav", voice=voice)
        for way in (lambda: alone(_LONGER), ask) * 2:
            way()
        _tell(f"Piper with and without a server: {rounds} rounds")
        runs = [_round(alone, ask, number) for number in range(rounds)]
    bare, ours = zip(*runs, strict=True)
    return Part("three sentences by Piper, a voice of 63 MB", tuple(_added(bare, ours)))


def _round(alone: piper.Say, ask: Callable[[], Came], number: int) -> tuple[piper.Said, Came]:
    """One run of each; each round begins with the other."""
    if number % 2:
        ours = ask()
        return alone(_LONGER), ours
    bare = alone(_LONGER)
    return bare, ask()


def _added(bare: Sequence[piper.Said], ours: Sequence[Came]) -> Iterator[Row]:
    yield Row("piper-tts alone, whole", tuple(run.whole for run in bare), "s")
    yield Row("over HTTP, wav, whole", tuple(run.whole for run in ours), "s")
    ratios = tuple(our.whole / alone.whole for alone, our in zip(bare, ours, strict=True))
    yield Row("over HTTP over alone", ratios, aim=Aim("≤", 1.1))
    yield Row("piper-tts alone, its first sentence", tuple(run.first for run in bare), "s")
    yield Row("over HTTP, wav, first bytes", tuple(run.first for run in ours), "s")
    yield Row("piper-tts alone, length of the sound", tuple(run.sound for run in bare), "s")
    yield Row("over HTTP, length of the sound", tuple(run.size / 2 / _RATE for run in ours), "s")


# Memory -----------------------------------------------------------------------------------------------


def memory(many: int) -> Part:
    """What stays after many requests of all kinds."""
    random = Random(7)
    texts = {
        language: list(islice(grammar.sentences(language, random), 200)) for language in grammar.LANGUAGES
    }
    sizes: dict[int, float] = {}
    with over_http.server("--keep-alive", "-1") as server, server.client() as client:
        sizes[0] = measure.megabytes(server)
        _tell(f"memory over {many} requests")
        for number in range(many):
            _any(client, random, texts, number)
            if number + 1 in (100, many // 2, many):
                time.sleep(2)
                sizes[number + 1] = measure.megabytes(server)
    rows = [Row("before the first", (sizes[0],), "MB")]
    rows += [Row(f"after {done:,}", (size,), "MB") for done, size in sizes.items() if done]
    last_over = Row(f"after {many:,} over after 100", (sizes[many] / sizes[100],), aim=Aim("≤", 1.05))
    return Part("memory of all processes over many requests for speech, espeak-ng", (*rows, last_over))


def _any(client: httpx.Client, random: Random, texts: Mapping[str, Sequence[str]], number: int) -> None:
    """A request like no other: of one to three sentences, in any language and format; some break off."""
    language = random.choice(grammar.LANGUAGES)
    body = {
        "input": " ".join(random.sample(texts[language], random.randint(1, 3))),
        "language": language,
        "response_format": FORMATS[number % len(FORMATS)],
        "stream_format": random.choice(("audio", "audio", "sse")),
        "speed": random.choice((0.8, 1, 1.5)),
    }
    with client.stream("POST", SPEAK, json=body) as answer:
        chunks = answer.raise_for_status().iter_raw()
        next(chunks)
        if number % 20:
            for _ in chunks:
                pass


if __name__ == "__main__":
    typer.run(main)
