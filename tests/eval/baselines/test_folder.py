"""Pictures from a folder: the official names, every kind of file, and nothing outside the folder."""

import contextlib
import io
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import yaml

from brushwork.eval.baselines import pictures
from brushwork.eval.baselines.folder import FolderSampler
from brushwork.eval.baselines.pictures import decode_picture
from brushwork.eval.benchmark import BenchmarkPrompt
from brushwork.eval.sampler import KeyedSampler, Sampler, predict, read_rejected

CONFIG = Path(__file__).parents[3] / "configs" / "sampler" / "folder.yaml"
NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def put(path: Path, image: np.ndarray = NOISE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path)
    return path


def file_of(picture: PIL.Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def sampler(tmp_path) -> FolderSampler:
    """The config's, in a folder of the test's."""
    settings = yaml.safe_load(CONFIG.read_text())
    assert settings.pop("_target_") == "brushwork.eval.baselines.folder.FolderSampler"
    (tmp_path / "drawn").mkdir()
    return FolderSampler(**{**settings, "folder": tmp_path / "drawn", "name": "Show-o"})


@pytest.mark.parametrize("official", [True, False])
def test_it_is_read_and_judged(sampler, tmp_path, benchmark, predict_and_score, official):
    assert isinstance(sampler, KeyedSampler) and not isinstance(sampler, Sampler)
    files = [f"{number:05d}/samples/00000.png" if official else "" for number in range(3)]
    for number, file in enumerate(files):
        put(tmp_path / "drawn" / (file or f"p{number}.png"), NOISE // (number + 1))
    rows = predict_and_score(sampler, benchmark(files))
    assert [row.score for row in rows] == [pytest.approx((NOISE // n).mean() / 255) for n in (1, 2, 3)]
    assert [row.key for row in rows] == ["p0", "p1", "p2"] and rows[0].seed == 10
    assert all(row.cost["images"] == 1 and "model_forwards" not in row.cost for row in rows), "not known, not free"


def test_what_is_missing_or_unreadable_is_set_aside(sampler, tmp_path, benchmark):
    put(tmp_path / "drawn" / "p0.png")
    (tmp_path / "drawn" / "p2.png").write_bytes(b"<html>not found</html>")
    refused = read_rejected(predict(sampler, tmp_path / "run", benchmark=benchmark()))
    assert [row["key"] for row in refused] == ["p1", "p2"]
    assert str(tmp_path / "drawn" / "p1.png") in refused[0]["reason"] and "No such file" in refused[0]["reason"]
    assert str(tmp_path / "drawn" / "p2.png") in refused[1]["reason"] and "no picture" in refused[1]["reason"]


def test_a_missing_folder_ends_the_run(sampler, tmp_path, benchmark):
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent"):
        predict(replace(sampler, folder=tmp_path / "absent"), tmp_path / "run", benchmark=benchmark())


@pytest.mark.parametrize(
    "name", ["../secret.png", "a/../../secret.png", "{}/secret.png", "..\\secret.png", "C:\\x.png"]
)
def test_a_name_stays_in_the_folder(sampler, tmp_path, name):
    put(tmp_path / "secret.png")
    sample = BenchmarkPrompt(key="p", prompt="a cat", kind="any", seed=0, file=name.format(tmp_path))
    with pytest.raises(ValueError, match="expected a place inside"):
        sampler.answer([sample])


def test_a_key_stays_in_the_folder(sampler, tmp_path):
    put(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="expected a place inside"):
        sampler.answer([BenchmarkPrompt(key="../secret", prompt="a cat", kind="any", seed=0)])


def test_settings_are_told(sampler):
    told = json.loads(json.dumps(sampler.describe()))
    assert told == {"model": "Show-o", "settings": "not known: pictures from a folder"}
    assert len({one.fingerprint for one in (sampler, replace(sampler, name="x"), replace(sampler, folder="y"))}) == 3


# Pictures


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_plain_pictures_are_kept(kind):
    data = file_of(PIL.Image.fromarray(NOISE), kind, **({"lossless": True} if kind == "WEBP" else {}))
    image = decode_picture(data)
    assert np.array_equal(image, NOISE) and image.dtype == np.uint8 and image.flags.writeable


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_as_the_camera_says(orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = file_of(PIL.Image.fromarray(NOISE), exif=exif)
    turned = {
        1: NOISE, 2: NOISE[:, ::-1], 3: NOISE[::-1, ::-1], 4: NOISE[::-1], 5: NOISE.transpose(1, 0, 2),
        6: NOISE.transpose(1, 0, 2)[:, ::-1], 7: NOISE.transpose(1, 0, 2)[::-1, ::-1],
        8: NOISE.transpose(1, 0, 2)[::-1],
    }  # fmt: skip
    assert np.array_equal(decode_picture(data), turned[orientation])


def test_transparency_lies_over_white():
    alpha = np.zeros((5, 7, 4), dtype=np.uint8)
    alpha[..., 0], alpha[:, :3, 3], alpha[:, 3, 3] = 255, 255, 128
    image = decode_picture(file_of(PIL.Image.fromarray(alpha)))
    assert (image[:, :3] == [255, 0, 0]).all() and (image[:, 4:] == 255).all()
    assert np.abs(image[:, 3].astype(int) - [255, 127, 127]).max() <= 1


def test_palettes_and_greys():
    palette = PIL.Image.fromarray(NOISE).quantize(8)
    assert np.array_equal(decode_picture(file_of(palette)), np.array(palette.convert("RGB")))
    clear = decode_picture(file_of(palette, transparency=0))
    assert (clear[np.array(palette) == 0] == 255).all()
    grey = NOISE[..., 0]
    assert np.array_equal(decode_picture(file_of(PIL.Image.fromarray(grey))), np.stack([grey] * 3, axis=2))
    dots = decode_picture(file_of(PIL.Image.fromarray(grey > 99)))
    assert np.array_equal(dots[..., 0], np.where(grey > 99, 255, 0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut(kind):
    deep = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    image = decode_picture(file_of(PIL.Image.fromarray(deep), kind))
    assert image[0, :, 0].tolist() == [0, 0, 127, 255] and (image == image[..., :1]).all()


def test_numbers_without_a_range_are_refused():
    with pytest.raises(ValueError, match=r"mode is 'F'.*expected 8 or 16 bits"):
        decode_picture(file_of(PIL.Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"))


def test_cmyk_is_converted():
    image = decode_picture(file_of(PIL.Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"))
    assert image[..., 0].min() > 240 and image[..., 1:].max() < 15


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8193, 20_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side):
    """Neither what Pillow takes, nor what it warns of, nor what it refuses is unpacked."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    body = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    with pytest.raises(ValueError, match="pixels"):
        decode_picture(b"\x89PNG\r\n\x1a\n" + b"".join(body))


def test_the_limit_itself_is_taken(monkeypatch):
    data = file_of(PIL.Image.fromarray(NOISE))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 35)
    decode_picture(data)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 34)
    with pytest.raises(ValueError, match="7 x 5 pixels; expected at most 34"):
        decode_picture(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damage_of_any_kind_is_a_value_error():
    """Every cut of the file, and a wrong byte at every place: read or refused, nothing else."""
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        data = file_of(PIL.Image.fromarray(NOISE), kind)
        wrong = [data[:end] for end in range(0, len(data), 3)]
        wrong += [data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :] for at in range(0, len(data), 3)]
        for one in wrong:
            with contextlib.suppress(ValueError):
                assert decode_picture(one).ndim == 3


def test_formats_that_run_programs_are_not_opened():
    with pytest.raises(ValueError, match="no picture"):
        decode_picture(file_of(PIL.Image.fromarray(NOISE), "EPS"))


def test_pictures_that_have_changed_are_not_taken_for_those_judged_before(sampler, tmp_path, benchmark):
    put(tmp_path / "drawn" / "p0.png")
    predict(sampler, tmp_path / "run", benchmark=benchmark())
    predict(sampler, tmp_path / "run", benchmark=benchmark())  # the same: nothing to do
    put(tmp_path / "drawn" / "p1.png")
    with pytest.raises(ValueError, match=r"differ in sampler.*overwrite=true"):
        predict(sampler, tmp_path / "run", benchmark=benchmark())
    folder = predict(sampler, tmp_path / "run", benchmark=benchmark(), overwrite=True)
    assert [row["key"] for row in read_rejected(folder)] == ["p2"]
