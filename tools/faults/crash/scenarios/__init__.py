"""What is written, and what must be found after a power loss; one class a scenario."""

from tools.faults.crash.explore import Scenario
from tools.faults.crash.scenarios.data import (
    Cached,
    Downloaded,
    MadeLargeSet,
    MadeSet,
)
from tools.faults.crash.scenarios.delivery import Journalled
from tools.faults.crash.scenarios.jobs import SweptJobs
from tools.faults.crash.scenarios.predictions import (
    ContinuedResults,
    PartialPredictions,
    ReplacedResults,
)
from tools.faults.crash.scenarios.training import Checkpoints, Export, FinishedRun, SteppedLogs

SCENARIOS: tuple[type[Scenario], ...] = (
    Checkpoints, SteppedLogs, FinishedRun, Export, PartialPredictions, ContinuedResults,
    ReplacedResults, Journalled, SweptJobs, Cached, Downloaded, MadeSet,
    MadeLargeSet,
)  # fmt: skip
