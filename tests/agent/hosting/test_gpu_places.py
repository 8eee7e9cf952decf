"""Who holds the GPUs of a cluster: told by Ray's own books, on a cluster that says it has two."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.conftest import write_checkpoint

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SCRIPT = """
import json, os, sys, time
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}
import ray
from agent.checkpoints.checkpoint import verify_checkpoint
from agent.config.settings import HostingSettings
from agent.engine.requests import CompletionRequest
from agent.hosting.model_host import HostSettings
from agent.hosting.ray_hosts import RayHosts
from agent.training.runner import TrainingRunner
from pathlib import Path

ray.init(address="local", num_gpus=2, include_dashboard=False, log_to_driver=False)

def free_after(wanted):
    deadline, free = time.monotonic() + 40, -1.0
    while abs(free - wanted) > 1e-6 and time.monotonic() < deadline:
        time.sleep(0.2)
        free = ray.available_resources().get("GPU", 0)
    return free

policy = verify_checkpoint(sys.argv[1]).ref("policy")
asked = [CompletionRequest((4, 13, 5, 2), 6, 1.0, 7)]
hosts = RayHosts(HostSettings())
before = hosts.completions(policy, asked)
found = {"served": free_after(2 - 5 * 0.2)}
hosts.release()
found["released"] = free_after(2 - 5 * 0.2)
hosts.release(with_gpus=True)
found |= {"given_back": free_after(2.0), "silent": hosts.health()}
found["equal"] = hosts.completions(policy, asked) == before
found["again"] = [free_after(2 - 5 * 0.2), sorted(hosts.health())]
takes = {}
for workers, device in ((1, "auto"), (2, "auto"), (2, "cpu"), (2, "cuda"), (3, "auto")):
    hosting = HostingSettings(hosting="ray", training_workers=workers, device=device)
    takes[f"{workers} {device}"] = TrainingRunner(hosting, Path(sys.argv[1])).takes_gpus
print(json.dumps(found | {"takes": takes}))
hosts.close()
ray.shutdown()
"""


def test_actors_give_their_gpus_to_workers_that_train_together_and_come_back(
    tmp_path: Path,
) -> None:
    policy = write_checkpoint(tmp_path / "p", seed=1)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(policy)], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["served"] == found["released"] == pytest.approx(1.0)
    assert found["given_back"] == 2 and found["silent"] == {}
    assert found["equal"] is True
    free, actors = found["again"]
    assert free == pytest.approx(1.0)
    assert actors == ["drafter", "outcome", "policy", "process", "value"]
    assert found["takes"] == {
        "1 auto": False,
        "2 auto": True,
        "2 cpu": False,
        "2 cuda": True,
        "3 auto": False,
    }
