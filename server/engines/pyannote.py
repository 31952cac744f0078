"""pyannote.audio: who spoke when. A model is a folder of `config.yaml`, `segmentation/` and `embedding/`.

The layouts of community-1 (VBx clustering, with `plda/`) and of 3.1 (agglomerative, none), whose
configuration names two other repositories: those lie in `segmentation/` and `embedding/` too, or as folders
of their own names beside the pipeline's. Checkpoints are pickles, which run code when they are loaded: only
those of trusted places come this far.
Sources: pyannote.audio 4.0.7, `pipelines/speaker_diarization.py`; Bredin 2023, "pyannote.audio 2.1 speaker
diarization pipeline". What differs from the bare pipeline: the embedding network runs once for each chunk of
10 s rather than for each of its speakers, with the same result, and clustering is bounded.
"""

import logging
import math
import os
import re
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from server.engines import Report, Stop, Stopped
from server.errors import ModelBroken, TooShort
from server.types import SAMPLE_RATE, Diarized, SpeakerCount, Turn

Pcm = NDArray[np.float32]

_PIPELINE = "pyannote.audio.pipelines.SpeakerDiarization"

_REPOSITORY = re.compile(r"[\w.-]+/(\w[\w.-]*)(@[\w./-]+)?", re.ASCII)
"""How a configuration of the 3.1 layout names a part: a repository of the hub."""

_BATCH = 4
"""Chunks at a time; on a CPU more make it no faster and take memory."""

_CLUSTERED = 5000
"""Embeddings that are clustered at most, evenly chosen: the distances of all pairs lie in memory. The others
go to the nearest centre. Below 40 minutes of talk nothing changes."""

_SHARES = {"segmentation": (0.0, 0.1), "embeddings": (0.1, 0.95)}
"""Which part of the whole work a step of the pipeline is."""

_MOST = 20
"""Speakers at most where nobody says: rebuilding the turns takes memory for each."""

_BRIEFEST = 0.05
"""Seconds; turns below are artefacts of frames."""

_LEAST_VOICE = 1.0
"""Seconds of speech that a voice's sample needs."""


class Diarizer:
    """One loaded pipeline."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Load the folder at `path`; `threads`: 0 for all cores.

        Raises ModelBroken where it is no such pipeline, or pyannote is not installed.
        """
        torch = library()
        if threads:
            torch.set_num_threads(threads)
        self._torch = torch
        self._pipeline: Any = _loaded(path)
        self._pipeline.segmentation_batch_size = _BATCH
        self._pipeline.embedding_batch_size = _BATCH
        if hasattr(self._pipeline._embedding, "model_"):
            self._pipeline.get_embeddings = types.MethodType(_embeddings, self._pipeline)
        _cluster_a_sample(self._pipeline, _CLUSTERED)

    def describe(self) -> str:
        """One line for people."""
        import pyannote.audio

        return f"pyannote.audio {pyannote.audio.__version__}, torch {self._torch.__version__}"

    def diarize(self, pcm: Pcm, speakers: SpeakerCount, report: Report, stop: Stop) -> Diarized:
        """Who spoke when in `pcm`, float32 mono 16 kHz. Raises Stopped soon after `stop()` says so."""
        seconds = len(pcm) / SAMPLE_RATE
        if seconds < _BRIEFEST or not pcm.any():
            return Diarized((), ())
        sound = {"waveform": self._torch.from_numpy(pcm)[None], "sample_rate": SAMPLE_RATE, "uri": "media"}
        with warnings.catch_warnings():
            # Nothing to cluster, or fewer voices than asked for: the answer shows what was found.
            warnings.simplefilter("ignore")
            output = self._pipeline(
                sound,
                num_speakers=speakers.exactly,
                min_speakers=speakers.least,
                max_speakers=speakers.most or _MOST,
                hook=_Hook(report, stop),
            )
        turns = tuple(_turns(output.speaker_diarization, seconds))
        exclusive = tuple(_turns(output.exclusive_speaker_diarization, seconds))
        vectors = _vectors(output)
        if not vectors and turns:
            # Too little of anybody was heard to compare voices: what was found is not several speakers.
            return Diarized(tuple(_of_one(turns)), tuple(_of_one(exclusive)))
        return Diarized(turns, exclusive, vectors)

    def voice(self, pcm: Pcm, stop: Stop) -> tuple[float, ...]:
        """The embedding of the one voice in `pcm`. Raises TooShort, also where several speak."""
        diarized = self.diarize(pcm, SpeakerCount(), lambda _: None, stop)
        if len(diarized.speakers) > 1:
            raise TooShort(f"{len(diarized.speakers)} speakers are heard in the sample, not one")
        spoken = sum(turn.end - turn.start for turn in diarized.exclusive)
        if spoken < _LEAST_VOICE:
            raise TooShort(f"only {spoken:.1f} s of speech are in the sample; {_LEAST_VOICE:g} s are needed")
        parts = [pcm[int(t.start * SAMPLE_RATE) : int(t.end * SAMPLE_RATE)] for t in diarized.exclusive]
        sound = self._torch.from_numpy(np.concatenate(parts))
        vector: NDArray[np.float32] = self._pipeline._embedding(sound[None, None])[0]
        return tuple(vector.tolist())


