import gzip

import nibabel
import numpy as np
import pytest
from clinical_files import AFFINE, PATIENT, write_dicom, write_nifti
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from mvfa_core.errors import MvfaError
from mvfa_core.formats import from_array, is_image_name, open_image, read_mask, read_picture

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (24, 30), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (24, 30, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (24, 30), dtype=np.uint16)


def seen(path, index: int = 0, **options) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.asarray(open_image(path, **options).frame(index))


def grey(path, **options) -> np.ndarray:
    pixels = seen(path, **options)
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0]


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_eight_bits_arrive_as_they_are(tmp_path, ending):
    path = tmp_path / f"image.{ending}"
    Image.fromarray(GREY).save(path)
    assert np.array_equal(grey(path), GREY)
    Image.fromarray(COLOUR).save(path)
    assert np.array_equal(seen(path), COLOUR)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "1", "P", "LA", "RGBA", "YCbCr"])
def test_every_mode_becomes_what_pillow_makes_of_it(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr") else "image.png")
    Image.fromarray(COLOUR).convert(mode).save(path)
    assert np.array_equal(seen(path), np.asarray(Image.open(path).convert("RGB")))


def test_a_jpeg_in_cmyk(tmp_path):
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "image.jpg")
    assert seen(tmp_path / "image.jpg").shape == COLOUR.shape


def test_transparency_is_told(tmp_path):
    Image.fromarray(COLOUR).convert("RGBA").save(tmp_path / "image.png")
    assert open_image(tmp_path / "image.png").notes == ["transparency is ignored"]


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_keep_their_full_range(tmp_path, ending):
    path = tmp_path / f"image.{ending}"
    Image.fromarray(DEEP).save(path)
    assert np.abs(grey(path) / 255 - DEEP / 65535).max() < 0.5 / 255 + 1e-6
    low, high = 1000, 30000
    expected = np.clip((DEEP.astype(float) - low) / (high - low), 0, 1)
    assert np.abs(grey(path, window=(low, high)) / 255 - expected).max() < 0.5 / 255 + 1e-6


def test_a_window_leaves_eight_bit_images_alone(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "image.png")
    assert np.array_equal(grey(tmp_path / "image.png", window=(-100, 300)), GREY)


