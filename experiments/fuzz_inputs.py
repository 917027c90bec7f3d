"""What ``fuzz.py`` feeds, and to which function of the commands.

Everything is derived from small valid originals that are made here: bytes are damaged as disks and
editors do it, JSON is changed as programs and people do it, fields get values that nobody meant.
"""

from __future__ import annotations

import atexit
import copy
import dataclasses
import functools
import io
import json
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wlsrl_jax.config.config_file import read_config_file
from wlsrl_jax.config.fields import base_config, check_fields
from wlsrl_jax.data.images.decode import decode, open_image, presize
from wlsrl_jax.data.images.listing import find_images
from wlsrl_jax.data.images.quality import reason
from wlsrl_jax.data.images.read_image import Wide, decide_range
from wlsrl_jax.data.images.set_range import parse_flag, range_mistakes
from wlsrl_jax.data.images.steps import check_steps, parse_steps
from wlsrl_jax.data.prepare.manifest import parse_manifest
from wlsrl_jax.data.prepare.split_file import read_split_file
from wlsrl_jax.data.published.own_table import FolderOptions, table_rows
from wlsrl_jax.data.text.names import split_names
from wlsrl_jax.data.text.tables import read_cells, read_table
from wlsrl_jax.evaluate.external import parse_label_map
from wlsrl_jax.files import flatten, local_path
from wlsrl_jax.models.by_name import build_model
from wlsrl_jax.runs import packed, shipped
from wlsrl_jax.runs.documents import read_config, read_data, read_temperatures
from wlsrl_jax.tasks import class_counts, make_tasks
from wlsrl_jax.training.setup import build_losses


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
      share: how often it is tried, relative to the others.
      make: draws an input.
      feed: gives it to the program, with an empty or used folder to write it to; raises ``Mistake``
        where it is refused.
    """

    share: float
    make: Callable[[random.Random], bytes]
    feed: Callable[[bytes, Path], object]


PIECES = (b"\0", b"\n", b'"', b",", b";", b"\t", b"\r", b"\xff\xfe", b"\xef\xbb\xbf", b"'=",
          b"../../etc/passwd", b"1e999", b"007", b"=cmd()", b"\xed\xa0\x80", b"NaN", b"sep=;\n",
          "e\u0301".encode(), "\u202e\u200b".encode(), b"a" * 200_000)  # fmt: skip


def damaged(data: bytes, rng: random.Random, pieces: tuple[bytes, ...] = ()) -> bytes:
    """Damages some bytes: cut, flipped, repeated, overwritten by extreme numbers, spliced in."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(out) or 1)
        # What stands at the beginning says how the rest is to be read.
        at = rng.choice([at, min(at, 64), min(at, 512)])
        match rng.randrange(6):
            case 0:
                del out[at:]
            case 1 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                out[at : at + 4] = rng.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"]
                )
            case 3:
                out[at:at] = out[at : at + rng.randrange(1, 64)] * rng.choice([1, 3, 50])
            case 4:
                out[at : at + rng.randrange(1, 32)] = rng.randbytes(rng.randrange(16))
            case 5 if pieces:
                out[at:at] = rng.choice(pieces)
    return bytes(out)


ODD = (None, True, False, 0, 1, -1, 2, 3, 64, 10**6, 10**12, 2**63, 0.0, 0.5, -0.5, 1.0, 1e-300,
       1e300, float("nan"), float("inf"), "", " ", "x", "0", "train", "None", "\u0000", "a" * 5000,
       [], {}, [1], ["x", "x"], [[]], {"x": 1}, [None], (8, 16), ("x",))  # fmt: skip


