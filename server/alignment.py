"""Which attention heads of a Whisper model follow the sound: word times are read off them.

OpenAI has published them for each of its models (openai/whisper, whisper/__init__.py, _ALIGNMENT_HEADS).
"""

from server.ggml import Header

_HEADS = {
    "tiny.en": "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4",
    "tiny": "2.2 3.0 3.2 3.3 3.4 3.5",
    "base.en": "3.3 4.7 5.1 5.5 5.7",
    "base": "3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6",
    "small.en": "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 11.2 11.4",
    "small": "5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5",
    "medium.en": (
        "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 20.3 20.9 20.14 21.12"
    ),
    "medium": "13.15 15.4 15.15 16.1 20.0 23.4",
    "large-v1": "9.19 11.2 11.4 11.17 22.7 22.11 22.17 23.2 23.15",
    "large-v2": (
        "10.12 13.17 16.11 16.12 16.13 17.15 17.16 18.4 18.11 18.19 19.11 21.2 21.3 22.3 22.9 22.12 23.5 "
        "23.7 23.13 25.5 26.1 26.12 27.15"
    ),
    "large-v3": "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",
    "large-v3-turbo": "2.4 2.11 3.3 3.6 3.11 3.14",
}
"""Layer and head of each."""

_TURBO = 4
"""Layers that large-v3-turbo's decoder has."""


Heads = tuple[tuple[int, int], ...]
"""Layers and heads."""


def published(header: Header, name: str) -> Heads:
    """Those of a model of OpenAI's, empty for others."""
    pairs = (pair.split(".") for pair in _HEADS.get(model(header, name), "").split())
    return tuple((int(layer), int(head)) for layer, head in pairs)


def model(header: Header, name: str) -> str:
    """Which model of OpenAI's it is or was trained from, empty for others; the file's name tells the first
    large ones."""
    found = _model(header, name)
    return found if found in _HEADS else ""


def upper(header: Header) -> Heads:
    """All of the upper half of the decoder, as OpenAI's code falls back to."""
    layers = range(header.text_layers // 2, header.text_layers)
    return tuple((layer, head) for layer in layers for head in range(header.text_heads))


def _model(header: Header, name: str) -> str:
    if header.kind != "large":
        whole = header.text_layers == header.audio_layers
        return header.kind + ("" if header.multilingual else ".en") if whole else ""
    if len(header.languages) == 100:
        return {header.audio_layers: "large-v3", _TURBO: "large-v3-turbo"}.get(header.text_layers, "")
    if header.text_layers != header.audio_layers:
        return ""
    return "large-v1" if "v1" in name else "large-v2"
