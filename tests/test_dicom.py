"""DICOM files: pixels as a display would show them, and nothing of the header."""

import io

import numpy as np
import pytest

from wlsrl_jax.data.images import BadImageError, decode
from wlsrl_jax.image_list import find_images

pydicom = pytest.importorskip("pydicom")


def dicom(pixels, photometric="MONOCHROME2", bits=8, frames=1, **fields):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, OphthalmicTomographyImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = OphthalmicTomographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = Dataset()
    data.file_meta = meta
    data.PatientName, data.PatientID = "Secret^Person", "SECRET-7"
    data.Rows, data.Columns = pixels.shape[-2:] if pixels.shape[-1] != 3 else pixels.shape[-3:-1]
    data.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = 0
    if frames > 1:
        data.NumberOfFrames = frames
    for name, value in fields.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8)


def test_grey_and_inverted(grey):
    np.testing.assert_array_equal(decode(dicom(grey), 1)[..., 0], grey)
    np.testing.assert_array_equal(decode(dicom(grey, "MONOCHROME1"), 1)[..., 0], 255 - grey)


def test_sixteen_bits_and_windows(grey):
    wide = grey.astype(np.uint16) * 16  # twelve bits
    found = decode(dicom(wide, bits=12), 1)[..., 0]
    np.testing.assert_allclose(found, wide / 4095 * 255, atol=1)
    windowed = decode(dicom(wide, bits=12, WindowCenter=1024, WindowWidth=2048), 1)[..., 0]
    np.testing.assert_allclose(windowed, np.clip(wide / 2048 * 255, 0, 255), atol=1)


def test_colour():
    pixels = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(dicom(pixels, "RGB"), 3), pixels)


def test_volumes_are_an_image_a_frame(tmp_path, grey):
    volume = np.stack([grey, 255 - grey, grey // 2])
    (tmp_path / "volume").write_bytes(dicom(volume, frames=3))  # without a suffix, as devices do
    items = find_images([str(tmp_path)]).items
    assert [i.name.rsplit("/", 1)[-1] for i in items] == ["volume#1", "volume#2", "volume#3"]
    from wlsrl_jax.data.dicom import read_frame

    np.testing.assert_array_equal(np.asarray(read_frame(tmp_path / "volume", 2)), 255 - grey)
    with pytest.raises(BadImageError, match="3 frames"):
        decode((tmp_path / "volume").read_bytes(), 1)


def test_messages_say_nothing_of_the_patient(grey):
    good = dicom(grey)
    for cut in (140, 400, len(good) - 100):
        with pytest.raises(BadImageError) as caught:
            decode(good[:cut], 1)
        assert "ecret" not in str(caught.value) and "SECRET" not in str(caught.value)