def _deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def changed(value: Any, rng: random.Random) -> Any:
    """A JSON value of which some parts are other, gone, doubled, or in another place."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        node, path = value, []
        while isinstance(node, dict | list) and node and (not path or rng.random() < 0.75):
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            path.append((node, key))
            node = node[key]
        if not path:
            return rng.choice(ODD)
        parent, key = path[-1]
        match rng.randrange(5):
            case 0 | 1:
                parent[key] = copy.deepcopy(rng.choice(ODD))
            case 2:
                del parent[key]
            case 3 if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[key]))
            case 3:
                parent[rng.choice(["x", "", "images", key * 2])] = copy.deepcopy(parent[key])
            case 4:
                parent[key] = _deep(rng.choice([2, 50])) if rng.random() < 0.2 else [parent[key]]
    return value


def as_json(value: Any, rng: random.Random) -> bytes:
    """JSON, now and then with damaged bytes."""
    data = json.dumps(value, default=str).encode()
    return damaged(data, rng, PIECES) if rng.random() < 0.2 else data


# Images


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def _images() -> list[bytes]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
    colour, grey = Image.fromarray(pixels), Image.fromarray(pixels[..., 0])
    out = [
        _encoded(image, kind, **options)
        for image in (colour, grey)
        for kind, options in (
            ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("BMP", {}), ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"}),
            ("WEBP", {}), ("GIF", {}), ("JPEG2000", {}), ("PPM", {}),
        )
    ]  # fmt: skip
    deep = Image.fromarray(rng.integers(0, 4095, (40, 48)).astype(np.uint16))
    out += [_encoded(deep, "PNG"), _encoded(deep, "TIFF"), _encoded(colour.quantize(8), "PNG")]
    out += [_encoded(colour.convert("RGBA"), "PNG"), _dicom()]
    pages = [Image.fromarray(np.full((20, 20), k, np.uint8)) for k in (9, 99)]
    return [*out, _encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])]


def _dicom() -> bytes:
    """A grey image as DICOM, explicit VR little endian, written by hand."""

    def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2) if vr in (b"OB", b"UI") else b" " * (len(value) % 2)
        long = vr in (b"OB", b"OW")
        size = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))
        return struct.pack("<HH", group, number) + vr + size + value

    syntax = element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1")
    meta = element(2, 0, b"UL", struct.pack("<I", len(syntax))) + syntax
    short = functools.partial(struct.pack, "<H")
    body = b"".join(
        element(0x28, number, b"US", short(value))
        for number, value in ((2, 1), (0x10, 32), (0x11, 32), (0x100, 8), (0x101, 8), (0x102, 7),
                              (0x103, 0))
    )  # fmt: skip
    kind = element(0x28, 4, b"CS", b"MONOCHROME2")
    return (bytes(128) + b"DICM" + meta + element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.7")
            + body[:10] + kind + body[10:] + element(0x7FE0, 0x10, b"OW", bytes(range(256)) * 4)
    )  # fmt: skip


def _feed_image(data: bytes, folder: Path) -> None:
    opened = open_image(data)
    with range_mistakes():
        extents = [opened.extent] if isinstance(opened, Wide) and opened.extent else []
        pixel_range = decide_range(extents)
    for channels in (1, 3):
        out = decode(data, channels, 0, pixel_range)
        if out.dtype != np.uint8 or out.ndim != 3 or out.shape[2] != channels:
            raise AssertionError(f"not an image: {out.shape} {out.dtype}")
    reason(out, "fundus")
    presize(data, "fundus", 32, 32, (), 0, pixel_range)


# Tables, lists and split files

COLUMNS = ("file_name", "disease", "patient_id")
TABLE = b'file_name,disease,patient_id\namd_1,AMD,1\n"no_2",NO,2\n\xc3\xa4_3,"a,b",3\n'
OWN = (
    b"path,label,patient,split\na.png,CNV,007,train\nb.png,NORMAL,7.0,val\nsub/c.png,CNV,NA,test\n"
)
LIST = b"path,other\na.png,1\nsub/c.png,2\nb.png,3\n"
SPLITS = b"id,split,fold_0,fold_1\na,train,test,train\nb,test,train,val\n'=c,val,train,test\n"
MANIFEST = {
    "dataset": "x", "modality": "oct", "classes": ["CNV", "NORMAL"], "normal": "NORMAL",
    "settings": {"size": [32, 32], "preprocess": ["clahe"]}, "audit": {"has_patient_ids": True},
    "images": [
        {"id": f"{k}", "path": f"{k}.png", "class": ("CNV", "NORMAL")[k % 2], "patient": f"p{k}",
         "group": f"p{k}", "split": ("train", "validation", "test")[k % 3],
         "folds": ["train", "test"], "bytes": 1, "sha256": f"{k:064x}", "attributes": {"sex": "f"}}
        for k in range(6)
    ],
}  # fmt: skip


@functools.cache
def _workbook() -> bytes:
    try:
        import openpyxl
    except ImportError:
        return TABLE
    book = openpyxl.Workbook()
    for line in TABLE.decode().splitlines():
        book.active.append(line.split(","))
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def _repacked(rng: random.Random) -> bytes:
    """A workbook of which a part is damaged inside, so that the archive is whole."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_workbook())) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, damaged(data, rng, PIECES[:8]) if name == chosen else data)
    return buffer.getvalue()


