"""The table of `test_bad_input.py`: what is wrong with data at the door, and the one line about it.

Each command runs in a folder that holds `set/` (three images and `labels.csv`) and the case's own
files. `HERE` in a message is that folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.images import png_bytes

PNG = png_bytes(0)


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        fault: what is wrong, in words; the test's name.
        command: arguments of `vqr1 data`, separated by blanks.
        message: the whole line after `error: `.
        files: content of further files by path; None removes one, `-> target` makes a link.
    """

    fault: str
    command: str
    message: str
    files: Mapping[str, str | bytes | None] = field(default_factory=dict)


OWN = "dataset=csv dataset.root=set"
INSPECT, PREPARE, VERIFY = (f"{task} {OWN}" for task in ("inspect", "prepare", "verify"))


def labels(fault: str, text: str | bytes, message: str, keys: str = "") -> Case:
    """A fault of `set/labels.csv`."""
    return Case(fault, f"{INSPECT} {keys}", message, {"set/labels.csv": text})


def record(image: str = '["a.png"]', value: str = "3", name: str = "A") -> str:
    """A line of the published JSONL."""
    turns = f'[{{"from": "human", "value": "?"}}, {{"from": "gpt", "value": {value}}}]'
    return f'{{"dataset_name": "{name}", "image": {image}, "conversations": {turns}}}\n'


def jsonl(fault: str, text: str, message: str, keys: str = "") -> Case:
    """A fault of `set/lines.jsonl`."""
    command = f"inspect dataset=jsonl dataset.root=set dataset.label_file=lines.jsonl {keys}"
    return Case(fault, command, message, {"set/lines.jsonl": text})


PLACES = (
    Case("no root", "inspect dataset=kadid", ""),
    Case("no root of an own set", "inspect dataset=csv", ""),
    Case("a root that is not there", "verify dataset=csv dataset.root=gone", ""),
    Case("a root that is a file", "prepare dataset=csv dataset.root=set/a.png", ""),
    Case("a root of another set", "verify dataset=koniq dataset.root=set", ""),
    Case("no label file named", "inspect dataset=jsonl dataset.root=set", ""),
    Case("a label file that is not there", f"{VERIFY} dataset.label_file=gone.csv", ""),
    Case("a label file outside the root", f"{PREPARE} dataset.label_file=../labels.csv", "",
         {"labels.csv": "image,mos\na.png,1\n"}),
    Case("a pickle", f"{PREPARE} dataset.label_file=labels.pkl", "", {"set/labels.pkl": "x"}),
    Case("an image folder that is not there", f"{INSPECT} dataset.image_folder=gone", ""),
    Case("an official set without its image folder", "inspect dataset=kadid dataset.root=set "
         "dataset.split.by=none", "",
         {"set/dmos.csv": "dist_img,ref_img,dmos,var\na.png,I01.png,4.57,0.25\nb.png,I01.png,2,0.25\n"}),
    Case("a set that there is not", "inspect dataset=kadit", ""),
    Case("a format that there is not", f"{INSPECT} dataset.name=kadit", ""),
    Case("an option of another set", "verify dataset=kadid dataset.root=set "
         "dataset.lower_is_better=true", ""),
)  # fmt: skip

