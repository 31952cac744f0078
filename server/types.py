"""The values that services, engines and formats share. No dialect's type is among them.

Times are seconds from the start of the media. PCM is mono at 16 kHz: float32 in [-1, 1] of shape (n,)
inside a process, little-endian int16 bytes between processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

SAMPLE_RATE = 16_000
"""Samples per second of all PCM between the rooms; Whisper's own rate."""

LONGEST_WINDOW = 30.0
"""Seconds of Whisper's context: no window is longer."""

Task = Literal["transcribe", "translate"]


@dataclass(frozen=True, slots=True)
class RawSound:
    """How samples without a header are to be read: one channel, little-endian."""

    rate: int
    """Samples per second."""
    encoding: Literal["s16le", "mulaw", "alaw"] = "s16le"
    """FFmpeg's name of it."""


@dataclass(frozen=True, slots=True)
class Word:
    """One spoken word, punctuation attached."""

    text: str
    """As written, without the space before it."""
    start: float
    end: float
    probability: float | None = None
    """0 to 1; None where the engine gives none."""
    speaker: str | None = None
    """Who says it; None where nobody was asked to tell speakers apart."""
    ends_turn: bool = False
    """Whether somebody else speaks after it, as a model heard that was asked for turns."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text, as the model chose it."""

    text: bytes
    """UTF-8, with the space before it; a character may begin in one token and end in the next."""
    logprob: float
    """Natural logarithm of its probability at its place."""
    start: float | None = None
    """Seconds from the window's start at which the model's attention hears it; None where it cannot tell."""
    ends_turn: bool = False
    """Whether the model wrote after it that somebody else speaks; only where turns were asked for."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A phrase as the model wrote it, between two of its timestamps."""

    id: int
    """Counted from 0 through the whole media."""
    start: float
    end: float
    text: str
    """With the space before it that Whisper writes, so that texts join by concatenation."""
    words: tuple[Word, ...] = ()
    """Filled when words were asked for; by words.py, not by engines."""
    tokens: tuple[int, ...] = ()
    """Ids in the model's vocabulary, timestamps left out."""
    logprobs: tuple[Token, ...] = ()
    """The same tokens with their probabilities, where those were asked for; joined, they are the text."""
    temperature: float | None = None
    """The sampling temperature that gave this text; None where the engine does not tell."""
    avg_logprob: float | None = None
    """Mean log probability of the tokens."""
    compression_ratio: float | None = None
    """Length of the text over its zlib-compressed length; above 2.4 it repeats itself."""
    no_speech_prob: float | None = None
    """0 to 1; None where the engine does not tell."""
    seek: float = 0.0
    """Start of the window that this segment was heard in."""
    language: str | None = None
    """ISO-639-1 code of what is spoken; None where nobody told or detected it."""
    channel: int | None = None
    """Of the media, counted from 0; None where channels were mixed."""

    speaker: str | None = None
    """Who says it; None where nobody knows."""
    speaker_certain: bool = True
    """Whether one of the speaker's turns is heard in it, or near."""
    overlap: bool = False
    """Whether somebody else is heard for over half of it."""
    turn: bool | None = None
    """Whether somebody else begins to speak with it; None where nobody was asked."""

    def spaced_words(self) -> Iterator[Word]:
        """The words with the spaces that the text has before them, as Whisper's own tools give them."""
        at = 0
        for word in self.words:
            found = self.text.find(word.text, at)
            begin = at if found < 0 else found
            space = " " if self.text[begin - 1 : begin] == " " else ""
            at = begin if found < 0 else found + len(word.text)
            yield replace(word, text=space + word.text)


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch in which one speaker is heard."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True, slots=True)
class Diarized:
    """Who spoke when in one media."""

    turns: tuple[Turn, ...]
    """In order of their starts; those of different speakers may overlap."""
    exclusive: tuple[Turn, ...]
    """The same with one speaker at a time, the dominant one."""
    embeddings: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """A vector of each speaker's voice; none where too little of it was heard."""
    scores: dict[str, float] = field(default_factory=dict)
    """How like each speaker is to the known voice whose name he has, -1 to 1."""

    @property
    def speakers(self) -> tuple[str, ...]:
        """By their first turn."""
        return tuple(dict.fromkeys(turn.speaker for turn in self.turns))


