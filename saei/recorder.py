"""The run directory: everything a run leaves behind, written so that a kill at any moment corrupts nothing.

Tables are parquet parts named by the step range they cover, `part-000025-000049.parquet`; the part in progress is
written again as a whole after every step (temporary name, then rename). Resuming at step s forgets whatever was
recorded for steps >= s: the checkpoint says where the run is, never the tables. The parts of a finished run are joined
(`saei.parts`).
"""

import contextlib
import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from saei import control, curriculum, schema, shaping
from saei.atomic import write_json
from saei.cli import BadInput, Told
from saei.config import Config, to_dict
from saei.differences import shown_differences
from saei.distributed import ALONE, World
from saei.exhausted import remove_leftovers
from saei.identity import trial_id, trial_identity
from saei.job import restarts
from saei.parts import PART, join_parts, part_name, part_paths, superseded, write_part
from saei.standing import Standing

_TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
ARROW_SCHEMAS = {
    table: pa.schema([(name, _TYPES[kind]) for name, kind in columns.items()])
    for table, columns in schema.TABLES.items()
}
LOCK_FILE = ".lock"
PREDECESSOR_S = 120.0
"""Seconds that a job which Slurm put back waits for its predecessor, on a node thought dead, to let go."""
GLANCE_S = 0.2
"""Whoever asks whether a run is busy holds its lock for an instant; that is not taken for another process's work."""
_IMAGE = re.compile(r"step-(\d+)-.*\.png")


class RunBusy(Told):
    """Another living process holds this run directory."""


