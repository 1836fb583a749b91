"""From a multirun's command line to a sweep: what both sweepers do before their first job.

Hydra imports this folder at the start of every command, so that heavy modules are imported where
they are used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

if TYPE_CHECKING:
    from vqr1.sweeps.jobs import SweepJob
    from vqr1.sweeps.session import Sweep, SweepPlan

THREADS = "hardware.threads"
OF_FOLDERS = "hydra.sweep."


@dataclass
class SweepContext:
    """What Hydra gives a sweeper.

    Attributes:
        hydra: composes configurations.
        task: the command; has methods `complete` and `check` for what is composed.
        config: the composed configuration without the swept values.
    """

    hydra: HydraContext
    task: Any
    config: DictConfig

    def parse(self, params: Mapping[str, Any], arguments: Sequence[str]) -> list[Override]:
        """Overrides of the sweeper's configuration and of the command line, the latter last."""
        texts = [f"{key}={value}" for key, value in params.items()]
        parser = OverridesParser.create(config_loader=self.hydra.config_loader)
        parsed = parser.parse_overrides([*texts, *arguments])
        return list({override.get_key_element(): override for override in parsed}.values())

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Plain values of a job's configuration, checked as its own process would.

        Raises:
            ConfigError: the configuration breaks a rule.
        """
        composed = self.hydra.config_loader.load_sweep_config(self.config, list(overrides))
        self.task.complete(composed, overrides)
        values = plain_task_values(composed)
        self.task.check(values)
        return values

    def job(
        self, overrides: Sequence[str], swept: Mapping[str, str], trial: int | None = None
    ) -> SweepJob:
        """Compose and check one job."""
        from vqr1.sweeps.jobs import SweepJob, job_name

        values = self.compose(overrides)
        hardware = values.get("hardware", {})
        processes = hardware.get("devices", 1) * hardware.get("nodes", 1)
        return SweepJob(job_name(values), tuple(overrides), dict(swept), processes > 1, trial)

    def plan(
        self, overrides: Sequence[Override], space: dict[str, str], direction: str | None = None
    ) -> SweepPlan:
        """The plan without its jobs; `direction` is a search's.

        Raises:
            ConfigError: the command names other folders than the sweep's own.
        """
        from vqr1.config import LoggerConfig, SweepConfig, validate
        from vqr1.program import command_line
        from vqr1.sweeps.jobs import stable_values, sweep_key
        from vqr1.sweeps.session import SweepPlan
        from vqr1.tracking.secrets import masked, masked_text

        refuse_other_folders(self.config.hydra.overrides.hydra)
        values = plain_task_values(self.config)
        settings = validate(SweepConfig, values["sweep"])
        texts = [override.input_line or "" for override in overrides]
        kind = str(self.config.hydra.sweeper._target_)
        command = command_line("train", *sys.argv[1:])
        metric = settings.metric or "the default metric"
        objective = None if direction is None else f"{direction} {metric}"
        return SweepPlan(
            # Trials of one objective state nothing about another one.
            sweep_key(
                f"{self.config.hydra.job.config_name} {kind}",
                texts,
                {} if objective is None else {"objective": objective},
            ),
            masked_text(command),
            stable_values(values),
            space,
            (),
            validate(LoggerConfig, values["logger"]),
            OmegaConf.to_yaml(OmegaConf.create(masked(values))),
            settings.max_failures,
            settings.metric,
            settings.curve,
            objective,
        )

    def open(self, plan: SweepPlan, search: dict[str, Any] | None = None) -> Sweep:
        """Find or begin the sweep, and point Hydra's launchers at its folder."""
        from vqr1.program import override
        from vqr1.sweeps.session import Sweep, find_folder

        new = Path(str(self.config.hydra.sweep.dir))
        folder, note = find_folder(plan, str(self.config.sweep.resume), new)
        if note is not None:
            report_line(f"{note}: a new sweep begins")
        with read_write(self.config), open_dict(self.config):
            self.config.hydra.sweep.dir = str(folder.path)
            others = [o for o in self.config.hydra.overrides.hydra if OF_FOLDERS not in o]
            place = override(f"{OF_FOLDERS}dir", folder.path)
            self.config.hydra.overrides.hydra = [*others, place]
        return Sweep(folder, plan, report_line, search)

    def launch(self, jobs: Sequence[SweepJob]) -> Callable[[Sequence[Sequence[str]], int], object]:
        """The launcher of these jobs: the configured one, or a process for each where needed."""
        launcher = self._launcher(any(job.needs_processes for job in jobs))
        threads = self._threads(self.side_by_side(len(jobs)))

        def start(overrides: Sequence[Sequence[str]], number: int) -> object:
            return launcher.launch([[*job, *threads] for job in overrides], number)

        return start

    @property
    def at_once(self) -> int:
        """Jobs that the launcher runs side by side."""
        launcher = self.config.hydra.launcher
        count = int(launcher.get("n_jobs", launcher.get("array_parallelism", 1)))
        return count if count > 0 else os.cpu_count() or 1

    def side_by_side(self, jobs: int) -> int:
        """How many of so many jobs that are launched together run at once."""
        # Submitit's executor for this machine starts all of them.
        target = str(self.config.hydra.launcher._target_)
        return jobs if target.endswith("submitit_launcher.LocalLauncher") else self.at_once

    def _launcher(self, needs_processes: bool) -> Launcher:
        config = self.config
        in_this_process = str(config.hydra.launcher._target_).endswith(
            ("BasicLauncher", "JoblibLauncher")
        )
        if needs_processes and in_this_process:
            from hydra_plugins.vqr1_sweeps.processes import ProcessLauncher

            launcher: Launcher = ProcessLauncher(self.at_once)
            launcher.setup(hydra_context=self.hydra, task_function=self.task, config=config)
            return launcher
        return Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra, task_function=self.task, config=config
        )

    def _threads(self, at_once: int) -> list[str]:
        """Divides the machine's threads among so many jobs."""
        given = [text.split("=")[0] for text in self.config.hydra.overrides.task]
        if at_once <= 1 or THREADS in given or self.config.hardware.accelerator != "cpu":
            return []
        processes = at_once * int(self.config.hardware.devices)
        return [f"{THREADS}={max((os.cpu_count() or 1) // processes, 1)}"]


