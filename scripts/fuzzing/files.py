"""Damaging label files, as disks, editors and hostile people do."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openpyxl
from scipy.io import savemat

LINES = 25
"""Lines of an official text file that are damaged at a time."""

ODD = (
    b"", b" ", b"nan", b"-inf", b"1e999", b"-0", b"9" * 400, b"0x1", b"\xff\xfe", b"\x00", b"\xe2",
    b"\xef\xbb\xbf", b'"', b"'", b",", b"\t", b"\r", b"\n", b"../x", b"/etc/passwd", b"C:\\x",
    b"\xef\xbc\x93", b"null", b"true", b"{", b"[" * 2000, b"]", b'{"a":', b"\\u0000", b"\\ud800",
    b"1,5", b"a" * 70_000, b"-", b".", b"..", b"NaN", b"Infinity", b"1" * 5000, b"\x1a",
)  # fmt: skip

_KADID = b"dist_img,ref_img,dmos,var\nI01_01_01.png,I01.png,4.57,0.2\nI01_01_02.png,I01.png,3,0.2\n"
_TRAIN = (
    b'{"id": 1, "dataset_name": "A", "image": ["a.png"], "conversations": [{"from": "human", '
    b'"value": "rate"}, {"from": "gpt", "value": 3.5}]}\n'
)
_TEXTS: Mapping[str, tuple[str, str, bytes]] = {
    "kadid": ("dmos.csv", "kadid/dmos.csv", _KADID),
    "tid": ("mos_with_names.txt", "tid2013/mos_with_names.txt",
            b"5.51429 I01_01_1.bmp\n5.56757 i01_01_2.bmp\n"),
    "koniq": ("koniq10k_distributions_sets.csv", "koniq/koniq10k_distributions_sets.csv",
              b"image_name,MOS,SD,set\na.jpg,50,0.5,training\nb.jpg,40,0.5,test\n"),
    "csiq": ("csiq_label.txt", "csiq/csiq_label.txt", b"1600.AWGN.1.png 0.06\n"),
    "bid": ("bid_all.txt", "bid/bid_all.txt", b"DatabaseImage0001.JPG 2.5\n"),
    "agiqa3k": ("data.csv", "agiqa3k/data.csv",
                b"name,mos_quality,std_quality\na_1.jpg,2.5,0.1\nb_1.jpg,1,0.1\n"),
    "sriqa": ("SRIQA-Bench_test_all.txt", "vqr1_release/SRIQA-Bench_test_all.txt",
              b"a.png a_b.png 50.0\n"),
    "piq23": ("Scores_Overall.csv", "",
              b"IMAGE PATH,JOD,JOD STD,SCENE\n"
              b"Overall\\6_Indoor_Scene_0.jpg,-3.7,0.4,Indoor_Scene_0\n"),
    "aigciqa2023": ("AIGIQA2023.json", "",
                    b'[{"img": "0.png", "moz1": 60.2}, {"img": "405.png", "moz1": 44.5}]'),
    "flive": ("labels_image.csv", "", b"name,mos\na/b.jpg,75.4\na/c.jpg,72\n"),
    "uhdiqa": ("uhd-iqa-metadata.csv", "", b"image_name,quality_mos,set\na.jpg,0.5,training\n"),
    "csv": ("labels.csv", "", b"image,mos\na.png,1\nb.png,2\n"),
    "jsonl": ("train.jsonl", "vqr1_release/RL-KADID-10K_train_scoring.jsonl", _TRAIN),
}  # fmt: skip


def label_files(shared: Path | None) -> dict[str, dict[str, bytes]]:
    """By format, its label files by name: official ones below `shared`, ours where it has none."""
    found: dict[str, dict[str, bytes]] = {}
    for name, (file, official, own) in _TEXTS.items():
        path = None if shared is None or not official else shared / official
        whole = path.read_bytes() if path is not None and path.is_file() else own
        found[name] = {file: b"".join(whole.splitlines(keepends=True)[:LINES])}
    found["spaq"] = {"MOS and Image attribute scores.xlsx": _sheet()}
    found["live"] = {
        "dmos_realigned.mat": _mat(dmos_new=np.arange(4.0), orgs=np.zeros(4)),
        "refnames_all.mat": _mat(refnames_all=np.array(["a.bmp"] * 4, dtype=object)),
    }
    found["livec"] = {
        "AllImages_release.mat": _mat(AllImages_release=np.array(["a.bmp"] * 9, dtype=object)),
        "AllMOS_release.mat": _mat(AllMOS_release=np.arange(9.0)),
        "AllStdDev_release.mat": _mat(AllStdDev_release=np.arange(9.0)),
    }
    for name, folder in (("live", "live"), ("livec", "livec")):
        for file in found[name]:
            path = None if shared is None else shared / folder / file
            if path is not None and path.is_file():
                found[name][file] = path.read_bytes()
    return found


def _sheet() -> bytes:
    book = openpyxl.Workbook()
    book.active.append(["Image name", "MOS"])
    for number in range(5):
        book.active.append([f"{number:05d}.jpg", 10.0 * number])
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def _mat(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    savemat(stream, arrays)
    return stream.getvalue()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file with some damage; half of the spreadsheets are damaged inside of their archive."""
    if data[:2] == b"PK" and rng.random() < 0.7:
        return _damaged_archive(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        data = _damaged_once(data, rng)
    return data


def _damaged_once(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    end = min(len(data), place + rng.choice((1, 1, 2, 8, 64, 1000)))
    kind = rng.randrange(7)
    if kind == 0:
        return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
    if kind == 1:
        return data[:place] + data[end:]
    if kind == 2:
        return data[:place] + rng.choice(ODD) + data[place:]
    if kind == 3:
        return data[:place] + data[place:end] * rng.choice((2, 3, 50)) + data[end:]
    if kind == 4:
        return data[:place]
    return _field_replaced(data, rng) if kind == 5 else _lines_mixed(data, rng)


def _field_replaced(data: bytes, rng: random.Random) -> bytes:
    for mark in rng.sample((b",", b" ", b": ", b"\t"), 4):
        fields = data.split(mark)
        if len(fields) > 1:
            fields[rng.randrange(len(fields))] = rng.choice(ODD)
            return mark.join(fields)
    return data + rng.choice(ODD)


def _lines_mixed(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    chosen = rng.randrange(len(lines))
    return b"".join([*lines[chosen:], *lines[: rng.randrange(len(lines) + 1)]])


def _damaged_archive(data: bytes, rng: random.Random) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        names = old.namelist()
        victim = rng.choice(names)
        for name in names:
            content = old.read(name)
            if name == victim and rng.random() < 0.1:
                continue
            new.writestr(name, damaged(content, rng) if name == victim else content)
    return stream.getvalue()
