import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

import saei.train
from saei import schema
from saei.cli import run_main
from saei.exhausted import DiskFailed, DiskFull, OutOfMemory, explained, in_plain_words
from saei.train import train
from tests.runs import assert_same_run, small_config

MEGABYTE = 2**20


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 120 MB of its own, a checkpoint of the tiny model being 22 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here (root can): {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def leave_free(folder: Path, size: int) -> Path:
    """Fill the file system of `folder` but for `size` bytes."""
    ballast = folder / "ballast"
    ballast.unlink(missing_ok=True)
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - size)
    return ballast


def leftovers(run: Path) -> list[Path]:
    return [path for path in run.rglob(".*") if path.name != ".lock"]


def test_a_full_disk_stops_a_run_in_a_sentence_and_the_same_command_continues(tmp_path, small_disk, capsys):
    straight, run = tmp_path / "straight", small_disk / "run"
    train(small_config(straight))
    # too little for the first tables; 20 MB, too little for a checkpoint of 22; then for the third of three checkpoints
    for free, step in ((100_000, 0), (20 * MEGABYTE, 0), (28 * MEGABYTE, 2)):
        ballast = leave_free(small_disk, free)
        assert run_main(lambda: train(small_config(run))) == 1
        shown = capsys.readouterr().err
        said = shown.rpartition("error: ")[2]
        assert f"no space left on {run}" in said and said.rstrip().endswith(f"continues from step {step}")
        assert "needs about 21 MB a checkpoint" in said or "needs about 22 MB" in said
        assert "Traceback" not in shown
        assert not leftovers(run)
        kept = [path.name for path in (run / schema.CHECKPOINTS_FOLDER).glob("*")]
        assert kept == ([f"step-{step:06d}"] if step else [])
    status = json.loads((run / schema.STATUS_FILE).read_text())
    assert (status["state"], status["step"]) == (schema.FAILED, 2)
    assert status["message"].startswith("DiskFull: no space left on")
    ballast.unlink()
    train(small_config(run))
    assert_same_run(run, straight)


def test_a_disk_without_a_byte_for_the_status_does_not_hide_why_the_run_ended(small_disk):
    run = small_disk / "run"
    train(small_config(run, steps=0))
    (run / schema.DONE_FILE).unlink()
    leave_free(small_disk, 0)
    with pytest.raises(DiskFull, match="free some, then the same command continues from step 0"):
        train(small_config(run, steps=0))


def test_a_read_only_folder_is_bad_input(small_disk, capsys):
    run = small_disk / "run"
    train(small_config(run, steps=0))
    (run / schema.DONE_FILE).unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for out in (run, small_disk / "new"):
        assert run_main(lambda out=out: train(small_config(out, steps=0))) == 2
        shown = capsys.readouterr().err
        assert "read-only file system" in shown.lower() and "another --out" in shown
        assert "Traceback" not in shown


def test_an_interrupt_while_a_checkpoint_is_written_is_an_interrupt(tmp_path, monkeypatch):
    original = torch.save

    class Interrupted:
        def write(self, data):
            raise KeyboardInterrupt

        def flush(self): ...

    monkeypatch.setattr(torch, "save", lambda tree, file: original(tree, Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        train(small_config(tmp_path))
    assert json.loads((tmp_path / schema.STATUS_FILE).read_text())["state"] == schema.INTERRUPTED
    assert not leftovers(tmp_path)


def told(error: Exception, tmp_path: Path) -> Exception:
    return explained(error, small_config(tmp_path))


def chained(outer: Exception, inner: Exception) -> Exception:
    outer.__context__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull),
        (OSError(errno.EIO, "Input/output error"), DiskFailed),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), DiskFull),
        (chained(RuntimeError("unexpected pos 576 vs 534"), OSError(errno.ENOSPC, "full")), DiskFull),
        (MemoryError(), OutOfMemory),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory."), OutOfMemory),
    ],
)
def test_what_ran_out_is_told_apart(error, kind, tmp_path):
    assert type(told(error, tmp_path)) is kind


def test_other_errors_stay_themselves(tmp_path):
    for error in (ValueError("no"), OSError(errno.ENOENT, "gone"), PermissionError(errno.EACCES, "no", "/elsewhere/x")):
        assert told(error, tmp_path) is error


def test_a_full_disk_elsewhere_is_named(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", "/elsewhere/cache/file")
    assert "no space left on /elsewhere/cache" in str(told(error, tmp_path))


def test_memory_that_torch_cannot_get_is_told_with_the_setting_to_lower(tmp_path, monkeypatch):
    original = saei.train.sample_view

    def hungry(*args):
        torch.empty(10**15)
        return original(*args)

    monkeypatch.setattr(saei.train, "sample_view", hungry)
    with pytest.raises(OutOfMemory, match=r"lower optim.pack_tokens .now 6144: .*, or rollout.batch_rows .now 96: "):
        train(small_config(tmp_path))
    status = json.loads((tmp_path / schema.STATUS_FILE).read_text())
    assert status["state"] == schema.FAILED and status["message"].startswith("out of memory")


def test_memory_that_ran_out_in_the_sampler_blames_the_sampler_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("saei.sampler.decode_rows", lambda *args: torch.empty(10**15))
    with pytest.raises(OutOfMemory, match=r"while sampling .*lower rollout.batch_rows .now 96: .*such as 48") as raised:
        train(small_config(tmp_path))
    assert "pack_tokens" not in str(raised.value)


def test_what_is_raised_in_plain_words_keeps_the_error_behind_it(tmp_path):
    behind = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskFull) as raised, in_plain_words(small_config(tmp_path)):
        raise behind
    assert raised.value.__cause__ is behind
