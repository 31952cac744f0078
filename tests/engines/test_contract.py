"""Every engine, whatever files there are, on the real demo model: what a window must come back as."""

import pkgutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from server import convert, engines, words
from server.engines import Asked, Stopped, Transcriber
from server.errors import ModelBroken
from server.types import Decode, Loading
from tests import tinydiarize
from tests.speech import SENTENCES, say, silence, talk
from tests.voices import speak

DEMO = Path(__file__).parent.parent.parent / "models" / "ggml-demo.bin"

ENGINES = tuple(
    module.name
    for module in pkgutil.iter_modules(engines.__path__)
    if hasattr(import_module(f"server.engines.{module.name}"), "Engine")
)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    module = import_module(f"server.engines.{request.param}")
    model = DEMO
    if module.READS == "ctranslate2":
        model = tmp_path_factory.mktemp("converted") / "demo"
        convert.convert(DEMO, model, "int8")
    made: Transcriber = module.Engine(model, Loading(engine=request.param, path=model, threads=2))
    return made


def never() -> bool:
    return False


def text(engine: Transcriber, sentence: str, decode: Decode, voice: str = "en-us") -> str:
    heard = engine.transcribe(say(sentence, voice), decode, never)
    return "".join(segment.text for segment in heard.segments).strip()


@pytest.mark.parametrize("sentence", SENTENCES)
def test_true_words(engine: Transcriber, sentence: str) -> None:
    assert text(engine, sentence, Decode(language="en")) == sentence


@pytest.mark.parametrize("sentence", SENTENCES[:4])
def test_true_words_in_a_short_context(engine: Transcriber, sentence: str) -> None:
    assert text(engine, sentence, Decode(language="en", short_context=True)) == sentence


