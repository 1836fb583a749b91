"""Where each data set is hosted: archives, sizes, digests, the owner's page.

Facts of public pages, 2026. Sizes and digests are given where the host publishes them; everything
else is checked by the set's own label file (`install.py`). Licences are the owners', whoever
repackaged a set: they are shown before anything is fetched.

Not here: fetching (`fetch.py`), unpacking (`unpack.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from huggingface_hub import hf_hub_url

from vqr1.data.download.fetch import Remote
from vqr1.errors import ConfigError
from vqr1.program import name_of

_PYIQA = "chaofengc/IQA-PyTorch-Datasets"
_PYIQA_LABELS = "chaofengc/IQA-PyTorch-Datasets-metainfo"
_CITYU = "VQA-CityU/IQA_data"


@dataclass(frozen=True)
class HubFile:
    """A file of a data set repository on the Hugging Face hub.

    Attributes:
        repository: owner and name.
        file: its path there.
        about: bytes, roughly, for the question before the download.
        size: bytes, where they are known exactly.
        sha256: digest, where it is known.
        kind: an archive to unpack, or a label file to lay into the set's folder.
    """

    repository: str
    file: str
    about: float
    size: int | None = None
    sha256: str | None = None
    kind: Literal["archive", "labels"] = "archive"

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.file.rpartition("/")[2]

    def remote(self, mirror: str | None) -> Remote:
        """Its address, on the hub or on a mirror of it."""
        url = hf_hub_url(self.repository, self.file, repo_type="dataset", endpoint=mirror)
        return Remote(url, self.size, self.sha256)


@dataclass(frozen=True)
class WebFile:
    """A file on its owner's server, which no mirror of the hub has.

    Attributes:
        url: its address.
        about: bytes, roughly, for the question before the download.
        size: bytes, where they are known exactly.
        sha256: digest, where it is known.
        kind: an archive to unpack, or a label file to lay into the set's folder.
    """

    url: str
    about: float
    size: int | None = None
    sha256: str | None = None
    kind: Literal["archive", "labels"] = "archive"

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.url.rpartition("/")[2]

    def remote(self, mirror: str | None) -> Remote:
        """Its address, whatever the mirror of the hub."""
        return Remote(self.url, self.size, self.sha256)


@dataclass(frozen=True)
class Hosting:
    """How a set is had.

    Attributes:
        page: the owner's page: licence, terms, citation.
        licence: what the owner states, in a few words.
        files: what is fetched; empty where the set cannot be had automatically.
        by_hand: files to place under the set's folder, and where they come from, otherwise.
        note: what to know about this copy of the set.
    """

    page: str
    licence: str
    files: tuple[HubFile | WebFile, ...] = ()
    by_hand: tuple[str, ...] = ()
    note: str = ""


_ASK = "research use; the owner's terms apply"


def _labels(file: str) -> HubFile:
    return HubFile(_PYIQA_LABELS, file, 1e6, kind="labels")


_KONIQ_IMAGES = HubFile(
    _PYIQA, "koniq10k.tgz", 6348641188, 6348641188,
    "18f4b664fed41ffdf37dd5cae6921901d86afddd952fdfa3d77eda25cc48370b",
)  # fmt: skip

HOSTED: dict[str, Hosting] = {
    "kadid": Hosting(
        page="database.mmsp-kn.de/kadid-10k-database.html",
        licence=_ASK,
        files=(
            HubFile(
                _CITYU, "kadid10k.zip", 3069802102, 3069802102,
                "81efe25c7137e5c003d7747ea7ddf24262794584e451f530f29a40eb548d6784",
            ),
        ),
    ),
    "tid": Hosting(
        page="ponomarenko.info/tid2013.htm",
        licence=_ASK,
        files=(
            HubFile(
                _CITYU, "TID2013.zip", 1224619930, 1224619930,
                "afc41029766377585d7e8df0079b919f73c42d0d3fb7ece65110e02058673e50",
            ),
        ),
    ),
    "koniq": Hosting(
        page="database.mmsp-kn.de/koniq-10k-database.html",
        licence=_ASK,
        files=(_KONIQ_IMAGES, _labels("meta_info_KonIQ10kDataset.csv")),
    ),
    "spaq": Hosting(
        page="github.com/h4nwei/SPAQ",
        licence=_ASK,
        files=(
            HubFile(
                _CITYU, "spaq.zip", 2614126313, 2614126313,
                "f37eccc9946620daffdda9963fa06b01e929d5e8ff07becc7d69fad51be87316",
            ),
        ),
        note="this copy's images are resized already, as its size shows; the photographs as taken "
        "are 35 GB: fetch them from the owner's page and place them by hand",
    ),
    "livec": Hosting(
        page="live.ece.utexas.edu/research/ChallengeDB",
        licence=_ASK,
        files=(
            HubFile(_PYIQA, "live_challenge.tgz", 326e6),
            _labels("meta_info_LIVEChallengeDataset.csv"),
        ),
    ),
    "live": Hosting(
        page="live.ece.utexas.edu/research/Quality/subjective.htm",
        licence=_ASK,
        files=(
            HubFile(
                _PYIQA, "live.tgz", 721190291, 721190291,
                "0c23e0ba0d503dd7bfc3d5588fc3e94672e381759881e497c41ca814aa4d9d8f",
            ),
            _labels("meta_info_LIVEIQADataset.csv"),
        ),
    ),
    "csiq": Hosting(
        page="qualinet.github.io/databases/image/categorical_image_quality_csiq_database",
        licence=_ASK,
        files=(
            HubFile(
                _PYIQA, "csiq.tgz", 379062485, 379062485,
                "e34c372c98e751c5490dadeb536e37666296b6c4f651df30cc04c0547ffee5b0",
            ),
            _labels("meta_info_CSIQDataset.csv"),
        ),
    ),
    "pipal": Hosting(
        page="www.jasongt.com/projectpages/pipal.html",
        licence=_ASK,
        files=(
            HubFile(
                _PYIQA, "pipal.tar", 5843353600, 5843353600,
                "6bcb713ba0f9ad9ff6c11fc4c680ec88e633a674d16dc9d0700786d24b40f6b4",
            ),
            _labels("meta_info_PIPALDataset.csv"),
        ),
    ),
    "bid": Hosting(
        page="live.ece.utexas.edu (BID, on request of its authors)",
        licence=_ASK,
        files=(HubFile(_PYIQA, "BID.zip", 457e6),),
    ),
    "agiqa3k": Hosting(
        page="github.com/lcysyzxdxc/AGIQA-3k-Database",
        licence=_ASK,
        files=(HubFile(_PYIQA, "AGIQA-3K.zip", 98e6),),
    ),
    "flive": Hosting(
        page="github.com/niu-haoran/FLIVE_Database",
        licence=_ASK,
        files=(
            HubFile(
                _PYIQA, "flive.tgz", 5414976833, 5414976833,
                "85d257ebb00b99ff998e6aa4276be5cbd4762699874f57bcbf3261e441961696",
            ),
            _labels("meta_info_FLIVEDataset.csv"),
        ),
    ),
    "gfiqa": Hosting(
        page="database.mmsp-kn.de/gfiqa-20k-database.html",
        licence=_ASK,
        files=(HubFile(_PYIQA, "gfiqa-20k.tgz", 7.7e9),),
    ),
    "koniqpp": Hosting(
        page="database.mmsp-kn.de/koniq-image-defects-database.html",
        licence=_ASK,
        files=(
            _KONIQ_IMAGES,
            _labels("meta_info_KonIQ10k++Dataset.csv"),
            _labels("meta_info_KonIQ10kDataset.csv"),
        ),
        note="the images are KonIQ-10k's",
    ),
    "uhdiqa": Hosting(
        page="database.mmsp-kn.de/uhd-iqa-benchmark-database.html",
        licence=_ASK,
        files=(
            WebFile(
                "https://datasets.vqa.mmsp-kn.de/archives/UHD-IQA/UHD-IQA-database.zip", 10.7e9
            ),
        ),
    ),
    "aigciqa2023": Hosting(
        page="github.com/wangjiarui153/AIGCIQA2023",
        licence="none stated; research use",
        files=(
            HubFile("IntMeGroup/AIGCIQA2023", "allimg.zip", 0.9e9),
            HubFile("IntMeGroup/AIGCIQA2023", "AIGIQA2023.json", 1e7, kind="labels"),
        ),
    ),
    "cid2013": Hosting(
        page="zenodo.org/records/2647033",
        licence="free with the authors' copyright notice; " + _ASK,
        by_hand=("CID2013 data - version 12112014.xlsx", "the folders of CID2013.7z, unpacked"),
    ),
    "piq23": Hosting(
        page="corp.dxomark.com/data-base-piq23 (on request; the splits are at "
        "github.com/DXOMARK-Research/PIQ2023)",
        licence="non-commercial research, on acceptance of the owner's terms",
        by_hand=("Scores_Overall.csv", "Overall/", "Device Split.csv (for protocol=device)"),
    ),
    "koniq_scores": Hosting(
        page="database.mmsp-kn.de/koniq-10k-database.html",
        licence=_ASK,
        by_hand=("koniq10k_scores_and_distributions.csv", "1024x768/ or 512x384/"),
    ),
    "biq2021": Hosting(
        page="github.com/nisarahmedrana/BIQ2021",
        licence="none stated; research use",
        by_hand=("Train (Images and MOS).csv", "Test (Images and MOS).csv", "Images/"),
    ),
    "deblur": Hosting(
        page="the authors of Liu et al. 2013 (motion deblurring)",
        licence=_ASK,
        by_hand=("Deblur_test_all.txt", "images/",),
    ),
    "dehaze": Hosting(
        page="the authors of Min et al. 2019 (dehazing)",
        licence=_ASK,
        by_hand=("dehaze_test_all.txt", "images/",),
    ),
    "sriqa": Hosting(
        page="the authors of SRIQA-Bench",
        licence=_ASK,
        by_hand=("SRIQA-Bench_test_all.txt", "images/",),
    ),
}  # fmt: skip
"""By the configuration's word for the set."""


def hosting(name: str) -> Hosting:
    """How a set is had.

    Raises:
        ConfigError: no such set.
    """
    try:
        return HOSTED[name]
    except KeyError:
        raise ConfigError(
            [f"{name_of('data')} download {name}: no such set; one of {', '.join(sorted(HOSTED))}"]
        ) from None
