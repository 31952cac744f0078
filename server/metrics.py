"""What this server counts and measures, for Prometheus: NVIDIA's names and our own, in a registry per server.

A label is a dialect, a route, a voice's engine or a model that is installed: what clients make up never
becomes one.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from server import __version__
from server.errors import BadMedia, BadRequest, Busy, ModelNotFound, SpeechError, TooLarge, TooSlow
from server.memory import Memory
from server.pull import Pulls
from server.reader import Readers
from server.types import Done, Event, GuardAction, GuardKind, JobState, Segment, WebhookOutcome

CONTENT_TYPE: str = CONTENT_TYPE_PLAIN_0_0_4

DIALECT: ContextVar[str] = ContextVar("DIALECT", default="jobs")
"""In whose words the present work was asked for; what nobody asks for at the moment is a job's."""

_WAITS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LONG = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
_FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_GUARDS: tuple[tuple[GuardKind, GuardAction], ...] = (
    ("loop", "decoded_again"),
    ("loop", "cut"),
    ("no_speech", "dropped"),
    ("phantom", "dropped"),
    ("time", "moved"),
)
"""What can be done, and why: told from the first transcription on, so that a rate has a beginning."""

_THEIRS = (BadRequest, BadMedia, ModelNotFound, TooLarge, TooSlow)

# Times at which counters began are nobody's question.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Nim:
    """The four of NVIDIA's NIMs, for requests of a kind ("asr", "tts")."""

    def __init__(self, kind: str, registry: CollectorRegistry) -> None:
        what = {"asr": "transcription", "tts": "speech"}[kind]
        # The client library ends the names of counters in _total by itself.
        self._all = Counter(f"num_requests_{kind}", f"Requests for {what}.", registry=registry)
        self._running = Gauge(
            f"num_requests_{kind}_running", f"Requests for {what} under way.", registry=registry
        )
        self._success = Counter(
            f"num_requests_{kind}_success", f"Requests for {what} that succeeded.", registry=registry
        )
        self._seconds = Counter(
            f"request_duration_seconds_{kind}", f"Seconds that requests for {what} took.", registry=registry
        )

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around a request."""
        began = time.monotonic()
        self._all.inc()
        self._running.inc()
        try:
            yield
            self._success.inc()
        finally:
            self._running.dec()
            self._seconds.inc(time.monotonic() - began)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._asr, self._tts = Nim("asr", registry), Nim("tts", registry)
        self._characters = Counter(
            "num_characters_tts", "Characters spoken, with all written out.", registry=registry
        )
        Gauge("whisperd_info", "What runs here.", ["version"], registry=registry).labels(__version__).set(1)
        self._http = Counter(
            "whisperd_http_requests",
            "Answers, by what they answer.",
            ["dialect", "route", "status"],
            registry=registry,
        )
        self._requests = Counter(
            "whisperd_requests",
            "Work by dialect, model and outcome: ok, refused, busy, failed, left.",
            ["kind", "dialect", "model", "outcome"],
            registry=registry,
        )
        self._audio = Counter(
            "whisperd_audio_seconds", "Seconds of media transcribed.", ["model"], registry=registry
        )
        self._duration = Histogram(
            "whisperd_request_duration_seconds",
            "Seconds from the beginning of work to its end.",
            ["kind", "model"],
            registry=registry,
            buckets=_LONG,
        )
        self._guards = Counter(
            "whisperd_guards",
            "Places where a model was not believed, by why and by what was done.",
            ["model", "kind", "action"],
            registry=registry,
        )
        self._first = Histogram(
            "whisperd_time_to_first_segment_seconds",
            "Seconds from the beginning of work to its first segment, or its first sound.",
            ["kind", "model"],
            registry=registry,
            buckets=_WAITS,
        )
        self._factor = Histogram(
            "whisperd_real_time_factor",
            "Seconds of work for a second of media; below 1 is faster than it was spoken.",
            ["model"],
            registry=registry,
            buckets=_FACTORS,
        )
        self._waited = Histogram(
            "whisperd_queue_wait_seconds",
            "Seconds that a window waited for a worker.",
            ["model"],
            registry=registry,
            buckets=_WAITS,
        )
        self._window = Histogram(
            "whisperd_window_duration_seconds",
            "Seconds that a worker took for a window.",
            ["model"],
            registry=registry,
            buckets=_WAITS,
        )
        self._died = Counter(
            "whisperd_workers_restarted",
            "Processes that died at work and were replaced: worker or reader.",
            ["process"],
            registry=registry,
        )
        self._pulled = Counter(
            "whisperd_pulls", "Downloads of models by outcome: ok or failed.", ["outcome"], registry=registry
        )
        self._job_queue = Gauge("whisperd_job_queue_length", "Jobs in line.", registry=registry)
        self._jobs_running = Gauge("whisperd_jobs_running", "Jobs being done.", registry=registry)
        self._jobs = Counter(
            "whisperd_jobs",
            "Jobs that ended, by outcome: succeeded, failed or cancelled.",
            ["outcome"],
            registry=registry,
        )
        self._webhooks = Counter(
            "whisperd_webhooks",
            "Tries to send a webhook by outcome: taken, refused or given_up.",
            ["outcome"],
            registry=registry,
        )
        for state in ("succeeded", "failed", "cancelled"):
            self._jobs.labels(state)
        for tried in get_args(WebhookOutcome):
            self._webhooks.labels(tried)
        for process in ("worker", "reader"):
            self._died.labels(process)
        for outcome in ("ok", "failed"):
            self._pulled.labels(outcome)

    def watch(self, memory: Memory, readers: Readers, pulls: Pulls) -> None:
        """From now on, also what is in memory and under way is told."""
        self._registry.register(_Present(memory, readers, pulls))

    def text(self) -> bytes:
        """All of it in Prometheus' text format, of CONTENT_TYPE."""
        return generate_latest(self._registry)

    # What happens -------------------------------------------------------------------------------------

    def answered(self, dialect: str, route: str, status: int) -> None:
        """An answer has begun."""
        self._http.labels(dialect, route, str(status)).inc()

    def window(self, model: str, waited: float, took: float) -> None:
        """A worker has done a window."""
        self._waited.labels(model).observe(waited)
        self._window.labels(model).observe(took)

    def died(self, process: str) -> None:
        """A worker or a reader died at its work."""
        self._died.labels(process).inc()

    def pulled(self, ok: bool) -> None:
        """A download has ended."""
        self._pulled.labels("ok" if ok else "failed").inc()

    def jobs(self, queued: int, running: int) -> None:
        """So many jobs there are now."""
        self._job_queue.set(queued)
        self._jobs_running.set(running)

    def job_ended(self, state: JobState) -> None:
        """A job has come to its end."""
        self._jobs.labels(state).inc()

    def webhook(self, outcome: WebhookOutcome) -> None:
        """A webhook has been tried."""
        self._webhooks.labels(outcome).inc()

    async def heard(self, model: str, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """The events of a transcription, counted."""
        for kind, action in _GUARDS:
            self._guards.labels(model, kind, action)
        with self._asr.request(), self._work("asr", model) as work:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Segment):
                        work.begun()
                    if isinstance(event, Done):
                        seconds = event.transcript.duration
                        for guard in event.transcript.guards:
                            self._guards.labels(model, guard.kind, guard.action).inc()
                        self._audio.labels(model).inc(seconds)
                        if seconds:
                            self._factor.labels(model).observe(work.seconds / seconds)
                        work.done = True
                    yield event

    async def spoken(
        self, engine: str, characters: int, sound: AsyncGenerator[bytes]
    ) -> AsyncGenerator[bytes]:
        """The sound of a text of so many characters, counted."""
        self._characters.inc(characters)
        with self._tts.request(), self._work("tts", engine) as work:
            async with aclosing(sound):
                async for data in sound:
                    work.begun()
                    yield data
            work.done = True

    @contextmanager
    def _work(self, kind: str, model: str) -> "Iterator[_Work]":
        work = _Work(self._first.labels(kind, model))
        outcome = "left"
        try:
            yield work
            outcome = "ok"
        except Busy:
            outcome = "busy"
            raise
        except _THEIRS:
            outcome = "refused"
            raise
        except SpeechError:
            outcome = "failed"
            raise
        except (asyncio.CancelledError, GeneratorExit):
            # Who has all of it may go.
            outcome = "ok" if work.done else "left"
            raise
        except BaseException:
            outcome = "failed"
            raise
        finally:
            self._requests.labels(kind, DIALECT.get(), model, outcome).inc()
            self._duration.labels(kind, model).observe(work.seconds)


