"""Told without decoding: which pictures their EXIF tag turns. The oracle is Pillow's own answer after decoding."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from saei.config import DataConfig
from saei.data import fingerprint
from saei.data.pictures import open_picture, orientation
from saei.data.turned import is_turned
from tests.test_local import row, write

TURNED = Image.Exif()
TURNED[0x0112] = 6
XMP = '<rdf:Description tiff:Orientation="6"/>'


def texts(**pairs: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for key, value in pairs.items():
        info.add_text(key.replace("_", " "), value)
    return info


def encoded(form: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    Image.new("RGB", (3, 2)).save(file, form, **options)
    return file.getvalue()


def chunk_at_the_end(png: bytes, of: bytes) -> bytes:
    """The eXIf chunk of `of` put behind the pixels of `png`."""
    start = of.index(b"eXIf") - 4
    length = 12 + int.from_bytes(of[start : start + 4], "big")
    return png[:-12] + of[start : start + length] + png[-12:]


def xmp() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP)
    return info


def raw_profile() -> PngImagePlugin.PngInfo:
    content = TURNED.tobytes()
    return texts(Raw_profile_type_exif=f"\nexif\n{len(content):8d}\n{content.hex()}\n")


PLAIN = encoded(pnginfo=texts(Software="a pen", Comment="eXIf and XML:com.adobe.xmp"))
CASES = {
    "plain": (PLAIN, False),
    "tag before the pixels": (encoded(exif=TURNED), True),
    "tag behind the pixels": (chunk_at_the_end(PLAIN, encoded(exif=TURNED)), True),
    "tag that says upright": (encoded(exif=Image.Exif()), False),
    "xmp": (encoded(pnginfo=xmp()), True),
    "raw profile": (encoded(pnginfo=raw_profile()), True),
    "jpeg": (encoded("JPEG", exif=TURNED), True),
    "plain jpeg": (encoded("JPEG"), False),
    "cut off": (PLAIN[:60], False),
    "empty": (b"", False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_picture_is_turned_where_pillow_says_so_after_decoding(name: str, tmp_path: Path):
    content, turned = CASES[name]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert is_turned(path) is turned
    if name not in ("cut off", "empty"):
        with open_picture(path) as picture:
            picture.load()
            assert (orientation(picture) != 1) is turned


def test_the_fingerprint_of_a_folder_decodes_no_plain_png_and_reads_each_file_once(tmp_path: Path, monkeypatch):
    (tmp_path / "a.png").write_bytes(PLAIN)
    for split in ("train", "validation", "test"):
        data: DataConfig = write(tmp_path, [row("one")], split)
    monkeypatch.setattr("saei.data.turned.open_picture", lambda _: pytest.fail("decoded"))
    before = fingerprint(data)
    monkeypatch.setattr("saei.data.local.check_rows", lambda _: pytest.fail("read again"))
    assert fingerprint(data) == before
    (tmp_path / "a.png").write_bytes(encoded(pnginfo=texts(Software="another pen")))
    assert fingerprint(data) != before
