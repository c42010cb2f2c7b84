"""The stopwatch does not count the time while the process is stopped."""

import os
import signal
import threading

import pytest

from charladder.training.stopwatch import Stopwatch


class FakeClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


def test_time_while_the_process_is_stopped_is_not_counted(clock):
    handler = signal.getsignal(signal.SIGCONT)
    watch = Stopwatch(7.0, clock)
    watch.start()
    clock.now = 103.0
    assert watch.seconds() == 10.0
    clock.now = 118.0  # stopped for 15 seconds
    os.kill(os.getpid(), signal.SIGCONT)
    clock.now = 120.0
    assert watch.seconds() == 12.0
    watch.close()
    assert signal.getsignal(signal.SIGCONT) == handler


def test_all_time_is_counted_in_another_thread(clock):
    seconds = []

    def work() -> None:
        watch = Stopwatch(0.0, clock)
        watch.start()
        clock.now += 5.0
        seconds.append(watch.seconds())
        watch.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seconds == [5.0]
