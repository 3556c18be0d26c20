"""Parts of tables: joined when a run ends, read rightly whenever that was interrupted."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saei import atomic, parts


def write(folder, *steps):
    folder.mkdir(exist_ok=True)
    for first, last in steps:
        rows = pa.table({"step": list(range(first, last + 1)), "text": ["é"] * (last - first + 1)})
        parts.write_part(folder, first, last, rows)


def read(folder):
    return [step for path in parts.part_paths(folder) for step in pq.read_table(path)["step"].to_pylist()]


def test_small_neighbours_are_joined_in_order_and_a_second_time_nothing_happens(tmp_path):
    write(tmp_path, (0, 3), (4, 7), (8, 8))
    parts.join_parts(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "part-000000-000008.parquet" and read(tmp_path) == list(range(9))
    assert pq.read_metadata(path).num_row_groups == 1
    before = path.stat().st_mtime_ns
    parts.join_parts(tmp_path)
    assert path.stat().st_mtime_ns == before


def test_no_part_grows_beyond_the_limit(tmp_path):
    write(tmp_path, (0, 3), (4, 7), (8, 11), (12, 15), (16, 19))
    each = parts.part_paths(tmp_path)[0].stat().st_size
    parts.join_parts(tmp_path, limit=2 * each + each // 2)
    assert parts.part_ranges(tmp_path) == [(0, 7), (8, 15), (16, 19)]
    parts.join_parts(tmp_path, limit=1)
    assert parts.part_ranges(tmp_path) == [(0, 7), (8, 15), (16, 19)] and read(tmp_path) == list(range(20))


@pytest.mark.parametrize("at", ["before the whole is there", "before anything is removed", "half way"])
def test_a_kill_while_joining_loses_no_row_and_doubles_none(tmp_path, monkeypatch, at):
    write(tmp_path, (0, 3), (4, 7), (8, 8))

    class Killed(BaseException): ...

    removed = []

    def unlink(path, **_):
        removed.append(path)
        if at == "before anything is removed" or len(removed) == 2:
            raise Killed
        path.rename(path.with_suffix(".gone"))

    def write_atomically(path, data):
        if at == "before the whole is there":
            raise Killed
        atomic.write_atomically(path, data)

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.unlink", unlink)
        patched.setattr(parts, "write_atomically", write_atomically)
        with pytest.raises(Killed):
            parts.join_parts(tmp_path)
    assert read(tmp_path) == list(range(9))
    parts.join_parts(tmp_path)
    assert parts.part_ranges(tmp_path) == [(0, 8)] and read(tmp_path) == list(range(9))
    assert parts.superseded(tmp_path) == []


def test_parts_that_overlap_without_covering_each_other_all_count(tmp_path):
    write(tmp_path, (0, 5), (3, 8))
    assert parts.part_ranges(tmp_path) == [(0, 5), (3, 8)]  # and a reader refuses their double rows


def test_other_files_and_an_absent_folder_are_no_parts(tmp_path):
    (tmp_path / "part-000000-000001.parquet.tmp").touch()
    (tmp_path / "part-0-1.parquet").touch()
    assert parts.part_paths(tmp_path) == [] and parts.part_paths(tmp_path / "absent") == []
