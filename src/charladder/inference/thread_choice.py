"""Whether a pass is faster on all threads or on one, by measurement.

The threads of a pass wait for each other after every matrix product. If another process uses one of the cores, each of
these waits lasts until the system runs the delayed thread again, some milliseconds, and a pass of a small network takes
a hundred times as long as on one thread. The results are the same for any number of threads.
"""

import math

_TRIAL_SHARE = 0.02  # of the time may be spent on trials of the slower choice
_FIRST_TRIAL_SHARE = 0.25  # for the first trial: the first passes may be slow, as threads start and memory is new
_SMOOTHING = 0.25  # the weight of a new measurement in the running mean
_SMALL_PASS = 1 << 22  # multiplications; smaller passes share one measurement


class ThreadChoice:
    """Chooses for passes of about the same number of multiplications. Call `observe` after each pass."""

    def __init__(self) -> None:
        self._seconds: dict[bool, float] = {}  # for each multiplication: running means
        self._since_trial = math.inf  # seconds in passes with the faster choice
        self._trials = 0

    def use_all_threads(self, multiplications: int) -> bool:
        """The faster choice; in a trial the other one, so that a change of the machine's load is noticed."""
        if len(self._seconds) < 2:
            return not self._seconds
        return self._is_faster_on_all() != self.is_trial_due(multiplications)

    def is_trial_due(self, multiplications: int) -> bool:
        """Whether the next pass is a trial."""
        if len(self._seconds) < 2:
            return True
        slower_seconds = self._seconds[not self._is_faster_on_all()] * multiplications
        # Not >=: a clock that is too coarse may give 0 seconds.
        return self._since_trial * (_TRIAL_SHARE if self._trials else _FIRST_TRIAL_SHARE) > slower_seconds

    def observe(self, all_threads: bool, multiplications: int, seconds: float) -> None:
        """seconds: the time of a pass with this choice."""
        measured = seconds / multiplications
        if len(self._seconds) == 2 and all_threads == self._is_faster_on_all():
            self._since_trial += seconds
            mean = self._seconds[all_threads]
            self._seconds[all_threads] = mean + _SMOOTHING * (measured - mean)
        else:  # a trial; an old mean would hide a change
            self._trials += len(self._seconds) == 2
            self._since_trial = 0.0
            self._seconds[all_threads] = measured

    def _is_faster_on_all(self) -> bool:
        return self._seconds[True] <= self._seconds[False]


class ThreadChoices:
    """A ThreadChoice for each order of magnitude of the number of multiplications."""

    def __init__(self) -> None:
        self._by_size: dict[int, ThreadChoice] = {}

    def for_size(self, multiplications: int) -> ThreadChoice:
        size = max(multiplications, _SMALL_PASS).bit_length() // 2
        return self._by_size.setdefault(size, ThreadChoice())
