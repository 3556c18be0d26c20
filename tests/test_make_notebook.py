"""`make notebook` for real: a server, its token, and a kernel of this environment against a user's own of that name."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from tests.fake_results import write_sweep

ROOT = Path(__file__).resolve().parent.parent
START_S = 180

pytestmark = pytest.mark.slow


class Lab:
    """A running `make notebook`."""

    def __init__(self, port: int, token: str, runtime: Path) -> None:
        self.port, self.token, self.runtime = port, token, runtime

    def call(self, path, body=None, *, token=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=None if body is None else json.dumps(body).encode()
        )
        request.add_header("Authorization", f"token {self.token if token is None else token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or "null")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """In a home whose user has kernels of the same name that do not work, and names a folder of them himself."""
    home = tmp_path_factory.mktemp("home")
    for folder in (home / ".local/share/jupyter/kernels/python3", home / "own/kernels/python3"):
        folder.mkdir(parents=True)
        spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "Mine", "language": "python"}
        (folder / "kernel.json").write_text(json.dumps(spec))
    runtime, log = home / "runtime", home / "log"
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "XDG"))}
    surroundings |= {"HOME": str(home), "JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_PATH": str(home / "own")}
    surroundings = {name: value for name, value in surroundings.items() if "DISPLAY" not in name}
    port = free_port()
    command = ["make", "notebook", "-o", "setup", f"VENV={sys.prefix}", f"PORT={port}"]
    with open(log, "w") as file:
        maker = subprocess.Popen(
            command, cwd=ROOT, env=surroundings, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Lab(port, wait_for_token(maker, runtime, log), runtime)
    finally:
        os.killpg(maker.pid, signal.SIGTERM)  # make, the server and its kernels: the group that was started here
        try:
            maker.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(maker.pid, signal.SIGKILL)
            maker.wait(30)


def wait_for_token(maker, runtime, log):
    end = time.monotonic() + START_S
    while time.monotonic() < end and maker.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            said = json.loads(path.read_text() or "{}")
            if said.get("token"):
                return said["token"]
        time.sleep(0.2)
    raise AssertionError(f"no server after {START_S} s: {log.read_text()[-2000:]}")


def run(client, source):
    """What a cell prints; raises for one that fails."""
    printed = []

    def note(message):
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(source, timeout=120, output_hook=note)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(printed)


def test_without_its_token_the_server_tells_nothing(lab):
    with pytest.raises(urllib.error.HTTPError) as refused:
        lab.call("/api/kernelspecs", token="")
    assert refused.value.code == 403


def test_the_only_kernel_on_offer_is_the_projects_own(lab):
    offered = lab.call("/api/kernelspecs")
    assert (offered["default"], list(offered["kernelspecs"])) == ("python3", ["python3"])
    assert offered["kernelspecs"]["python3"]["spec"]["display_name"] != "Mine"
    assert offered["kernelspecs"]["python3"]["spec"]["argv"][1:3] == ["-m", "ipykernel_launcher"]


def test_a_notebook_opened_there_runs_in_the_environment_of_the_project(lab, tmp_path):
    assert "accuracy.ipynb" in [entry["name"] for entry in lab.call("/api/contents")["content"]]
    named = nbformat.read(ROOT / "notebooks" / "accuracy.ipynb", as_version=4).metadata.kernelspec.name
    wanted = {"path": "accuracy.ipynb", "name": "accuracy.ipynb", "type": "notebook", "kernel": {"name": named}}
    session = lab.call("/api/sessions", wanted)
    client = BlockingKernelClient(
        connection_file=str(lab.runtime / f"kernel-{session['kernel']['id']}.json"),
    )
    client.load_connection_file()
    client.start_channels()
    client.hb_channel.time_to_dead = 60.0  # on a busy machine its second is no sign of death
    try:
        client.wait_for_ready(timeout=120)
        told = run(client, "import os, sys; print(sys.prefix, os.path.realpath(os.getcwd()))").split()
        assert told == [sys.prefix, str(ROOT / "notebooks")]
        write_sweep(tmp_path, "made_up", seeds=1)
        notebook = lab.call("/api/contents/accuracy.ipynb")["content"]
        parameters, load = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"][:2]
        run(client, f"{parameters}\nresults = {str(tmp_path)!r}")
        run(client, load)
        assert run(client, "print(data.name)") == "made_up\n"
    finally:
        client.stop_channels()
