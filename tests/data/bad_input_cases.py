"""The table of `test_bad_input.py`: what is wrong with data at the door, and the one line about it.

Each command runs in a folder that holds `set/` (three images and `labels.csv`) and the case's own
files. `HERE` in a message is that folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.images import png_bytes
from vqr1.config import config_dir
from vqr1.data.download.catalogue import HOSTED

PNG = png_bytes(0)

CHOICES = ", ".join(sorted(file.stem for file in (config_dir() / "dataset").glob("*.yaml")))


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
    Case(
        "no root",
        "inspect dataset=kadid",
        "dataset.root=None: set it to the folder that holds the kadid labels and images, "
        "or fetch the set with `vqr1 data download kadid` (data/kadid is not there)",
    ),
    Case(
        "no root of an own set",
        "inspect dataset=csv",
        "dataset.root=None: set it to the folder that holds the csv labels and images, for "
        "example dataset.root=data/csv",
    ),
    Case(
        "a root that is not there",
        "verify dataset=csv dataset.root=gone",
        "dataset.root='gone': no such folder; set it to the one with the set's labels",
    ),
    Case(
        "a root of another set",
        "verify dataset=koniq dataset.root=set",
        "dataset.root='set': none of koniq10k_distributions_sets.csv is there; set it to "
        "the folder that holds this label file, or name the file with dataset.label_file "
        "(pyiqa's meta_info_KonIQ10kDataset.csv or DeQA-Score's KONIQ/metas or KonIQ-10k.txt "
        "would do too)",
    ),
    Case(
        "a label file that is not there",
        f"{VERIFY} dataset.label_file=gone.csv",
        "dataset.label_file='gone.csv': no such file in set",
    ),
    Case(
        "a label file outside the root",
        f"{PREPARE} dataset.label_file=../labels.csv",
        "dataset.label_file='../labels.csv': leaves dataset.root",
        {"labels.csv": "image,mos\na.png,1\n"},
    ),
    Case(
        "a pickle",
        f"{PREPARE} dataset.label_file=labels.pkl",
        "dataset.label_file='labels.pkl': pickles are never read, they can run code; take "
        "the CSV form, whose split columns (official_split, ratio802_seed123_split_01) "
        "hold the same",
        {"set/labels.pkl": "x"},
    ),
    Case(
        "an image folder that is not there",
        f"{INSPECT} dataset.image_folder=gone",
        "dataset.image_folder='gone': no such folder in set",
    ),
    Case(
        "an official set without its image folder",
        "inspect dataset=kadid dataset.root=set dataset.split.by=none",
        "dataset.root='set': no image folder images there; name it with dataset.image_folder",
        {"set/dmos.csv": "dist_img,ref_img,dmos,var\na.png,I,4.57,0.25\nb.png,I,2,0.25\n"},
    ),
    Case(
        "a set that there is not",
        "inspect dataset=kadit",
        "dataset=kadit: dataset has no choice kadit; did you mean kadid? There are " + CHOICES,
    ),
    Case(
        "an option of another set",
        "verify dataset=kadid dataset.root=set dataset.lower_is_better=true",
        "dataset.lower_is_better=True: kadid labels know their direction; remove the key",
    ),
)

TABLES = (
    labels("an empty file", "", "set/labels.csv: the file is empty"),
    labels(
        "no rows",
        "image,mos\n",
        "dataset.root='set': no labelled images; its label file holds no row",
    ),
    labels(
        "not UTF-8",
        b"image,mos\na.png,1\n\xe9.png,2\n",
        "set/labels.csv:3: byte 0xe9 is not UTF-8; save the file as UTF-8 text",
    ),
    labels(
        "no such column",
        "image,score\na.png,1\n",
        "dataset.columns.mos='mos': no such column; set/labels.csv has image, score",
    ),
    labels(
        "a column twice",
        "image,mos,mos\na.png,1,2\n",
        "set/labels.csv:1: column 'mos' stands 2 times (columns 2, 3); keep one, or give "
        "each its own name",
    ),
    labels(
        "too many fields",
        "image,mos\na.png,1\nb, c.png,2\n",
        "set/labels.csv:3: 3 columns, expected 2 as in the header: 'b, c.png,2'; quote a "
        "text that holds a comma, and write decimals with a point",
    ),
    labels(
        "a quote that never closes",
        'image,mos\n"a.png,1\nb.png,2\n',
        "set/labels.csv:2: not readable as CSV (unexpected end of data)",
    ),
    labels("no number", "image,mos\na.png,good\n", "set/labels.csv:2: mos='good' is not a number"),
    labels(
        "NaN",
        "image,mos\na.png,nan\n",
        "set/labels.csv:2: mos='nan'; the score must be a finite number",
    ),
    labels(
        "a decimal comma among points",
        "image;mos\na.png;1,5\nb.png;2.5\n",
        "set/labels.csv:2: mos='1,5' is not a number; write decimals with a point, and no "
        "thousands separators",
    ),
    labels(
        "a comma that may be of thousands",
        "image;mos\na.png;1,234\nb.png;2\n",
        "dataset.columns.decimal=None: set/labels.csv:2: '1,234' may have a decimal comma "
        "or a thousands separator; set it to comma, or write the numbers without separators",
    ),
    labels(
        "two separators",
        "a.png;1,5\nb.png;2,5\n",
        "dataset.columns.separator=None: the first line of set/labels.csv holds commas and "
        'semicolons: \'a.png;1,5\'; set it to "," or ";" or tab',
        "dataset.columns.image=0 dataset.columns.mos=1",
    ),
    labels(
        "a header that is not stated",
        "image,mos\na.png,1\n",
        "set/labels.csv:1: 1='mos' is not a number; if this line names the columns, set "
        "dataset.columns.header=true",
        "dataset.columns.image=0 dataset.columns.mos=1",
    ),
    labels(
        "a name that leaves the folder",
        "image,mos\na.png,1\n../b.png,2\n",
        "set/labels.csv:3: image '../b.png' leaves the image folder; write its path from "
        "there, without '..'",
    ),
    labels(
        "an absolute name",
        "image,mos\n/etc/a.png,1\n",
        "set/labels.csv:2: image '/etc/a.png' is an absolute path; paths are relative to "
        "the image folder",
    ),
    labels(
        "an empty name",
        "image,mos\n,1\n",
        "set/labels.csv:2: empty image name ''; name the image, or remove the row",
    ),
    labels(
        "an image twice",
        "image,mos\na.png,1\nb.png,2\na.png,3\n",
        "set/labels.csv:4: image 'a.png' was already listed at set/labels.csv:2; keep one row",
    ),
    labels(
        "scores that are all equal",
        "image,mos\na.png,3\nb.png,3\n",
        "dataset.root='set': all 2 scores are 3.0; nothing can be ranked",
    ),
    labels(
        "a split's name",
        "image,mos,set\na.png,1,train\nb.png,2,holdout\n",
        "set/labels.csv:3: unknown split 'holdout'; use train, val or test (or leave it empty)",
        "dataset.columns.split=set",
    ),
    labels(
        "no rating of an image",
        "image,r1,r2\na.png,1,2\nb.png,,\n",
        "set/labels.csv:3: none of the 2 observers rated it",
        "dataset.columns.mos=r*",
    ),
    labels(
        "no number for a pattern",
        "image,mos\nx,1\n",
        "set/labels.csv:2: 'x' is no number, as dataset.columns.name_pattern needs",
        "'dataset.columns.name_pattern=\"img{:03}.png\"'",
    ),
    Case(
        "a spreadsheet that is none",
        f"{INSPECT} dataset.label_file=t.xlsx",
        "set/t.xlsx: not readable as an .xlsx spreadsheet (File is not a zip file)",
        {"set/t.xlsx": "no spreadsheet"},
    ),
    Case(
        "a score far outside the published range",
        "prepare dataset=kadid dataset.root=set",
        "set/dmos.csv:2: score 45.7 is far outside the range 1.0 to 4.93 of KADID-10K; is "
        "this the set's own label file?",
        {"set/dmos.csv": "dist_img,ref_img,dmos,var\na.png,I01.png,45.7,0.25\n"},
    ),
)

META_FILE = "set/meta_info_KonIQ10kDataset.csv"
META_HEAD = "img_name,mos,std,official_split\n"
META = {
    "set/koniq10k_distributions_sets.csv": "image_name,MOS,SD,set\na.png,50,0.5,training\n",
    META_FILE: META_HEAD + "a.png,60,0.5,train\n",
}

FORMS = (
    jsonl(
        "a line that is not JSON",
        record() + "{'a': 1}\n",
        "set/lines.jsonl:2: not JSON (Expecting property name enclosed in double quotes at "
        "column 2)",
    ),
    jsonl(
        "lines of one image and of two",
        record() + record('["a.png", "b.png"]'),
        "images a row: 1 in 1 rows, but set/lines.jsonl:2: 2; a prompt takes the same number of "
        "images of every row, so correct these rows or list them as another set",
    ),
    jsonl(
        "no score in a line", record(value="null"), "set/lines.jsonl:1: score None is not a number"
    ),
    jsonl(
        "a key twice",
        record(value='3, "value": 4'),
        "set/lines.jsonl:1: JSON that cannot be read (the key 'value' stands twice in one "
        "object; keep one)",
    ),
    jsonl(
        "several sets in one file",
        record() + record('["b.png"]', name="B"),
        "dataset.select=None: set/lines.jsonl holds 2 sets (A, B), and a ranking batch "
        "never mixes sets; name one here, and list the file once for each set",
    ),
    jsonl(
        "a set that the file does not hold",
        record(),
        "dataset.select='B': set/lines.jsonl holds A",
        "dataset.select=B",
    ),
    Case(
        "two forms with different scores",
        "inspect dataset=koniq dataset.root=set",
        "set/meta_info_KonIQ10kDataset.csv:2: 'a.png' has score 60 here and 50 at "
        "set/koniq10k_distributions_sets.csv:2; keep one of them, or name the one "
        "to use with label_file",
        META,
    ),
    Case(
        "two forms in different splits",
        "inspect dataset=koniq dataset.root=set",
        "set/meta_info_KonIQ10kDataset.csv:2: 'a.png' is in split test here and in train "
        "at set/koniq10k_distributions_sets.csv:2; keep one of them, or name the "
        "one to use with label_file",
        META | {META_FILE: META_HEAD + "a.png,50,0.5,test\n"},
    ),
    Case(
        "two forms of different images",
        "inspect dataset=koniq dataset.root=set",
        "set/meta_info_KonIQ10kDataset.csv: names none of the images of the other labels; "
        "keep one of them, or name the one to use with label_file",
        META | {META_FILE: META_HEAD + "z.png,50,0.5,test\n"},
    ),
)

LEAKS = "image,mos,reference\na.png,1,x\nb.png,2,x\nc.png,3,y\n"

SPLITS = (
    Case(
        "a rule that the set has no split for",
        f"{INSPECT} dataset.split.by=official",
        "dataset.split.by='official': this set's labels hold no split; use 'reference', "
        "'image', 'files' or 'none'",
    ),
    Case(
        "a rule that the set has no references for",
        f"{INSPECT} dataset.split.by=reference",
        "dataset.split.by='reference': this set's labels name no references; use 'image', "
        "or 'official' where it has a split of its own",
    ),
    Case(
        "shares that do not sum to 1",
        f"{INSPECT} dataset.split.fractions=[.5,.4,.2]",
        "dataset.split.fractions=[0.5, 0.4, 0.2]: they sum to 1.1, must be 1",
    ),
    Case(
        "no lists",
        f"{INSPECT} dataset.split.by=files",
        "dataset.split.files=None: split.by='files' needs at least one list",
    ),
    Case(
        "a list with an unknown name",
        f"{INSPECT} dataset.split.by=files dataset.split.files={{train:train.txt}}",
        "set/train.txt:2: 'z.png' is neither an image nor a reference of the set",
        {"set/train.txt": "a.png\nz.png\n"},
    ),
    Case(
        "a name in two lists",
        f"{INSPECT} dataset.split.by=files dataset.split.files={{train:train.txt,test:test.txt}}",
        "set/test.txt:1: 'b.png' is in the train list too",
        {"set/train.txt": "a.png\nb.png\n", "set/test.txt": "b.png\n"},
    ),
    Case(
        "a reference in two splits",
        f"{INSPECT} dataset.columns.reference=reference "
        "dataset.split.by=files dataset.split.files={train:train.txt,test:test.txt}",
        "dataset.split: images of 1 references lie in more than one split (x); a model "
        "would be tested on content it was trained on. Use dataset.split.by=reference",
        {"set/labels.csv": LEAKS, "set/train.txt": "a.png\n", "set/test.txt": "b.png\n"},
    ),
    Case(
        "an answer to near-identical images that there is not",
        f"{INSPECT} dataset.split.near_duplicates=drop",
        "dataset.split.near_duplicates='drop': input should be 'ignore', 'report', "
        "'refuse' or 'exclude'",
    ),
    Case(
        "a split without images",
        f"{PREPARE} dataset.split.by=none",
        "dataset.split: csv has no train images; try --split all",
    ),
)

IMAGES = (
    Case(
        "an image that is not there",
        f"{PREPARE}",
        "1 of 3 labelled images cannot be used in set: b.png: no such file. Set "
        "dataset.root or dataset.image_folder right, or leave such images out with "
        "dataset.on_bad_image=skip dataset.max_bad_share=0.34",
        {"set/b.png": None},
    ),
    Case(
        "an empty image",
        f"{PREPARE}",
        "1 of 3 labelled images cannot be used in set: b.png: is empty (0 bytes). Set "
        "dataset.root or dataset.image_folder right, or leave such images out with "
        "dataset.on_bad_image=skip dataset.max_bad_share=0.34",
        {"set/b.png": b""},
    ),
    Case(
        "too many bad images",
        f"{PREPARE} dataset.on_bad_image=skip dataset.max_bad_share=.3",
        "1 of 3 labelled images cannot be used in set: b.png: no such file. That is 33.3%, "
        "above dataset.max_bad_share=0.3",
        {"set/b.png": None},
    ),
    Case(
        "a name that fits two files",
        f"{PREPARE}",
        "set: image 'b.png' fits 2 files (x/b.png, y/b.png); keep one of them",
        {"set/b.png": None, "set/x/b.png": PNG, "set/y/b.png": PNG},
    ),
    Case(
        "a link out of the folder",
        f"{PREPARE}",
        "set: image 'b.png' is a link that leaves the image folder (to HERE/outside.png); "
        "put the file itself there",
        {"set/b.png": "-> ../outside.png", "outside.png": PNG},
    ),
    Case(
        "an image that does not decode",
        f"{VERIFY}",
        "csv: 1 image is missing or damaged: set/b.png: the image does not decode "
        "(cannot identify its format). Put them there, or leave such images out with "
        "dataset.on_bad_image=skip",
        {"set/b.png": "no image"},
    ),
    Case(
        "an image that is cut off",
        f"{VERIFY}",
        "csv: 1 image is missing or damaged: set/b.png: the image does not decode (image "
        "file is truncated). Put them there, or leave such images out with "
        "dataset.on_bad_image=skip",
        {"set/b.png": PNG[:-30]},
    ),
    Case(
        "a set that lacks images",
        f"{VERIFY}",
        "csv: 2 images are missing or damaged: b.png: no such file; c.png: no such file. "
        "Put them there, or leave such images out with dataset.on_bad_image=skip",
        {"set/b.png": None, "set/c.png": None},
    ),
)

OUTPUTS = (
    Case(
        "a file of someone else's",
        f"{PREPARE} --split all --out notes.jsonl",
        "--out=notes.jsonl: the file exists, and this command did not write it; choose "
        "another file, or remove it first",
        {"notes.jsonl": "mine\n"},
    ),
    Case(
        "an output that is a folder",
        f"{PREPARE} --split all --out set",
        "--out=set: cannot be written (Is a directory)",
    ),
    Case(
        "a sheet that is no sheet",
        f"{INSPECT} --out sheets",
        "--out=sheets/csv.png: the file exists, and this command did not write it; choose "
        "another file, or remove it first",
        {"sheets/csv.png": PNG},
    ),
    Case(
        "a folder that is a file",
        f"{INSPECT} --out set/labels.csv",
        "--out=set/labels.csv: this is a file; name a folder for the sheets",
    ),
    Case(
        "two sets of one name",
        "prepare --split all --out all.jsonl dataset=csv+jsonl "
        "dataset.parts.csv.root=set dataset.parts.jsonl.root=set dataset.parts.jsonl.name=csv "
        "dataset.parts.jsonl.label_file=labels.csv",
        "dataset.parts.jsonl: another set is called csv too; one file cannot keep them "
        "apart, so write one file each",
    ),
    Case(
        "an override that cannot be read",
        "inspect dataset=csv dataset.root=a,b",
        "dataset.root=a,b: commas make several values of it, one run each with --multirun; "
        "quote a text with marks in it for Hydra and for the shell: \"dataset.root='a,b'\"",
    ),
)

DOWNLOADS = (
    Case(
        "a set that nobody hosts",
        "download kadit --root data",
        f"vqr1 data download kadit: no such set; one of {', '.join(sorted(HOSTED))}",
    ),
    Case(
        "a set that cannot be fetched",
        "download biq2021 --root data --yes",
        "biq2021: cannot be fetched automatically; get it from "
        "github.com/nisarahmedrana/BIQ2021 and place under data/biq2021: Train (Images and "
        "MOS).csv, Test (Images and MOS).csv, Images/",
    ),
    Case(
        "nobody to ask",
        "download kadid --root data",
        "3.07 GB would be fetched into data/kadid; confirm with --yes",
    ),
    Case(
        "an archive that is not there",
        "download kadid --root data --from gone.zip",
        "--from gone.zip: no such file",
    ),
    Case(
        "an archive that is none",
        "download kadid --root data --from text.zip",
        "text.zip: damaged, or not what its name states (File is not a zip file); remove "
        "it and fetch it again",
        {"text.zip": "no archive"},
    ),
    Case(
        "an archive of another set",
        "download kadid --root data --from labels.csv",
        "dataset.root='data/.kadid.unpacking': none of dmos.csv is there; set it to the "
        "folder that holds this label file, or name the file with dataset.label_file "
        "(pyiqa's meta_info_KADID10kDataset.csv or DeQA-Score's KADID10K/metas or "
        "KADID-10k.txt would do too)",
        {"labels.csv": "image,mos\n"},
    ),
    Case(
        "a folder that was placed by hand",
        "download kadid --root data --from text.zip",
        "data/kadid: there already, and not by this command; look at it with `vqr1 "
        "data verify dataset=kadid dataset.root=data/kadid`, or remove it first",
        {"data/kadid/dmos.csv": "x", "text.zip": "x"},
    ),
    Case(
        "a mirror that is no address",
        "download kadid --root data --yes --mirror ftp://x",
        "--mirror ftp://x: must begin with https:// or http://",
    ),
    Case(
        "a task that there is not",
        "inspekt dataset=demo",
        "vqr1 data inspekt: did you mean inspect?",
    ),
)

CASES = (
    *PLACES,
    *TABLES,
    *FORMS,
    *SPLITS,
    *IMAGES,
    *OUTPUTS,
    *DOWNLOADS,
)
