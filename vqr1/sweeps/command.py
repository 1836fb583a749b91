"""What Hydra calls: a command with one composed configuration, alone or as the job of a sweep.

Not here: composing it, and what is printed of its failures (`vqr1.cli.app`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vqr1.config import interpolations, validate
from vqr1.config.plain import plain_values
from vqr1.config.user_errors import USER_ERRORS
from vqr1.distributed.environment import is_launched
from vqr1.errors import RunFaultError, UserError
from vqr1.process_memory import bound_memory
from vqr1.standard_streams import guard_output
from vqr1.storage_faults import storage_line

T = TypeVar("T")

GoOn = Callable[[Path | None], str]
Complete = Callable[[DictConfig, Sequence[str]], None]


class Command(Generic[T]):
    """What Hydra calls with each composed configuration; launchers send it to other processes.

    Args:
        schema: dataclass that the composed configuration must fit.
        task: receives the typed configuration and the composed one (for logging it whole).
        check: further rules of a typed configuration, for the jobs of a sweep before any starts.
        complete: completes a composed configuration, in place, by the command line's overrides.
        go_on: how the user continues in a folder, after an interrupt or a fault of the disk.
    """

    def __init__(
        self,
        schema: type[T],
        task: Callable[[T, DictConfig], Any],
        check: Callable[[T], None] | None = None,
        complete: Complete = lambda composed, overrides: None,
        go_on: GoOn = lambda run_dir: "",
    ) -> None:
        self.complete = complete
        self.go_on = go_on
        self.schema = schema
        self.task = task
        self.rules = check
        self.failures: list[Exception] = []
        self.composed_once = False
        self.run_dir: Path | None = None
        self.folders: set[Path] = set()

    def check(self, values: Mapping[str, Any]) -> None:
        """Check plain values without running anything.

        Raises:
            ConfigError: every rule that they break.
        """
        config = validate(self.schema, values)
        if self.rules is not None:
            self.rules(config)

    def __call__(self, composed: DictConfig) -> Any:
        """Run once; the job of a sweep records how it ended, whoever started it."""
        self.composed_once = True
        interpolations.register()
        bound_memory()
        # A launcher may have sent this command to a process of its own.
        guard_output()
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        _expand_home(composed)
        self.run_dir = Path(str(composed.get("run_dir", run_dir)))
        self.folders |= {run_dir, self.run_dir}
        # The process that launched others records the job for them.
        if (run_dir / "job.json").is_file() and not is_launched():
            # Only the jobs of sweeps need this: evaluation runs no training code.
            from vqr1.sweeps.child import run_swept

            return run_swept(run_dir, lambda: self.task(self._config(composed), composed))
        # Hydra would print its own line above ours; the jobs of a multirun continue.
        try:
            config = self._config(composed)
        except USER_ERRORS as error:
            self.failures.append(error)
            return None
        try:
            return self.task(config, composed)
        except UserError as error:
            self.failures.append(error)
            return None
        except OSError as error:
            disk = storage_line(error, self.run_dir)
            if disk is None:
                raise
            self.failures.append(RunFaultError(f"{disk}{self.go_on(self.run_dir)}"))
            return None

    def _config(self, composed: DictConfig) -> T:
        self.complete(composed, list(HydraConfig.get().overrides.task))
        return validate(self.schema, plain_values(composed))


def _expand_home(composed: DictConfig) -> None:
    """Replace a `~` that no shell has expanded, in place: whatever reads the key has one folder."""
    run_dir = composed.get("run_dir")
    if isinstance(run_dir, str) and run_dir.startswith("~"):
        composed["run_dir"] = os.path.expanduser(run_dir)
