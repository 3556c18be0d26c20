"""What a cluster profile may say."""

import re
from pathlib import Path

import pytest

from saei.cli import BadInput
from sweeps.slurm.profile import DEFAULTS, KEYS, ROOT, minutes, read_profile


def profile(tmp_path, text):
    path = tmp_path / "site.toml"
    path.write_text(text)
    return read_profile(path)


def test_the_sites_file_is_laid_over_the_defaults(tmp_path):
    found = profile(tmp_path, 'time = "02:00:00"\ncpus = 9\ngpus = 4\nnodes = 2')
    # cpus from the site, the warning from the defaults; one process per GPU: 4 a node; 2 nodes of 4 GPUs
    assert (found.cpus, found.signal_delay_s, found.tasks_per_node, found.gpus_per_trial) == (9, 120, 4, 8)
    assert found.limit_s == 7200


def test_without_gpus_a_trial_is_one_process_and_tasks_says_otherwise(tmp_path):
    assert profile(tmp_path, "time = 60").tasks_per_node == 1
    assert profile(tmp_path, "time = 60\ngpus = 4\ntasks = 2").tasks_per_node == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("partitoin = 'gpu'", "unknown key partitoin: did you mean partition?"),
        ("mail_type = 'FAIL'", r"unknown key mail_type: an option of sbatch without a key goes under \[extra\]"),
        ("gpus = '2'", "gpus is a whole number, got '2'"),
        ("gpus = -1", "gpus must be at least 0, got -1"),
        ("nodes = true", "nodes is a whole number, got True"),
        ("mem_gb = 0", "mem_gb is a number above 0, got 0"),
        ("time = '8h'", 'time reads "HH:MM:SS"'),
        ("time = 0", "time must be at least one minute, got 0"),
        ("gpus = 1", "time is missing"),
        ("requeue = 'yes'", "requeue is true or false"),
        ("modules = 'cuda'", "modules is a list of texts"),
        ("partition = ''", "partition is a text in quotes"),
        ("[env]\n'A B' = '1'", "env 'A B' is no name of an environment variable"),
        ("[env]\n'ÜBER' = '1'", "env 'ÜBER' is no name of an environment variable"),
        ("[extra]\n'--mail-type' = 'FAIL'", "extra '--mail-type' is no option .* without the leading dashes"),
        ("[extra]\n'mail-type=FAIL' = true", 'without the value, such as mail-type = "FAIL"'),
        ("[extra]\npartition = 'x'", "extra may not set partition: the key partition does"),
        ("[extra]\ncpus_per_task = 2", "extra may not set cpus_per_task: the key cpus does"),
        ("[extra]\ncomment = 'x'", "extra may not set comment: the runner does"),
        ("[extra]\nexclusive = false", "extra exclusive is a text, a number, or true"),
        ("time = 1", "signal_delay_s, the warning before the time limit, is 120 s and the limit only 60 s"),
        ("time = 60\ncontainer = 'a'\ncontainer_command = 'b'", "exclude each other"),
        ("time = 60\ncontainer_mounts = ['/a']", "container_mounts is for container"),
        ("time = ", "cannot be read"),
    ],
)
def test_a_wrong_profile_is_refused_by_key_value_and_rule(tmp_path, text, sentence):
    with pytest.raises(BadInput, match=sentence):
        profile(tmp_path, text)


def test_a_missing_profile_is_told_with_what_to_copy(tmp_path):
    with pytest.raises(BadInput, match=r"copy slurm/example.toml to slurm/cluster.toml"):
        read_profile(tmp_path / "cluster.toml")


def test_slurm_times_are_read_in_minutes():
    # one day and 90 s: 1440 + 1.5, rounded up to 1442
    assert [minutes(text) for text in ("08:00:00", "1-00:01:30", 45)] == [480, 1442, 45]


def test_the_readme_explains_exactly_the_keys_that_there_are():
    section = (ROOT / "slurm" / "README.md").read_text().partition("## The profile")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `")]
    explained = re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table))
    assert sorted(explained) == sorted(KEYS)


def test_the_committed_files_are_valid():
    assert read_profile(ROOT / "slurm" / "example.toml").gpus == 1
    assert Path(DEFAULTS).exists()
