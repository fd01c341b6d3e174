"""The cache of soft tokens: a picture is encoded once for a model and a budget, within a limit of bytes."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest

from edge_gemma.vision.cache import SoftTokenCache, picture_key


class Owner:
    """Stands for a model."""


def rows(value: float, count: int = 4) -> np.ndarray:
    return np.full((count, 8), value, np.float32)


def test_pictures_are_told_by_their_pixels_and_size() -> None:
    wide = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert picture_key(wide) == picture_key(np.asfortranarray(wide)) == picture_key(wide.copy())
    assert picture_key(wide) != picture_key(wide.reshape(4, 2, 3))
    other = wide.copy()
    other[1, 3, 2] += 1
    assert picture_key(wide) != picture_key(other)


def test_a_picture_is_encoded_once() -> None:
    cache, model, calls = SoftTokenCache(), Owner(), []

    def encode() -> np.ndarray:
        calls.append(1)
        return rows(len(calls))

    first = cache.get(model, b"a", 70, encode)
    assert cache.get(model, b"a", 70, encode) is first and len(calls) == 1
    assert not first.flags.writeable
    assert cache.has(model, b"a", 70) and not cache.has(model, b"a", 140)
    assert cache.get(model, b"a", 140, encode)[0, 0] == 2
    assert cache.get(model, b"b", 70, encode)[0, 0] == 3
    assert cache.get(Owner(), b"a", 70, encode)[0, 0] == 4
    cache.clear()
    assert cache.size == 0 and cache.get(model, b"a", 70, encode)[0, 0] == 5


def test_the_limit_holds_and_the_oldest_goes() -> None:
    cache, model = SoftTokenCache(limit=3 * rows(0).nbytes), Owner()
    for number in range(3):
        cache.get(model, bytes([number]), 70, lambda: rows(0))
    cache.get(model, bytes([0]), 70, lambda: pytest.fail("it is there"))
    cache.get(model, bytes([3]), 70, lambda: rows(0))
    assert [cache.has(model, bytes([number]), 70) for number in range(4)] == [True, False, True, True]
    assert cache.size == cache.limit
    large = cache.get(model, b"large", 70, lambda: rows(7, 100))
    assert large[0, 0] == 7 and not cache.has(model, b"large", 70) and cache.size == cache.limit


def test_entries_go_with_their_model() -> None:
    cache, model, other = SoftTokenCache(), Owner(), Owner()
    cache.get(model, b"a", 70, lambda: rows(1))
    cache.get(other, b"a", 70, lambda: rows(2))
    del model
    gc.collect()
    assert cache.size == rows(0).nbytes and cache.get(other, b"a", 70, lambda: pytest.fail("it is there"))[0, 0] == 2


def test_threads_wait_for_each_other() -> None:
    cache, model, calls = SoftTokenCache(), Owner(), []
    start = threading.Barrier(8)
    found: list[np.ndarray] = []

    def encode() -> np.ndarray:
        calls.append(1)
        time.sleep(0.05)
        return rows(1)

    def work() -> None:
        start.wait()
        found.append(cache.get(model, b"a", 70, encode))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len({id(array) for array in found}) == 1


def test_a_failure_leaves_the_work_to_the_next() -> None:
    cache, model = SoftTokenCache(), Owner()
    begun, done, got = threading.Event(), threading.Event(), []

    def fails() -> np.ndarray:
        begun.set()
        done.wait(5)
        raise ValueError("no")

    def first() -> None:
        with pytest.raises(ValueError, match="no"):
            cache.get(model, b"a", 70, fails)

    def second() -> None:
        begun.wait(5)
        done.set()
        got.append(cache.get(model, b"a", 70, lambda: rows(2)))

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got[0][0, 0] == 2 and cache.has(model, b"a", 70)


def test_a_wait_can_be_ended() -> None:
    cache, model, begun, done = SoftTokenCache(), Owner(), threading.Event(), threading.Event()

    def slow() -> np.ndarray:
        begun.set()
        done.wait(10)
        return rows(1)

    def leave() -> None:
        raise KeyboardInterrupt

    thread = threading.Thread(target=lambda: cache.get(model, b"a", 70, slow))
    thread.start()
    begun.wait(5)
    with pytest.raises(KeyboardInterrupt):
        cache.get(model, b"a", 70, lambda: rows(2), leave)
    done.set()
    thread.join()
    assert cache.get(model, b"a", 70, lambda: rows(3))[0, 0] == 1
