"""Work done in threads: every item comes back, few are in memory at once, and an error stays with its item."""

import threading
import time

import pytest

from gigacli.parallel import BackgroundWriter, as_ready


def test_every_item_comes_back_with_its_result():
    assert dict(as_ready(lambda x: x * x, range(50), workers=3)) == {x: x * x for x in range(50)}
    assert list(as_ready(str, [], workers=2)) == []


def test_results_come_in_order_of_completion():
    gate = threading.Event()

    def work(item):
        if item == "slow":
            gate.wait(10)
        return item

    found = as_ready(work, ["slow", "fast"], workers=2)
    assert next(found) == ("fast", "fast")
    gate.set()
    assert next(found) == ("slow", "slow")


def test_an_error_stays_with_its_item():
    def work(item):
        if item % 2:
            raise ValueError(item)
        return item

    found = dict(as_ready(work, range(6), workers=2))
    assert {item for item, result in found.items() if isinstance(result, ValueError)} == {1, 3, 5}


def test_few_items_are_begun_ahead_of_whoever_takes_them():
    begun = []
    for count, _ in enumerate(as_ready(begun.append, range(40), workers=2), start=1):
        time.sleep(0.001)
        assert len(begun) <= count + 4


def test_leaving_early_drops_what_has_not_begun():
    begun = []
    for _ in as_ready(begun.append, range(1000), workers=1):
        break
    assert len(begun) <= 3


def test_an_interrupt_in_a_thread_is_raised():
    def work(item):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(as_ready(work, range(3), workers=1))


def test_the_background_writer_raises_what_went_wrong():
    written = []
    with BackgroundWriter() as writer:
        writer.submit(written.append, 1)
        writer.submit(written.append, 2)
    assert written == [1, 2]

    def fail():
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"), BackgroundWriter() as writer:
        writer.submit(fail)
