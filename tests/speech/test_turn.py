"""Spoken turns and answers. However a turn is heard in pieces, answered early, cut or dropped, its tokens and logits are
those of a recording that is heard as a whole, to the bit. The model has random weights, or its answers are written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import edge_gemma as eg
from edge_gemma.engine.sampling import GREEDY, Sampling
from edge_gemma.errors import Cancelled
from edge_gemma.speech.answer import Answer
from edge_gemma.speech.request import SpeechRequest
from edge_gemma.speech.turn import Turn, TurnTiming
from support.listening import base_and_closing, sound
from support.scripted import ScriptedModel

SPEECH = sound((0.3, 1.4), (1.8, 2.9), seconds=3.2)
Said = tuple[list[int], np.ndarray, str]


def request(model: Any, limit: int = 30, sampling: Sampling = GREEDY) -> SpeechRequest:
    """What a turn is asked."""
    base, closing = base_and_closing(model)
    return SpeechRequest(base, closing, lambda seconds: limit, sampling)


def offline(model: eg.Model, samples: np.ndarray, max_tokens: int) -> Said:
    """What a session says about a recording that is heard as a whole: tokens, logits after them, and text."""
    base, after = base_and_closing(model)
    with base, base.fork() as session:
        session.feed_audio(samples)
        session.feed_tokens(after)
        start = session.position
        text = "".join(session.generate(max_tokens=max_tokens, temperature=0, special=True))
        return session.tokens[start:], session.logits(), text


def same(answer: Answer, expected: Sequence[Any]) -> bool:
    """Whether tokens and logits are those, to the bit."""
    return answer.ids == expected[0] and np.array_equal(answer.session.logits(), expected[1])


@pytest.fixture(scope="module")
def expected(model: eg.Model) -> Said:
    return offline(model, SPEECH, 30)


def spoken_turn(model: eg.Model, samples: np.ndarray, block: int = 700, sampling: Sampling = GREEDY) -> Turn:
    turn = Turn(request(model, sampling=sampling))
    for at in range(0, len(samples), block):
        turn.push(samples[at : at + block])
    return turn


def answered(answer: Answer) -> Answer:
    answer.finish()
    return answer


def test_an_answer_is_that_to_the_whole_recording(model: eg.Model, expected: Said) -> None:
    turn = spoken_turn(model, SPEECH)
    answer = answered(turn.finish())
    assert same(answer, expected) and answer.stop == "length" and len(answer.ids) == 30
    assert answer.text.strip() == eg.parse_reply(expected[2]).content
    assert turn.kept == turn.heard == len(SPEECH)


def test_a_pause_that_was_the_end_begins_the_answer(model: eg.Model, expected: Said) -> None:
    turn = spoken_turn(model, SPEECH)
    early = turn.pause()
    for _ in range(5):
        assert early.step()
    found = list(early.ids)
    turn.push(sound(seconds=0.5, seed=1))  # the silence that follows is no part of the answer
    answer = turn.finish(len(SPEECH) + 200)
    assert answer is early and found == answer.ids == expected[0][: len(found)] and len(found) == 4
    assert same(answered(answer), expected) and turn.kept == len(SPEECH)


def test_a_pause_that_was_not_the_end_leaves_no_trace(model: eg.Model, expected: Said) -> None:
    at = len(SPEECH) // 2
    turn = spoken_turn(model, SPEECH[:at])
    for steps in (0, 1, 7):
        early = turn.pause()
        for _ in range(steps):
            early.step()
            turn.push(SPEECH[at : at + 300])
            at += 300
        turn.resume()
        assert early.session.closed and turn.early is None
    turn.push(SPEECH[at:])
    assert same(answered(turn.finish()), expected)


def test_a_turn_leaves_its_beginning_as_it_was(model: eg.Model) -> None:
    asked = request(model, 5)
    base = asked.session
    before, logits = base.tokens, base.logits()
    turn = Turn(asked)
    turn.push(SPEECH)
    turn.pause().finish()
    turn.close()
    turn.close()
    assert base.tokens == before and np.array_equal(base.logits(), logits)


def test_a_conversation_goes_on_where_the_answer_ends(model: eg.Model) -> None:
    turn = spoken_turn(model, SPEECH)
    turn.pause().finish()
    session = turn.finish().session
    base, after = base_and_closing(model)
    base.feed_audio(SPEECH)
    base.feed_tokens(after)
    list(base.generate(max_tokens=30, temperature=0))
    for other in (session, base):
        other.feed_text("<turn|>\n<|turn>user\nAnd then?<turn|>\n<|turn>model\n", special=True)
        with other.stream_audio() as audio:
            audio.push(SPEECH[:9000])
    assert session.tokens == base.tokens
    for other in (session, base):
        other.feed_tokens(after)
    assert np.array_equal(session.logits(), base.logits())


def test_drafts_make_it_quicker_and_no_other(model: eg.Model, expected: Said) -> None:
    ids = expected[0]
    turn = spoken_turn(model, SPEECH)
    text = answered(turn.guess()).text

    def steps(draft: Sequence[int]) -> int:
        answer, count = turn.guess(draft=draft), 0
        while answer.step():
            count += 1
        assert same(answer, expected) and answer.text == text, draft
        answer.close()
        return count

    alone = steps([])
    assert steps(ids) < alone / 4
    rng = np.random.default_rng(0)
    for wrong in (0, 1, 7, 8, 9, 29):
        draft = list(ids)
        draft[wrong] = (draft[wrong] + int(rng.integers(1, 400))) % 500
        assert steps(draft) <= alone + 2
        assert steps(ids[:wrong]) <= alone + 1
    assert steps([*ids, *ids]) < alone / 4  # one that is longer than the answer may be


def test_drafts_of_answers_that_are_drawn_are_left_alone(model: eg.Model, expected: Said) -> None:
    drawn = Sampling(temperature=1.5, seed=3)
    turn = spoken_turn(model, SPEECH, sampling=drawn)
    turn.suggest(expected[0])
    base, after = base_and_closing(model)
    base.feed_audio(SPEECH)
    base.feed_tokens(after)
    tokens = base.generate(max_tokens=30, sampling=drawn).tokens
    assert answered(turn.finish()).ids == [token.id for token in tokens if not token.stop] != expected[0]


def test_answers_that_repeat_themselves_end(tokenizer: Any) -> None:
    text = "I said: " + "thank you for watching. " * 50
    model = ScriptedModel(text, tokenizer=tokenizer)
    asked = request(model, 5000)
    turn = Turn(asked)
    turn.push(SPEECH)
    answer = answered(turn.finish())
    assert answer.stop == "loop" and 72 < len(answer.text) < 200
    for draft in (answer.ids, tokenizer.encode(text)):
        again = Answer(asked.session.fork(), asked.closing, 5000, sound=SPEECH, draft=draft)
        assert answered(again).ids == answer.ids


def test_trusted_tokens_are_not_checked(model: eg.Model, expected: Said) -> None:
    turn = spoken_turn(model, SPEECH)
    odd = [(expected[0][0] + 1) % 500, *expected[0][1:]]
    answer = answered(turn.guess(draft=odd, trusted=1))
    assert answer.ids[0] == odd[0] and len(answer.ids) == 30


# ---- turns that are cut -----------------------------------------------------------------------------------------


def test_a_cut_keeps_the_soft_tokens_before_it(model: eg.Model) -> None:
    """Of the last soft token it knows what follows within 30 ms, so the recording that is compared goes on a bit."""
    keep = 640 * 60
    turn = spoken_turn(model, SPEECH[: keep + 700])
    turn.pause()  # has heard too much by then
    turn.push(SPEECH[keep + 700 :])
    answer = answered(turn.finish(keep))
    base, after = base_and_closing(model)
    base.feed_audio(SPEECH[: keep + 1000])
    surplus = eg.audio_tokens(keep + 1000) - eg.audio_tokens(keep)
    assert surplus == 2
    end = base.tokens[-1]
    base.rewind(surplus + 1)
    base.feed_tokens([end, *after])
    start = base.position
    list(base.generate(max_tokens=30, temperature=0))
    assert same(answer, (base.tokens[start:], base.logits()))
    assert turn.kept == keep and not turn.early


def test_a_cut_beyond_the_memory_of_the_windows_is_heard_anew(model: eg.Model) -> None:
    samples = sound((0, 9), seconds=9)
    keep = 640 * 50
    turn = spoken_turn(model, samples)
    answer = answered(turn.finish(keep))
    assert same(answer, offline(model, samples[:keep], 30))


def test_another_answer_hears_the_same(model: eg.Model) -> None:
    turn = spoken_turn(model, SPEECH)
    keep = 640 * 60
    turn.finish(keep).close()
    assert same(answered(turn.again()), offline(model, SPEECH[:keep], 30))


# ---- answers that are written down ------------------------------------------------------------------------------


def scripted_answer(answer: Any, limit: int = 100, **options: Any) -> Answer:
    """The answer to a prompt of one token."""
    return Answer(ScriptedModel([answer], tokenizer=options.pop("tokenizer", None)).session(), [5], limit, **options)


@pytest.mark.parametrize("drafted", [0, 1, 2, 3])
def test_an_incomplete_character_at_the_end(tokenizer: eg.Tokenizer, drafted: int) -> None:
    """An answer that ends by itself shows that its last character is incomplete, as `Session.generate` does; one that is cut
    does not. A character may begin in the draft and end behind it."""
    said = [tokenizer.find(f"<0x{byte}>") for byte in ("C3", "A4", "C3")]
    for limit, text in ((10, "ä\ufffd"), (3, "ä"), (2, "ä"), (1, "")):
        answer = scripted_answer(said, limit, tokenizer=tokenizer, draft=said[:drafted])
        answer.finish()
        assert answer.text == text and answer.ids == said[:limit]


def test_an_answer_ends_where_it_should() -> None:
    for options, stop, text in (
        ({}, "turn", "One two.\nThree."),
        ({"limit": 3}, "length", "One"),
        ({"line": True}, "line", "One two.\nT"),
        ({"stop": ["two", "wo."]}, "stop", "One"),
        ({"stop": ["Three.!"]}, "turn", "One two.\nThree."),
    ):
        answer = scripted_answer("One two.\nThree.", **options)
        assert "".join(answer.pieces()) == answer.text == text and answer.stop == stop
        assert not answer.step()
    answer = scripted_answer("Yes.<eos>")
    answer.finish()
    assert answer.stop == "eos" and answer.text == "Yes."


def test_a_thought_is_no_part_of_what_was_said() -> None:
    for said in (
        "thought\nA bell.<channel|>Ding.",
        "A bell.<channel|>Ding.",
        "<|channel>thought\nA bell.<channel|>Ding.",
    ):
        answer = scripted_answer(said)
        answer.finish()
        assert answer.text == "Ding."
    assert "".join(scripted_answer("A bell.<channel|>Ding.").pieces()) == "A bell.\nDing."


def test_an_answer_may_begin_in_a_thought() -> None:
    model = ScriptedModel(["A bell.<channel|>Ding."])
    answer = Answer(model.session(), model.tokenizer.encode("<|channel>thought\n", special=True), 100)
    assert "".join(answer.pieces()) == answer.text == "Ding."


def test_pieces_never_show_the_beginning_of_a_stop_text() -> None:
    assert list(scripted_answer("Go, STOP", stop=["STOP"]).pieces()) == ["G", "o", ","]
    assert "".join(scripted_answer("Go, STO.", stop=["STOP"]).pieces()) == "Go, STO."


def test_the_seed_begins_the_random_sequence_once() -> None:
    for seed, expected in ((7, [7]), (None, [])):
        answer = scripted_answer("Some words.", sampling=Sampling(temperature=1.0, seed=seed))
        answer.finish()
        assert answer.session.seeds == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0, "seed": 3},
        {"temperature": 0.5, "seed": 5},
        {"temperature": 0, "repetition_penalty": 1.1},
        {"temperature": 0, "suppress": [7]},
    ],
)
def test_a_draft_is_used_with_any_sampling_and_changes_nothing(model: eg.Model, options: dict[str, Any]) -> None:
    """Its tokens are checked in one pass instead of being drawn one by one."""
    sampling, closing = Sampling(**options), model.tokenizer.encode("Some words", bos=True)

    def answer(draft: list[int]) -> Answer:
        made = Answer(model.session(256), closing, 12, sampling=sampling, draft=draft, measured=True)
        made.finish()
        return made

    plain = answer([])
    for draft in (plain.ids, plain.ids[:5], [*plain.ids[:4], 9, 9, 9], [9, *plain.ids]):
        other = answer(draft)
        assert (other.ids, other.text, other.stop) == (plain.ids, plain.text, plain.stop)
        assert other.logprobs == plain.logprobs
        assert other.session.tokens == plain.session.tokens
    scripted = ScriptedModel("Some words.")
    drafted = Answer(scripted.session(), [5], 100, sampling=sampling, draft=scripted.tokenizer.encode("Some words"))
    drafted.finish()
    assert drafted.text == "Some words." and scripted.checked == 10 and scripted.drawn == 2


def test_a_cancelled_session_ends_the_answer() -> None:
    answer = scripted_answer("Some words.")
    answer.step()
    answer.session.cancel()
    with pytest.raises(Cancelled):
        answer.finish()
    answer.close()
    answer.close()


# ---- times ------------------------------------------------------------------------------------------------------


def test_times_of_a_turn() -> None:
    """Each look at the clock takes a second."""
    seconds = iter(range(10, 100))
    model = ScriptedModel("Yes.")
    turn, timing = Turn(request(model)), TurnTiming(lambda: float(next(seconds)))
    turn.push(SPEECH)
    timing.pause(3.0)
    early = turn.pause()
    timing.step(early)
    assert timing.first is None  # nothing was drawn yet
    timing.step(early)
    assert timing.first == 10 and len(early.ids) == 1
    turn.resume()
    timing.resume()
    assert timing.first is None
    timing.pause(4.0)
    early = turn.pause()
    while not early.ids:
        timing.step(early)
    answer = timing.end(turn, turn.heard, 5.0)
    assert answer is early and (timing.spoken, timing.first, timing.decided, timing.ready) == (4, 11, 12, 1)
    assert timing.ready == len(answer.ids)
    latency = timing.latency(4)
    assert (latency.decision, latency.first_token, latency.last_token) == (8, 0, 1)
    assert (latency.speech_to_first_token, latency.speech_to_last_token) == (8, 9)
    assert (latency.tokens, latency.ready) == (4, 1)
    timing.restart()
    assert (timing.first, timing.ready) == (None, 0)


def test_times_of_a_turn_that_is_cut() -> None:
    """It ends without a pause, and later than it can be decided as far as its source knows."""
    turn, timing = Turn(request(ScriptedModel("Yes."))), TurnTiming(lambda: 10.0)
    turn.push(SPEECH)
    answer = timing.end(turn, 640 * 20, 11.0)
    assert (timing.spoken, timing.decided, timing.first, timing.ready) == (10, 10, None, 0)
    assert turn.kept == 640 * 20 and not answer.ids
