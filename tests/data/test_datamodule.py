"""Batches as training and evaluation receive them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from tests.support.images import SENTENCE, noise_image
from vqr1.config import CsvColumns, DatasetConfig, LoaderConfig, MixtureConfig, SplitConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.data.images import load_image
from vqr1.data.jsonl import read_jsonl
from vqr1.data.labelled_set import open_dataset
from vqr1.data.opened_sets import open_sets
from vqr1.data.ranking_batches import BatchPlan
from vqr1.data.ranking_images import RankingImages, SetImages
from vqr1.errors import ConfigError, DataError
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.prompts import PromptBuilder
from vqr1.records import RankingBatch

WHOLE = SplitConfig(by="none")
MakeCsv = Callable[..., DatasetConfig]


def module(
    dataset: DatasetConfig | MixtureConfig, prompts: PromptBuilder, size: int = 4, **loader: Any
) -> RankingDataModule:
    return RankingDataModule(dataset, LoaderConfig(batch_size=size, **loader), prompts, 7)


def same(first: RankingBatch, second: RankingBatch) -> bool:
    return (
        (first.dataset, first.images) == (second.dataset, second.images)
        and torch.equal(first.mos, second.mos)
        and torch.equal(first.index, second.index)
        and all(map(torch.equal, first.prompts.flat_images, second.prompts.flat_images))
        and first.prompts.keys == second.prompts.keys
    )


def test_training_batches(make_csv: MakeCsv, prompts: PromptBuilder) -> None:
    data = module(make_csv(10), prompts)
    batches = list(data.train_dataloader())
    assert [len(batch) for batch in batches] == [4, 4]
    labelled = data.sets["csv"]
    for batch in batches:
        rows = labelled.table.loc[batch.index.tolist()]
        assert batch.names == tuple(rows["image"])
        assert batch.mos.tolist() == pytest.approx(rows["mos_scaled"].tolist())
        images = [load_image(labelled.image_path(row)) for row in batch.index.tolist()]
        expected = prompts(images)
        assert all(map(torch.equal, batch.prompts.flat_images, expected.flat_images))
        assert batch.prompts.keys == tuple(
            (prompts.encoding.key(image),) for image in expected.flat_images
        )
        assert all(map(torch.equal, batch.prompts.input_ids, expected.input_ids))
    # Scores 100 to 91 become 5 to 1.
    assert labelled.table["mos_scaled"].tolist() == pytest.approx(
        [5 - 4 * n / 9 for n in range(10)]
    )


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.medium)])
def test_the_upcoming_batch_is_the_next_one_and_does_not_count(
    make_csv: MakeCsv, prompts: PromptBuilder, workers: int
) -> None:
    dataset = make_csv(10)
    loader = module(dataset, prompts).train_dataloader()
    expected = [batch for _ in range(3) for batch in loader]
    assert len(expected) == 6  # two batches of 4 an epoch
    data = module(dataset, prompts, workers=workers)
    loader, seen, states = data.train_dataloader(), [], []
    for _ in range(3):
        for batch in loader:
            seen.append(batch)
            states.append(data.state_dict())
            # Asked twice, not once, or every time: of the next epoch after each second batch.
            for _ in range(len(seen) % 3):
                upcoming = data.upcoming_batch()
                if len(seen) < 6:
                    assert same(upcoming, expected[len(seen)])
    assert all(map(same, seen, expected))
    assert len(seen) == 6
    data.close()
    for done, state in enumerate(states[:4], start=1):
        resumed = module(dataset, prompts)
        resumed.load_state_dict(state)
        loader = resumed.train_dataloader()
        rest = [*loader, *loader]
        assert all(map(same, rest, expected[done:]))


def test_published_scores_stay_as_they_are(make_csv: MakeCsv, prompts: PromptBuilder) -> None:
    data = module(make_csv(4, mos_scale="published"), prompts)
    (batch,) = data.train_dataloader()
    rows = data.sets["csv"].table.loc[batch.index.tolist()]
    assert sorted(rows["mos"]) == [97, 98, 99, 100]
    assert batch.mos.tolist() == rows["mos"].tolist()


def test_batches_carry_what_else_the_labels_state(
    make_csv: MakeCsv, prompts: PromptBuilder
) -> None:
    columns = CsvColumns(std="sd", reference="ref", distortion="kind", further=("sharp", "word"))
    config = make_csv(4, columns=columns)
    assert config.root is not None
    lines = ["image,mos,sd,ref,kind,sharp,word"]
    # MOS of 0 to 80 become 1 to 5: a twentieth, and so does each standard deviation.
    lines += [f"{n:03d}.png,{80 - n * 80 / 3},{10 + n},r{n % 2},blur,{n},w{n}" for n in range(4)]
    lines[2] = lines[2].replace("blur", "").replace("w1", "")
    (Path(config.root) / "labels.csv").write_text("\n".join(lines) + "\n")
    (batch,) = module(config, prompts).train_dataloader()
    assert batch.labels is not None
    rows = batch.index.tolist()
    assert batch.labels.std.tolist() == pytest.approx([(10 + n) / 20 for n in rows])
    assert batch.labels.references == tuple(f"r{n % 2}" for n in rows)
    assert batch.labels.distortions == tuple(None if n == 1 else "blur" for n in rows)
    assert batch.labels.columns["sharp"] == tuple(float(n) for n in rows)
    assert batch.labels.columns["word"] == tuple(None if n == 1 else f"w{n}" for n in rows)


def test_workers_give_the_same_batches(make_csv: MakeCsv, prompts: PromptBuilder) -> None:
    config = make_csv(9)
    here = list(module(config, prompts).train_dataloader())
    there = list(module(config, prompts, workers=2).train_dataloader())
    assert len(here) == len(there) == 2
    assert all(map(same, here, there))


def test_cache_gives_the_same_batches(
    make_csv: MakeCsv, prompts: PromptBuilder, tmp_path: Path
) -> None:
    config = make_csv(8)
    plain = list(module(config, prompts).train_dataloader())
    folder = tmp_path / "cache"
    for _ in range(2):
        cached = list(module(config, prompts, cache_dir=str(folder)).train_dataloader())
        assert all(map(same, plain, cached))
    assert len(list(folder.rglob("*.safetensors"))) == 8


def test_images_of_too_many_pixels_are_named_and_not_cached(
    make_csv: MakeCsv, prompts: PromptBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQR1_MAX_IMAGE_PIXELS", "20000")
    config = make_csv(3, split=WHOLE)
    noise_image(9, 640, 480).save(Path(str(config.root)) / "images" / "001.png", "JPEG")
    folder = tmp_path / "cache"
    for workers in (0, 1):
        data = module(config, prompts, cache_dir=str(folder), workers=workers)
        (batch,) = data.eval_dataloader("test")
        assert batch.decoded_at == (None, "160x120", None)
    assert len(list(folder.rglob("*.safetensors"))) == 2
    monkeypatch.delenv("VQR1_MAX_IMAGE_PIXELS")
    (batch,) = module(config, prompts, cache_dir=str(folder)).eval_dataloader("test")
    assert batch.decoded_at == ()


def test_evaluation_sees_every_image_once_in_order(
    make_csv: MakeCsv, prompts: PromptBuilder
) -> None:
    mixture = MixtureConfig(
        parts={"a": make_csv(7, "a", split=WHOLE), "b": make_csv(5, "b", split=WHOLE)}
    )
    data = module(mixture, prompts)
    batches = list(data.eval_dataloader("test"))
    assert [(batch.dataset, len(batch)) for batch in batches] == [
        ("a", 4), ("a", 3), ("b", 4), ("b", 1),
    ]  # fmt: skip
    assert torch.cat([batch.index for batch in batches[:2]]).tolist() == list(range(7))
    few = list(data.eval_dataloader("test", max_images=3, batch_size=2))
    # `printf 0:test:000.png | sha256sum` and so on: of seven the digests of 1, 2 and 6 are the
    # smallest, of the first five those of 1, 2 and 3.
    assert [(batch.dataset, batch.index.tolist()) for batch in few] == [
        ("a", [1, 2]), ("a", [6]), ("b", [1, 2]), ("b", [3]),
    ]  # fmt: skip
    shared = [list(data.eval_dataloader("test", rank=r, world_size=3)) for r in range(3)]
    assert [len(share) for share in shared] == [2, 1, 1]
    assert same(shared[0][1], batches[3])


def test_mixture_batches_hold_one_set(make_csv: MakeCsv, prompts: PromptBuilder) -> None:
    mixture = MixtureConfig(parts={"a": make_csv(8, "a"), "b": make_csv(3, "b")})
    data = module(mixture, prompts)
    batches = list(data.train_dataloader())
    assert sorted(batch.dataset for batch in batches) == ["a", "a", "b"]
    small = next(batch for batch in batches if batch.dataset == "b")
    assert sorted(small.index.tolist()) == [0, 1, 2]  # smaller than a batch: each image once
    assert list(data.sets) == ["a", "b"]


def test_short_edge_comes_before_the_models_resizing(
    make_csv: MakeCsv, prompts: PromptBuilder
) -> None:
    # Images of 40 x 32: short edge 84 makes 105 x 84, and the nearest multiples of 28 are
    # 112 x 84, so 8 x 6 patches. Without it, 32 x 40 grows to the smallest area, 56 x 84.
    plain = next(iter(module(make_csv(4, "plain"), prompts).train_dataloader()))
    large = next(iter(module(make_csv(4, "large", short_edge=84), prompts).train_dataloader()))
    # 4 x 6 and 6 x 8 patches of 14 pixels.
    assert plain.prompts.flat_images[0].shape == (56, 84, 3)
    assert large.prompts.flat_images[0].shape == (84, 112, 3)


def test_images_in_subfolders_are_found_and_scores_turned(
    prompts: PromptBuilder, tmp_path: Path
) -> None:
    (tmp_path / "csiq_label.txt").write_text("1600.AWGN.1.png 0.1\n1600.BLUR.5.png 0.9\n")
    for folder, name in (("awgn", "1600.AWGN.1.png"), ("blur", "1600.BLUR.5.png")):
        (tmp_path / "dst_imgs" / folder).mkdir(parents=True)
        noise_image(1).save(tmp_path / "dst_imgs" / folder / name)
    config = DatasetConfig(name="csiq", root=str(tmp_path), split=WHOLE)
    (batch,) = module(config, prompts).eval_dataloader("test")
    assert batch.names == ("awgn/1600.AWGN.1.png", "blur/1600.BLUR.5.png")
    assert batch.mos.tolist() == [5.0, 1.0]
    assert open_dataset(config).table["mos"].tolist() == pytest.approx([0.9, 0.1])


def test_released_training_file_trains_as_it_is(
    shared: Path, tmp_path: Path, prompts: PromptBuilder
) -> None:
    name = "RL-KADID-10K_train_scoring.jsonl"
    (tmp_path / name).write_bytes((shared / "labels" / "vqr1_release" / name).read_bytes())
    (tmp_path / "images").mkdir()
    noise_image(0).save(tmp_path / "one.png")
    lines = read_jsonl(tmp_path / name)
    for line in lines:
        os.link(tmp_path / "one.png", tmp_path / "images" / line.image)
    split = SplitConfig(by="image", fractions=(1.0, 0.0, 0.0))
    config = DatasetConfig(name="jsonl", root=str(tmp_path), label_file=name, split=split)
    data = module(config, prompts)
    assert data.sets["jsonl"].table["mos_scaled"].tolist() == [line.mos for line in lines]
    loader = data.train_dataloader()
    assert len(loader) == 6125 // 4
    assert len(next(iter(loader))) == 4


def test_processes_share_each_step(
    make_csv: MakeCsv, prompts: PromptBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = MixtureConfig(parts={"a": make_csv(9, "a"), "b": make_csv(4, "b")})
    alone = list(module(mixture, prompts, 4).train_dataloader())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(list(module(mixture, prompts, 2).train_dataloader()))
    assert [batch.dataset for batch in shares[0]] == [batch.dataset for batch in alone]
    for whole, first, second in zip(alone, *shares, strict=True):
        assert whole.dataset == first.dataset == second.dataset
        assert whole.images == first.images + second.images


def test_demo_set_goes_through_the_same_door(
    prompts: PromptBuilder, make_kadid: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_kadid([1, 2, 3])
    (root / "splits").mkdir()
    for part, reference in (("train", "I01"), ("val", "I02"), ("test", "I03")):
        (root / "splits" / f"{part}.txt").write_text(f"{reference}.png\n")
    monkeypatch.setattr("vqr1.data.demo.ensure_demo_set", lambda: root)
    files = {part: f"splits/{part}.txt" for part in ("train", "val", "test")}
    config = DatasetConfig(name="demo", root=None, split=SplitConfig(by="files", files=files))  # type: ignore[arg-type]
    labelled = open_dataset(config)
    assert labelled.rows("val")["reference"].unique().tolist() == ["I02.png"]
    assert len(next(iter(module(config, prompts).train_dataloader()))) == 4


def break_image(config: DatasetConfig, number: int) -> None:
    path = Path(str(config.root)) / "images" / f"{number:03d}.png"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("workers", [0, 1])
def test_undecodable_image_stops_the_run(
    workers: int, make_csv: MakeCsv, prompts: PromptBuilder
) -> None:
    config = make_csv(8)
    break_image(config, 5)
    with pytest.raises(DataError, match=r"005.png: the image does not decode") as caught:
        list(module(config, prompts, workers=workers).train_dataloader())
    assert "dataset.on_bad_image=skip" in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.medium
@pytest.mark.parametrize("workers", [0, 2])
def test_undecodable_images_are_excluded_and_counted(
    workers: int, make_csv: MakeCsv, prompts: PromptBuilder
) -> None:
    config = make_csv(12, on_bad_image="skip", max_bad_share=0.25)
    for number in (2, 5, 6):
        break_image(config, number)
    data = module(config, prompts, workers=workers)
    for _ in range(2):
        batches = list(data.train_dataloader())
        assert [len(batch) for batch in batches] == [4, 4, 4]  # the next image takes the place
        assert not {2, 5, 6} & set(torch.cat([batch.index for batch in batches]).tolist())
    assert data.skipped_images() == {"csv": 3}
    evaluated = list(data.eval_dataloader("train"))
    assert torch.cat([batch.index for batch in evaluated]).tolist() == [0, 1, 3, 4, *range(7, 12)]


def test_two_bad_images_never_get_the_same_replacement(
    make_csv: MakeCsv, prompts: PromptBuilder
) -> None:
    config = make_csv(7, on_bad_image="skip", max_bad_share=0.9)
    for number in (2, 3):
        break_image(config, number)
    images = module(config, prompts).train_dataloader().dataset
    assert isinstance(images, RankingImages)

    def positions(*wanted: int) -> list[int]:
        batch = images.batch(BatchPlan("csv", wanted))
        assert batch is not None
        return batch.index.tolist()

    assert positions(2, 3) == [4, 5]
    assert positions(3, 4, 2) == [5, 4, 6]
    # Where the set holds no other image, the batch is smaller: no image meets its own copy.
    assert positions(0, 1, 2, 3, 4, 5) == [0, 1, 6, 4, 5]


def test_a_replacement_is_no_image_of_another_process(
    make_csv: MakeCsv, prompts: PromptBuilder
) -> None:
    config = make_csv(6, on_bad_image="skip", max_bad_share=0.9)
    for number in (2, 3):
        break_image(config, number)
    images = module(config, prompts).train_dataloader().dataset
    assert isinstance(images, RankingImages)

    def positions(wanted: tuple[int, ...], step: tuple[int, ...]) -> list[int]:
        batch = images.batch(BatchPlan("csv", wanted, step))
        assert batch is not None
        return batch.index.tolist()

    assert positions((1, 2), (1, 2, 4, 0)) == [1, 5]  # 3 is bad too, and 4 another process's
    assert positions((1, 2), (1, 2, 4, 5, 0)) == [1]
    # A process without any image of its own would keep the others waiting.
    assert positions((2,), (0, 1, 2, 4, 5)) == [4]
    assert positions((2, 3), (0, 1, 2, 3, 4, 5)) == [4]


@pytest.mark.parametrize(
    ("settings", "loader", "within", "printed"),
    [
        ({"max_images": 1}, {}, False, r"^dataset\.max_images=1: of csv \(1 training images\)"),
        ({"max_images": 5, "split": SplitConfig(by="image", fractions=(0.1, 0.4, 0.5))}, {}, False,
         r"^dataset\.split: of csv \(1 training images\)"),
        ({}, {"size": 1}, True, r"^loader\.batch_size=1: of csv \(9 .* in some process;"),
    ],
)  # fmt: skip
def test_too_few_images_to_compare_are_refused(
    settings: dict[str, Any],
    loader: dict[str, Any],
    within: bool,
    printed: str,
    make_csv: MakeCsv,
    prompts: PromptBuilder,
) -> None:
    data = module(make_csv(9, **settings), prompts, **loader)
    with pytest.raises(DataError, match=printed):
        data.check_comparable(within)


def test_rows_of_several_images(make_csv: MakeCsv, processor: Any) -> None:
    """A pair of neighbouring images a row: each is loaded once."""
    builder = PromptBuilder(FAMILY, processor, SENTENCE, 3136, 12544, vision_id=False, images=2)
    data = module(make_csv(4), builder)
    with pytest.raises(ConfigError, match=r"^prompt\.images=2: dataset: a row of csv has 1 image;"):
        data.train_dataloader()
    labelled = data.sets["csv"]
    bad = torch.zeros(4, dtype=torch.uint8)
    rows = SetImages(labelled, labelled.rows("train"), bad)
    names = [row[0] for row in rows.images]
    rows.images = [(names[n], names[(n + 1) % 4]) for n in range(4)]
    rows.names = [" + ".join(row) for row in rows.images]
    images = RankingImages({"csv": rows}, builder, None, replace_bad=False)
    batch = images.batch(BatchPlan("csv", (0, 1, 2)))
    assert batch is not None
    assert batch.images == tuple(rows.images[:3])
    assert batch.names[0] == f"{names[0]} + {names[1]}"
    assert batch.prompts.images[0][1] is batch.prompts.images[1][0]
    assert batch.prompts.keys is not None
    assert batch.prompts.keys[0][1] == batch.prompts.keys[1][0] != batch.prompts.keys[0][0]
    expected = builder([[load_image(path) for path in rows.paths(n)] for n in range(3)])
    assert all(map(torch.equal, batch.prompts.input_ids, expected.input_ids))
    assert all(map(torch.equal, batch.prompts.flat_images, expected.flat_images))
    # A row with one image that does not decode is excluded whole.
    (rows.root / names[1]).write_bytes(b"no image")
    rows.skips, rows.max_bad = True, 4
    less = images.batch(BatchPlan("csv", (0, 1, 2)))
    assert less is not None
    assert less.images == (rows.images[2],)


def test_two_images_can_be_compared(make_csv: MakeCsv, prompts: PromptBuilder) -> None:
    data = module(make_csv(9, max_images=2), prompts)
    data.check_comparable(within_process=False)
    (batch,) = data.train_dataloader()
    assert len(set(batch.images)) == len(batch) == 2


def test_too_many_undecodable_images_stop_the_run(
    make_csv: MakeCsv, prompts: PromptBuilder
) -> None:
    config = make_csv(8, on_bad_image="skip", max_bad_share=0.2)
    break_image(config, 1)
    break_image(config, 2)
    with pytest.raises(
        DataError, match=r"2 images of csv are bad now, above dataset.max_bad_share"
    ):
        list(module(config, prompts).train_dataloader())


def test_evaluation_excludes_an_empty_batch(make_csv: MakeCsv, prompts: PromptBuilder) -> None:
    config = make_csv(6, split=WHOLE, on_bad_image="skip", max_bad_share=0.5)
    for number in (2, 3):
        break_image(config, number)
    batches = list(module(config, prompts, 2).eval_dataloader("test"))
    assert [batch.index.tolist() for batch in batches] == [[0, 1], [4, 5]]


def test_empty_splits_are_errors(make_csv: MakeCsv, prompts: PromptBuilder) -> None:
    data = module(make_csv(4, split=WHOLE), prompts)
    with pytest.raises(DataError, match=r"dataset.split: csv has no training images"):
        data.train_dataloader()
    with pytest.raises(DataError, match=r"dataset.split: no val images"):
        data.eval_dataloader("val")


def test_a_set_twice_and_all_config_problems_at_once(make_csv: MakeCsv) -> None:
    own = make_csv(3)
    with pytest.raises(ConfigError, match=r"dataset.parts.b: the same set as dataset.parts.a"):
        open_sets(MixtureConfig(parts={"a": own, "b": own}))
    rootless = DatasetConfig(name="kadid", root=None, split=WHOLE)
    with pytest.raises(ConfigError) as caught:
        open_sets(MixtureConfig(parts={"a": own, "k": rootless, "l": rootless}))
    assert [problem.split("=")[0] for problem in caught.value.problems] == [
        "dataset.parts.k.root", "dataset.parts.l.root",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="a mixture needs at least one set"):
        open_sets(MixtureConfig(parts={}))


class Recorder(lightning.LightningModule):
    """Records the images of every training step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[str, ...]] = []

    def training_step(self, batch: RankingBatch, step: int) -> torch.Tensor:
        self.seen.append(batch.images)
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=0.1)