def _written(data: bytes, path: Path) -> Path:
    path.write_bytes(data)
    return path


def _feed_table(data: bytes, folder: Path) -> None:
    path = _written(data, folder / ("table.xlsx" if data[:2] == b"PK" else "table.csv"))
    rows = read_table(path, COLUMNS)
    if not all(set(row) == set(COLUMNS) for row in rows):
        raise AssertionError("rows without their columns")


def _feed_own_table(data: bytes, folder: Path) -> None:
    source = folder / "source"
    if not source.exists():
        (source / "sub").mkdir(parents=True)
        for name in ("a.png", "b.png", "sub/c.png", "007.png"):
            (source / name).write_bytes(b"x")
    options = FolderOptions(modality="oct", name="x", table=str(_written(data, folder / "own.csv")))
    rows, _ = table_rows(options, source)
    told = {row.path for row in rows} | {row.reason for row in rows}
    lines = [row for row in read_cells(folder / "own.csv")[1:] if any(c.strip() for c in row)]
    if not told or len(rows) < len(lines):
        raise AssertionError(f"{len(lines)} rows, of which {len(rows)} are told of")


def _feed_list(data: bytes, folder: Path) -> None:
    suffix = (".csv", ".txt", ".tsv")[len(data) % 3]
    path = _written(data, folder / f"list{suffix}")
    if not find_images([str(path)]).items:
        raise AssertionError("a list of nothing is accepted")


def _feed_split_file(data: bytes, folder: Path) -> None:
    is_json = data[:1] in b"{["
    found = read_split_file(_written(data, folder / ("s.json" if is_json else "s.csv")))
    if not all(w in ("train", "validation", "test") for where in found.values() for w in where):
        raise AssertionError("a split that is none")


