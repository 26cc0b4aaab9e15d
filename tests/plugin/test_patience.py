"""What is tried again, how long is waited, and how failures are told; with the real client's own errors."""

import socket
import threading
from collections.abc import Iterator

import pytest
from huggingface_hub import HfApi

from tests.plugin.hub_server import Hub, serve
from tests.plugin.hub_store import Repository
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.patience import HTTPError, explained, patiently, reason, was_turned_away


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that would have been waited."""
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as server:
        server.repositories["a/b"] = Repository()
        server.repositories["a/b"].put({"config.json": b"{}"})
        yield server


def ask(hub: Hub) -> str:
    return str(HfApi(endpoint=hub.address, token=False).model_info("a/b").id)


@pytest.mark.parametrize("how", [408, 429, 500, 502, 503, 504, "drop", "lose"])
def test_what_may_pass_is_tried_again(hub: Hub, waits: list[float], how: int | str) -> None:
    hub.fail("GET /api", how, times=2)
    assert patiently(lambda: ask(hub)) == "a/b"
    assert waits == [1, 2]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412])
def test_what_will_not_pass_is_not(hub: Hub, waits: list[float], status: int) -> None:
    hub.fail("GET /api", status)
    with pytest.raises(HTTPError):
        patiently(lambda: ask(hub))
    assert waits == []
    assert len(hub.requests) == 1


def test_it_is_given_up_after_five_attempts(hub: Hub, waits: list[float]) -> None:
    hub.fail("GET /api", 503, times=99)
    with pytest.raises(HTTPError):
        patiently(lambda: ask(hub))
    assert waits == [1, 2, 4, 8]
    assert hub.asked("GET") == [503] * 5


@pytest.mark.parametrize(("asked", "waited"), [("7", 7), ("9999", 60), ("0", 0), ("Wed, 21 Oct 2026 07:28:00 GMT", 1)])
def test_the_hub_says_how_long_to_wait_up_to_a_minute(hub: Hub, waits: list[float], asked: str, waited: float) -> None:
    hub.fail("GET /api", 429, Retry_After=asked)
    patiently(lambda: ask(hub))
    assert waits == [waited]


@pytest.mark.parametrize(("how", "again"), [(429, True), (503, False), ("lose", False)])
def test_what_must_not_happen_twice_is_tried_again_only_if_it_was_turned_away(
    hub: Hub, waits: list[float], how: int | str, again: bool
) -> None:
    hub.fail("GET /api", how)
    if again:
        assert patiently(lambda: ask(hub), was_turned_away) == "a/b"
    else:
        with pytest.raises(HTTPError):
            patiently(lambda: ask(hub), was_turned_away)
    assert len(waits) == again


@pytest.mark.parametrize(
    ("how", "part"),
    [
        (401, "log in with `hf auth login`, or set HF_TOKEN"),
        (403, "answered 403 (told to fail); use a token that may write"),
        (412, "the repository has changed meanwhile"),
        (418, "answered 418 (told to fail); run this again later"),
        ("drop", "the Hub did not answer (Server disconnected without sending a response"),
    ],
)
def test_a_failure_is_told_in_a_sentence_with_what_to_do(hub: Hub, how: int | str, part: str) -> None:
    hub.fail("GET /api", how)
    with pytest.raises(UnlearnError, match=r"^Reading failed: the Hub .*[^.]\.$") as caught, explained("Reading"):
        ask(hub)
    assert part in str(caught.value)


def test_a_hub_that_is_not_there_is_a_failure_like_others(waits: list[float]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UnlearnError, match="did not answer .*check the connection"), explained("Reading"):
            patiently(lambda: HfApi(endpoint=address, token=False).model_info("a/b"))
    assert len(waits) == 4


def test_a_name_no_repository_can_have_is_told_without_asking_the_hub(hub: Hub) -> None:
    with pytest.raises(UnlearnError, match=r"^Reading failed: Repo id must use alphanumeric"), explained("Reading"):
        HfApi(endpoint=hub.address, token=False).model_info("a/b c")
    assert hub.requests == []


def test_what_happened_in_a_thread_of_the_client_is_found_below_its_wrapping(hub: Hub) -> None:
    hub.fail("GET /api", 403)
    caught: list[BaseException] = []

    def work() -> None:
        try:
            try:
                ask(hub)
            except HTTPError as error:
                raise RuntimeError("Error while uploading 'model.safetensors' to the Hub.") from error
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert reason(caught[0]).startswith("the Hub answered 403 (told to fail)")


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(KeyError), explained("Reading"):
        raise KeyError("a bug")
