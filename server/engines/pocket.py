"""Pocket TTS: a neural voice that streams on a CPU, and can be that of a sample (Kyutai, torch).

A model is a folder anywhere in the voices' folder, with files named as its project has them on the hub:
`model.safetensors`, `tokenizer.json` or `tokenizer.model`, and voices in `embeddings/`. The folder's name
begins with the language, as Pocket TTS or BCP 47 calls it: `english`, `german_24l`, `cs_mine`; one that
Pocket TTS does not know by itself has a `config.yaml`. Samples are only taken by weights that have an
encoder: in those that anybody may fetch it is all zeros.
"""

import json
import logging
import os
import re
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import yaml

from server.engines import Emit, Stop, Stopped, visible
from server.errors import ModelBroken
from server.types import CLONING_RATE, Piece, Sample, Voice

_WEIGHTS = "model.safetensors"
_TOKENIZERS = {"tokenizer.json": "tokenizers", "tokenizer.model": "sentencepiece"}
"""Files, and what Pocket TTS calls their kind."""

_LOCALES = {
    "dutch": "nl-NL",
    "english": "en-US",
    "french": "fr-FR",
    "german": "de-DE",
    "italian": "it-IT",
    "portuguese": "pt-BR",
    "spanish": "es-ES",
}
_TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")

_NATIVE = {
    "de": "juergen",
    "es": "lola",
    "fr": "estelle",
    "it": "giovanni",
    "nl": "daan",
    "pt": "rafael",
}
"""Voices that speak where none is named; the others have these languages as foreign ones."""

_OVERHEAD = 700 << 20
"""Bytes that torch takes beside the weights."""

_ENCODER = ("mimi.encoder.", "flow_lm.speaker_proj_weight")
"""Tensors that turn a sample into what the model can follow."""

_NO_SAFETENSORS = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What reading the header of a file may raise that is none, or gone."""

_LARGEST_HEADER = 1 << 24

_TOKENS = 50
"""Of a stretch of text; in a longer one the model skips words."""

_KEPT = 16
"""Voices that are kept ready; each takes some megabytes."""

_CLAMPED = 32767


@dataclass(frozen=True, slots=True)
class _Model:
    """A folder that Pocket TTS can load."""

    folder: Path
    locale: str
    version: str
    """What its name has behind the language."""
    sample_rate: int
    size: int
    clones: bool


def voices(folder: Path) -> tuple[Voice, ...]:
    """The voices in the folder, those of each language that speak it best first."""
    return tuple(
        _voice(model, file.stem, str(file))
        for model in _models(folder)
        for file in sorted(
            (model.folder / "embeddings").glob("*.safetensors"),
            key=lambda file: (file.stem != _NATIVE.get(model.locale[:2]), file.stem),
        )
    )


def cloners(folder: Path) -> tuple[Voice, ...]:
    """The models that can speak in the voice of a sample, each as a voice that has none yet."""
    return tuple(_voice(model, "sample", "") for model in _models(folder) if model.clones)


def files(model: Path) -> tuple[Path, ...]:
    """All of the model's folder that is its own."""
    return tuple(sorted((model / "embeddings").glob("*.safetensors"))) + tuple(
        file for name in (_WEIGHTS, *_TOKENIZERS, "config.yaml") if (file := model / name).exists()
    )


def _voice(model: _Model, name: str, speaker: str) -> Voice:
    within = ".".join(part.replace(".", "_") for part in (model.version, name) if part)
    return Voice(
        id=f"Pocket.{model.locale.upper()}.{within}",
        engine="pocket",
        locale=model.locale,
        title=f"Pocket TTS, {name}",
        model=model.folder,
        speaker=speaker,
        sample_rate=model.sample_rate,
        size=model.size,
        clones=model.clones,
        overhead=_OVERHEAD,
    )


def _models(folder: Path) -> Iterator[_Model]:
    there = visible(folder, _WEIGHTS)
    found = util.find_spec("pocket_tts") if there else None
    places = found.submodule_search_locations if found else None
    if not places:
        return
    for weights in there:
        model = weights.parent
        config = _config(model, Path(places[0]))
        with suppress(OSError):  # gone in this moment
            stats = weights.stat(), config.stat()
            described = _read(model, config, stats[0].st_size, stats[0].st_mtime_ns, stats[1].st_mtime_ns)
            if described and _tokenizer(model):
                yield described


def _config(model: Path, package: Path) -> Path:
    """The folder's own configuration, else the library's of that name."""
    own = model / "config.yaml"
    return own if own.exists() else package / "config" / f"{model.name}.yaml"


def _tokenizer(model: Path) -> str:
    return next((name for name in _TOKENIZERS if (model / name).exists()), "")