def _make_split_file(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return as_json(changed(MANIFEST, rng), rng)
    return damaged(SPLITS, rng, PIECES)


def _feed_manifest(data: bytes, folder: Path) -> None:
    found = parse_manifest(data, "manifest.json")
    for image in found["images"]:
        found["classes"].index(image["class"]), image["group"] + image["sha256"]
        dict(image["attributes"])


# Configs and flags


def _make_fields(rng: random.Random) -> bytes:
    modality = rng.choice(["oct", "fundus"])
    names = sorted(flatten(base_config(modality).to_dict()))
    chosen = rng.sample(names, rng.choice([1, 1, 2, 4]))
    return repr((modality, [(name, rng.choice(ODD)) for name in chosen])).encode()


def _feed_fields(data: bytes, folder: Path) -> None:
    modality, fields = eval(data, {"nan": float("nan"), "inf": float("inf")})  # ours, see above
    config = base_config(modality)
    config.model.preset = "tiny"
    config.data.height = config.data.width = 32
    with config.unlocked(), config.ignore_type():
        for name, value in fields:
            *path, last = name.split(".")
            node = functools.reduce(lambda n, key: n[key], path, config)
            node[last] = value
    check_fields(config)
    tasks = make_tasks(modality, ("0", "1", "2") if modality == "fundus" else ("a", "b"),
                       "0" if modality == "fundus" else "a")  # fmt: skip
    build_model(config, tasks)
    build_losses(config, tasks, class_counts(tasks, np.array([0, 0, 1, 1, 1])))


CONFIG_FILE = b"""from wlsrl_jax.config.fields import base_config


def get_config(dataset="phantom"):
    c = base_config("oct", dataset)
    c.batch_size = 16
    c.augment.rotation = 5.0
    c.model.widths = (8, 16)
    return c
"""


def _feed_config_file(data: bytes, folder: Path) -> None:
    read_config_file(_written(data, folder / "config.py"), None)


TEXTS = {
    "label_map": ('"AMD, wet":AMD,NO:NORMAL', parse_label_map),
    "names": ('CNV,"AMD, wet",NORMAL', lambda text: split_names(text, "--classes")),
    "pixel_bits": ("s12", parse_flag),
    "steps": ("clahe,flatten", lambda text: check_steps(parse_steps(text), "oct")),
    "path": ("~/runs/x:y://z", lambda text: local_path(text)),
}


def _make_text(rng: random.Random) -> bytes:
    name = rng.choice(sorted(TEXTS))
    return f"{name}\n".encode() + damaged(TEXTS[name][0].encode(), rng, PIECES[:-1])


def _feed_text(data: bytes, folder: Path) -> None:
    name, _, text = data.decode("utf-8", "surrogateescape").partition("\n")
    TEXTS[name][1](text)


# Documents of runs and packs


@functools.cache
def _pack() -> Path:
    """A copy of the shipped model to damage."""
    folder = Path(tempfile.mkdtemp(prefix="wlsrl_jax_fuzz_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(shipped.resolve(shipped.DEFAULT), folder / "pack")
    return folder / "pack"


DOCUMENTS = ("config.json", "data.json", "metrics.json", "statistics.json", "packed.json")


@functools.cache
def _document(name: str) -> Any:
    return json.loads((shipped.resolve(shipped.DEFAULT) / name).read_text())


def _make_document(rng: random.Random) -> bytes:
    name = rng.choice(DOCUMENTS)
    return f"{name}\n".encode() + as_json(changed(_document(name), rng), rng)


def _feed_document(data: bytes, folder: Path) -> None:
    name, _, content = data.partition(b"\n")
    path = _pack() / name.decode()
    good = path.read_bytes()
    path.write_bytes(content)
    try:
        if path.name == "statistics.json":
            read_temperatures(path)
        elif path.name == "packed.json":
            packed.check_documents(_pack())
        else:
            config = read_config(_pack())
            read_data(_pack(), config.modality)
    finally:
        path.write_bytes(good)


KINDS = {
    "image": Kind(40, lambda rng: damaged(rng.choice(_images()), rng), _feed_image),
    "table": Kind(
        12, lambda rng: _repacked(rng) if rng.random() < 0.02 else damaged(TABLE, rng, PIECES),
        _feed_table,
    ),
    "own_table": Kind(8, lambda rng: damaged(OWN, rng, PIECES), _feed_own_table),
    "list": Kind(8, lambda rng: damaged(LIST, rng, PIECES), _feed_list),
    "split_file": Kind(8, _make_split_file, _feed_split_file),
    "manifest": Kind(8, lambda rng: as_json(changed(MANIFEST, rng), rng), _feed_manifest),
    "fields": Kind(6, _make_fields, _feed_fields),
    "config_file": Kind(3, lambda rng: damaged(CONFIG_FILE, rng, PIECES[:-1]), _feed_config_file),
    "text": Kind(4, _make_text, _feed_text),
    "document": Kind(3, _make_document, _feed_document),
}  # fmt: skip