@dataclass(frozen=True, slots=True)
class SpeakerCount:
    """What a client knows of the number of speakers; None: nothing."""

    exactly: int | None = None
    least: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class KnownVoice:
    """A person whose voice a client knows."""

    name: str
    sample: bytes = field(repr=False)
    """A media in which nobody else speaks."""
    enrolled: bool = False
    """Whether the sample is one of the server's owner, not of the client."""


@dataclass(frozen=True, slots=True)
class Diarize:
    """How speakers are to be told apart."""

    model: str = ""
    """The pipeline; empty: the best that is installed."""
    speakers: SpeakerCount = SpeakerCount()
    embeddings: bool = False
    """Whether the vectors of voices are wanted: they identify people."""
    known: tuple[KnownVoice, ...] = ()
    """Voices that are to be called by their names."""
    threshold: float | None = None
    """Likeness from which a voice is one of those, -1 to 1; None: as configured."""
    names: bool = False
    """Whether it must be told who speaks: where somebody else begins to is not enough."""

    @property
    def by_turns(self) -> bool:
        """Whether it is enough to know where somebody else begins to speak."""
        hinted = self.model or self.known or self.embeddings or self.threshold is not None
        return not (self.names or hinted or self.speakers != SpeakerCount())


@dataclass(frozen=True, slots=True)
class Activity:
    """How a client wants sound to be cut into windows; None: as this server does by itself."""

    threshold: float | None = None
    """Probability of voice from which a frame is speech, 0 to 1."""
    padding: float | None = None
    """Seconds of sound kept before speech."""
    silence: float | None = None
    """Seconds of silence that end a window."""
    longest: float | None = None
    """Seconds a window never exceeds, however long the model likes them."""


@dataclass(frozen=True, slots=True)
class Listen:
    """What a client asks to have heard."""

    model: str
    task: Task = "transcribe"
    language: str | None = None
    """ISO-639-1 code of the speech; None: detected."""
    languages: tuple[str, ...] = ()
    """ISO-639-1 codes among which it is detected; empty: among all that the model knows."""
    multilingual: bool = False
    """Whether several languages are spoken: each window is heard in its own."""
    by_channel: bool = False
    """Whether each channel is heard by itself: two sides of a telephone call."""
    conditioned: bool = False
    """Whether each window is told what the one before it said; windows then wait for each other."""
    prompt: str = ""
    """Text that precedes every window: spelling, names, style."""
    keywords: tuple[str, ...] = ()
    """Words and phrases to expect; they precede the prompt."""
    temperature: float = 0.0
    """0 to 1; 0 is greedy with fallback."""
    words: bool = False
    """Whether times of words are wanted."""
    times: bool = True
    """Whether any times will be seen; where not, nobody needs them exact."""
    logprobs: bool = False
    """Whether the probabilities of tokens are wanted."""
    activity: Activity | None = None
    keep_alive: float | None = None
    """Seconds for which the model stays loaded afterwards; -1: for good; None: as configured."""
    audio_track: str | None = None
    """Which audio track: a number counted from 0, or a language tag ("eng"); None: the best one."""
    raw: RawSound | None = None
    """What the body is, where it has no header that tells; None: whatever media it turns out to be."""
    start: float = 0.0
    """Seconds of the media that are passed over at its start; times still count from there."""
    end: float | None = None
    """Seconds from the start of the media after which nothing is heard; None: all of it is."""
    diarize: Diarize | None = None
    """None: nobody asks who speaks."""
    turns: bool = False
    """Whether the model itself is to tell where somebody else begins to speak."""


