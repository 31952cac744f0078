"""Tokens become words, and words lie where they are said, whatever the engine says of its times."""

import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from server import words
from server.types import SAMPLE_RATE, Heard, Segment, Token
from tests.speech import Pcm, silence
from tests.voices import Spoken, Voice, speak

SAID = "Good morning, Anna, how are you?"


def tokens(text: str) -> tuple[Token, ...]:
    """As Whisper cuts text: at spaces, and before punctuation."""
    return tuple(Token(piece.encode(), -0.1) for piece in re.findall(r" ?\w+| ?[^\w ]", " " + text))


def segment(text: str, start: float, end: float) -> Segment:
    return Segment(0, start, end, " " + text, logprobs=tokens(text))


def heard(*segments: Segment) -> Heard:
    return Heard("en", segments)


def placed(parts: Iterable[Spoken], pause: float = 0.6) -> tuple[Pcm, list[float]]:
    """Sentences one after the other, and the true starts and ends of their words."""
    sound, truth = silence(pause), []
    for spoken in parts:
        at = len(sound) / SAMPLE_RATE
        truth += [at + time for word in spoken.words for time in (word.start, word.end)]
        sound = np.concatenate([sound, spoken.pcm, silence(pause)])
    return sound, truth


def times(made: Heard) -> list[float]:
    return [time for part in made.segments for word in part.words for time in (word.start, word.end)]


@pytest.mark.parametrize(
    ("voice", "texts"),
    [
        (Voice("en-us", 150), (SAID, "The train to Paris leaves at seven.")),
        (Voice("de", 165), ("Der Zug nach Rom fährt um neun Uhr ab.", "Vielen Dank, Maria.")),
        (Voice("es", 140), ("El tren a Madrid sale a las seis.", "Peter vive en París.")),
        (Voice("en-us+f3", 175), ("My favorite color is green.", SAID)),
    ],
    ids=lambda value: value.name if isinstance(value, Voice) else "",
)
@pytest.mark.parametrize("loose", [0.0, 0.15])
def test_words_lie_where_they_are_said(voice: Voice, texts: tuple[str, ...], loose: float) -> None:
    """Also where the engine's segments are off by 150 ms."""
    spoken = [speak(text, voice) for text in texts]
    pcm, truth = placed(spoken)
    noise = np.random.default_rng(1).normal(0, 0.002, len(pcm)).astype(np.float32)
    first = 2 * len(spoken[0].words)
    told = heard(
        segment(texts[0], truth[0] - loose, truth[first - 1] + loose),
        segment(texts[1], truth[first] + loose, truth[-1] + loose),
    )
    found = times(words.timed(told, pcm + noise, words=True))
    assert found == sorted(found)
    wrong = np.abs(np.subtract(found, truth))
    assert np.median(wrong) < 0.06
    assert np.percentile(wrong, 95) < 0.25


def test_words_in_loud_noise_lie_where_they_are_said() -> None:
    """Noise with most of its energy below the speech, where energy alone tells nothing."""
    spoken = [speak(text, Voice("en-us", 150)) for text in (SAID, "The train to Paris leaves at seven.")]
    pcm, truth = placed(spoken)
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(len(pcm)))
    hertz = np.arange(len(spectrum)) * SAMPLE_RATE / len(pcm)
    noise = np.fft.irfft(spectrum / np.maximum(50, hertz), len(pcm))
    loud = pcm[np.abs(pcm) > 0.01].std() * 10 ** (-10 / 20)
    first = 2 * len(spoken[0].words)
    told = heard(
        segment(SAID, truth[0] - 0.15, truth[first - 1] + 0.15),
        segment("The train to Paris leaves at seven.", truth[first] - 0.15, truth[-1] + 0.15),
    )
    noisy = pcm + (noise / noise.std() * loud).astype(np.float32)
    wrong = np.abs(np.subtract(times(words.timed(told, noisy, words=True)), truth))
    assert np.median(wrong) < 0.06
    assert np.percentile(wrong, 95) < 0.25


def test_no_word_is_empty_and_none_reaches_into_a_pause() -> None:
    """Words before a pause used to end after it, first words had no length."""
    spoken = speak("Good morning.")
    pcm = np.concatenate([silence(0.5), spoken.pcm, silence(1.5), speak("How are you?").pcm, silence(0.5)])
    begin, end = 0.5 + spoken.words[-1].end, 0.5 + len(spoken.pcm) / SAMPLE_RATE + 1.5
    (made,) = words.timed(heard(segment("Good morning. How are you?", 0, 6)), pcm, words=True).segments
    assert all(word.end - word.start >= 0.03 for word in made.words)
    assert made.words[1].end == pytest.approx(begin, abs=0.1)
    assert made.words[2].start == pytest.approx(end, abs=0.1)