TABLES = (
    labels("an empty file", "", ""),
    labels("no rows", "image,mos\n", ""),
    labels("not UTF-8", b"image,mos\na.png,1\n\xe9.png,2\n", ""),
    labels("no such column", "image,score\na.png,1\n", ""),
    labels("a column twice", "image,mos,mos\na.png,1,2\n", ""),
    labels("too many fields", "image,mos\na.png,1\nb, c.png,2\n", ""),
    labels("a quote that never closes", 'image,mos\n"a.png,1\nb.png,2\n', ""),
    labels("no number", "image,mos\na.png,good\n", ""),
    labels("NaN", "image,mos\na.png,nan\n", ""),
    labels("a decimal comma among points", "image;mos\na.png;1,5\nb.png;2.5\n", ""),
    labels("a comma that may be of thousands", "image;mos\na.png;1,234\nb.png;2\n", ""),
    labels("two separators", "a.png;1,5\nb.png;2,5\n", "",
           "dataset.columns.image=0 dataset.columns.mos=1"),
    labels("a header that is not stated", "image,mos\na.png,1\n", "",
           "dataset.columns.image=0 dataset.columns.mos=1"),
    labels("a name that leaves the folder", "image,mos\na.png,1\n../b.png,2\n", ""),
    labels("an absolute name", "image,mos\n/etc/a.png,1\n", ""),
    labels("an empty name", "image,mos\n,1\n", ""),
    labels("an image twice", "image,mos\na.png,1\nb.png,2\na.png,3\n", ""),
    labels("scores that are all equal", "image,mos\na.png,3\nb.png,3\n", ""),
    labels("a split's name", "image,mos,set\na.png,1,train\nb.png,2,holdout\n", "",
           "dataset.columns.split=set"),
    labels("no rating of an image", "image,r1,r2\na.png,1,2\nb.png,,\n", "",
           "dataset.columns.mos=r*"),
    labels("a pattern without a blank", "image,mos\n1,1\n", "",
           "dataset.columns.name_pattern=img.png"),
    labels("no number for a pattern", "image,mos\nx,1\n", "",
           "'dataset.columns.name_pattern=\"img{:03}.png\"'"),
    Case("a spreadsheet that is none", f"{INSPECT} dataset.label_file=t.xlsx", "",
         {"set/t.xlsx": "no spreadsheet"}),
    labels("a sheet of a text file", "image,mos\na.png,1\n", "", "dataset.columns.sheet=MOS"),
    Case("a score far outside the published range", "prepare dataset=kadid dataset.root=set", "",
         {"set/dmos.csv": "dist_img,ref_img,dmos,var\na.png,I01.png,45.7,0.25\n"}),
    Case("a word that the format does not know", "inspect dataset=koniq dataset.root=set", "",
         {"set/koniq10k_distributions_sets.csv": "image_name,MOS,SD,set\na.png,50,0.5,holdout\n"}),
)  # fmt: skip

META = {
    "set/koniq10k_distributions_sets.csv": "image_name,MOS,SD,set\na.png,50,0.5,training\n",
    "set/meta_info_KonIQ10kDataset.csv": "img_name,mos,std,official_split\na.png,60,0.5,train\n",
}

FORMS = (
    jsonl("a line that is not JSON", record() + "{'a': 1}\n", ""),
    jsonl("several images in one line", record('["a.png", "b.png"]'), ""),
    jsonl("no score in a line", record(value="null"), ""),
    jsonl("a key twice", record(value='3, "value": 4'), ""),
    jsonl("several sets in one file", record() + record('["b.png"]', name="B"), ""),
    jsonl("a set that the file does not hold", record(), "", "dataset.select=B"),
    Case("two forms with different scores", "inspect dataset=koniq dataset.root=set", "", META),
    Case("two forms in different splits", "inspect dataset=koniq dataset.root=set", "",
         META | {"set/meta_info_KonIQ10kDataset.csv":
                 "img_name,mos,std,official_split\na.png,50,0.5,test\n"}),
    Case("two forms of different images", "inspect dataset=koniq dataset.root=set", "",
         META | {"set/meta_info_KonIQ10kDataset.csv":
                 "img_name,mos,std,official_split\nz.png,50,0.5,test\n"}),
)  # fmt: skip

LEAKS = "image,mos,reference\na.png,1,x\nb.png,2,x\nc.png,3,y\n"

