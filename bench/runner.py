"""Runs workloads: the same work in every directory, in rounds that go round them, so that a drift of the machine hits all alike.

A round does one workload in one directory after the other before it goes to the next, and begins with another directory each
time. The first, smaller round is a warm-up that nothing is kept of. Any error ends the run.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from cairnfs.bench import costs
from cairnfs.bench.environment import environment
from cairnfs.bench.places import IN_MEMORY, Place
from cairnfs.bench.results import LineResult, Results
from cairnfs.bench.workload import Settings, Workload, run_of
from cairnfs.units import format_duration

WARM_UP_PART = 8
WARM_UP_MIN_FILES = 40
MIN_ROUNDS, MAX_ROUNDS = 3, 24
QUIET_S, QUIET_CPU_S, MAX_SETTLE_S = 0.1, 0.02, 5.0

Say = Callable[[str], None]


def bench(places: Sequence[Place], workloads: Sequence[Workload], settings: Settings, suite: str, say: Say) -> Results:
    """All rounds. BenchError when something failed, or a result makes no sense; OSError of the file system likewise."""
    surroundings, started_s = environment(), time.monotonic()
    notes = [f"{workload.title} is left out: {why}" for workload in workloads if (why := workload.missing())]
    able = [workload for workload in workloads if not workload.missing()]
    notes += [_no_cold(place, settings) for place in places if not (settings.cold and place.can_be_cold)]
    lines = {(workload.title, line.name): LineResult.of(workload.title, line) for workload in able for line in workload.lines}
    rounds = Rounds(settings.n_rounds, settings.budget_s)
    while rounds.go_on():
        now = settings if rounds.n else warm_up(settings)
        for workload in able:
            for place in in_turn(places, rounds.n):
                say(f"{rounds}: {workload.title}: {place.name}")
                settle(places)
                with run_of(workload, place, now, rounds.n) as run:
                    workload.run(run)
                if rounds.n:
                    for line in workload.lines:
                        lines[workload.title, line.name].add(place.name, run.values.get(line.name), run.costs.get(line.name, {}))
    sizes = settings.sizes.name if settings.sizes else "of the suite"
    shown = {**asdict(replace(settings, sizes=None, n_rounds=rounds.n - 1)), "sizes": sizes}
    about = {place.name: place.describe() for place in places}
    questions = {workload.title: workload.question for workload in able}
    return Results(suite, shown, surroundings, about, questions, list(lines.values()), notes, time.monotonic() - started_s)


class Rounds:
    """Counts rounds from the warm-up, number 0, and says when it is enough: after `n_rounds`, or MIN_ROUNDS and what else fits
    into `budget_s`, MAX_ROUNDS at most.
    """

    def __init__(self, n_rounds: int, budget_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.n = -1
        self._n_rounds = n_rounds
        self._budget_s = budget_s
        self._clock = clock
        self._started_s = self._last_s = clock()

    def go_on(self) -> bool:
        """Begin the next round, unless it is enough."""
        now_s = self._clock()
        round_s, self._last_s = now_s - self._last_s, now_s
        self.n += 1
        n_done = self.n - 1
        if self._n_rounds:
            return n_done < self._n_rounds
        return n_done < MIN_ROUNDS or (n_done < MAX_ROUNDS and now_s - self._started_s + round_s <= self._budget_s)

    def __str__(self) -> str:
        taken = format_duration(self._clock() - self._started_s)
        what = f"round {self.n}" if self.n else "warm-up"
        return f"[{taken}] {what} of {self._n_rounds}" if self._n_rounds and self.n else f"[{taken}] {what}"


def warm_up(settings: Settings) -> Settings:
    n_files = min(settings.n_files, max(WARM_UP_MIN_FILES, settings.n_files // WARM_UP_PART))
    return replace(settings, n_files=n_files, large_bytes=settings.large_bytes // WARM_UP_PART)


def in_turn(places: Sequence[Place], n_round: int) -> list[Place]:
    """All places; another one is the first in every round."""
    at = n_round % len(places)
    return [*places[at:], *places[:at]]


def settle(places: Sequence[Place]) -> None:
    """Wait until what the last workload has left to do in the background is done, for MAX_SETTLE_S at most."""
    os.sync()
    until_s = time.monotonic() + MAX_SETTLE_S
    pids = [pid for place in places for pid in place.pids()]
    while pids and time.monotonic() < until_s:
        before = costs.cpu_seconds(pids)
        time.sleep(QUIET_S)
        if costs.cpu_seconds(pids) - before < QUIET_CPU_S:
            return


def _no_cold(place: Place, settings: Settings) -> str:
    if not settings.cold:
        return f"{place.name}: cold lines are left out, as --no-cold says"
    if place.mount.fstype in IN_MEMORY:
        return f"{place.name}: {place.mount.fstype} has nothing but memory, so nothing is ever cold"
    return f"{place.name}: cold lines are left out, because only root may drop the kernel's caches"
