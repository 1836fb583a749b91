"""`vqr1 export run=...`: a trained checkpoint as a folder that loads anywhere."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from vqr1.cli.app import refuse_launcher, run_command
from vqr1.config import ExportConfig, ModelConfig, validate
from vqr1.data.image_record import copy_record
from vqr1.errors import ConfigError, DataError, ModelError, first_line
from vqr1.policy.export import write_checkpoint, written_aside
from vqr1.program import name_of
from vqr1.student.files import is_student_folder
from vqr1.training.model_card import read_run_config, write_model_card

EXPORT_FOLDER = "export"
"""Where a training exports to, in its run directory."""

KINDS = {"best": "best", "last": "step"}
"""What `checkpoint=` calls a kind of checkpoint, and what its files are called."""

STATE_PREFIX = "model."
"""In front of the policy's weights in a training's checkpoints."""


def main() -> None:
    """Entry point of `vqr1 export` and `vqr1-export`."""
    refuse_launcher(name_of("export"))
    run_command("export", ExportConfig, export, go_on=_nothing_left)


def _nothing_left(run_dir: Path | None) -> str:
    return "; nothing is left of what was begun: give the command again" if run_dir else ""


def export(config: ExportConfig, composed: DictConfig) -> None:
    """Write the folder, print its place, and upload it where that is asked for.

    Raises:
        UserError: run, checkpoint or output are not as they should be, or the upload is refused.
    """
    output = Path(config.output).expanduser()
    if output.exists():
        raise ConfigError([f"output={output}: exists already; choose another place"])
    if config.run is None:
        raise ConfigError(["run: missing; give a run directory, an MLflow run id, or best"])
    if config.push is not None:
        _check_repository(config.push)
    run_dir = _run_directory(config.run, config)
    read_run_config(run_dir)
    with written_aside(output.resolve()) as folder:
        if config.checkpoint is None:
            _copy_export(run_dir, folder)
        else:
            _from_checkpoint(run_dir, config.checkpoint, folder)
        _write_card(config, folder, run_dir)
    if config.push is not None:
        sys.stdout.write(f"{_push(output, config.push, config.private)}\n")
    sys.stdout.write(f"{output}\n")


def _write_card(config: ExportConfig, folder: Path, run_dir: Path) -> None:
    if is_student_folder(folder):
        from vqr1.training.student_card import write_student_card

        write_student_card(folder, run_dir, title=config.title, license=config.license)
        return
    write_model_card(
        folder,
        run_dir,
        title=config.title,
        license=config.license,
        with_metrics=config.checkpoint != "last",
    )


def _run_directory(run: str, config: ExportConfig) -> Path:
    from vqr1.evaluation.model_source import BEST, exported_run

    if run != BEST and Path(run).expanduser().is_dir():
        return Path(run).expanduser().resolve()
    found = exported_run(run, config.run_metric, config.logger)
    if found.note is not None:
        sys.stderr.write(f"{found.note}\n")
    return found.folder.parent


def _copy_export(run_dir: Path, folder: Path) -> None:
    source = run_dir / EXPORT_FOLDER
    if not source.is_dir():
        kept = [name for name in KINDS if _newest(run_dir, name) is not None]
        fix = (
            f"export one of its checkpoints with checkpoint={'|'.join(kept)}"
            if kept
            else "it kept no checkpoints either; choose another run"
        )
        raise DataError(f"run={run_dir}: this run exported nothing at its end; {fix}")
    # Not their modes: earlier versions exported weights that only their owner could read.
    shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)


def _newest(run_dir: Path, name: str) -> Path | None:
    """The newest checkpoint of a kind, None without one."""
    from vqr1.training.checkpoint_files import checkpoints

    found = checkpoints(run_dir / "checkpoints", KINDS[name])
    return found[-1] if found else None


def _from_checkpoint(run_dir: Path, name: str, folder: Path) -> None:
    """Load the base model, put the checkpoint's weights in, and export."""
    file = _newest(run_dir, name)
    if file is None:
        other = name == "best" and _newest(run_dir, "last") is not None
        raise DataError(
            f"checkpoint={name}: there is no {KINDS[name]}_<step>.ckpt in {run_dir / 'checkpoints'}"
            + ("; no validation has chosen one yet: give checkpoint=last" if other else "")
        )
    if is_student_folder(run_dir / EXPORT_FOLDER):
        raise DataError(
            f"checkpoint={name}: {run_dir} has trained a student, whose checkpoints are not "
            "exported one by one; leave checkpoint=null for its last step"
        )
    model = validate(ModelConfig, read_run_config(run_dir).get("model", {}))

    from vqr1.policy.loading import load_policy
    from vqr1.training.checkpoint_files import CheckpointDamagedError, read_checkpoint

    # Codes of 4 bits need a GPU and were not trained: the base model has the weights themselves.
    codes = model.quantization is not None
    policy = load_policy(replace(model, quantization=None))
    try:
        state = read_checkpoint(file)["state_dict"]
        weights = {
            key.removeprefix(STATE_PREFIX): value
            for key, value in state.items()
            if key.startswith(STATE_PREFIX)
        }
        if codes:
            trained = [name for name, p in policy.model.named_parameters() if p.requires_grad]
            weights = {**policy.model.state_dict(), **{name: weights[name] for name in trained}}
        policy.model.load_state_dict(weights)
    except (CheckpointDamagedError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{file}: not a checkpoint of the model in {run_dir / 'config.yaml'} "
            f"({first_line(error)})"
        ) from error
    write_checkpoint(policy, folder, onto_checkpoint=codes)
    copy_record(run_dir, folder)


def _check_repository(name: str) -> None:
    """Check a repository's name, before anything is written for it.

    Raises:
        ConfigError: the hub takes no such name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(
            [f"push={name}: no name of a repository ({first_line(error)})"]
        ) from error


def _push(folder: Path, repository: str, private: bool) -> str:
    """Upload the folder; its address."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder)
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx2.HTTPError, OSError) as error:
        raise ModelError(
            f"push={repository}: the hub did not take it ({first_line(error)}); "
            f"log in with `hf auth login` and try again; the checkpoint itself is in {folder}"
        ) from error
    return str(commit)
