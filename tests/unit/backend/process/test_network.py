"""Decodes that wait share one pass of the network, and a bad one does not harm the others.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest
import torch

from backend.process.network import MOST, Network
from backend.process.supersede import SupersededError
from model.checkpoints.files import default_checkpoint, load
from model.errors import ImageError, PromptError
from model.network.embedding import Embedding
from model.network.prediction import Prediction
from model.network.prompts import Box, Click, Prompt, Scribble
from model.network.segnext import SegNext

SIZE = (64, 96)
PATIENCE = 20.0  # seconds; only a failing test waits so long


class StandIn:
    """A network that answers with the number in the prompt's words, once ``let`` is set."""

    def __init__(self) -> None:
        self.passes: list[list[str | None]] = []
        self.entered = threading.Semaphore(0)
        self.let = threading.Event()
        self.at_once = 0

    def decode_batch(
        self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]
    ) -> list[Prediction]:
        assert len(embeddings) == len(prompts)
        self.at_once += 1
        assert self.at_once == 1, "two passes at a time compete for the cores"
        self.passes.append([prompt.text for prompt in prompts])
        self.entered.release()
        assert self.let.wait(PATIENCE)
        self.at_once -= 1
        if any(prompt.text == "bad" for prompt in prompts):
            raise PromptError("The prompt is bad; give a better one.")
        return [answer(prompt.text) for prompt in prompts]


def answer(text: str | None) -> Prediction:
    value = float("nan" if text is None else text)
    return Prediction(torch.full((2, 2), value), (8, 8), (8, 8), 0.5)


def in_a_thread(decode: Callable[..., Prediction], *arguments: Any) -> Future[Prediction]:
    """Call in a thread that is not joined, so that a missing answer cannot block the test."""
    asked: Future[Prediction] = Future()

    def run() -> None:
        try:
            asked.set_result(decode(*arguments))
        except Exception as error:
            asked.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return asked


class Noticed(Network):
    """A ``Network`` that signals when it has received work."""

    def __init__(self) -> None:
        super().__init__()
        self.handed = threading.Semaphore(0)

    def _wake(self) -> None:
        super()._wake()
        self.handed.release()


class Crowd:
    """Threads that ask one ``Network``."""

    def __init__(self) -> None:
        self.network = Noticed()

    def ask(
        self, model: StandIn, text: str, stale: Callable[[], bool] = lambda: False
    ) -> Future[Prediction]:
        """Ask in a thread of its own; return when the question is in the queue."""
        asked = in_a_thread(self.network.decode, model, None, Prompt(text=text), stale)
        assert self.network.handed.acquire(timeout=PATIENCE)
        return asked


def value(asked: Future[Prediction]) -> float:
    return float(asked.result(timeout=PATIENCE).logits[0, 0])


def wait_for_pass(model: StandIn) -> None:
    assert model.entered.acquire(timeout=PATIENCE)


def test_those_that_wait_go_together_and_each_gets_its_own_answer() -> None:
    model = StandIn()
    people = Crowd()
    first = people.ask(model, "0")
    wait_for_pass(model)
    others = [people.ask(model, str(number)) for number in range(1, 6)]
    model.let.set()
    assert value(first) == 0
    assert [value(other) for other in others] == [1, 2, 3, 4, 5]
    assert [sorted(map(str, each)) for each in model.passes] == [["0"], ["1", "2", "3", "4", "5"]]


def test_one_pass_takes_only_so_many_and_leaves_nobody_behind() -> None:
    model = StandIn()
    people = Crowd()
    asked = [people.ask(model, "0")]
    wait_for_pass(model)
    asked += [people.ask(model, str(number)) for number in range(1, 2 * MOST + 2)]
    model.let.set()
    assert [value(each) for each in asked] == list(range(2 * MOST + 2))
    assert max(map(len, model.passes)) == MOST
    assert sum(map(len, model.passes)) == 2 * MOST + 2  # Nothing was decoded twice.
    assert people.network.waiting == 0


def test_two_models_never_share_a_pass() -> None:
    one, two = StandIn(), StandIn()
    two.let.set()
    people = Crowd()
    asked = [people.ask(one, "0")]
    wait_for_pass(one)
    asked += [people.ask((one, two)[number % 2], str(number)) for number in range(1, 7)]
    one.let.set()
    assert [value(each) for each in asked] == list(range(7))
    for model, parity in ((one, 0), (two, 1)):
        assert all(int(str(text)) % 2 == parity for each in model.passes for text in each)


def test_one_bad_prompt_fails_alone() -> None:
    model = StandIn()
    people = Crowd()
    first = people.ask(model, "0")
    wait_for_pass(model)
    good, bad, also_good = (people.ask(model, text) for text in ("1", "bad", "2"))
    model.let.set()
    assert [value(each) for each in (first, good, also_good)] == [0, 1, 2]
    with pytest.raises(PromptError, match="is bad"):
        bad.result(timeout=PATIENCE)
    assert value(people.ask(model, "3")) == 3  # The next is answered as usual.


def test_a_model_that_answers_too_few_does_not_end_the_thread() -> None:
    class Short(StandIn):
        def decode_batch(self, *given: Any) -> list[Prediction]:
            return super().decode_batch(*given)[1:]

    model, people = Short(), Crowd()
    model.let.set()
    with pytest.raises(ValueError, match="shorter"):
        people.ask(model, "0").result(timeout=PATIENCE)
    good = StandIn()
    good.let.set()
    assert value(people.ask(good, "1")) == 1