def test_a_hiss_lies_in_the_word_that_has_one() -> None:
    """Words of few letters that last long are placed by their hisses; by their letters they are 0.2 s off."""
    text = "My number is five nine two six two four."
    spoken = speak(text, Voice("en-us", 160))
    pcm, truth = placed([spoken])
    found = times(words.timed(heard(segment(text, truth[0], truth[-1])), pcm, words=True))
    assert np.abs(np.subtract(found, truth)).max() < 0.1


def test_what_attention_tells_is_heeded() -> None:
    """In sound without any mark of its own, words lie where the engine aligned them."""
    hum = 0.1 * np.sin(2 * np.pi * 220 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE).astype(np.float32)
    aligned = tuple(
        replace(token, start=start)
        for token, start in zip(tokens("one two three"), (0, 0.4, 2.0), strict=True)
    )
    (made,) = words.timed(heard(Segment(0, 0, 3, " one two three", logprobs=aligned)), hum, True).segments
    assert [word.start for word in made.words] == pytest.approx([0, 0.4, 2.0], abs=0.15)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", ["Hello,", "world!"]),
        ("vas-tu ?", ["vas-tu ?"]),
        ("« Bonjour », dit-il.", ["« Bonjour »,", "dit-il."]),
        ('He said "yes" twice.', ["He", "said", '"yes"', "twice."]),
        ("¿Cómo estás?", ["¿Cómo", "estás?"]),
        ("don't (really)", ["don't", "(really)"]),
        ("天气很好。", ["天", "气", "很", "好。"]),
        ("我 love 你", ["我", "love", "你"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
    ],
)
def test_tokens_become_words_with_their_punctuation(text: str, expected: list[str]) -> None:
    pieces = [" " + text] if not text.isascii() else None
    made = (
        tokens(text)
        if pieces is None
        else tuple(Token(part.encode(), -0.1) for part in re.findall(r"\s?[^\s]", " " + text))
    )
    assert [unit.text for unit in words.joined(made)] == expected


def test_a_character_cut_between_tokens_is_whole() -> None:
    data = " 你好".encode()
    cut = tuple(Token(part, -0.1) for part in (data[:2], data[2:5], data[5:]))
    assert [unit.text for unit in words.joined(cut)] == ["你好"]
    (unit,) = words.joined((Token(b" \xe4\xbd", -0.5),))
    assert unit.text == "\ufffd"


def test_segments_without_words_are_brought_to_the_speech_too() -> None:
    spoken = speak(SAID)
    pcm = np.concatenate([silence(0.5), spoken.pcm, silence(0.5)])
    (made,) = words.timed(
        heard(segment(SAID, 0.35, 0.6 + len(spoken.pcm) / SAMPLE_RATE)), pcm, False
    ).segments
    assert made.words == ()
    assert made.start == pytest.approx(0.5 + spoken.words[0].start, abs=0.05)
    assert made.end == pytest.approx(0.5 + spoken.words[-1].end, abs=0.05)


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.03, 1.0])
def test_sound_too_short_for_its_words_still_gives_each_its_place(seconds: float) -> None:
    told = heard(segment("many words in no time at all", 0, seconds), segment("and more", seconds, seconds))
    found = times(words.timed(told, silence(seconds), words=True))
    assert len(found) == 2 * 9
    assert found == sorted(found)


def test_nothing_heard_has_no_times() -> None:
    assert words.timed(heard(), silence(3), words=True).segments == ()


def test_random_words_on_random_sound_stay_in_order() -> None:
    random = np.random.default_rng(3)
    for _ in range(60):
        pcm = random.normal(0, random.uniform(0, 0.5), random.integers(1, 6 * SAMPLE_RATE)).astype(np.float32)
        at = np.sort(random.uniform(-0.5, len(pcm) / SAMPLE_RATE + 0.5, 6)).tolist()
        told = heard(*(segment(SAID, *at[i : i + 2]) for i in (0, 2, 4)))
        found = times(words.timed(told, pcm, words=True))
        assert found == sorted(found)