# Loading ----------------------------------------------------------------------------------------------


def library() -> Any:
    """torch, with pyannote.audio importable. Raises ModelBroken where they are not installed."""
    # Both before the import: pyannote reports each use to its makers otherwise, and would ask the hub.
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("lightning.pytorch.utilities.migration.utils").setLevel(logging.ERROR)
    # It looks for a decoder of files, and is only ever given samples.
    warnings.filterwarnings("ignore", message=r"\s*torchcodec is not installed correctly")
    # It probes the shortest sound that its network takes.
    warnings.filterwarnings("ignore", message=r"std\(\): degrees of freedom")
    warnings.filterwarnings("ignore", message="Mean of empty slice")
    try:
        import torch

        _import_torchaudio()
        import pyannote.audio  # noqa: F401
    except ImportError as error:
        raise ModelBroken(
            f"telling speakers apart needs the extra `diarize` ({error.name} is missing): "
            'pip install "whisperd[diarize]", or scripts/serve --with diarize'
        ) from error
    return torch


def _import_torchaudio() -> None:
    """A torchaudio built for CUDA cannot load its binary beside a CPU torch; pyannote needs none of it."""
    try:
        import torchaudio
    except OSError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
        stub: Any = types.ModuleType("torchaudio._extension")
        stub._IS_TORCHAUDIO_EXT_AVAILABLE = stub._IS_ALIGN_AVAILABLE = False
        stub.fail_if_no_align = lambda function: function
        sys.modules["torchaudio._extension"] = stub
        import torchaudio  # noqa: F401


def _loaded(path: Path) -> Any:
    from pyannote.audio import Pipeline

    config = resolved(path)
    if config["pipeline"]["params"].get("clustering") != "VBxClustering":
        config["pipeline"]["params"]["plda"] = _no_plda()
    try:
        return Pipeline.from_pretrained(config)
    except Exception as error:  # a checkpoint may fail in any way
        raise ModelBroken(f"pyannote cannot load {path.name}: {error}") from error