def test_what_nobody_waits_for_any_more_is_not_decoded() -> None:
    model = StandIn()
    gone = threading.Event()
    people = Crowd()
    first = people.ask(model, "0", gone.is_set)
    wait_for_pass(model)
    old, older = people.ask(model, "1", gone.is_set), people.ask(model, "2", gone.is_set)
    new = people.ask(model, "3")
    gone.set()  # They still wait.
    model.let.set()
    assert value(first) == 0  # It was being decoded already.
    assert value(new) == 3
    for each in (old, older):
        with pytest.raises(SupersededError, match="newer click"):
            each.result(timeout=PATIENCE)
    assert model.passes == [["0"], ["3"]]


def test_where_all_are_stale_the_network_rests() -> None:
    model = StandIn()
    model.let.set()
    with pytest.raises(SupersededError):
        Network().decode(
            cast(SegNext, model), cast(Embedding, None), Prompt(text="1"), lambda: True
        )
    assert model.passes == []


def test_many_threads_at_random_all_get_their_own_answer() -> None:
    model = StandIn()
    model.let.set()
    decoding = Network()

    def ask(number: int) -> Prediction:
        time.sleep(number % 7 / 1000)
        return decoding.decode(
            cast(SegNext, model), cast(Embedding, None), Prompt(text=str(number))
        )

    asked = [in_a_thread(ask, number) for number in range(200)]
    assert [value(each) for each in asked] == list(range(200))
    assert sum(map(len, model.passes)) == 200


def test_the_shipped_network_says_the_same_to_one_and_to_many() -> None:
    model = load(default_checkpoint())
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (*SIZE, 3), np.uint8)
    image[20:45, 30:70] = 220
    tall = np.ascontiguousarray(image.transpose(1, 0, 2))
    wide_embedding, tall_embedding = model.encode(image), model.encode(tall)
    questions = [
        (wide_embedding, Prompt(clicks=(Click(32, 50),))),
        (wide_embedding, Prompt(boxes=(Box(18, 28, 47, 72),))),
        (tall_embedding, Prompt(clicks=(Click(50, 32), Click(5, 5, positive=False)))),
        (wide_embedding, Prompt(scribbles=(Scribble(((30, 40), (32, 60)), 4.0),))),
    ]
    held, network = Held(model), Network()
    first = in_a_thread(network.decode, held, *questions[0])
    assert held.entered.wait(PATIENCE)
    asked = [in_a_thread(network.decode, held, *question) for question in questions]
    until = time.monotonic() + PATIENCE
    while network.waiting < len(questions) and time.monotonic() < until:
        time.sleep(0.005)
    held.let.set()
    together = [each.result(timeout=60) for each in (first, *asked)]
    assert held.sizes == [1, len(questions)]
    for found, question in zip(together, [questions[0], *questions], strict=True):
        alone = model.decode(*question)
        assert found.image_size == alone.image_size
        np.testing.assert_allclose(found.probability, alone.probability, atol=1e-4)
        assert alone.mask().any()


class Held:
    """A real network whose first pass waits until ``let`` is set."""

    def __init__(self, model: SegNext) -> None:
        self.model, self.sizes = model, list[int]()
        self.entered, self.let = threading.Event(), threading.Event()

    def decode_batch(
        self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]
    ) -> list[Prediction]:
        self.sizes.append(len(prompts))
        self.entered.set()
        assert self.let.wait(PATIENCE)
        return self.model.decode_batch(embeddings, prompts)


def test_an_image_is_encoded_when_no_prompt_waits() -> None:
    order: list[str] = []

    class Small(StandIn):
        def decode_batch(self, *given: Any) -> list[Prediction]:
            found = super().decode_batch(*given)
            order.append("decode")
            return found

        def encode(self, pixels: Any) -> str:
            order.append("encode")
            return "embedding"

    model, people = Small(), Crowd()
    first = people.ask(model, "0")
    wait_for_pass(model)
    encoded = in_a_thread(people.network.encode, model, None)
    assert people.network.handed.acquire(timeout=PATIENCE)
    second = people.ask(model, "1")
    model.let.set()
    assert [value(first), value(second)] == [0, 1]
    assert encoded.result(timeout=PATIENCE) == "embedding"  # type: ignore[comparison-overlap]
    assert order == ["decode", "decode", "encode"]


def test_what_cannot_be_encoded_fails_alone_and_the_thread_goes_on() -> None:
    model, network = load(default_checkpoint()), Network()
    with pytest.raises(ImageError):
        network.encode(model, np.zeros((0, 0, 3), np.uint8))
    assert network.encode(model, np.zeros((*SIZE, 3), np.uint8)).image_size == SIZE


def test_what_waits_when_it_is_closed_is_still_answered_and_nothing_after() -> None:
    model, people = StandIn(), Crowd()
    asked = [people.ask(model, str(number)) for number in range(3)]
    closing = threading.Thread(target=people.network.close, daemon=True)
    closing.start()
    model.let.set()
    assert [value(each) for each in asked] == [0, 1, 2]
    closing.join(PATIENCE)
    assert not closing.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        people.network.decode(cast(Any, model), cast(Any, None), Prompt(text="3"))


def test_one_that_was_never_used_closes_at_once() -> None:
    Network().close()
