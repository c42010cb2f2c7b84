"""The measured choice between all threads and one."""

from charladder.inference.thread_choice import ThreadChoice, ThreadChoices

SIZE = 1_000_000  # multiplications of a pass


def run_passes(choice: ThreadChoice, seconds: float, one_thread: float, all_threads: float) -> tuple[float, int, int]:
    """Passes for `seconds` at these times of one pass. Returns the seconds, all passes, and those on all threads."""
    spent, passes, on_all = 0.0, 0, 0
    while spent < seconds:
        is_on_all = choice.use_all_threads(SIZE)
        cost = all_threads if is_on_all else one_thread
        choice.observe(is_on_all, SIZE, cost)
        spent, passes, on_all = spent + cost, passes + 1, on_all + is_on_all
    return spent, passes, on_all


def test_a_busy_core_costs_a_small_share_of_the_time() -> None:
    spent, passes, on_all = run_passes(ThreadChoice(), 60.0, one_thread=0.0003, all_threads=0.13)
    assert on_all >= 2
    assert spent < 1.03 * passes * 0.0003


def test_the_faster_choice_is_kept_on_an_idle_machine() -> None:
    _, passes, on_all = run_passes(ThreadChoice(), 1.0, one_thread=0.003, all_threads=0.002)
    assert on_all > 0.97 * passes


def test_a_change_of_the_load_is_noticed() -> None:
    choice = ThreadChoice()
    run_passes(choice, 10.0, one_thread=0.003, all_threads=0.002)
    run_passes(choice, 10.0, one_thread=0.003, all_threads=0.13)
    assert not choice.use_all_threads(SIZE)
    _, passes, on_all = run_passes(choice, 20.0, one_thread=0.003, all_threads=0.002)
    assert on_all > 0.6 * passes
    _, passes, on_all = run_passes(choice, 10.0, one_thread=0.003, all_threads=0.13)
    assert on_all < 0.05 * passes


def test_a_slow_first_pass_is_noticed_soon() -> None:
    """The first pass waits for threads to start and for new memory."""
    choice = ThreadChoice()
    choice.observe(choice.use_all_threads(SIZE), SIZE, 0.1)
    assert not choice.use_all_threads(SIZE)
    spent, passes, on_all = run_passes(choice, 1.0, one_thread=0.003, all_threads=0.002)
    assert spent < 1.25 * passes * 0.002 and on_all > 0.6 * passes


def test_a_clock_that_shows_no_time() -> None:
    choice = ThreadChoice()
    for _ in range(2):
        choice.observe(choice.use_all_threads(SIZE), SIZE, 0.0)
    assert not choice.is_trial_due(SIZE)


def test_large_and_small_passes_are_measured_apart() -> None:
    choices = ThreadChoices()
    assert choices.for_size(1_000_000) is choices.for_size(3_000_000)
    assert choices.for_size(1_000_000) is not choices.for_size(100_000_000)