@lru_cache(maxsize=256)
def _read(model: Path, config: Path, size: int, changed: int, config_changed: int) -> _Model | None:
    """What a folder holds; the times are when its files changed, so that they are read again after that."""
    language, _, version = model.name.partition("_")
    locale = _LOCALES.get(language) or (language if _TAG.fullmatch(language) else "")
    try:
        rate = int(yaml.safe_load(config.read_bytes())["mimi"]["sample_rate"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None
    if not locale:
        return None
    return _Model(model, locale, version, rate, size, rate == CLONING_RATE and _has_encoder(model / _WEIGHTS))


def _has_encoder(weights: Path) -> bool:
    """Whether the tensors that a sample goes through are there and not all zero."""
    try:
        with weights.open("rb") as file:
            return _encodes(file)
    except _NO_SAFETENSORS:
        return False


def broken(model: Path) -> str:
    """Why a folder's weights cannot be loaded; empty where they look as they should."""
    try:
        with (model / _WEIGHTS).open("rb") as file:
            end = max((end for _, end in _places(file).values()), default=0)
            size = file.seek(0, 2)
    except _NO_SAFETENSORS:
        return f"{_WEIGHTS} is no safetensors file"
    if size < end:
        return f"{_WEIGHTS} breaks off at {size:,} of {end:,} bytes"
    return "" if _tokenizer(model) else f"it lacks {' or '.join(_TOKENIZERS)}"


def wanted(there: Collection[str]) -> Collection[str]:
    """Those of a folder's files that make a model; none where it is not one."""
    tokenizer = next((name for name in _TOKENIZERS if name in there), "")
    voices = [name for name in there if re.fullmatch(r"embeddings/[^/]+\.safetensors", name)]
    if not (_WEIGHTS in there and tokenizer and voices):
        return ()
    return (_WEIGHTS, tokenizer, *(name for name in ("config.yaml",) if name in there), *sorted(voices))


def _encodes(file: BinaryIO) -> bool:
    places = _places(file)
    for needed in _ENCODER:
        name = next((name for name in sorted(places) if name.startswith(needed) and "weight" in name), "")
        start, end = places.get(name, (0, 0))
        file.seek(start)
        if not any(file.read(end - start)):
            return False
    return True


def _places(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Where each tensor's bytes begin and end in a safetensors file, as its header says.

    Raises what a file of another kind may lead to.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > _LARGEST_HEADER:
        raise ValueError("no safetensors")
    tensors = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    places = {name: tensor["data_offsets"] for name, tensor in tensors.items()}
    return {name: (8 + length + start, 8 + length + end) for name, (start, end) in places.items()}


class Speaker:
    """One model's folder in this process."""

    speeds = (1.0, 1.0)

    def __init__(self, model: Path, threads: int) -> None:
        self._torch = _library()
        self._folder = model
        self._threads = threads
        self._model = _loaded(model)
        self._states: OrderedDict[str, Any] = OrderedDict()
        """What the model is to go on from, by the voice's name."""
        self._steps: dict[str, int] = {}

    def say(self, piece: Piece, speaker: str, emit: Emit, stop: Stop) -> None:
        if stop() or not any(letter.isalnum() for letter in piece.text):
            return
        model = self._model
        state = self._state(speaker)
        model.sampler_decode_steps = self._steps.get(speaker, 1)
        # A piece always sounds the same: another process can go on with it in the middle.
        self._torch.manual_seed(zlib.crc32(piece.text.encode()))
        stopped = threading.Event()
        # Taken to its end even then: it works in threads of its own, which would go on beside the next piece.
        sound = model.generate_audio_stream(state, self._with_breaths(piece.text), _TOKENS, stop=stopped)
        try:
            # For its log it divides by the milliseconds that it took.
            with suppress(ZeroDivisionError):
                for chunk in sound:
                    if stop():
                        stopped.set()
                    else:
                        emit(_int16(chunk.numpy()))
        finally:
            stopped.set()

    def clone(self, sample: Sample, stop: Stop) -> str:
        """Make ready to speak in the voice of a sample, `say` then calls it by the name that is returned.

        Raises Stopped soon after `stop()` is, and ModelBroken where these weights take no samples.
        """
        name = f"{sample.sha256}-{sample.quality}"
        self._steps[name] = 2 if sample.quality >= 30 else 1
        if name not in self._states:
            kept = Path(sample.kept) / f"{self._identity()}.safetensors" if sample.kept else None
            self._keep(name, self._restored(kept) or self._encoded(sample, kept, stop))
        return name

    def describe(self) -> str:
        return f"pocket-tts {metadata.version('pocket-tts')}, torch {self._torch.__version__}"

    def _state(self, speaker: str) -> Any:
        if speaker not in self._states:
            state = self._restored(Path(speaker))
            if state is None:
                raise ModelBroken(f"{Path(speaker).name} is no voice that Pocket TTS can load")
            self._keep(speaker, state)
        self._states.move_to_end(speaker)
        return self._states[speaker]

    def _keep(self, name: str, state: Any) -> None:
        self._states[name] = state
        while len(self._states) > _KEPT:
            self._steps.pop(self._states.popitem(last=False)[0], None)

    def _restored(self, file: Path | None) -> Any:
        """What was made of a voice before; None where there is nothing that fits this model."""
        if file is None or not file.exists():
            return None
        try:
            state = self._model.get_state_for_audio_prompt(file)
            fits = set(state) == set(self._empty_state())
        except Exception:  # a file that broke off, or one of another kind, may fail in any way
            return None
        return state if fits else None

    def _empty_state(self) -> Any:
        from pocket_tts.modules.stateful_module import init_states

        return init_states(self._model.flow_lm, batch_size=1, sequence_length=1)

    def _encoded(self, sample: Sample, kept: Path | None, stop: Stop) -> Any:
        import pocket_tts

        if not self._model.has_voice_cloning or not _has_encoder(self._folder / _WEIGHTS):
            raise ModelBroken(f"the weights of {self._folder.name} are those that cannot clone a voice")
        pcm = np.fromfile(sample.path, "<i2").astype(np.float32) / 32768
        with self._alone(stop):
            state = self._model.get_state_for_audio_prompt(self._torch.from_numpy(pcm)[None])
        if kept:
            part = kept.with_suffix(".part")
            with suppress(OSError):  # its folder was removed meanwhile, or the disk is full
                pocket_tts.export_model_state(state, part)
                part.replace(kept)
        return state

    @contextmanager
    def _alone(self, stop: Stop) -> Iterator[None]:
        """One long calculation on all threads, that ends between two layers when `stop()` says so."""

        def check(*_: object) -> None:
            if stop():
                raise Stopped

        model = self._model
        layers = [*model.mimi.encoder.model, *model.mimi.encoder_transformer.modules()]
        layers += model.flow_lm.transformer.layers
        hooks = [layer.register_forward_pre_hook(check) for layer in layers]
        before = self._torch.get_num_threads()
        self._torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            self._torch.set_num_threads(before)
            for hook in hooks:
                hook.remove()

    def _identity(self) -> str:
        """These weights: what was made by others does not fit."""
        stats = (self._folder / _WEIGHTS).stat()
        return f"{self._folder.name}-{stats.st_size:x}-{stats.st_mtime_ns:x}"

    def _with_breaths(self, text: str) -> str:
        """The text with a comma in the middle of each stretch that is too long for the model."""
        stretches = re.split(r"(?<=[.,;:!?…])\s+", text)
        return " ".join(self._halved(stretch) for stretch in stretches)

    def _halved(self, stretch: str) -> str:
        words = stretch.split()
        if len(words) < 2 or len(self._model.flow_lm.conditioner.tokenizer.encode(stretch)) <= _TOKENS:
            return stretch
        middle = len(words) // 2
        first, second = " ".join(words[:middle]), " ".join(words[middle:])
        return f"{self._halved(first)}, {self._halved(second)}"


def _library() -> Any:
    """torch, with pocket_tts importable. Raises ModelBroken where they are not installed."""
    # Before the import: what is not in the folder is missing, and not looked for on the hub.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import pocket_tts  # noqa: F401 - sets torch to one thread, as its two threads are enough
        import torch
    except ImportError as error:
        raise ModelBroken(
            f"Pocket TTS needs the extra `pocket` ({error.name} is missing): "
            'pip install "whisperd[pocket]", or scripts/serve --with pocket'
        ) from error
    logging.getLogger("pocket_tts").setLevel(logging.ERROR)
    return torch


def _loaded(folder: Path) -> Any:
    from pocket_tts import TTSModel

    try:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(_resolved(folder), file)
            file.flush()
            return TTSModel.load_model(config=file.name)
    except Exception as error:  # the library, torch and safetensors have no class in common
        raise ModelBroken(f"{folder.name} is no model that Pocket TTS can load: {error}") from error


def _resolved(folder: Path) -> dict[str, Any]:
    """The folder's configuration with its own files as the only ones."""
    import pocket_tts

    config: dict[str, Any] = yaml.safe_load(_config(folder, Path(pocket_tts.__path__[0])).read_bytes())
    tokenizer = _tokenizer(folder)
    config["weights_path"] = str(folder / _WEIGHTS)
    config.pop("weights_path_without_voice_cloning", None)
    for part in ("flow_lm", "mimi"):
        config[part].pop("weights_path", None)
    config["flow_lm"]["lookup_table"] |= {
        "tokenizer": _TOKENIZERS[tokenizer],
        "tokenizer_path": str(folder / tokenizer),
    }
    return config


def _int16(sound: Any) -> bytes:
    return bytes(np.clip(sound * _CLAMPED, -_CLAMPED, _CLAMPED).astype("<i2"))
