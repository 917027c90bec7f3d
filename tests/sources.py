"""Small folders in the layouts that the publishers use, drawn from phantoms and noise."""

import csv
import io
import tarfile
import zipfile

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


def octdl_published(folder):
    """All columns, as on Mendeley: the zip and the table beside it."""
    rows, members, seed = [], {}, 0
    for label, name in enumerate(OCTDL):
        for k in range(8):
            stem = f"{name.lower()}_{1000 + seed}"
            members[f"OCTDL/{name}/{stem}.jpg"] = picture(seed)
            eye, sex = ("OD", "OS")[k % 2], ("M", "F")[k % 2]
            rows.append([stem, name, "", "wet", 100 * label + k // 2, eye, sex, 2019, 1000, 500])
            seed += 1
    make_zip(folder / "OCTDL.zip", members)
    header = ["file_name", "disease", "subcategory", "condition", "patient_id", "eye", "sex",
              "year", "image_width", "image_hight"]  # fmt: skip
    write_table(folder / "OCTDL_labels.csv", header, rows)
    return folder


def make_zip(path, members, macos=True):
    """A zip with the leftovers that macOS puts into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
        if macos:
            first = next(iter(members))
            file.writestr(f"__MACOSX/{first.rpartition('/')[0]}/._{first.rpartition('/')[2]}", b"x")
            file.writestr(f"{first.rpartition('/')[0]}/.DS_Store".lstrip("/"), b"x")
    return path


def octid(folder, images=6):
    """One zip a class; one of them without a folder inside."""
    for label, name in enumerate(("NORMAL", "AMRD", "CSR", "DR", "MH")):
        inside = "" if name == "CSR" else f"{name}/"
        pictures = {f"{inside}{name}{k + 1}.jpeg": picture(100 * label + k) for k in range(images)}
        make_zip(folder / f"{name}.zip", pictures)
    return folder


def duke_srinivasan(folder, patients=4):
    seed = 0
    for name in ("AMD", "DME", "NORMAL"):
        for person in range(1, patients + 1):
            inner = folder / "Publication_Dataset" / f"{name}{person}" / "TIFFs" / "8bitTIFFs"
            for k in range(2):
                write(inner / f"{k + 1:03d}.tif", picture(seed, kind="TIFF"))
                seed += 1
            write(inner / "Thumbs.db", b"x")
    return folder


def oct_c8(folder):
    seed = 0
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        for name in ("AMD", "CNV", "CSR", "DME", "DR", "DRUSEN", "MH", "NORMAL"):
            for k in range(count):
                inner = folder / "RetinalOCT_Dataset" / "RetinalOCT_Dataset" / split / name
                stem = f"{name.lower()}_{split}_{1001 + k}"
                write(inner / f"{stem}.jpg", picture(seed))
                seed += 1
    return folder


def medmnist_arrays(classes, channels, side=28, train=15, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, count in (("train", train), ("val", 5), ("test", 5)):
        shape = (count, side, side) if channels == 1 else (count, side, side, channels)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    return arrays


def octmnist(folder):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "octmnist.npz", **medmnist_arrays(4, 1))
    return folder


def retinamnist(folder):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "retinamnist_64.npz", **medmnist_arrays(5, 3, side=64))
    return folder


def messidor2(folder):
    """Names of two hospitals, .png and .JPG (the table says .jpg), one ungradable image."""
    rows, pairs, seed = [], [], 0
    for grade in range(5):
        for k in range(4):
            names = []
            for _ in range(2):
                stem = f"20051020_{43808 + seed}_0100_PP" if k % 2 else f"IM{4000 + seed:06d}"
                suffix, kind = (".png", "PNG") if k % 2 else (".JPG", "JPEG")
                write(folder / "IMAGES" / f"{stem}{suffix}", picture(seed, "fundus", kind))
                names.append(stem + suffix)
                rows.append([stem + suffix.lower(), f"{grade}.0", "0.0", 1])
                seed += 1
            pairs.append(names)
    rows[0][1:] = ["", "", 0]
    header = ["image_id", "adjudicated_dr_grade", "adjudicated_dme", "adjudicated_gradable"]
    write_table(folder / "messidor_data.csv", header, rows)
    text = "\n".join(["left;right", *(";".join(p) for p in pairs)])
    write(folder / "messidor-2.csv", text.encode())
    return folder


def idrid(folder):
    """The grading part beside another part; the two splits repeat file names."""
    part = folder / "B. Disease Grading" / "B. Disease Grading"
    other = folder / "A. Segmentation"
    for name in ("1. Original Images", "2. All Segmentation Groundtruths"):
        write(other / name / "a. Training Set" / "IDRiD_01.jpg", picture(999, "fundus"))
    seed = 0
    for letter, split, count in (("a", "Training", 15), ("b", "Testing", 5)):
        rows = []
        for k in range(count):
            inner = part / "1. Original Images" / f"{letter}. {split} Set"
            write(inner / f"IDRiD_{k + 1:03d}.jpg", picture(seed, "fundus"))
            rows.append([f"IDRiD_{k + 1:03d}", seed % 5, k % 3, "", "", ""])
            seed += 1
        table = f"{letter}. IDRiD_Disease Grading_{split} Labels.csv"
        header = ["Image name", "Retinopathy grade", "Risk of macular edema ", "", "", ""]
        write_table(part / "2. Groundtruths" / table, header, rows)
    write(part / "CC-BY-4.0.txt", b"licence")
    return folder


def deepdrid(folder):
    """Two images an eye; image_path is what nobody can open; grade 5 is ungradable.

    The names of patient 7 say the other eye than the grades, as those of 56 and others do.
    """
    root, seed, patient = folder / "DeepDRiD-1.1" / "regular_fundus_images", 0, 0
    header = ["patient_id", "image_id", "image_path", "Overall quality", "left_eye_DR_Level",
              "right_eye_DR_Level", "patient_DR_Level", "Clarity", "Field definition",
              "Artifact"]  # fmt: skip
    for split, people in (("training", 15), ("validation", 5)):
        part, rows = root / f"regular-fundus-{split}", []
        for _ in range(people):
            patient += 1
            names = ("l1", "r3", "l3", "r2") if patient == 7 else ("l1", "l2", "r1", "r2")
            for k, name in enumerate(names):
                image = f"{patient}_{name}"
                write(part / "Images" / str(patient) / f"{image}.jpg", picture(seed, "fundus"))
                grades = [patient % 5, ""] if k < 2 else ["", (patient + 1) % 5]
                path = f"\\regular-fundus-{split}\\{patient}\\{image}.jpg"
                rows.append([patient, image, path, seed % 2, *grades, 4, 8, 6, 1])
                seed += 1
        if split == "training":
            rows[0][4] = 5
        write_table(part / f"regular-fundus-{split}.csv", header, rows)
        write(part / "Readme.docx", b"x")
    write(folder / "DeepDRiD-1.1" / "README.md", b"x")
    return folder


def ddr(folder):
    seed = 0
    for split, count in (("train", 17), ("valid", 6), ("test", 6)):
        lines = []
        for _ in range(count):
            name = f"007-{1000 + seed:04d}-{seed % 3:03d}.jpg"
            write(folder / "DR_grading" / split / name, picture(seed, "fundus"))
            lines.append(f"{name} {seed % 6}")
            seed += 1
        write(folder / "DR_grading" / f"{split}.txt", "\n".join(lines).encode() + b"\n")
    write(folder / "lesion_detection" / "train" / "x.xml", b"x")
    return folder


PUBLISHED = {
    "octdl": octdl_published,
    "octid": octid,
    "duke_srinivasan": duke_srinivasan,
    "oct_c8": oct_c8,
    "octmnist": octmnist,
    "messidor2": messidor2,
    "idrid": idrid,
    "deepdrid": deepdrid,
    "ddr": ddr,
    "retinamnist": retinamnist,
}


def tar_gz(path, folder):
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, arcname=folder.name)
    return path


def zip_folder(path, folder):
    members = {p.relative_to(folder).as_posix(): p.read_bytes()
               for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip
    return make_zip(path, members)