@dataclass(frozen=True, slots=True)
class WindowShape:
    """How long a model likes its windows."""

    target: float
    """Seconds of speech at which a window is closed at the next pause."""
    longest: float
    """Seconds a window never exceeds, at most 30."""
    gap: float
    """Seconds of silence inside a window; a longer silence ends it."""
    threshold: float = 0.5
    """Probability of voice from which a frame begins speech."""
    padding: float = 0.2
    """Seconds kept before speech: soft beginnings are below the threshold."""
    pause: float = 0.3
    """Seconds of silence that end a span of speech."""

    def heard_by(self, activity: Activity) -> "WindowShape":
        """The same with what a client wants."""
        silence = self.gap if activity.silence is None else activity.silence
        longest = self.longest if activity.longest is None else min(activity.longest, self.longest)
        return replace(
            self,
            target=min(self.target, longest),
            longest=longest,
            gap=silence,
            pause=min(self.pause, silence),
            threshold=self.threshold if activity.threshold is None else activity.threshold,
            padding=self.padding if activity.padding is None else activity.padding,
        )


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of speech with its sound: the unit of all work. Stateless and repeatable."""

    index: int
    """Counted from 0 through the media."""
    start: float
    """Where its first sample lies in the media."""
    pcm: bytes
    """int16 little-endian mono 16 kHz, at most 30 s."""
    speech: tuple[tuple[float, float], ...] | None = None
    """Where voice activity hears speech: starts and ends in seconds from the window's start, in order; None
    where nobody listened for it."""
    overlap: float = 0.0
    """Seconds at its start that the window before it ends with: speech without a pause was cut there."""
    overlapped: float = 0.0
    """Seconds at its end that the window after it begins with."""
    channel: int | None = None
    """Which one it is of, counted from 0; None: all of them mixed."""

    @property
    def duration(self) -> float:
        return len(self.pcm) / 2 / SAMPLE_RATE

    @property
    def end(self) -> float:
        return self.start + self.duration


@dataclass(frozen=True, slots=True)
class Decode:
    """How one window is to be decoded."""

    task: Task = "transcribe"
    language: str | None = None
    """ISO-639-1; None: detected in this window."""
    languages: tuple[str, ...] = ()
    """ISO-639-1 codes among which it is detected; empty: among all that the model knows."""
    prompt: str = ""
    temperature: float = 0.0
    words: bool = False
    """Whether times of words will be wanted."""
    aligned: bool = True
    """Whether these have to be as exact as can be: an engine that can, aligns its tokens then."""
    logprobs: bool = False
    """Whether segments are to have their tokens with probabilities."""
    short_context: bool = False
    """Whether the encoder may be cut to the window's length (only models trained for it)."""
    turns: bool = False
    """Whether the model is to write where somebody else begins to speak (only those trained for it)."""
    only_language: bool = False
    """Whether nothing but the language is wanted: no segments, and the cost of one encoder pass."""
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Heard:
    """What an engine heard in one window; times count from the window's start."""

    language: str
    segments: tuple[Segment, ...]
    languages: dict[str, float] = field(default_factory=dict)
    """Probability of each language by its ISO-639-1 code, together 1; empty where none was detected."""
    engine: str = ""
    """Name of the file in `engines/` that heard it; by runners, not by engines."""


@dataclass(frozen=True, slots=True)
class Loading:
    """How a model is to be run."""

    engine: str = "whisper_cpp"
    """Name of the file in `engines/` that runs it."""
    path: Path = Path()
    """What that engine reads: the model's file, or the folder that it was converted into."""
    slots: int = 1
    """Windows, or batches of them, that one process works on at a time."""
    most: int = 0
    """Slots that the model may have, in all its processes; 0: as many as others."""
    threads: int = 0
    """Threads of each slot; 0: by how much else is at work."""
    batch: int = 1
    """Windows that go through the model together, at most."""
    device: str = "auto"
    """ "cpu", "cuda", or "auto": a card if the library was built for one and one is there."""
    devices: tuple[int, ...] = (0,)
    """Which cards: the model lies on each of them."""
    compute_type: str = ""
    """CTranslate2's name of the numbers that it calculates with; empty: the best of the device."""
    heads: str = ""
    """Model of OpenAI's whose alignment heads are to tell whisper.cpp where words lie ("small.en")."""
    spare: int = 0
    """Windows beside those of the slots: first ones of requests, when all slots are at work on later ones of
    others."""


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a media file says of itself before it is decoded."""

    duration: float | None
    """Seconds by the file's own header; None where it does not say."""
    container: str
    """FFmpeg's name of the format ("mov,mp4,m4a,3gp,3g2,mj2")."""
    codec: str
    sample_rate: int
    channels: int


