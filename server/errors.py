"""What can go wrong, in our own words. Dialects give these their status codes and bodies.

SpeechError
├── BadRequest              the request cannot be understood
│   ├── MissingField
│   ├── BadField
│   │   └── BadUrl          an address that is not fetched, or does not answer
│   ├── KeyReused           an idempotency key came with another request
│   ├── ConsentInUse        there are voices that were made with it
│   ├── UnsupportedLanguage
│   ├── VoiceNotFound       no such voice here, or not in that language
│   ├── CannotClone         no model here speaks in the voice of a sample
│   └── TextTooLong         more text than is spoken at once
├── WrongMethod             the path is known, and not by that method
├── Refused                 who asks may not
│   ├── NoKey               no key, or one that is not known here
│   ├── NoScope             the key is for using, and this changes the server
│   └── ForeignPage         a web page sent it
├── BadMedia                the media cannot be used
│   ├── NotMedia            no container or codec that we decode
│   ├── NoAudio             no audio in it, or not the track asked for
│   ├── TooShort
│   ├── TooLong             more sound than a sample may have
│   └── Undecodable         the decoder died of it, twice
├── TooLarge                more bytes or more sound than this server takes
├── TooSlow                 the body came slower than this server waits for
├── ModelNotFound
├── ModelBroken             the file is there and cannot be loaded
├── Busy                    refused now, welcome later
│   ├── TooMany             the key asks for more than it may at a time, or in a minute
│   ├── Starting            the server is being started
│   ├── Stopping            the server is being stopped
│   └── Leaving             the model is being unloaded
├── NoMemory                the model does not fit beside what is in use
├── NoSpace                 the disk is full
│   └── StorageFull         what this server keeps for clients has reached its size
├── NotFound                nothing here by that name
│   ├── JobNotFound
│   ├── CustomVoiceNotFound
│   ├── ConsentNotFound
│   └── FileNotFound
├── JobCancelled            there is no result, as somebody wanted none
├── NotWritable             the models' folder cannot be changed
├── PullFailed              a model could not be fetched
│   ├── HubUnreachable      the hub does not answer, or the line broke for good
│   ├── Gated               the hub wants a token, or its terms accepted
│   ├── NotAtSource         no such repository or file there
│   ├── ChecksumMismatch    what came is not what was promised
│   └── NotAModel           what lies there is not a whole GGML Whisper model
└── WorkFailed              our own machinery failed, repeatedly
    └── WindowFailed        one window killed two workers
"""


class SpeechError(Exception):
    """Anything this server tells a client about. `str()` is a sentence for the client."""


class BadRequest(SpeechError):
    """The request cannot be understood; `field` names the culprit, if it is one."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class MissingField(BadRequest):
    """A required field is absent."""


class BadField(BadRequest):
    """A field's value is not one that we take."""


class BadUrl(BadField):
    """An address that this server does not fetch, or that does not give what it should."""


class KeyReused(BadRequest):
    """An idempotency key came again, with another request."""


class ConsentInUse(BadRequest):
    """There are voices that were made with this consent."""


class UnsupportedLanguage(BadRequest):
    """The model does not know this language."""


class VoiceNotFound(BadField):
    """No such voice here, or not in the language asked for."""


class CannotClone(BadField):
    """No model here can speak in the voice of a sample."""


class TextTooLong(BadField):
    """More text than is spoken at once; `size` and `most` are characters with everything written out."""

    def __init__(self, size: int, most: int, field: str = "input") -> None:
        super().__init__(
            f"the text has {size:,} characters when written out; at most {most:,} are spoken", field
        )
        self.size = size
        self.most = most


class WrongMethod(SpeechError):
    """The path is known, and not by that method."""


class Refused(SpeechError):
    """Who asks may not."""


class NoKey(Refused):
    """No key, or one that is not known here."""


class NoScope(Refused):
    """The key is for using, and this changes the server."""


class ForeignPage(Refused):
    """A web page sent it."""


class BadMedia(SpeechError):
    """The media cannot be used; `field` names what it was sent as."""

    field = "file"


class NotMedia(BadMedia):
    """No container or codec that we decode."""


class NoAudio(BadMedia):
    """No audio stream, or not the one asked for."""


class TooShort(BadMedia):
    """Less sound than makes a word."""


class TooLong(BadMedia):
    """More sound than a sample of a voice may have."""


class Undecodable(BadMedia):
    """The decoder died of it, twice."""


class TooLarge(SpeechError):
    """More bytes or more sound than this server takes."""


class TooSlow(SpeechError):
    """The body came slower than this server waits for."""


class ModelNotFound(SpeechError):
    """No model of that name is installed."""


class ModelBroken(SpeechError):
    """The model's file is there and cannot be loaded."""


class Busy(SpeechError):
    """Refused now; `retry_after` is when to come back, in whole seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooMany(Busy):
    """The API key asks for more than it may at a time, or in a minute."""


class Starting(Busy):
    """The server is being started: its readers or the models of `preload` and `pinned` are on their way."""

    def __init__(self) -> None:
        super().__init__("the server is being started; try again soon", retry_after=2)


class Stopping(Busy):
    """The server is being stopped; another start, or another server, will do it."""

    def __init__(self) -> None:
        super().__init__("the server is being stopped; try again later", retry_after=5)


class Leaving(Busy):
    """The model is being unloaded."""

    def __init__(self, model: str) -> None:
        super().__init__(f"the model {model} is being unloaded; try again later", retry_after=5)


class NoMemory(SpeechError):
    """The model does not fit beside what is in use."""


class NoSpace(SpeechError):
    """The disk is full."""


class StorageFull(NoSpace):
    """What this server keeps for clients has reached its configured size."""


class NotFound(SpeechError):
    """Nothing here by that name, or nothing that its asker may see."""


class JobNotFound(NotFound):
    """No job of that id; it may have been removed, as results are kept for a while only."""


class CustomVoiceNotFound(NotFound):
    """No voice of that id was made here."""


class ConsentNotFound(NotFound):
    """No recording of somebody's consent of that id."""


class FileNotFound(NotFound):
    """No stored file of that id, or its time is over."""


class JobCancelled(SpeechError):
    """The job was cancelled, so it has no result."""


class NotWritable(SpeechError):
    """The models' folder cannot be changed: a read-only disk, or another user's."""


class PullFailed(SpeechError):
    """A model could not be fetched."""


class HubUnreachable(PullFailed):
    """The hub does not answer, or the line to it broke for good. What had come is kept."""


class Gated(PullFailed):
    """The hub wants a token, or its terms accepted on the page that the sentence names."""


class NotAtSource(PullFailed):
    """No such repository or file there; the sentence names the nearest."""


class ChecksumMismatch(PullFailed):
    """What came is not what was promised. It has been removed."""


class NotAModel(PullFailed):
    """What lies there is not a whole GGML Whisper model. It has been removed."""


class WorkFailed(SpeechError):
    """Our own machinery failed, repeatedly."""


class WindowFailed(WorkFailed):
    """One window killed two workers."""