def train(
    data: RankingDataModule, folder: Path, steps: int, resume: Path | None = None
) -> Recorder:
    recorder = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.fit(recorder, datamodule=data, ckpt_path=resume)
    trainer.save_checkpoint(folder / "last.ckpt")
    return recorder


@pytest.mark.medium
@pytest.mark.parametrize(("stop", "workers"), [(2, 0), (3, 0), (4, 0), (4, 1)])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_lightning_resumes_to_the_same_batches(
    stop: int, workers: int, make_csv: MakeCsv, prompts: PromptBuilder, tmp_path: Path
) -> None:
    config = make_csv(13)  # three batches of 4 an epoch: stops within, at the end of, past one
    whole = train(module(config, prompts), tmp_path, 8).seen
    assert len(set(map(frozenset, whole[:3]))) == 3
    first = train(module(config, prompts, workers=workers), tmp_path, stop).seen
    resumed = module(config, prompts, workers=workers)
    second = train(resumed, tmp_path, 8, tmp_path / "last.ckpt").seen
    assert first + second == whole


def test_workers_of_an_evaluation_end_with_its_last_batch(
    make_csv: MakeCsv, prompts: PromptBuilder
) -> None:
    before = multiprocessing.active_children()
    data = module(make_csv(13), prompts, workers=1)
    loader = data.eval_dataloader("train", batch_size=4)
    batches = iter(loader)
    # Lightning counts the batches and never asks for one more.
    seen = [next(batches).images for _ in range(len(loader))]
    assert len({image for images in seen for image in images}) == sum(map(len, seen))
    assert set(multiprocessing.active_children()) <= set(before)


