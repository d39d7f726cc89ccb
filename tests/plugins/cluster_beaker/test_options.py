"""Options and the table of clusters: data that users extend, and that the record keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from plugins.cluster_beaker.beaker_jobs import job, options, task_of
from tunewright.clusters.beaker.facts import ClusterFacts, read_tables, shared_mounts, shared_variables, user_table
from tunewright.clusters.beaker.mounts import parse_mount
from tunewright.clusters.beaker.options import BeakerOptions

OWN_TABLE = """
[clusters."org/own"]
mounts = ["weka:own:/own"]
environment = { HF_HOME = "/own/hub" }
hostnames = ["own-*"]
"""


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def test_every_row_of_the_shipped_table_is_one() -> None:
    tables = read_tables(None)
    assert {"ai2/jupiter", "ai2/saturn", "ai2/augusta"} <= tables.keys()
    for row in tables.values():
        ClusterFacts.model_validate(row)


def test_a_users_table_adds_rows_and_replaces_them_whole(configuration: Path) -> None:
    user_table().parent.mkdir(parents=True)
    user_table().write_text(OWN_TABLE + '[clusters."ai2/jupiter"]\ninterconnect = false\n')
    given = options(clusters=["org/own", "ai2/jupiter"])
    assert given.cluster_facts["org/own"].mounts == ("weka:own:/own",)
    assert given.cluster_facts["ai2/jupiter"] == ClusterFacts(interconnect=False)


def test_a_file_that_the_experiment_names_wins_over_the_users_table(tmp_path: Path) -> None:
    user_table().parent.mkdir(parents=True)
    user_table().write_text(OWN_TABLE)
    (tmp_path / "more.toml").write_text(OWN_TABLE.replace("weka:own", "weka:more"))
    given = options(clusters=["org/own"], clusters_file=str(tmp_path / "more.toml"))
    assert given.cluster_facts["org/own"].mounts == ("weka:more:/own",)


def test_the_resolved_options_keep_the_rows_when_the_tables_are_gone(tmp_path: Path) -> None:
    table = tmp_path / "more.toml"
    table.write_text(OWN_TABLE)
    given = options(clusters=["org/own"], clusters_file=str(table))
    table.unlink()
    assert BeakerOptions.model_validate(given.to_document()) == given


def test_rows_in_the_experiment_itself_count() -> None:
    given = options(clusters=["org/x"], cluster_facts={"org/x": {"mounts": ["host:/x:/x"]}})
    assert task_of(job(run_dir="/x/runs/r"), given)["datasets"][0]["mountPath"] == "/x"


def test_hosts_have_what_their_cluster_has() -> None:
    given = options(clusters=[], hostnames=["jupiter-cs-aus-101.reviz.ai2.in"])
    task = task_of(job(), given)
    assert task["constraints"] == {"hostname": ["jupiter-cs-aus-101.reviz.ai2.in"]}
    assert task["datasets"][0]["source"] == {"weka": "oe-adapt-default"}


def test_a_host_that_the_table_does_not_know_may_lack_what_the_others_have() -> None:
    given = options(clusters=[], hostnames=["jupiter-1", "unheard-of-1"], mounts=["host:/x:/x"])
    task = task_of(job(run_dir="/x/r"), given)
    assert [mount["mountPath"] for mount in task["datasets"]] == ["/x"]
    assert task["envVars"] == []


def test_the_tables_variables_reach_the_job(tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text(OWN_TABLE)
    given = options(clusters=["org/own"], clusters_file=str(tmp_path / "more.toml"))
    assert task_of(job(run_dir="/own/r"), given)["envVars"] == [{"name": "HF_HOME", "value": "/own/hub"}]


@pytest.mark.parametrize(
    ("text", "said"),
    [("[clusters", "is no TOML"), ("clusters = 1", "must have rows"), ('[clusters."org/own"]\nmounts = ["x"]', "KIND")],
)
def test_a_broken_table_is_told_in_words(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "more.toml").write_text(text)
    with pytest.raises(ValidationError, match=said):
        options(clusters=["org/own"], clusters_file=str(tmp_path / "more.toml"))


def test_a_table_that_is_not_there_is_named() -> None:
    with pytest.raises(ValidationError, match=r"/no/such\.toml"):
        options(clusters=["org/own"], clusters_file="/no/such.toml")


def test_only_what_all_clusters_have_is_shared() -> None:
    one = ClusterFacts(mounts=("weka:a:/a", "weka:b:/b"))
    other = ClusterFacts(mounts=("weka:b:/b", "weka:c:/c"))
    assert shared_mounts([one, other]) == ("weka:b:/b",)
    assert shared_mounts([]) == ()
    assert shared_variables([{"A": "1", "B": "2"}, {"A": "1", "B": "3", "C": "4"}]) == ({"A": "1"}, ("B", "C"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"preemptible": True, "min_runtime_seconds": 0}, "preemptible is the older word"),
        ({"preemptible": False, "auto_resume": True}, "preemptible is the older word"),
        ({"hostnames": ["h"]}, "clusters or hostnames"),
        ({"priority": "hihg"}, "'low', 'normal', 'high', 'urgent' or 'immediate'"),
        ({"mounts": ["/data:01ABC"]}, "KIND:SOURCE:TARGET"),
        ({"tags": ["a b"]}, "pattern"),
        ({"rendezvous_port": 80}, "1024"),
    ],
)
def test_options_that_cannot_be_are_refused_in_words(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        options(**given)


@pytest.mark.parametrize(
    "text", ["weka:b:relative", "weka::/x", "host:relative:/x", "weka:b:/", "weka:b:/a/../b", "x:y:/z"]
)
def test_mounts_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|no source"):
        parse_mount(text)
