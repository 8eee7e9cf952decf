"""Real Ray actors: five of them, restarted when killed, with results that do not change."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.model_refs import ROLES
from agent.config.settings import HostingSettings
from agent.engine.requests import CompletionRequest, OptionRequest
from agent.hosting import ray_hosts
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.hosting.open_hosts import open_hosts
from agent.hosting.policy_host import Speculation
from agent.hosting.ray_hosts import RayHosts
from search.errors import CheckpointError, UsageError
from tests.agent.conftest import write_checkpoint
from tests.agent.rounds.small import improve
from tests.agent.rounds.test_round import contents, run_rounds

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def hosts(cluster: str) -> Iterator[RayHosts]:
    opened = RayHosts(HostSettings(), cluster)
    yield opened
    opened.close()


def test_five_actors_answer_like_hosts_of_this_process(hosts: RayHosts, tmp_path: Path) -> None:
    policy = verify_checkpoint(write_checkpoint(tmp_path / "p", seed=1)).ref("policy")
    drafter = verify_checkpoint(write_checkpoint(tmp_path / "d", seed=2)).ref("drafter")
    lines = [OptionRequest((4, 13, 5, 2), 3, 6)]
    texts = [CompletionRequest((4, 13, 5, 2), 12, 1.0, seed) for seed in range(5)]
    inline = InlineHosts(HostSettings())
    for other in (hosts, inline):
        assert set(other.health()) == set(ROLES)
    assert hosts.options(policy, lines) == inline.options(policy, lines)
    plain = inline.drafted_completions(policy, None, texts, Speculation("never"))
    drafted = hosts.drafted_completions(policy, drafter, texts, Speculation("always", 3))
    assert [t.generated.tokens for t in drafted] == [t.generated.tokens for t in plain]
    assert sum(t.num_drafted for t in drafted) > 0
    assert len({h["pid"] for h in hosts.health().values()}) == 5


def test_a_killed_actor_comes_back_and_the_call_is_answered(
    hosts: RayHosts, tmp_path: Path
) -> None:
    policy = verify_checkpoint(write_checkpoint(tmp_path / "p", seed=1)).ref("policy")
    request = [CompletionRequest((4, 13, 5, 2), 12, 1.0, 7)]
    before = hosts.completions(policy, request)
    health = hosts.health()["policy"]
    os.kill(health["pid"], signal.SIGKILL)
    assert hosts.completions(policy, request) == before
    after = hosts.health()["policy"]
    assert after["pid"] != health["pid"] and after["restarts"] == health["restarts"] + 1


def test_a_hosts_error_arrives_with_its_fix(hosts: RayHosts, checkpoint: Path) -> None:
    ref = verify_checkpoint(checkpoint).ref("policy")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as error:
        hosts.load(ref)
    assert "model.safetensors" in error.value.message and error.value.fix


def test_an_actor_killed_in_mid_round_changes_no_result(
    cluster: str, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "calm").mkdir()
    (tmp_path / "stormy").mkdir()
    longer = {"problems_per_round": 60, "search.simulations": 12}
    run_rounds(tmp_path / "calm", checkpoint, **longer)
    killed: list[str] = []

    def kill_actors() -> None:
        """Kill the policy as soon as a search is stored, then a critic."""
        deadline = time.monotonic() + 200
        for role, after in (("policy", 1), ("process", 5)):
            while time.monotonic() < deadline:
                time.sleep(0.05)
                pid, done = seen(tmp_path / "stormy", role)
                if pid and done >= after:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(role)
                    break

    killer = threading.Thread(target=kill_actors)
    killer.start()
    flags = longer | {"hosting.hosting": "ray", "hosting.ray_address": cluster}
    done = improve(tmp_path / "stormy", checkpoint, timeout_s=400, **flags)
    killer.join()
    assert done.returncode == 0, done.stderr
    assert killed == ["policy", "process"]
    assert contents(tmp_path / "stormy") == contents(tmp_path / "calm")


def test_trees_do_not_depend_on_how_many_workers_served_them(
    cluster: str, checkpoint: Path, tmp_path: Path
) -> None:
    two = {"hosting.hosting": "ray", "hosting.ray_address": cluster, "hosting.workers": 2}
    for name, flags in (("inline", {}), ("two", two)):
        (tmp_path / name).mkdir()
        run_rounds(tmp_path / name, checkpoint, **{"problems_per_round": 24} | flags)
    assert contents(tmp_path / "two") == contents(tmp_path / "inline")


def test_calls_are_shared_among_the_workers(cluster: str, tmp_path: Path) -> None:
    policy = verify_checkpoint(write_checkpoint(tmp_path / "p", seed=1)).ref("policy")
    opened = RayHosts(HostSettings(workers=2), cluster)
    try:
        calls = [("policy", "options", (policy, [OptionRequest((4, 13, 5, 2), 3, 6)]))] * 4
        answers = opened._call_many(calls)
        assert answers == [answers[0]] * 4
        served = {name: h["calls"] for name, h in opened.health().items()}
        assert served["policy"] == served["policy-1"] == 2
    finally:
        opened.close()


def test_actors_that_say_nothing_are_unreachable_and_the_others_are_told(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = RayHosts(HostSettings(), cluster)
    silent = ("drafter", "value")
    monkeypatch.setattr(ray_hosts, "HEALTH_S", 60.0)  # as long as they take to start
    pids = {name: h["pid"] for name, h in opened.health().items()}
    assert all(pid > 1 for pid in pids.values())
    try:
        monkeypatch.setattr(ray_hosts, "HEALTH_S", 1.0)
        for name in silent:
            os.kill(pids[name], signal.SIGSTOP)
        found = opened.health()
        assert {n for n, h in found.items() if h["state"] == "unreachable"} == set(silent)
        assert {n: h["pid"] for n, h in found.items()} == pids
    finally:
        for name in silent:
            os.kill(pids[name], signal.SIGCONT)
        opened.close()


def test_workers_of_one_process_are_refused() -> None:
    with pytest.raises(UsageError, match="workers"):
        open_hosts(HostingSettings(hosting="inline", workers=2))


def seen(folder: Path, role: str) -> tuple[int, int]:
    """(last known pid of an actor, searches that are done), as the store knows them."""
    import sqlite3

    try:
        with sqlite3.connect(f"file:{folder}/store.db?mode=ro", uri=True) as connection:
            row = connection.execute("SELECT pid FROM actors WHERE role = ?", (role,)).fetchone()
            done = connection.execute(
                "SELECT count(*) FROM searches WHERE status = 'done'"
            ).fetchone()
            return (row[0] if row else 0), done[0]
    except sqlite3.Error:
        return 0, 0


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path, checkpoint: Path) -> None:
    flags = {"hosting.hosting": "ray", "hosting.ray_address": "127.0.0.1:1"}
    done = improve(tmp_path, checkpoint, **flags)
    assert done.returncode == UsageError.exit_code
    error = json.loads(done.stderr.strip().splitlines()[-1])["error"]
    assert "127.0.0.1:1" in error["message"] and "ray start --head" in error["next"]