def resolved(path: Path) -> dict[str, Any]:
    """The folder's configuration with its parts as paths of that folder. Raises ModelBroken.

    Only pyannote's own pipeline is named by it: a configuration names the Python class that is imported.
    """
    try:
        config = yaml.safe_load((path / "config.yaml").read_text("utf-8"))
        name, params = config["pipeline"]["name"], config["pipeline"]["params"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ModelBroken(f"{path.name} has no readable config.yaml of a pyannote pipeline") from error
    if name != _PIPELINE:
        raise ModelBroken(f"{path.name} is not a pipeline for speaker diarization, but {str(name)[:80]}")
    for part in ("segmentation", "embedding", "plda"):
        if part == "plda" and part not in params:
            continue
        folder = part_of(path, part, params.get(part))
        if not folder.is_dir():
            raise ModelBroken(f"{path.name} lacks its part {part}/")
        # As a value of its own it is never searched for names of other libraries.
        params[part] = {"checkpoint": str(folder.parent), "subfolder": folder.name}
    kept = ("dependencies", "version", "pipeline", "params")
    return {key: config[key] for key in kept if key in config}


def part_of(path: Path, part: str, named: object) -> Path:
    """The folder of a pipeline's part: its own, else one beside it of the repository that is named for it."""
    repository = _REPOSITORY.fullmatch(named) if isinstance(named, str) else None
    if repository and not (path / part).is_dir():
        return path.parent / repository[1]
    return path / part


def _no_plda() -> Any:
    """What agglomerative clustering never asks, and pyannote 4 would fetch from a gated repository."""
    from pyannote.audio.core.plda import PLDA

    return object.__new__(PLDA)


# What differs from the bare pipeline ------------------------------------------------------------------


def _embeddings(
    self: Any, file: Any, binary_segmentations: Any, exclude_overlap: bool = False, hook: Any = None
) -> NDArray[np.float32]:
    """Embeddings, shape (chunks, speakers, dimension), with one pass of the network for each chunk.

    The network's frames do not depend on the speaker, only their pooling does; chunks in which nobody speaks
    are left out, as clustering leaves out their result.
    """
    import torch

    active = np.nan_to_num(binary_segmentations.data).astype(np.float32)  # (chunks, frames, speakers)
    window = binary_segmentations.sliding_window
    masks = _clean(active, window.duration, self._embedding) if exclude_overlap else active
    result = np.full((len(active), active.shape[2], self._embedding.dimension), np.nan, np.float32)
    speaking = np.flatnonzero(active.any((1, 2)))
    for number, chunk in enumerate(speaking):
        sound, _ = self._audio.crop(file, window[int(chunk)], mode="pad")
        device = self._embedding.device
        with torch.inference_mode():
            weights = torch.from_numpy(masks[chunk].T[None]).to(device)
            result[chunk] = self._embedding.model_(sound[None].to(device), weights=weights)[0].cpu()
        if hook:
            hook("embeddings", None, total=len(speaking), completed=number + 1)
    return result


def _clean(active: NDArray[np.float32], duration: float, embedding: Any) -> NDArray[np.float32]:
    """Where each speaks alone; where that is too little, all of it."""
    alone = active * (active.sum(2, keepdims=True) < 2)
    least = math.ceil(active.shape[1] * embedding.min_num_samples / (duration * embedding.sample_rate))
    clean: NDArray[np.float32] = np.where(alone.sum(1, keepdims=True) > least, alone, active)
    return clean


def _cluster_a_sample(pipeline: Any, most: int) -> None:
    every = pipeline.clustering.filter_embeddings

    def sample(embeddings: Any, segmentations: Any = None, min_active_ratio: float = 0.2) -> Sequence[Any]:
        vectors, chunk, speaker = every(
            embeddings, segmentations=segmentations, min_active_ratio=min_active_ratio
        )
        keep = np.linspace(0, len(vectors) - 1, min(most, len(vectors))).round().astype(int)
        return vectors[keep], chunk[keep], speaker[keep]

    pipeline.clustering.filter_embeddings = sample


class _Hook:
    """Called by the pipeline in the middle of its work: tells how far it is, and may end it."""

    def __init__(self, report: Report, stop: Stop) -> None:
        self._report = report
        self._stop = stop

    def __call__(
        self, step: str, artifact: object, file: object = None, total: int = 0, completed: int = 0
    ) -> None:
        if self._stop():
            raise Stopped
        if total and step in _SHARES:
            low, high = _SHARES[step]
            self._report(low + (high - low) * min(int(completed), total) / total)


# Its answer as our values -----------------------------------------------------------------------------


def _turns(annotation: Any, seconds: float) -> Iterator[Turn]:
    """In order, inside the media: pyannote pads short sound."""
    for segment, _, label in annotation.itertracks(yield_label=True):
        start, end = max(0.0, segment.start), min(seconds, segment.end)
        if end - start >= _BRIEFEST:
            yield Turn(round(start, 3), round(end, 3), str(label))


def _of_one(turns: Sequence[Turn]) -> Iterator[Turn]:
    """The stretches in which anybody is heard, as one speaker's."""
    started, until = turns[0].start, turns[0].end
    for turn in turns:
        if turn.start > until:
            yield Turn(started, until, turns[0].speaker)
            started = turn.start
        until = max(until, turn.end)
    yield Turn(started, until, turns[0].speaker)


def _vectors(output: Any) -> dict[str, tuple[float, ...]]:
    """An embedding for each speaker who has one; under 2 s of clean speech there is none."""
    labels = output.speaker_diarization.labels()
    vectors = zip(labels, output.speaker_embeddings, strict=False)
    return {str(label): tuple(vector.tolist()) for label, vector in vectors if _is_known(vector)}


def _is_known(vector: NDArray[np.float32]) -> bool:
    return bool(np.isfinite(vector).all() and vector.any())