def test_twelve_bits_in_sixteen_are_told(tmp_path):
    Image.fromarray(DEEP // 16).save(tmp_path / "image.png")
    file = open_image(tmp_path / "image.png")
    file.frame()
    file.frame()
    assert len(file.notes) == 1 and "window 0 4095" in file.notes[0]


def test_pages_of_a_tiff_are_frames(tmp_path):
    pages = [Image.fromarray(np.full((20, 20), value, dtype=np.uint8)) for value in (10, 90, 200)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    file = open_image(tmp_path / "pages.tif")
    assert file.frames == 3 and [int(np.asarray(p).mean()) for p in file] == [10, 90, 200]
    with pytest.raises(MvfaError, match="holds 3 pictures"):
        read_picture(tmp_path / "pages.tif")


def test_floating_point(tmp_path):
    values = RNG.random((20, 20), dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "image.tif")
    assert np.abs(grey(tmp_path / "image.tif") / 255 - values).max() < 0.01
    Image.fromarray(values * 900).save(tmp_path / "image.tif")
    with pytest.raises(MvfaError, match="give the window"):
        seen(tmp_path / "image.tif")
    assert np.abs(grey(tmp_path / "image.tif", window=(0, 900)) / 255 - values).max() < 0.01


def test_the_camera_held_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOUR).save(tmp_path / "image.jpg", exif=exif, quality=95)
    assert seen(tmp_path / "image.jpg").shape == (30, 24, 3)


@pytest.mark.parametrize("wrong", ["image.jpg", "image.dcm", "image.nii", "image"])
def test_the_content_decides_and_not_the_name(tmp_path, wrong):
    Image.fromarray(GREY).save(tmp_path / "image.png")
    (tmp_path / "image.png").rename(tmp_path / wrong)
    assert np.array_equal(grey(tmp_path / wrong), GREY)


def test_names_of_images(tmp_path):
    assert is_image_name(tmp_path / "a.JPG") and is_image_name(tmp_path / "a.nii.gz")
    assert not is_image_name(tmp_path / "a.csv") and not is_image_name(tmp_path / "README")
    write_dicom(tmp_path / "IM000001", DEEP)
    assert is_image_name(tmp_path / "IM000001")


def test_masks(tmp_path):
    mask = np.zeros((20, 20), dtype=np.uint16)
    mask[3:8, 3:8] = 1
    Image.fromarray(mask).save(tmp_path / "deep.png")
    Image.fromarray((mask * 255).astype(np.uint8)).convert("1").save(tmp_path / "bit.png")
    for name in ("deep.png", "bit.png"):
        assert np.array_equal(read_mask(tmp_path / name) > 0, mask > 0)


def test_arrays():
    assert np.array_equal(np.asarray(from_array(GREY))[..., 0], GREY)
    assert np.array_equal(np.asarray(from_array(GREY / np.float32(255)))[..., 0], GREY)
    for wrong in (GREY[None, None], GREY > 3, np.array([["a"] * 9] * 9), GREY * 1j, GREY.astype(float)):
        with pytest.raises(MvfaError):
            from_array(wrong)


# --- DICOM ----------------------------------------------------------------------------------------------


def hounsfield() -> tuple[np.ndarray, np.ndarray]:
    values = RNG.integers(-1000, 1500, (24, 30))
    return values, (values + 1024).astype(np.uint16)


def test_rescale_and_window_of_the_file(tmp_path):
    values, stored = hounsfield()
    tags = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    path = write_dicom(tmp_path / "ct.dcm", stored, **tags)
    # DICOM part 3, C.11.2.1.2.1
    expected = np.clip((values - 39.5) / 399 + 0.5, 0, 1)
    assert np.abs(grey(path) / 255 - expected).max() < 0.5 / 255 + 1e-6
    exact = write_dicom(tmp_path / "exact.dcm", stored, VOILUTFunction="LINEAR_EXACT", **tags)
    expected = np.clip((values - 40) / 400 + 0.5, 0, 1)
    assert np.abs(grey(exact) / 255 - expected).max() < 0.5 / 255 + 1e-6


def test_a_given_window_counts_in_rescaled_units(tmp_path):
    values, stored = hounsfield()
    path = write_dicom(tmp_path / "ct.dcm", stored, RescaleSlope=1, RescaleIntercept=-1024)
    expected = np.clip((values + 160) / 400, 0, 1)
    assert np.abs(grey(path, window=(-160, 240)) / 255 - expected).max() < 0.5 / 255 + 1e-6


def test_several_windows_the_first_counts(tmp_path):
    _, stored = hounsfield()
    one = write_dicom(tmp_path / "1.dcm", stored, WindowCenter=1000, WindowWidth=500)
    two = write_dicom(tmp_path / "2.dcm", stored, WindowCenter=[1000, 40], WindowWidth=[500, 80])
    assert np.array_equal(grey(one), grey(two))


def test_signed_values(tmp_path):
    values = RNG.integers(-500, 500, (24, 30)).astype(np.int16)
    path = write_dicom(tmp_path / "mr.dcm", values, WindowCenter=0.5, WindowWidth=1001)
    assert np.corrcoef(grey(path).ravel(), values.ravel())[0, 1] > 0.9999


def test_monochrome1_is_inverted(tmp_path):
    tags = {"WindowCenter": 32768, "WindowWidth": 65536}
    normal = grey(write_dicom(tmp_path / "2.dcm", DEEP, **tags))
    assert np.array_equal(
        grey(write_dicom(tmp_path / "1.dcm", DEEP, kind="MONOCHROME1", **tags)), 255 - normal
    )


def test_without_a_window_percentiles_are_used_and_told(tmp_path):
    file = open_image(write_dicom(tmp_path / "a.dcm", DEEP // 16))
    pixels = np.asarray(file.frame())
    assert pixels.min() == 0 and pixels.max() == 255 and "no window" in file.notes[0]


def test_frames_and_their_own_windows(tmp_path):
    frames = np.stack([DEEP, DEEP // 2, DEEP // 4])
    path = write_dicom(tmp_path / "cine.dcm", frames, WindowCenter=32768, WindowWidth=65536)
    file = open_image(path)
    assert file.frames == 3 and np.asarray(file.frame(0)).mean() > 3 * np.asarray(file.frame(2)).mean()
    groups = []
    for centre in (32768, 16384, 8192):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = centre, 2 * centre
        group.FrameVOILUTSequence = Sequence([window])
        groups.append(group)
    path = write_dicom(tmp_path / "enhanced.dcm", frames, PerFrameFunctionalGroupsSequence=Sequence(groups))
    pictures = [np.asarray(p).astype(int) for p in open_image(path)]
    assert abs(pictures[0] - pictures[2]).max() <= 1


def test_colour(tmp_path):
    assert np.array_equal(seen(write_dicom(tmp_path / "us.dcm", COLOUR, kind="RGB")), COLOUR)


def test_burned_in_text_is_told(tmp_path):
    file = open_image(write_dicom(tmp_path / "us.dcm", COLOUR, kind="RGB", BurnedInAnnotation="YES"))
    assert "patient" in file.notes[0]


def test_no_image_in_it(tmp_path):
    path = write_dicom(tmp_path / "report.dcm", DEEP, Rows=0)
    with pytest.raises(MvfaError, match="without an image"):
        open_image(path)


# --- NIfTI ----------------------------------------------------------------------------------------------

VOLUME = RNG.integers(0, 1000, (20, 24, 9)).astype(np.int16)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_map_lies_voxel_by_voxel_over_its_volume(tmp_path, name, axis):
    path = write_nifti(tmp_path / name, VOLUME)
    file = open_image(path, window=(0, 1000), axis=axis)
    assert file.frames == VOLUME.shape[axis] and file.volume
    maps = [np.asarray(p.convert("L"), dtype=np.float32) for p in file]
    content = file.encode_map(maps)
    (tmp_path / "map.nii.gz").write_bytes(content)
    written, source = nibabel.load(tmp_path / "map.nii.gz"), nibabel.load(path)
    assert np.array_equal(written.affine, AFFINE) and written.shape == VOLUME.shape
    assert np.abs(written.get_fdata() * 1000 / 255 - source.get_fdata()).max() < 2 + 1e-6
    for form in ("get_qform", "get_sform"):
        ours, theirs = (getattr(image, form)(coded=True) for image in (written, source))
        assert ours[1] == theirs[1] and (ours[0] is theirs[0] is None or np.allclose(ours[0], theirs[0]))
    assert PATIENT.encode() not in gzip.decompress(content) and b"4711" not in gzip.decompress(content)
    assert content == file.encode_map(maps)


def test_slope_and_intercept(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((20, 20, 8)), AFFINE)
    image.header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(VOLUME[:, :20, :8] * 0.01 - 3, AFFINE, image.header)
    nibabel.save(image, tmp_path / "v.nii")
    file = open_image(tmp_path / "v.nii", window=(-3, 7), axis=2)
    expected = np.rot90(VOLUME[:, :20, 4]) / 1000
    assert np.abs(np.asarray(file.frame(4))[..., 0] / 255 - expected).max() < 0.01


def test_a_single_slice_and_empty_axes(tmp_path):
    assert open_image(write_nifti(tmp_path / "a.nii", VOLUME[:, :, 0])).frames == 1
    assert open_image(write_nifti(tmp_path / "b.nii", VOLUME[..., None])).frames == 9
    file = open_image(write_nifti(tmp_path / "c.nii", VOLUME[:, :, :1]))
    assert file.frames == 1 and file.encode_map([np.zeros((24, 20), dtype=np.float32)])


def test_the_slices_of_a_volume_share_a_window(tmp_path):
    ramp = np.broadcast_to(np.arange(10) * 100, (20, 24, 10)).astype(np.int16)
    means = [np.asarray(p).mean() for p in open_image(write_nifti(tmp_path / "v.nii", ramp))]
    assert means == sorted(means) and means[0] == 0 and means[-1] == 255


def test_other_shapes_are_refused(tmp_path):
    for shape, words in (((20, 20, 3, 4), r"holds 4 volumes \(20 x 20 x 3 x 4\)"), ((20,), "plain numbers")):
        with pytest.raises(MvfaError, match=words):
            open_image(write_nifti(tmp_path / "v.nii", np.zeros(shape, dtype=np.int16)))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_a_pair_of_files_is_refused_whichever_is_given(tmp_path, kind):
    nibabel.save(kind(VOLUME, AFFINE), tmp_path / "v.img")
    for name in ("v.hdr", "v.img"):
        with pytest.raises(MvfaError, match=f"{name}.*save both as one .nii or .nii.gz file"):
            open_image(tmp_path / name)
    # in a folder the pair is listed once
    assert [p.name for p in sorted(tmp_path.iterdir()) if is_image_name(p)] == ["v.hdr"]
    (tmp_path / "landscape.hdr").write_bytes(b"#?RADIANCE\n" + b"\0" * 400)
    assert not is_image_name(tmp_path / "landscape.hdr")