@dataclass(frozen=True, slots=True)
class MediaEnd:
    """What is known once a media file has been read to its end."""

    duration: float
    """Seconds from the start of the media to the end of its last decoded sound."""
    warnings: tuple[str, ...] = ()
    """What the client must know: that the file broke off, that packets were damaged."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model file in one of the model folders."""

    id: str
    """File name without ".bin"."""
    path: Path
    size: int
    created: int
    """Unix seconds."""
    engine: str = ""
    """Name of the file in `engines/` that alone can run it; empty for GGML files, which any can."""
    multilingual: bool = True
    languages: tuple[str, ...] = ()
    """ISO-639-1 codes it can be asked for."""
    short_context: bool = False
    shape: WindowShape = WindowShape(target=27.0, longest=29.0, gap=2.0)
    notice: str = ""
    """What every answer of this model must say (the demo's limits); empty for others."""
    broken: str = ""
    """Why the file cannot be loaded; empty where it can."""
    sha256: str = ""
    """Of the whole file, in hex; empty while nobody has computed it."""
    capabilities: tuple[str, ...] = ()
    """Of "translate" into English, "diarize" by turns of speakers, "words" with times."""
    overhead: int = 150 << 20
    """Bytes that a process takes beside the weights, until it has been measured."""


CLONING_RATE = 24_000
"""Hz of samples to clone."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Somebody's speech, whose voice is to be spoken in. Processes hand it on, so its paths are texts."""

    path: str
    """A file of int16 little-endian mono samples at CLONING_RATE."""
    sha256: str
    """Of that file, in hex."""
    quality: int = 20
    """1 to 40, as NVIDIA's NIM counts it; from 30 on an engine takes longer for a better likeness."""
    kept: str = ""
    """A folder in which an engine may keep what it made of the sample; empty: it is wanted but once."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice that this server can speak in."""

    id: str
    """Model.LOCALE.Speaker[.Style], as NVIDIA's NIM writes it: "Espeak.EN-US.default"."""
    engine: str
    """Name of the file in `engines/` that runs it."""
    locale: str
    """BCP 47: "en-US"."""
    title: str
    """For people."""
    model: Path
    """What the engine loads; voices of one model share its processes."""
    speaker: str
    """The voice's name within its model."""
    sample_rate: int
    """Hz of the sound that the engine makes."""
    names: tuple[str, ...] = ()
    """Other names that it answers to."""
    variants: tuple[str, ...] = ()
    """Timbres in which it can be had instead: "f3" makes "Espeak.EN-US.f3" of "Espeak.EN-US.default"."""
    size: int = 0
    """Bytes of its files."""
    ipa: bool = False
    """Whether sounds can be given to it in IPA."""
    clones: bool = False
    """Whether its model can speak in the voice of a sample."""
    mixes: bool = False
    """Whether it can be mixed with others of its model."""
    licence: str = ""
    """As the files beside it say; "": they do not."""
    sample: Sample | None = None
    """What it is cloned from; None: it is one of its model's own."""
    overhead: int = 150 << 20
    """Bytes that a process takes beside the files, until it has been measured."""


