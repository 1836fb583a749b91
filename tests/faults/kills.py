"""Faults that end the process: SIGKILL at seeded random moments, and the stop signals."""

from __future__ import annotations

import random
import signal
import time

from tests.faults.report import FaultResult, last_line
from tests.faults.runs import Workshop, compare, read_result
from vqr1.errors import EXIT_INTERRUPTED


def kill_at_random(workshop: Workshop, number: int, seed: int) -> FaultResult:
    """SIGKILL within a random phase, resume, finish, compare.

    Phases take turns; which occurrence of it, and where within it, is drawn. Every third run is
    killed once more after it was resumed.
    """
    rng = random.Random(f"{seed}:{number}")
    phases = sorted(workshop.phases)
    phase = phases[number % len(phases)]
    name = f"kill_{seed}_{number}"
    kill_in(workshop, name, phase, rng, resume=False)
    if number % 3 == 2:
        kill_in(workshop, name, rng.choice(phases), rng, resume=True)
    training = workshop.resume(name)
    code = training.wait()
    said = "" if code == 0 else last_line(training.output)
    done = compare(read_result(training.folder), workshop.reference) if code == 0 else None
    if done is not None and not done.identical:
        said = f"{phase}: {done}"
    return FaultResult.of(f"SIGKILL in {phase}", code, done, said)


def kill_in(workshop: Workshop, name: str, phase: str, rng: random.Random, resume: bool) -> None:
    """Start, or resume, and SIGKILL the run somewhere within a phase."""
    durations = workshop.phases[phase]
    occurrence = rng.randrange(len(durations))
    delay = rng.random() * durations[occurrence]
    training = workshop.resume(name) if resume else workshop.start(name, "run_dir=run")
    if training.wait_until(phase, occurrence + 1):
        time.sleep(delay)
        training.signal(signal.SIGKILL)
    training.wait()


def stop_by_signal(workshop: Workshop, number: signal.Signals) -> FaultResult:
    """A stop signal within a step: the step is finished and saved, the exit code says resume."""
    name = f"stop_{number.name}"
    training = workshop.start(name, "run_dir=run", "callbacks.checkpoint.every_steps=100")
    training.wait_until("rollout", 5)
    training.signal(number)
    code = training.wait()
    if code != EXIT_INTERRUPTED:
        said = f"exit code {code} instead of {EXIT_INTERRUPTED}: {training.output[-300:]}"
        return FaultResult(number.name, said=said)
    saved = sorted(path.name for path in (training.folder / "run/checkpoints").glob("step_*.ckpt"))
    said = last_line(training.output)
    if "step_00000005.ckpt" not in saved:
        return FaultResult(number.name, said=f"step 5 is not saved: {saved}")
    resumed = workshop.resume(name)
    code = resumed.wait()
    done = compare(read_result(resumed.folder), workshop.reference) if code == 0 else None
    return FaultResult.of(number.name, code, done, said)