@contextlib.contextmanager
def run_lock(folder: Path, *, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the run directory for this process. The kernel releases the lock at death, so no lock is ever stale.

    Raises RunBusy when somebody else still holds it after `patience_s` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + max(patience_s, GLANCE_S)
    with open(folder / LOCK_FILE, "a") as file:
        while not _locked(file.fileno()):
            if time.monotonic() >= deadline:
                raise RunBusy(f"{folder} is being written by another process; wait for it or stop it")
            time.sleep(min(0.5, max(patience_s, GLANCE_S) / 4))
        if not _is_still(folder / LOCK_FILE, file.fileno()):
            raise RunBusy(f"{folder} was removed by the process that held it a moment ago; start again")
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Is the open file the one at `path`, and not one removed meanwhile, whose lock nobody else would meet?"""
    return path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino


@contextlib.contextmanager
def left_clean(folder: Path) -> Iterator[None]:
    """Settings that cannot be used leave no folder behind that holds nothing but its lock."""
    try:
        yield
    except BadInput:
        if {path.name for path in folder.iterdir()} <= {LOCK_FILE}:
            (folder / LOCK_FILE).unlink(missing_ok=True)
            folder.rmdir()
        raise


@contextlib.contextmanager
def claimed(folder: Path, world: World) -> Iterator[None]:
    """Hold the run directory `folder`, which is made, for all processes of the trial: the writer holds it.

    Raises RunBusy when another trial's process does, BadInput where there can be no such folder.
    A job that Slurm has restarted waits a while for the process that was it before.
    """
    if not world.is_writer:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"out: {folder} cannot be made a folder ({error.strerror}); choose another --out") from error
    with run_lock(folder, patience_s=PREDECESSOR_S if restarts() else 0.0), left_clean(folder):
        yield


def reconstructions(config: Config) -> list[str]:
    """What in these settings is our reconstruction of a method whose formulas are not known, in sentences."""
    known = (
        control.RECONSTRUCTIONS.get(config.control.rule),
        shaping.RECONSTRUCTIONS.get(config.advantage.shaping),
        curriculum.RECONSTRUCTIONS.get(config.data.curriculum),
    )
    return [sentence for sentence in known if sentence]


class Recorder:
    """Writes one run directory. `open_part` starts a new step range; `add` and `flush` fill it.

    What is read from the directory is read by the writer of `world` and told to the others. Raises ValueError for a
    directory that holds another trial.
    """

    def __init__(self, config: Config, world: World = ALONE) -> None:
        self.config = config
        self.world = world
        self.folder = Path(config.out)
        self.trial_id = trial_id(config)
        self._range = (0, 0)
        self._rows: dict[str, list[dict[str, Any]]] = {table: [] for table in schema.TABLES}
        self._dirty: set[str] = set()
        self._spoke = time.monotonic()
        self.standing = Standing(self.folder, self.trial_id, config.steps)
        self._refuse_another_trial()

    def _refuse_another_trial(self) -> None:
        """Raise ValueError when the directory holds another trial, finished or not."""
        path = self.folder / schema.CONFIG_FILE
        if not path.exists():
            return
        found = json.loads(path.read_text())
        if found["trial_id"] != self.trial_id:
            unlike = shown_differences(found.get("identity", {}), trial_identity(self.config))
            raise ValueError(
                f"out: {self.folder} holds trial {found['trial_id']}, and these settings are trial {self.trial_id}: "
                f"they differ in {unlike}; choose another --out, or delete the folder"
            )

    def claim(self) -> None:
        """Write `config.json` and make the folders of the tables."""
        tree = {
            "schema_version": schema.SCHEMA_VERSION,
            "trial_id": self.trial_id,
            "config": to_dict(self.config),
            "identity": trial_identity(self.config),
            "reconstructions": reconstructions(self.config),
        }
        write_json(self.folder / schema.CONFIG_FILE, tree)
        for name in (*schema.TABLES, schema.IMAGES_FOLDER, schema.CHECKPOINTS_FOLDER):
            (self.folder / name).mkdir(exist_ok=True)

    def forget_from(self, step: int) -> None:
        """Delete rows and images of steps >= `step`, and leftovers of interrupted writes."""
        remove_leftovers(self.folder)
        for table in schema.TABLES:
            for path in superseded(self.folder / table):
                path.unlink()
            for path in sorted((self.folder / table).iterdir()):
                match = PART.fullmatch(path.name)
                if match is None or int(match[1]) >= step:
                    path.unlink()
                elif int(match[2]) >= step:
                    # the checkpoint interval was changed between launches: cut the part at the checkpoint
                    rows = [row for row in pq.read_table(path).to_pylist() if row["step"] < step]
                    self._write_part(table, (int(match[1]), step - 1), rows)
                    path.unlink()
        for path in (self.folder / schema.IMAGES_FOLDER).iterdir():
            match = _IMAGE.fullmatch(path.name)
            if match is None or int(match[1]) >= step:
                path.unlink()
        (self.folder / schema.DONE_FILE).unlink(missing_ok=True)

    def open_part(self, first: int, last: int) -> None:
        """From now on rows belong to the part of steps first..last."""
        self._range = (first, last)
        self._rows = {table: [] for table in schema.TABLES}
        self._dirty.clear()

    def add(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Append rows to the open part; every column of the schema must be there, and no other."""
        columns = schema.TABLES[table].keys()
        for row in rows:
            if row.keys() != columns:
                raise KeyError(f"{table}: columns {sorted(row.keys() ^ columns)} are missing or unknown")
        self._rows[table] += rows
        if rows:
            self._dirty.add(table)

    def flush(self) -> None:
        """Replace the open part of every table that got rows since the last flush."""
        for table in sorted(self._dirty):
            self._write_part(table, self._range, self._rows[table])
        self._dirty.clear()

    def _write_part(self, table: str, steps: tuple[int, int], rows: list[dict[str, Any]]) -> None:
        write_part(self.folder / table, *steps, pa.Table.from_pylist(rows, schema=ARROW_SCHEMAS[table]))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table so far, in step order, without model text."""
        columns = [column for column in schema.TABLES[table] if column != "text"]
        written = [
            row
            for path in part_paths(self.folder / table)
            if path.name != part_name(*self._range)
            for row in pq.read_table(path, columns=columns).to_pylist()
        ]
        return written + [{column: row[column] for column in columns} for row in self._rows[table]]

    def kept(self, name: str, make: Callable[[], Any], *, begun: bool) -> Any:
        """The content of the JSON file `name` of the run directory; made, and written, only where it is not there.

        Raises RuntimeError where the run has `begun` and the file is gone.
        """
        path = self.folder / name
        if not self.world.from_writer(path.exists()):
            if begun:
                raise RuntimeError(f"{path} is gone, and only the initial policy could make it again: begin anew")
            content = make()  # by all processes together
            if self.world.is_writer:
                write_json(path, {"content": content})
        return self.world.from_writer(json.loads(path.read_text())["content"] if self.world.is_writer else None)

    def picture(self, name: str, pixels: UInt8[np.ndarray, "height width 3"], about: Any = None) -> None:
        """Write a PNG of this name, with `about` inside as JSON under schema.ABOUT."""
        facts = PngInfo()
        if about is not None:
            facts.add_itxt(schema.ABOUT, json.dumps(about), zip=True)
        Image.fromarray(pixels).save(self.folder / schema.IMAGES_FOLDER / name, pnginfo=facts)

    def alarms(self, alarms: list[dict[str, Any]]) -> None:
        """Replace `alarms.json`; what was not in it before also goes to the log."""
        path = self.folder / schema.ALARMS_FILE
        known = json.loads(path.read_text())["alarms"] if path.exists() else []
        for alarm in alarms:
            if alarm not in known:
                self.log(f"alarm {alarm['detector']}: {alarm['sentence']}")
        write_json(path, {"alarms": alarms})

    def status(self, state: str, *, step: int, message: str = "", **values: Any) -> None:
        """Replace `status.json`: where the run is, for status commands; never a ledger."""
        self.standing.write(state, step=step, message=message, **values)

    def beat(self) -> None:
        """Show in `status.json` that this process lives, if it has not for a while."""
        self.standing.beat()

    def log(self, line: str) -> None:
        """One line with the time, to `log.txt` and to standard error."""
        stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}"
        with open(self.folder / schema.LOG_FILE, "a") as file:
            file.write(stamped + "\n")
        print(stamped, file=sys.stderr, flush=True)
        self._spoke = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the last line of the log."""
        return time.monotonic() - self._spoke

    def done(self, scores: dict[str, float]) -> None:
        """Join the parts of its tables and seal the run: `DONE` exists exactly when everything else is complete."""
        for table in schema.TABLES:
            join_parts(self.folder / table)
        tree = {"trial_id": self.trial_id, "finished": time.time(), "scores": scores}
        write_json(self.folder / schema.DONE_FILE, tree)

    def final_scores(self) -> dict[str, float]:
        """The scores of a finished run."""
        sealed = self.folder / schema.DONE_FILE
        return self.world.from_writer(json.loads(sealed.read_text())["scores"] if self.world.is_writer else {})

    def is_done(self) -> bool:
        return self.world.from_writer((self.folder / schema.DONE_FILE).exists())


class SilentRecorder(Recorder):
    """The recorder of a process that is not the writer: it leaves the run directory alone."""

    def _refuse_another_trial(self) -> None: ...

    def claim(self) -> None: ...

    def forget_from(self, step: int) -> None: ...

    def add(self, table: str, rows: list[dict[str, Any]]) -> None: ...

    def rows(self, table: str) -> list[dict[str, Any]]:
        return []

    def picture(self, name: str, pixels: UInt8[np.ndarray, "height width 3"], about: Any = None) -> None: ...

    def alarms(self, alarms: list[dict[str, Any]]) -> None: ...

    def status(self, state: str, *, step: int, message: str = "", **values: Any) -> None: ...

    def beat(self) -> None: ...

    def log(self, line: str) -> None: ...

    def done(self, scores: dict[str, float]) -> None: ...


def recorder_of(config: Config, world: World) -> Recorder:
    """The recorder of this process. Raises ValueError as `Recorder` does."""
    return Recorder(config, world) if world.is_writer else SilentRecorder(config, world)
