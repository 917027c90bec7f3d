"""Small folders in the layouts that the publishers use, drawn from phantoms and noise."""

import csv
import io

import numpy as np
from PIL import Image

OCTDL = ("AMD", "DME", "ERM", "NO", "RAO", "RVO", "VID")
OCT2017 = ("CNV", "DME", "DRUSEN", "NORMAL")


def picture(seed, modality="oct", kind="JPEG", size=(40, 30)):
    """Content of an image file; another seed is another picture."""
    rng = np.random.default_rng(seed)
    shape = size[::-1] if modality == "oct" else (*size[::-1], 3)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_table(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def octdl(folder, patients=6):
    """Every class has this many patients, each with two images."""
    rows, seed = [], 0
    for label, name in enumerate(OCTDL):
        for k in range(patients * 2):
            stem = f"{name.lower()}_{k:03d}"
            write(folder / name / f"{stem}.jpg", picture(seed))
            rows.append([stem, name, 100 * label + k // 2, "left"])
            seed += 1
    write_table(folder / "OCTDL_labels.csv", ["file_name", "disease", "patient_id", "eye"], rows)
    return folder


def oct2017(folder, patients=6):
    seed = 0
    for split, count in (("train", patients), ("val", 2), ("test", 2)):
        for label, name in enumerate(OCT2017):
            for k in range(count):
                # Numbers of patients repeat between train and test, as in the original.
                stem = f"{name}-{1000 * label + k}-{seed}"
                write(folder / split / name / f"{stem}.jpeg", picture(seed))
                seed += 1
    return folder


def eyepacs(folder, patients=5):
    rows, seed = [], 0
    for grade in range(5):
        for k in range(patients):
            for eye in ("left", "right"):
                stem = f"{100 * grade + k}_{eye}"
                write(folder / "train" / f"{stem}.jpeg", picture(seed, "fundus"))
                rows.append([stem, grade])
                seed += 1
    write_table(folder / "trainLabels.csv", ["image", "level"], rows)
    return folder


def aptos2019(folder, images=6):
    rows, seed = [], 0
    for grade in range(5):
        for _ in range(images):
            write(folder / "train_images" / f"{seed:012x}.png", picture(seed, "fundus", "PNG"))
            rows.append([f"{seed:012x}", grade])
            seed += 1
    write_table(folder / "train.csv", ["id_code", "diagnosis"], rows)
    return folder


LAYOUTS = {"octdl": octdl, "oct2017": oct2017, "eyepacs": eyepacs, "aptos2019": aptos2019}