def plain_task_values(composed: DictConfig) -> dict[str, Any]:
    """Plain values of a composed configuration without Hydra's own part.

    The run directory is known only once a job runs; until then it has a name of its own.
    """
    from vqr1.cli.compose import plain_values

    task = composed.copy()
    with read_write(task), open_dict(task):
        del task["hydra"]
        task.run_dir = "(of the job)"
    return plain_values(task)


def refuse_shared_folder(overrides: Sequence[Override]) -> None:
    """Refuse one run directory for all jobs.

    Raises:
        ConfigError: `run_dir` is set.
    """
    from vqr1.errors import ConfigError

    for override in overrides:
        if override.key_or_group == "run_dir":
            raise ConfigError(
                [
                    f"{override.input_line}: the jobs of a sweep would share it; leave it out, or "
                    "name the sweep's folder: hydra.sweep.dir=FOLDER"
                ]
            )


def refuse_other_folders(overrides: Sequence[str]) -> None:
    """Refuse what names folders of a sweep's jobs: they are numbered, and found by their numbers.

    Raises:
        ConfigError: a key of Hydra's group `sweep` but its folder is set.
    """
    from vqr1.errors import ConfigError

    for text in overrides:
        key = text.partition("=")[0].lstrip("+~")
        if key.startswith(OF_FOLDERS) and key != f"{OF_FOLDERS}dir":
            raise ConfigError(
                [
                    f"{text}: the folders of a sweep's jobs are numbered; leave it out, or name "
                    f"the sweep's own: {OF_FOLDERS}dir=FOLDER"
                ]
            )


def refuse_no_values(overrides: Sequence[Override]) -> None:
    """Refuse swept keys without a value, whose sweep would have no job.

    Raises:
        ConfigError: every such override.
    """
    from vqr1.errors import ConfigError

    problems = [
        f"{override.input_line}: gives no value, so there is nothing to train; give one at least"
        for override in overrides
        if override.is_discrete_sweep() and not any(True for _ in override.sweep_iterator())
    ]
    if problems:
        raise ConfigError(problems)


def swept_key(override: Override) -> str:
    """A swept key as it stands in the composed configuration."""
    return str(override.get_key_element()).lstrip("+")


def value_text(override: Override) -> str:
    """An override's value as typed."""
    return (override.input_line or "").partition("=")[2]


def report_line(line: str) -> None:
    """Print a line for the user at once."""
    print(line, flush=True)