@dataclass(frozen=True, slots=True)
class Pronounced:
    """A stretch of a piece's text that is to sound as written in IPA."""

    start: int
    """Index of its first character in the text."""
    end: int
    ipa: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A sentence, or a part of a long one: the unit of speaking. Stateless and repeatable."""

    text: str
    """As it is to be read: figures and abbreviations written out."""
    language: str = ""
    """BCP 47; empty: the voice's own."""
    pronounced: tuple[Pronounced, ...] = ()
    speed: float = 1.0
    pitch: float = 1.0
    """A factor, for engines that have it."""
    volume: float = 1.0
    """A factor of amplitude."""
    pause: float = 0.0
    """Seconds of silence after it, beside what the engine itself makes."""


Audio = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
"""How speech is written; opus lies in Ogg, aac in ADTS, pcm is int16 little-endian without a header."""


@dataclass(frozen=True, slots=True)
class Speak:
    """What a client asks to have spoken."""

    text: str
    """Plain, or SSML where it is one <speak> element."""
    voice: str = ""
    """A voice's id or one of its names; empty: the best one of the language."""
    language: str = ""
    """BCP 47; empty: the voice's own, else English."""
    engine: str = ""
    """The engine that must do it; empty: the voice's own."""
    speed: float = 1.0
    dictionary: str = ""
    """Words and how they sound in IPA, as text/dictionary.py reads them."""
    sample: Sample | None = None
    """Whose voice it is to be; `voice` then only says which model is to clone it."""
    format: Audio = "wav"
    sample_rate: int = 0
    """Hz of the answer; 0: as the voice makes it."""
    longest: int = 0
    """Characters that the text may have when all is written out; 0: any number."""
    keep_alive: float | None = None
    """Seconds for which the voice stays loaded afterwards; -1: for good; None: as configured."""
    keep: bool = False
    """Whether what is spoken may be kept, to be there when it is asked for again."""


GuardKind = Literal["loop", "no_speech", "phantom", "time"]
GuardAction = Literal["decoded_again", "cut", "dropped", "moved"]


@dataclass(frozen=True, slots=True)
class Guard:
    """A place where the model was not believed."""

    kind: GuardKind
    """It repeated itself; it wrote where nobody speaks; it wrote what models write in silence; its times lay
    outside the speech."""
    action: GuardAction
    start: float
    end: float
    text: str
    """What was removed, or whose times were changed."""
    reason: str
    """With the figures that decided it, for people."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that was heard in one media."""

    task: Task
    language: str
    """ISO-639-1 of the text; "" where there was no speech and no language was given."""
    duration: float
    segments: tuple[Segment, ...] = field(repr=False)
    model: str
    warnings: tuple[str, ...] = ()
    guards: tuple[Guard, ...] = ()
    """What the model wrote and this transcript does not have, and why."""
    languages: dict[str, float] = field(default_factory=dict)
    """Probability of each language, where it was detected."""
    engine: str = ""
    """Name of the file in `engines/` that heard it; empty where nothing had to be heard."""
    diarized: Diarized | None = None
    """Who spoke when; None where nobody asked. Segments and words have their speakers where it is there."""

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)


@dataclass(frozen=True, slots=True)
class Style:
    """How a transcript is to be written down. A format heeds what it has a place for."""

    words: bool = False
    """Times of words, in verbose_json."""
    highlight_words: bool = False
    """Each word marked while it is spoken, in subtitles and lyrics."""
    max_line_width: int | None = None
    """Columns of a line of subtitles, East Asian wide characters counting two; None: lines are not broken."""
    max_line_count: int | None = None
    """Lines of a cue; None: as many as its segment needs."""
    min_cue_duration: float = 0.0
    """Seconds for which a cue stands at least, where the next one leaves it the time."""
    max_cue_duration: float | None = None
    """Seconds for which a cue stands at most."""
    max_reading_speed: float | None = None
    """Characters a second: a cue stands longer than it is spoken, where the next one leaves it the time."""
    first_number: int = 1
    """Number of the first cue, where cues are numbered."""
    logprobs: bool = False
    """Probabilities of tokens, in formats of JSON."""
    languages: bool = False
    """The languages that were heard, in json."""
    count_tokens: bool = False
    """Usage counted in tokens instead of seconds, in json."""
    speakers: bool = False
    """Who speaks, in formats that have a column for it."""
    name: str = "audio"
    """The media's name, in formats that have a place for it."""

    @property
    def needs_words(self) -> bool:
        """Whether writing is better, or only possible, with times of words."""
        shaped = self.max_line_width or self.max_line_count or self.max_cue_duration
        return self.words or self.highlight_words or bool(shaped)