@dataclass(slots=True)
class _Work:
    """Something that somebody waits for."""

    first: Histogram
    began: float = field(default_factory=time.monotonic)
    done: bool = False
    has_begun: bool = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def begun(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            self.first.observe(self.seconds)


class _Present(Collector):
    """What is true at the moment of asking."""

    def __init__(self, memory: Memory, readers: Readers, pulls: Pulls) -> None:
        self._memory = memory
        self._readers = readers
        self._pulls = pulls

    def collect(self) -> Iterator[GaugeMetricFamily]:
        loaded = self._memory.loaded()
        for name, meaning, told in (
            ("whisperd_model_loaded", "Models in memory.", lambda one: 1),
            ("whisperd_model_memory_bytes", "Bytes that a model's processes take.", lambda one: one.memory),
            ("whisperd_queue_length", "Windows that wait for a worker.", lambda one: one.queued),
            ("whisperd_windows_running", "Windows being worked on.", lambda one: one.busy),
            ("whisperd_model_slots", "Windows that may be worked on at a time.", lambda one: one.slots),
        ):
            family = GaugeMetricFamily(name, meaning, labels=["model"])
            for one in loaded:
                family.add_metric([one.model], told(one))
            yield family
        readers = self._readers
        for name, meaning, value in (
            ("whisperd_memory_budget_bytes", "Bytes that loaded models may take.", self._memory.budget),
            ("whisperd_readers", "Processes that read media.", len(readers.processes)),
            ("whisperd_readers_waiting", "Media in line for a reader.", readers.waiting),
            ("whisperd_pulls_running", "Downloads of models under way.", len(self._pulls.running())),
        ):
            yield GaugeMetricFamily(name, meaning, value=value)
