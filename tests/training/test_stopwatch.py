"""Time for which a process was stopped is not counted."""

import os
import signal
import threading

import pytest

from charladder.training.stopwatch import Stopwatch


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_stopped_process_spends_nothing(clock):
    before = signal.getsignal(signal.SIGCONT)
    watch = Stopwatch(7.0, clock)
    watch.start()
    clock.now = 103.0
    assert watch.seconds() == 10.0
    clock.now = 118.0  # stopped for 15 seconds
    os.kill(os.getpid(), signal.SIGCONT)
    clock.now = 120.0
    assert watch.seconds() == 12.0
    watch.close()
    assert signal.getsignal(signal.SIGCONT) == before


def test_in_another_thread_all_time_counts(clock):
    found = []

    def work() -> None:
        watch = Stopwatch(0.0, clock)
        watch.start()
        clock.now += 5.0
        found.append(watch.seconds())
        watch.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [5.0]
