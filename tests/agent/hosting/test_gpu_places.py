"""Who holds the GPUs of a cluster: told by Ray's own books, on a cluster that says it has two."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.agent.conftest import write_checkpoint

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SCRIPT = """
import json, os, sys, threading, time
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}
import ray
from agent.checkpoints.checkpoint import verify_checkpoint
from agent.engine.requests import CompletionRequest, ScoreRequest
from agent.hosting import ray_gpus, ray_hosts
from agent.hosting.model_host import HostSettings
from agent.hosting.placement import Needs
from agent.hosting.policy_host import Speculation
from search.errors import ResourceError

ray.init(address="local", num_gpus=2, include_dashboard=False, log_to_driver=False)
GIB = 2**30
policy, value = (verify_checkpoint(p).ref(r) for p, r in zip(sys.argv[1:], ("policy", "value")))
texts = [CompletionRequest((4, 13, 5, 2), 6, 1.0, 7)]

def free_after(wanted):
    deadline, free = time.monotonic() + 40, -1.0
    while abs(free - wanted) > 1e-6 and time.monotonic() < deadline:
        time.sleep(0.2)
        free = ray.available_resources().get("GPU", 0)
    return free

def asked(hosts):
    drafted = hosts.drafted_completions(policy, policy, texts, Speculation())
    logits = hosts.critic_logits({"value": (value, [ScoreRequest((4, 13, 5), 1)])})
    written = [done[0].generated.tokens for done in (hosts.completions(policy, texts), drafted)]
    return [*written, logits["value"]]

def seen(hosts):
    answers = json.loads(json.dumps(asked(hosts)))
    deadline = time.monotonic() + 60
    health = {"": {"state": ""}}
    while {told["state"] for told in health.values()} != {"alive"}:
        assert time.monotonic() < deadline, health
        health = hosts.health()
    return {
        "answers": answers,
        "gpus": hosts.gpus(),
        "processes": len({told["pid"] for told in health.values()}),
        "free": free_after(0.0),
    }

found = {"memory": ray_gpus.gpu_bytes()}
hosts = ray_hosts.RayHosts(HostSettings())
found["apart"] = seen(hosts)
hosts.release()
found |= {"given_back": free_after(2.0), "silent": hosts.health(), "again": seen(hosts)}
ray_gpus.WAIT_S = 2.0
try:
    ray_hosts.RayHosts(HostSettings())
except ResourceError as error:
    found["second"] = str(error)
hosts.release()
free_after(2.0)
other = ray_hosts.RayHosts(HostSettings())
threading.Timer(5.0, other.close).start()
found["taken_back"] = json.loads(json.dumps(asked(hosts)))
hosts.close()
found["closed"] = free_after(2.0)

ray_hosts.gpu_bytes = lambda: 40 * GIB
hosts = ray_hosts.RayHosts(HostSettings(workers=2), needs=Needs(16 * GIB, has_one_base=True))
found["together"] = seen(hosts)
hosts.close()
ray.shutdown()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    policy = write_checkpoint(folder / "policy", seed=1)
    value = write_checkpoint(folder / "value", seed=2)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(policy), str(value)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_actors_hold_whole_gpus_the_policy_one_of_its_own(found: dict[str, Any]) -> None:
    apart = found["apart"]
    assert apart["gpus"] == {"policy": 0, "drafter": 1, "value": 1, "process": 1, "outcome": 1}
    assert (apart["processes"], apart["free"]) == (5, 0)
    assert found["memory"] == 0  # said to be there, and torch has none


def test_actors_give_their_gpus_to_a_training_and_come_back(found: dict[str, Any]) -> None:
    assert found["given_back"] == found["closed"] == 2
    assert {told["state"] for told in found["silent"].values()} == {"stopped"}
    assert sorted(found["silent"]) == sorted(found["apart"]["gpus"])
    assert found["again"] == found["apart"]


def test_gpus_that_another_run_holds_are_waited_for_and_named(found: dict[str, Any]) -> None:
    assert "the models need 2 whole GPUs of the cluster, and 0 are free" in found["second"]


def test_a_run_whose_gpus_another_took_during_a_training_waits_for_them(
    found: dict[str, Any],
) -> None:
    assert found["taken_back"] == found["apart"]["answers"]


def test_roles_in_one_actor_answer_as_they_do_apart(found: dict[str, Any]) -> None:
    together = found["together"]
    assert together["answers"] == found["apart"]["answers"]
    assert together["processes"] == 2
    assert together["gpus"] == {
        **dict.fromkeys(("policy", "drafter", "value", "process", "outcome"), 0),
        "policy-1": 1,
    }
