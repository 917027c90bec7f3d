"""DICOM files: pixels as a display would show them, and nothing of the header."""

import io

import numpy as np
import pytest
from PIL import Image

from wlsrl_jax.data.images.decode import decode, open_image
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.listing import find_images
from wlsrl_jax.data.images.read_image import PixelRange, decide_range
from wlsrl_jax.data.images.set_range import may_need_range
from wlsrl_jax.data.phantoms.source import PhantomSource

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
        data.PlanarConfiguration = 0  # unless another is among the fields
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = 0
    if frames > 1:
        data.NumberOfFrames = frames
    for name, value in fields.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    return written(data)


def written(data):
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


def test_other_layouts_of_colour():
    pixels = PhantomSource("fundus", "test", 5, 48, 48)[3]["image"]
    planes = pixels.transpose(2, 0, 1).reshape(48, 48, 3)  # the same bytes, plane by plane
    np.testing.assert_array_equal(decode(dicom(planes, "RGB", PlanarConfiguration=1), 3), pixels)
    ybr = pydicom.pixels.convert_color_space(pixels, "RGB", "YBR_FULL")
    assert np.abs(decode(dicom(ybr, "YBR_FULL"), 3).astype(int) - pixels).max() <= 1


def test_a_negative_slope_and_a_window(grey):
    fields = {"RescaleSlope": -1, "RescaleIntercept": 255}
    np.testing.assert_array_equal(decode(dicom(grey, **fields), 1)[..., 0], 255 - grey)
    found = decode(dicom(grey, **fields, WindowCenter=128, WindowWidth=128), 1)[..., 0]
    expected = np.clip((255.0 - grey - 64) / 127 * 255, 0, 255)
    np.testing.assert_allclose(found, expected, atol=2)


def test_compressed_as_cameras_do(grey):
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit, RLELossless

    data = pydicom.dcmread(io.BytesIO(dicom(grey)))
    data.compress(RLELossless)
    np.testing.assert_array_equal(decode(written(data), 1)[..., 0], grey)
    pixels = PhantomSource("fundus", "test", 5, 48, 48)[3]["image"]
    data = pydicom.dcmread(io.BytesIO(dicom(pixels, "RGB")))
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=95, subsampling=1)
    data.PixelData = encapsulate([jpeg.getvalue()])
    data["PixelData"].is_undefined_length = True
    data.PhotometricInterpretation = "YBR_FULL_422"
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    plain = decode(jpeg.getvalue(), 3).astype(int)
    assert np.abs(decode(written(data), 3) - plain).max() <= 1


@pytest.mark.parametrize(
    "syntax", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"]
)
@pytest.mark.parametrize("kind", ["grey", "grey, 16 bits", "colour"])
def test_compressed_without_loss(tmp_path, syntax, kind):
    gdcm = pytest.importorskip("gdcm")
    colour = kind == "colour"
    pixels = PhantomSource("fundus" if colour else "oct", "test", 5, 48, 48)[3]["image"]
    stored = pixels if colour else pixels[..., 0]
    bits = 16 if "16" in kind else 8
    stored = stored.astype(np.uint16) * 257 if bits == 16 else stored
    path = tmp_path / "plain.dcm"
    path.write_bytes(dicom(stored, "RGB" if colour else "MONOCHROME2", bits=bits))
    reader, change = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(tmp_path / "small.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    data = (tmp_path / "small.dcm").read_bytes()
    found = decode(data, pixels.shape[2], pixel_range=PixelRange(16))
    np.testing.assert_array_equal(found, pixels)


def test_volumes_are_an_image_a_frame(tmp_path, grey):
    volume = np.stack([grey, 255 - grey, grey // 2])
    (tmp_path / "volume").write_bytes(dicom(volume, frames=3))  # without a suffix, as devices do
    items = find_images([str(tmp_path)]).items
    assert [i.name.rsplit("/", 1)[-1] for i in items] == ["volume#1", "volume#2", "volume#3"]
    from wlsrl_jax.data.images.dicom import read_frame

    np.testing.assert_array_equal(np.asarray(read_frame(tmp_path / "volume", 2)), 255 - grey)
    with pytest.raises(BadImageError, match="3 frames"):
        decode((tmp_path / "volume").read_bytes(), 1)


def test_messages_say_nothing_of_the_patient(grey):
    good = dicom(grey)
    for cut in (140, 400, len(good) - 100):
        with pytest.raises(BadImageError) as caught:
            decode(good[:cut], 1)
        assert "ecret" not in str(caught.value) and "SECRET" not in str(caught.value)


def open_range(data, frame=0):
    return decide_range([open_image(data, frame).extent])


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_twelve_bits_of_sixteen_stored(grey, photometric, tmp_path):
    """The header says 16, which is only the width of the type."""
    grey[0, :2] = 0, 255
    values = np.rint(grey / 255 * 4095).astype(np.uint16)
    data = dicom(values, photometric, bits=16)
    assert open_range(data) == PixelRange(12)
    want = grey if photometric == "MONOCHROME2" else 255 - grey
    np.testing.assert_array_equal(decode(data, 1, 0, PixelRange(12))[..., 0], want)
    # A rescaling moves what is black and white with the values; a falling one turns them round.
    shifted = dicom(values, photometric, bits=16, RescaleSlope="2", RescaleIntercept="-1024")
    np.testing.assert_array_equal(decode(shifted, 1, 0, PixelRange(12))[..., 0], want)
    falling = dicom(values, photometric, bits=16, RescaleSlope="-1", RescaleIntercept="0")
    np.testing.assert_array_equal(decode(falling, 1, 0, PixelRange(12))[..., 0], 255 - want)
    # A window, or fewer bits stored, is an answer: nothing is asked.
    windowed = dicom(values, photometric, bits=16, WindowCenter=2048, WindowWidth=4096)
    for said in (windowed, dicom(values, photometric, bits=12)):
        assert np.abs(decode(said, 1)[..., 0].astype(int) - want).max() <= 1
    (tmp_path / "open").write_bytes(data)
    (tmp_path / "said").write_bytes(windowed)
    assert may_need_range(tmp_path / "open") and not may_need_range(tmp_path / "said")


def test_values_below_zero_and_colours_of_sixteen_stored(grey):
    grey[0, :2] = 0, 255
    values = np.rint(grey / 255 * 4095).astype(np.int16) - 2048
    data = dicom(values, bits=16, PixelRepresentation=1)
    assert open_range(data) == PixelRange(12, signed=True)
    np.testing.assert_array_equal(decode(data, 1, 0, open_range(data))[..., 0], grey)
    colours = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=-1)
    data = dicom(np.rint(colours / 255 * 1023).astype(np.uint16), "RGB", bits=16)
    assert open_range(data) == PixelRange(10)
    np.testing.assert_array_equal(decode(data, 3, 0, open_range(data)), colours)
