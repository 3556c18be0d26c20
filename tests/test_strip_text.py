"""Strips are untrusted files: what is read of them, and how the completions in them are drawn."""

import json
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from analysis import strips
from analysis.strip_files import GAP, MOST_PIXELS, MOST_TEXT, Completion, parsed, read_strip
from analysis.strip_text import WITHOUT_GLYPH, laid_out, plain, visible
from saei import schema
from saei.strips import strip


def picture(path, clean, moved, texts=None, *, raw=None):
    """A strip as a run writes it, its third panel empty: no reader may depend on that one."""
    gap = np.full((clean.shape[0], GAP, 3), 255, dtype=np.uint8)
    about = PngInfo()
    if texts is not None or raw is not None:
        about.add_itxt(schema.ABOUT, json.dumps(texts) if raw is None else raw)
    pixels = np.concatenate([clean, gap, moved, gap, np.zeros_like(clean)], axis=1)
    Image.fromarray(pixels).save(path, pnginfo=about)
    return path


def grey(level, height=2, width=2):
    return np.full((height, width, 3), level, dtype=np.uint8)


def frame_of(*paths, arm="saei", problem="p"):
    rows = [
        {"arm": arm, "seed": 0, "step": step, "view": "egas", "problem_id": problem, "path": path}
        for step, path in enumerate(paths)
    ]
    return pd.DataFrame(rows)


def drawn(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


# ---- files


def test_a_strip_of_a_run_is_read_back_from_its_first_two_pictures(tmp_path):
    torch = pytest.importorskip("torch")
    clean = torch.randint(0, 200, (3, 5, 7), dtype=torch.uint8)
    moved = clean + 3
    Image.fromarray(strip(clean, moved)).save(tmp_path / "a.png")
    found = read_strip(tmp_path / "a.png")
    assert (found.clean == clean.permute(1, 2, 0).numpy()).all() and (found.change == 3).all()


def test_a_change_downwards_is_negative(tmp_path):
    assert (read_strip(picture(tmp_path / "a.png", grey(100), grey(98))).change == -2).all()


def test_completions_are_read_with_their_kept_positions(tmp_path):
    path = picture(tmp_path / "a.png", grey(1), grey(2), [{"tokens": ["a", "b"], "kept": [1]}])
    assert read_strip(path).completions == (Completion(("a", "b"), frozenset({1})),)


def test_a_strip_of_an_older_run_has_no_completions_and_says_why(tmp_path):
    found = read_strip(picture(tmp_path / "a.png", grey(1), grey(2)))
    assert found.completions == () and "older" in found.note


@pytest.mark.parametrize(
    "about",
    [
        "no json",
        "[" * 100_000,
        '[{"tokens": ["a"], "kept": [' + "9" * 5000 + "]}]",
        '{"tokens": ["a"], "kept": []}',
        '[["a"]]',
        '[{"tokens": "abc", "kept": [0]}]',
        '[{"tokens": [1], "kept": [0]}]',
        '[{"tokens": ["a"]}]',
        '[{"tokens": ["a"], "kept": [1]}]',
        '[{"tokens": ["a"], "kept": [-1]}]',
        '[{"tokens": ["a"], "kept": [true]}]',
        '[{"tokens": ["a"], "kept": [0.0]}]',
        '[{"tokens": ["a"], "kept": {"0": 1}}]',
        '[{"tokens": ["a"], "kept": []}, null]',
        "x" * (MOST_TEXT + 1),
        b"[]\xff",
    ],
    ids=range(16),
)
def test_a_text_of_another_shape_gives_no_completions_and_a_note(about):
    completions, note = parsed(about)
    assert completions == () and "not shown" in note


def test_an_attack_that_read_nothing_is_no_damage():
    assert parsed("[]") == ((), "the attack read no completion")


def test_a_file_that_is_no_strip_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "text.png").write_text("<script>")
    # 3 * 2 + 2 * GAP columns would be a strip of width 2
    Image.fromarray(grey(255, 2, 3 * 2 + 2 * GAP + 1)).save(tmp_path / "odd.png")
    Image.fromarray(grey(7, 2, 3 * 2 + 2 * GAP)).save(tmp_path / "grey.png")
    for name, words in (("text", "cannot be read"), ("odd", "no three pictures"), ("grey", "no three pictures")):
        with pytest.raises(ValueError, match=f"{name}.png.*{words}"):
            read_strip(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"missing\.png cannot be read"):
        read_strip(tmp_path / "missing.png")


def test_a_picture_that_claims_to_be_huge_is_refused_before_it_is_unpacked(tmp_path):
    width = MOST_PIXELS // 1000 + 1
    header = struct.pack(">IIBBBBB", width, 1000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    path = tmp_path / "bomb.png"
    data = b"IDAT" + zlib.compress(b"")
    blocks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data, b"IEND")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(blocks))
    with pytest.raises(ValueError, match=f"{width} x 1000 pixels"):
        read_strip(path)


