"""Faults that end the process: SIGKILL at seeded random moments, and the stop signals."""

from __future__ import annotations

import random
import signal
import time

from tools.faults.report import FaultResult, last_line
from tools.faults.runs import Workshop, compare, read_result
from vqr1.errors import EXIT_INTERRUPTED
from vqr1.training.checkpoint_files import step_name


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
    printed = "" if code == 0 else last_line(training.output)
    done = compare(read_result(training.folder), workshop.reference) if code == 0 else None
    if done is not None and not done.identical:
        printed = f"{phase}: {done}"
    return FaultResult.of(f"SIGKILL in {phase}", code, done, printed)


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


def stop_by_signal(
    workshop: Workshop, number: signal.Signals, phase: str = "rollout"
) -> FaultResult:
    """A stop signal: the step is finished and saved, the exit code states resume.

    It comes within the fifth step's rollout, or within the validation after the third or, as the
    last one, after the sixth step; that is then done by the resumed run.
    """
    fault = f"{number.name} in {phase}"
    count, step = {"rollout": (5, 5), "validation": (2, 3), "last validation": (3, 6)}[phase]
    name = f"stop_{number.name}_{phase}"
    training = workshop.start(name, "run_dir=run", "callbacks.checkpoint.every_steps=100")
    training.wait_until(phase.rpartition(" ")[2], count)
    training.signal(number)
    code = training.wait()
    printed = last_line(training.output)
    if code != EXIT_INTERRUPTED:
        return FaultResult(
            fault, printed=f"exit code {code} instead of {EXIT_INTERRUPTED}: {printed}"
        )
    saved = max((training.folder / "run/checkpoints").glob("step_*.ckpt")).name
    if saved != step_name("step", step):
        return FaultResult(fault, printed=f"{saved} is saved instead of step {step}")
    resumed = workshop.resume(name)
    code = resumed.wait()
    done = compare(read_result(resumed.folder), workshop.reference) if code == 0 else None
    return FaultResult.of(fault, code, done, printed)


def stop_twice(workshop: Workshop, phase: str = "checkpoint") -> FaultResult:
    """SIGINT, and once more before the step is saved: the process ends at once, without a word."""
    fault = f"SIGINT twice in {phase}"
    name = f"twice_{phase}"
    training = workshop.start(name, "run_dir=run")
    training.wait_until(phase, 3)
    training.signal(signal.SIGINT)
    training.wait_for(lambda: "SIGINT: stopping after this step" in training.output)
    training.signal(signal.SIGINT)
    code = training.wait()
    if code != -signal.SIGINT or last_line(training.output) != "SIGINT: stopping after this step":
        return FaultResult(fault, printed=f"exit code {code}: {last_line(training.output)}")
    resumed = workshop.resume(name)
    code = resumed.wait()
    done = compare(read_result(resumed.folder), workshop.reference) if code == 0 else None
    return FaultResult.of(fault, code, done, "" if code == 0 else last_line(resumed.output))