@pytest.mark.medium
def test_ten_thousand_rows_reach_the_first_batch_within_two_seconds(
    shared: Path, tmp_path: Path, prompts: PromptBuilder
) -> None:
    labels = (shared / "labels" / "kadid" / "dmos.csv").read_bytes()
    (tmp_path / "dmos.csv").write_bytes(labels)
    images = tmp_path / "images"
    images.mkdir()
    noise_image(0, 512, 384).save(tmp_path / "one.png")
    for line in labels.decode().splitlines()[1:]:
        os.link(tmp_path / "one.png", images / line.split(",")[0])
    config = DatasetConfig(name="kadid", root=str(tmp_path), split=SplitConfig(by="official"))
    # Seconds of the processor: other tests may run beside this one.
    start = time.process_time()
    data = module(config, prompts, 8, workers=1)
    batch = next(iter(data.train_dataloader()))
    seconds = time.process_time() - start
    assert len(batch) == 8
    assert len(data.sets["kadid"].rows("train")) == 6125
    print(f"first batch after {seconds:.2f} s")
    assert seconds < 5


def test_a_worker_of_joblib_can_do_without_loader_workers(
    make_csv: MakeCsv, prompts: PromptBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In such a process a start method has to be named, but not where nothing is started.
    monkeypatch.setattr("vqr1.data.ranking_images.start_method", lambda: "fork")
    data = module(make_csv(13), prompts, workers=0)
    assert len(next(iter(data.train_dataloader()))) > 1


def test_other_pixels_under_the_same_names_are_found(
    make_csv: MakeCsv, prompts: PromptBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def broadcast(box: list[Any], src: int) -> None:
        sent.extend(box)
        box[0] = sent[0]

    def check(rank: int, images: DatasetConfig) -> None:
        monkeypatch.setattr("vqr1.data.datamodule.get_rank", lambda: rank)
        monkeypatch.setattr("vqr1.data.datamodule.get_world_size", lambda: 2)
        module(images, prompts).check_same_in_all_processes()

    monkeypatch.setattr("torch.distributed.broadcast_object_list", broadcast)
    check(0, make_csv(20))
    check(1, make_csv(20, name="same"))
    # Of 20 rows 8 are compared, by the SHA-256 of 0:all:NAME: 1, 3, 9, 10, 11, 13, 18 and 19.
    other = make_csv(20, name="other")
    noise_image(99).save(Path(str(other.root)) / "images" / "002.png")
    check(1, other)
    for number in (9, 13):
        noise_image(99).save(Path(str(other.root)) / "images" / f"{number:03d}.png")
    printed = (
        r"process 1 finds another file at .*/other/images/009.png than process 0 \(2 of the 8 "
    )
    with pytest.raises(DataError, match=printed):
        check(1, other)


def test_steps_of_a_set_whose_scores_compare_within_a_reference(
    tmp_path: Path, prompts: PromptBuilder, make_csv: MakeCsv
) -> None:
    root = tmp_path / "sriqa"
    (root / "images").mkdir(parents=True)
    lines = []
    for number in range(8):
        image = f"{number // 4}_Method{number}x4.png"
        noise_image(number).save(root / "images" / image)
        lines.append(f"{number // 4}.png {image} {number}")
    (root / "SRIQA-Bench_test_all.txt").write_text("\n".join(lines) + "\n")
    files = {"train": "train.txt"}
    (root / "train.txt").write_text("0.png\n1.png\n")
    one = DatasetConfig(name="sriqa", root=str(root), split=SplitConfig(by="files", files=files))
    both = MixtureConfig(parts={"sriqa": one, "csv": make_csv(4)}, weights={"sriqa": 1, "csv": 1})
    data = module(both, prompts, size=2)
    batches = list(data.train_dataloader())
    # 4 + 2 batches of two; equal weights share six batches as 3 and 3, of which two groups of
    # equal size take 3 / 2 each: 2 and 1.
    assert sorted(batch.dataset for batch in batches) == ["csv"] * 3 + ["sriqa"] * 3
    groups = [set(b.labels.references) for b in batches if b.dataset == "sriqa" and b.labels]
    assert all(len(group) == 1 for group in groups)
    assert {name for group in groups for name in group} == {"0.png", "1.png"}
    data.check_comparable(within_process=False)


def test_a_split_of_which_nothing_is_left(make_csv: MakeCsv, prompts: PromptBuilder) -> None:
    config = make_csv(8, split=WHOLE, on_bad_image="skip", max_bad_share=1)
    data = module(config, prompts)
    (labelled,) = data.sets.values()
    names = labelled.rows("test")["image"].tolist()
    for name in names:
        (labelled.image_root / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=f"none of the {len(names)} images? of csv here can be use"):
        list(data.eval_dataloader("test"))


def test_images_without_a_label_are_mentioned(
    make_csv: MakeCsv, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_csv(8)
    open_sets(config)
    assert "without a label" not in caplog.text
    root = Path(str(config.root))
    image = next(root.rglob("*.png"))
    for name in ("extra.png", "sub/more.png"):
        (image.parent / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(image, image.parent / name)
    open_sets(config)
    assert "2 further image files in " in caplog.text
    assert "without a label, not used: extra.png, sub/more.png" in caplog.text
