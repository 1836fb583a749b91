"""Schema of the composed configuration: every key, its type and its range.

Hydra composes YAML files and `instantiate` builds objects, but neither checks types or ranges.
`validate` does so once, after composition and before anything is loaded, and reports all problems
together. The YAML files under `conf/` hold the values; the docstring under each field here states
what the value means.
"""

from vqr1.config.answer import AnswerConfig, AnyAnswer
from vqr1.config.backend import (
    AnyBackend,
    LocalBackendConfig,
    ServerConfig,
    VllmBackendConfig,
)
from vqr1.config.data import (
    CsvColumns,
    DatasetConfig,
    LoaderConfig,
    MixtureConfig,
    SplitConfig,
)
from vqr1.config.evaluation import (
    EvalConfig,
    EvalModeConfig,
    EvalModelConfig,
    PredictionColumns,
    ReportConfig,
)
from vqr1.config.export import (
    ExportConfig,
)
from vqr1.config.folder import config_dir, read_choice
from vqr1.config.machine import (
    HardwareConfig,
    LoggerConfig,
    ReferencePlace,
)
from vqr1.config.model import (
    IMAGE_PLACEHOLDER,
    MOST_IMAGES,
    ColocatedConfig,
    LoraConfig,
    ModelConfig,
    PromptConfig,
    RolloutConfig,
    RolloutServerConfig,
    SamplingConfig,
    placeholder_problem,
)
from vqr1.config.pairs import PairsConfig, Target, TrainingTarget
from vqr1.config.scoring import (
    ComparisonConfig,
    ScoreConfig,
)
from vqr1.config.serving import (
    BatchingConfig,
    LimitsConfig,
    ServeConfig,
)
from vqr1.config.sweep import (
    SweepConfig,
)
from vqr1.config.tasks import RewardConfig, TaskConfig
from vqr1.config.training import (
    AdvantageConfig,
    CheckpointConfig,
    DataConfig,
    GrpoConfig,
    HungStepConfig,
    LossConfig,
    OptimizerConfig,
    PerceptionConfig,
    TrainConfig,
    WatchConfig,
    WatchdogsConfig,
)
from vqr1.config.validation import (
    validate,
)
from vqr1.config.votes import VotesConfig

__all__ = [
    "IMAGE_PLACEHOLDER",
    "MOST_IMAGES",
    "AdvantageConfig",
    "AnswerConfig",
    "AnyAnswer",
    "AnyBackend",
    "BatchingConfig",
    "CheckpointConfig",
    "ColocatedConfig",
    "ComparisonConfig",
    "CsvColumns",
    "DataConfig",
    "DatasetConfig",
    "EvalConfig",
    "EvalModeConfig",
    "EvalModelConfig",
    "ExportConfig",
    "GrpoConfig",
    "HardwareConfig",
    "HungStepConfig",
    "LimitsConfig",
    "LoaderConfig",
    "LocalBackendConfig",
    "LoggerConfig",
    "LoraConfig",
    "LossConfig",
    "MixtureConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PairsConfig",
    "PerceptionConfig",
    "PredictionColumns",
    "PromptConfig",
    "ReferencePlace",
    "ReportConfig",
    "RewardConfig",
    "RolloutConfig",
    "RolloutServerConfig",
    "SamplingConfig",
    "ScoreConfig",
    "ServeConfig",
    "ServerConfig",
    "SplitConfig",
    "SweepConfig",
    "Target",
    "TaskConfig",
    "TrainConfig",
    "TrainingTarget",
    "VllmBackendConfig",
    "VotesConfig",
    "WatchConfig",
    "WatchdogsConfig",
    "config_dir",
    "placeholder_problem",
    "read_choice",
    "validate",
]