def test_a_text_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path):
    # 64 MB of zeros in a compressed chunk of 64 kB
    about = PngInfo()
    about.add_itxt(schema.ABOUT, "0" * 64_000_000, zip=True)
    path = tmp_path / "bomb.png"
    Image.fromarray(grey(255, 2, 3 * 2 + 2 * GAP)).save(path, pnginfo=about)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb\.png cannot be read"):
        read_strip(path)


# ---- text


def test_line_ends_and_tabs_are_signs_and_an_empty_token_is_one_too():
    assert (visible("a\nb"), visible("\t"), visible("")) == ("a↵b", "⇥", "∅")


def test_control_and_direction_characters_are_gone():
    assert visible("\x1b[31m\u202eabc\u2066\u200f\x00") == "[31mabc"
    assert plain("a\u202e\nb\x1b", 10) == "a b"


def test_a_character_has_one_cell_whatever_it_combines_with():
    # e + acute is one letter; a second accent and a Chinese letter have no glyph of one cell
    assert visible("e\u0301\u0302") == "é" + WITHOUT_GLYPH
    assert visible("中") == WITHOUT_GLYPH


def test_tokens_go_into_lines_and_a_line_end_ends_one():
    completion = Completion(("abc", "de", "\n", "f"), frozenset({1}))
    pieces, rest = laid_out(completion, 4, 5)
    # "abc" + "de" are five cells: "de" begins line 1, the line end follows it, "f" begins line 2
    assert [(p.text, p.line, p.column) for p in pieces] == [("abc", 0, 0), ("de", 1, 0), ("↵", 1, 2), ("f", 2, 0)]
    assert [p.kept for p in pieces] == [False, True, False, False] and rest == ""


def test_a_token_longer_than_a_line_is_divided_and_stays_marked():
    pieces, _ = laid_out(Completion(("abcdefg",), frozenset({0})), 3, 5)
    assert [(p.text, p.kept) for p in pieces] == [("abc", True), ("def", True), ("g", True)]


def test_what_does_not_fit_is_counted():
    pieces, rest = laid_out(Completion(("aaa", "bbb", "ccc"), frozenset({1, 2})), 3, 1)
    assert [p.text for p in pieces] == ["aaa"] and rest == "… 2 more tokens, 2 of them marked"


# ---- the figure


def test_marked_tokens_have_background_underline_and_bold_type(tmp_path):
    texts = [{"tokens": ["one", "two"], "kept": [1]}]
    figure = strips.strip_gallery(frame_of(picture(tmp_path / "a.png", grey(1), grey(3), texts)))
    assert isinstance(figure, Figure)
    text = figure.axes[-1]
    weights = {artist.get_text(): artist.get_fontweight() for artist in text.texts}
    assert (weights["one"], weights["two"]) == ("normal", "bold")
    boxes = [patch for patch in text.patches if isinstance(patch, Rectangle)]
    # "two" is in the cells 3 to 6 of the line below the heading
    assert [(round(box.get_x()), round(box.get_x() + box.get_width())) for box in boxes] == [(3, 6)]
    assert len(text.lines) == 1


def test_panels_say_what_they_show_and_the_difference_is_that_of_the_first_two(tmp_path):
    figure = strips.strip_gallery(frame_of(picture(tmp_path / "a.png", grey(100), grey(98))))
    assert isinstance(figure, Figure)
    titles = [axes.get_title(loc="left") for axes in figure.axes[:3]]
    # 127 / 2 levels
    assert titles == ["clean", "moved by up to 2 grey levels", "difference × 63.5"]
    # 128 - 2 * 63.5 = 1
    assert (np.asarray(figure.axes[2].images[0].get_array()) == 1).all()


def test_an_unmoved_image_is_called_that(tmp_path):
    figure = strips.strip_gallery(frame_of(picture(tmp_path / "a.png", grey(9), grey(9))))
    assert isinstance(figure, Figure)
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["clean", "not moved", "no difference"]


def test_hostile_text_and_names_are_drawn_as_they_are(tmp_path):
    texts = [{"tokens": ["$\\frac{", "<b>", "_{"], "kept": [0]}]
    path = picture(tmp_path / "a.png", grey(1), grey(3), texts)
    figure = strips.strip_gallery(frame_of(path, arm="$\\bad{", problem="x\u202e$_"))
    assert isinstance(figure, Figure)
    # a formula with an open brace would raise here
    figure.savefig(tmp_path / "out.png")
    assert "<b>" in drawn(figure)
    assert figure.texts[0].get_text() == "$\\bad{, seed 0, step 0, view egas, x$_"


def test_damaged_strips_are_counted_and_alone_give_a_sentence(tmp_path):
    (tmp_path / "bad.png").write_text("")
    good = picture(tmp_path / "a.png", grey(1), grey(3))
    figure = strips.strip_gallery(frame_of(good, tmp_path / "bad.png"))
    assert isinstance(figure, Figure) and "1 of 2 strips cannot be shown" in figure.texts[-1].get_text()
    alone = strips.strip_gallery(frame_of(tmp_path / "bad.png"))
    assert isinstance(alone, str) and "1 of 1 strips cannot be shown" in alone


def test_without_strips_there_is_a_sentence():
    assert "No image strips" in str(strips.strip_gallery(frame_of().reindex(columns=["arm", "seed", "step"])))