SPLITS = (
    Case("a rule that the set has no split for", f"{INSPECT} dataset.split.by=official", ""),
    Case("a rule that the set has no references for", f"{INSPECT} dataset.split.by=reference", ""),
    Case("a rule that there is not", f"{INSPECT} dataset.split.by=scene", ""),
    Case("shares that do not sum to 1", f"{INSPECT} dataset.split.fractions=[.5,.4,.2]", ""),
    Case("no lists", f"{INSPECT} dataset.split.by=files", ""),
    Case("a list that is not there",
         f"{INSPECT} dataset.split.by=files dataset.split.files={{train:gone.txt}}", ""),
    Case("a list with an unknown name",
         f"{INSPECT} dataset.split.by=files dataset.split.files={{train:train.txt}}", "",
         {"set/train.txt": "a.png\nz.png\n"}),
    Case("a name in two lists", f"{INSPECT} dataset.split.by=files "
         "dataset.split.files={train:train.txt,test:test.txt}", "",
         {"set/train.txt": "a.png\nb.png\n", "set/test.txt": "b.png\n"}),
    Case("a reference in two splits", f"{INSPECT} dataset.columns.reference=reference "
         "dataset.split.by=files dataset.split.files={train:train.txt,test:test.txt}", "",
         {"set/labels.csv": LEAKS, "set/train.txt": "a.png\n", "set/test.txt": "b.png\n"}),
    Case("an answer to near-identical images that there is not",
         f"{INSPECT} dataset.split.near_duplicates=drop", ""),
    Case("a split without images", f"{PREPARE} dataset.split.by=none", ""),
)  # fmt: skip

IMAGES = (
    Case("an image that is not there", f"{PREPARE}", "", {"set/b.png": None}),
    Case("an empty image", f"{PREPARE}", "", {"set/b.png": b""}),
    Case("too many bad images",
         f"{PREPARE} dataset.on_bad_image=skip dataset.max_bad_share=.3", "", {"set/b.png": None}),
    Case("a name that fits two files", f"{PREPARE}", "",
         {"set/b.png": None, "set/x/b.png": PNG, "set/y/b.png": PNG}),
    Case("names that differ in case only", f"{PREPARE}", "",
         {"set/b.png": None, "set/B.png": PNG, "set/b.PNG": PNG}),
    Case("a link out of the folder", f"{PREPARE}", "",
         {"set/b.png": "-> ../outside.png", "outside.png": PNG}),
    Case("an image that does not decode", f"{VERIFY}", "", {"set/b.png": "no image"}),
    Case("an image that is cut off", f"{VERIFY}", "", {"set/b.png": PNG[:-30]}),
    Case("a set that lacks images", f"{VERIFY}", "", {"set/b.png": None, "set/c.png": None}),
)  # fmt: skip

OUTPUTS = (
    Case("a file of someone else's", f"{PREPARE} --split all --out notes.jsonl", "",
         {"notes.jsonl": "mine\n"}),
    Case("an output that is a folder", f"{PREPARE} --split all --out set", ""),
    Case("a sheet that is no sheet", f"{INSPECT} --out sheets", "", {"sheets/csv.png": PNG}),
    Case("a folder that is a file", f"{INSPECT} --out set/labels.csv", ""),
    Case("two sets of one name", "prepare --split all --out all.jsonl dataset=csv+jsonl "
         "dataset.parts.csv.root=set dataset.parts.jsonl.root=set dataset.parts.jsonl.name=csv "
         "dataset.parts.jsonl.label_file=labels.csv", ""),
    Case("an unknown key", f"{INSPECT} +dataset.colums.mos=3", ""),
    Case("an override that cannot be read", "inspect dataset=csv dataset.root=a,b", ""),
)  # fmt: skip

DOWNLOADS = (
    Case("a set that nobody hosts", "download kadit --root data", ""),
    Case("a set that cannot be fetched", "download biq2021 --root data --yes", ""),
    Case("nobody to ask", "download kadid --root data", ""),
    Case("an archive that is not there", "download kadid --root data --from gone.zip", ""),
    Case("an archive that is none", "download kadid --root data --from text.zip", "",
         {"text.zip": "no archive"}),
    Case("an archive of another set", "download kadid --root data --from labels.csv", "",
         {"labels.csv": "image,mos\n"}),
    Case("a folder that was placed by hand", "download kadid --root data --from text.zip", "",
         {"data/kadid/dmos.csv": "x", "text.zip": "x"}),
    Case("a mirror that is no address", "download kadid --root data --yes --mirror ftp://x", ""),
    Case("a task that there is not", "inspekt dataset=demo", ""),
)  # fmt: skip

CASES = (
    *PLACES, *TABLES, *FORMS, *SPLITS, *IMAGES, *OUTPUTS, *DOWNLOADS,
)  # fmt: skip