@dataclass(frozen=True, slots=True)
class Started:
    """First event: the language is known."""

    task: Task
    language: str
    duration: float | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Nothing is heard yet, and this is why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the media has been transcribed."""

    done: float
    """Seconds."""
    total: float | None
    """Seconds; None where the media does not say how long it is."""


@dataclass(frozen=True, slots=True)
class TellingApart:
    """How far the work is that tells speakers apart; it goes on beside the transcription and after it."""

    share: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Done:
    """Last event."""

    transcript: Transcript


Event = Waiting | Started | Segment | Progress | TellingApart | Done


JobTask = Literal["transcribe", "translate", "speak"]

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]

Priority = Literal["high", "normal", "low"]

WebhookOutcome = Literal["taken", "refused", "given_up"]
"""How a try to send a webhook went; after "refused" there is another one."""


@dataclass(frozen=True, slots=True)
class Sound:
    """What a text became, as a job keeps it."""

    voice: str
    """Id of the voice that spoke."""
    format: Audio
    sample_rate: int
    """Hz."""
    seconds: float
    size: int
    """Bytes."""
    path: str = ""
    """The file that it is in."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a job is to do, and how its asker wants to be told."""

    listen: Listen | None = None
    """None where the job is to speak."""
    file: str = ""
    """SHA-256 of the stored media, in hex; "" where it comes from `url`."""
    url: str = ""
    """Where the media is fetched from when the job runs."""
    dialect: str = "jobs"
    """Name of the file in `dialects/` that writes its webhook."""
    app: str = ""
    """The name under which it was asked for, where its dialect has several."""
    response_format: str = "json"
    style: Style = Style()
    """How its result is written, where its asker does not say otherwise."""
    speak: Speak | None = None
    """None where the job is to hear."""
    asked: dict[str, Any] = field(default_factory=dict)
    """What else its dialect has to know when it writes the answer; of JSON's types."""

    @property
    def task(self) -> JobTask:
        return self.listen.task if self.listen else "speak"

    @property
    def model(self) -> str:
        """The model that hears, or the engine that speaks."""
        return self.listen.model if self.listen else self.speak.engine if self.speak else ""


@dataclass(frozen=True, slots=True)
class JobLog:
    """One line of what happened to a job."""

    at: float
    """Unix seconds."""
    message: str
    level: Literal["INFO", "WARNING", "ERROR"] = "INFO"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One try to send a job's webhook."""

    at: float
    """Unix seconds."""
    status: int | None
    """The receiver's HTTP status; None where it could not be reached."""
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed, as it is stored."""

    kind: str
    """Name of the class in `errors`."""
    message: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Work that outlives its request. Times are Unix seconds."""

    id: str
    """A UUID; later jobs have greater ones."""
    request: JobRequest
    owner: str = ""
    """Id of the API key that submitted it; "" on a server without keys."""
    state: JobState = "queued"
    priority: Priority = "normal"
    private: bool = False
    """Whether it is removed as soon as its result has been told."""
    key: str = ""
    """The idempotency key it came with."""
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    attempts: int = 0
    """How often it has been started: more than once where a server died of it, or under it."""
    error: JobError | None = None
    size: int = 0
    """Bytes of its stored result."""
    webhook: str = ""
    delivered: float | None = None
    """When a receiver took the webhook, or it was given up."""
    deliveries: tuple[Delivery, ...] = ()
    logs: tuple[JobLog, ...] = ()

    @property
    def is_finished(self) -> bool:
        return self.state not in ("queued", "running")
