"""The order, the errors and the end of work done ahead."""

import threading
from itertools import count

import pytest

from ovi.diffusion.ahead import ahead


def test_items_come_in_order_and_are_made_meanwhile():
    made, second = [], threading.Event()

    def items():
        for i in range(5):
            made.append(i)
            if i == 1:
                second.set()
            yield i

    loop = ahead(items())
    assert next(loop) == 0
    assert second.wait(10)  # the second is being made though nobody asked for it
    assert list(loop) == [1, 2, 3, 4]
    assert made == [0, 1, 2, 3, 4]


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise KeyError("lost")

    loop = ahead(items())
    assert next(loop) == 1
    with pytest.raises(KeyError, match="lost"):
        next(loop)


def test_a_caller_that_leaves_stops_the_making():
    closed = threading.Event()

    def items():
        try:
            yield from count()
        finally:
            closed.set()

    before = set(threading.enumerate())
    source = items()
    loop = ahead(source)
    assert [next(loop), next(loop)] == [0, 1]
    loop.close()
    assert set(threading.enumerate()) <= before  # threads of others may end meanwhile
    source.close()
    assert closed.is_set()