@pytest.mark.parametrize("sentence", SENTENCES[:3])
def test_what_is_in_doubt_in_a_short_context_is_heard_in_full(
    engine: Transcriber, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The context is cut within the words, which ruins them, and every time is thought to lie beyond them."""
    monkeypatch.setattr(engines, "_MARGIN", -1.4)
    monkeypatch.setattr(import_module(type(engine).__module__), "LATE", -100.0)
    decode = Decode(language="en", short_context=True)
    assert text(engine, sentence, decode) == sentence


@pytest.mark.parametrize(
    ("sentence", "voice", "language", "english"),
    [
        ("Das Wetter ist heute warm.", "de", "de", "The weather is warm today."),
        ("Peter habite à Londres.", "fr-fr", "fr", "Peter lives in London."),
        ("Mi color favorito es el verde.", "es", "es", "My favorite color is green."),
    ],
)
def test_languages_are_detected_written_and_translated(
    engine: Transcriber, sentence: str, voice: str, language: str, english: str
) -> None:
    heard = engine.transcribe(say(sentence, voice), Decode(), never)
    assert (heard.language, heard.segments[0].text.strip()) == (language, sentence)
    assert text(engine, sentence, Decode(task="translate", language=language), voice) == english


@pytest.mark.parametrize("short", [False, True])
def test_the_language_alone_with_its_probability(engine: Transcriber, short: bool) -> None:
    only = Decode(only_language=True, short_context=short)
    # Each after a much shorter window: nothing of that one's context may be left.
    for sentence, voice, language in (
        ("Das Wetter ist heute warm.", "de", "de"),
        (SENTENCES[2], "en-us", "en"),
    ):
        engine.transcribe(say("Yes."), Decode(language="en", short_context=True), never)
        heard = engine.transcribe(np.concatenate([silence(1), say(sentence, voice)]), only, never)
        assert (heard.language, heard.segments) == (language, ())
        assert heard.languages[language] > 0.9
        assert sum(heard.languages.values()) == pytest.approx(1, abs=1e-3)
    assert "en" in heard.languages
    assert "fr" in heard.languages


def test_probabilities_come_with_a_detected_language_only(engine: Transcriber) -> None:
    assert engine.transcribe(say(SENTENCES[2]), Decode(), never).languages["en"] > 0.9
    assert engine.transcribe(say(SENTENCES[2]), Decode(language="en"), never).languages == {}


def test_times_lie_where_the_speech_is(engine: Transcriber) -> None:
    speech = say(SENTENCES[0])
    other = say(SENTENCES[1])
    pcm = np.concatenate([silence(0.2), speech, silence(0.8), other, silence(0.2)])
    first, second = engine.transcribe(pcm, Decode(language="en"), never).segments
    assert first.start == pytest.approx(0.2, abs=0.3)
    assert first.end == pytest.approx(0.2 + len(speech) / 16000, abs=0.4)
    assert second.start == pytest.approx(1.0 + len(speech) / 16000, abs=0.4)
    assert second.end == pytest.approx((len(pcm) - 3200) / 16000, abs=0.4)


@pytest.mark.parametrize("sentence", [*SENTENCES[:2], *SENTENCES[3:5]])
def test_words_lie_where_they_are_said(engine: Transcriber, sentence: str) -> None:
    spoken = speak(sentence)
    pcm = np.concatenate([silence(0.4), spoken.pcm, silence(0.4)])
    heard = engine.transcribe(pcm, Decode(language="en", words=True, logprobs=True), never)
    (segment,) = words.timed(heard, pcm, words=True).segments
    assert [word.text for word in segment.words] == sentence.split()
    times = [time for word in segment.words for time in (word.start, word.end)]
    truth = [0.4 + time for word in spoken.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times == pytest.approx(truth, abs=0.3)
    assert np.median(np.abs(np.subtract(times, truth))) < 0.06
    assert (segment.start, segment.end) == (times[0], times[-1])
    assert all(0 < (word.probability or 0) <= 1 for word in segment.words)


def test_words_that_nobody_looks_up_need_not_be_aligned(engine: Transcriber) -> None:
    """Where times are not seen: the same words, about where they are said."""
    spoken = speak(SENTENCES[0])
    pcm = np.concatenate([silence(0.4), spoken.pcm, silence(0.4)])
    heard = engine.transcribe(pcm, Decode(language="en", words=True, aligned=False), never)
    (segment,) = words.timed(heard, pcm, words=True).segments
    assert [word.text for word in segment.words] == SENTENCES[0].split()
    truth = [0.4 + time for word in spoken.words for time in (word.start, word.end)]
    times = [time for word in segment.words for time in (word.start, word.end)]
    assert times == pytest.approx(truth, abs=0.3)
    assert all(0 < (word.probability or 0) <= 1 for word in segment.words)


def test_tokens_have_probabilities_and_join_to_the_text(engine: Transcriber) -> None:
    decode = Decode(language="de", logprobs=True)
    (segment,) = engine.transcribe(say("Das Wetter ist heute schön.", "de"), decode, never).segments
    assert b"".join(token.text for token in segment.logprobs).decode() == segment.text
    assert len(segment.logprobs) == len(segment.tokens)
    scores = [token.logprob for token in segment.logprobs]
    assert all(score <= 0 for score in scores)
    assert len(set(scores)) > len(scores) // 2
    assert np.mean(scores) == pytest.approx(segment.avg_logprob, abs=1e-5)


def test_probabilities_are_not_told_when_nobody_asked(engine: Transcriber) -> None:
    (segment,) = engine.transcribe(say(SENTENCES[1]), Decode(language="en"), never).segments
    assert segment.logprobs == ()


def test_scores_tell_speech_from_noise(engine: Transcriber) -> None:
    (clear,) = engine.transcribe(say(SENTENCES[0]), Decode(language="en"), never).segments
    noise = np.random.default_rng(1).normal(0, 0.12, len(say(SENTENCES[0]))).astype(np.float32)
    noisy = engine.transcribe(say(SENTENCES[0]) + noise, Decode(language="en"), never).segments
    assert clear.avg_logprob is not None
    assert -0.2 < clear.avg_logprob < 0
    assert all((segment.avg_logprob or -9) < clear.avg_logprob for segment in noisy)
    assert clear.tokens
    assert 0.3 < (clear.compression_ratio or 0) < 2.4


def test_silence_is_empty(engine: Transcriber) -> None:
    assert engine.transcribe(silence(5), Decode(language="en"), never).segments == ()


def test_a_prompt_is_taken_and_not_repeated(engine: Transcriber) -> None:
    assert text(engine, SENTENCES[1], Decode(language="en", prompt="Good morning, Größe.")) == SENTENCES[1]


def test_one_window_leaves_nothing_for_the_next(engine: Transcriber) -> None:
    first = text(engine, SENTENCES[2], Decode(language="en"))
    text(engine, "Das Wetter ist heute warm.", Decode(task="translate", prompt="x"), "de")
    assert text(engine, SENTENCES[2], Decode(language="en")) == first


def test_a_temperature_samples(engine: Transcriber) -> None:
    noise = np.random.default_rng(1).normal(0, 0.15, len(say(SENTENCES[5]))).astype(np.float32)
    pcm = say(SENTENCES[5]) + noise
    heard = {
        "".join(s.text for s in engine.transcribe(pcm, Decode(language="en", temperature=t), never).segments)
        for t in (0.0, 0.5, 1.0, 1.0, 1.0)
    }
    assert len(heard) > 1


def test_it_stops_when_told_to(engine: Transcriber) -> None:
    asked = []

    def stop() -> bool:
        asked.append(1)
        return True

    with pytest.raises(Stopped):
        engine.transcribe(say(SENTENCES[0]), Decode(language="en"), stop)
    assert asked
    assert text(engine, SENTENCES[0], Decode(language="en")) == SENTENCES[0]


def test_it_says_what_it_is(engine: Transcriber) -> None:
    assert len(engine.describe()) > 10


@pytest.mark.parametrize("name", ENGINES)
def test_a_file_that_is_no_model_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "ggml-x.bin"
    file.write_bytes(b"this is not a model" * 100)
    with pytest.raises(ModelBroken):
        import_module(f"server.engines.{name}").Engine(file, Loading())


def test_windows_together_are_heard_as_they_are_alone(engine: Transcriber) -> None:
    german = say("Das Wetter ist heute warm.", "de")
    asked = [
        *(
            Asked(say(sentence), Decode(language="en", short_context=True), never)
            for sentence in SENTENCES[:4]
        ),
        Asked(german, Decode(), never),
        Asked(say(SENTENCES[4]), Decode(language="en", prompt="Good morning, Größe."), never),
        Asked(german, Decode(task="translate", language="de"), never),
        Asked(say(SENTENCES[5]), Decode(), lambda: True),
        Asked(say(SENTENCES[6]), Decode(only_language=True), never),
        Asked(silence(3), Decode(language="en"), never),
    ]
    heard = engine.together(asked)
    assert heard[7] is None
    said = ["".join(segment.text for segment in one.segments).strip() if one else None for one in heard]
    assert said[:4] == list(SENTENCES[:4])
    assert said[4:] == [
        "Das Wetter ist heute warm.",
        SENTENCES[4],
        "The weather is warm today.",
        None,
        "",
        "",
    ]
    assert [one.language for one in heard if one] == [*["en"] * 4, "de", "en", "de", "en", "en"]


def test_nobody_waits_for_a_window_that_is_stopped_on_the_way(engine: Transcriber) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    decode = Decode(language="en")
    stopped, heard = engine.together(
        [Asked(silence(29), decode, stop), Asked(say(SENTENCES[0]), decode, never)]
    )
    assert stopped is None
    assert heard
    assert heard.segments[0].text.strip() == SENTENCES[0]


def test_a_loop_is_told_by_its_repetition_and_tried_again_hotter(engine: Transcriber) -> None:
    """What is no speech makes the model repeat itself, or say what it does not believe."""
    rng = np.random.default_rng(3)
    buzz = (np.sign(np.sin(np.arange(16000 * 8) / 7)) * rng.uniform(0, 0.5, 16000 * 8)).astype(np.float32)
    for segment in engine.transcribe(buzz, Decode(language="en"), never).segments:
        assert (segment.compression_ratio or 0) <= 2.4


@pytest.mark.parametrize("name", ENGINES)
def test_turns_of_speakers_are_told_by_engines_that_hear_them(name: str, tmp_path: Path) -> None:
    """ "." is written as a turn by the model of this test, if it is asked for turns, and "?" is not."""
    module = import_module(f"server.engines.{name}")
    model = tinydiarize.write(tmp_path / "ggml-demo-tdrz.bin")
    if module.READS == "ctranslate2":
        convert.convert(model, tmp_path / "converted", "int8")
        model = tmp_path / "converted"
    engine: Transcriber = module.Engine(model, Loading(engine=name, path=model, threads=2))
    pcm = talk(["Peter lives in London.", "Where is the house?", "Turn on the light in the kitchen."])
    decode = Decode(language="en", words=True, turns=True)
    heard = words.timed(engine.transcribe(pcm, decode, never), pcm, words=True)
    told = [(word.text, word.ends_turn) for segment in heard.segments for word in segment.words]
    ends = [text for text, ends_turn in told if ends_turn]
    assert ends == (["London", "kitchen"] if engine.hears_turns else [])
    assert len(told) == 15
    bare = engine.transcribe(pcm, replace(decode, turns=False), never)
    assert not any(token.ends_turn for segment in bare.segments for token in segment.logprobs)
    assert "".join(segment.text for segment in bare.segments).strip().endswith("kitchen.")
