"""The files of cluster/, each held against what reads it: Ray's autoscaler, KubeRay's types, sbatch, bash, docker, and `ray start` in all of them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydistill.config.load import config_of
from raydistill.planning.places import capacity

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCRIPTS = sorted(CLUSTER.glob("*.sh"))
CLOUDS = [CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"]
KUBERAY = [CLUSTER / "kuberay-cluster.yaml", CLUSTER / "kuberay-job.yaml"]
STARTED = [*CLOUDS, *KUBERAY, *SCRIPTS, CLUSTER / "Dockerfile"]

SMALLEST = "{data: {path: graph}, encoder: {name: nobody}, grades: [{layers: 1}]}"
ANYTHING = object()
CONTAINER = {
    "name": str,
    "image": str,
    "env": [{"name": str, "value": str}],
    "ports": [{"name": str, "containerPort": int}],
    "resources": {"requests": ANYTHING, "limits": ANYTHING},
    "volumeMounts": [{"name": str, "mountPath": str}],
}
POD = {
    "spec": {
        "securityContext": {"fsGroup": int},
        "terminationGracePeriodSeconds": int,
        "containers": [CONTAINER],
        "volumes": [
            {
                "name": str,
                "persistentVolumeClaim": {"claimName": str},
                "emptyDir": {"medium": str, "sizeLimit": str},
            }
        ],
    }
}
RAY_CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"idleTimeoutSeconds": int},
    "headGroupSpec": {"serviceType": str, "rayStartParams": ANYTHING, "template": POD},
    "workerGroupSpecs": [
        {
            "groupName": str,
            "replicas": int,
            "minReplicas": int,
            "maxReplicas": int,
            "rayStartParams": ANYTHING,
            "template": POD,
        }
    ],
}
RAY_JOB = {
    "submissionMode": str,
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "backoffLimit": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "rayClusterSpec": RAY_CLUSTER,
}
KINDS = {"RayCluster": RAY_CLUSTER, "RayJob": RAY_JOB}
"""The fields used here, with their types, as in KubeRay 1.5.1: ray-operator/apis/ray/v1/raycluster_types.go and rayjob_types.go; those of pods as in
Kubernetes' core/v1. Kubernetes drops a field it does not know without a word."""
SBATCH = {
    "job-name",
    "output",
    "nodes",
    "ntasks-per-node",
    "cpus-per-task",
    "gpus-per-node",
    "mem",
    "time",
    "signal",
} | {
    "requeue",
    "open-mode",
}
"""Options of sbatch 23.11 that are used here."""
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}


def name_of(path: Path) -> str:
    return path.name


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def content_of(path: Path) -> Any:
    return yaml.safe_load(text_of(path))


def misfits(value: Any, shape: Any, path: str = "") -> Iterator[str]:
    """Where a value has a field that its shape lacks, or one of another type."""
    if shape is ANYTHING:
        return
    if isinstance(shape, dict):
        for name, part in value.items():
            if name in shape:
                yield from misfits(part, shape[name], f"{path}.{name}")
            else:
                yield f"{path}.{name} is no field"
    elif isinstance(shape, list):
        for place, part in enumerate(value):
            yield from misfits(part, shape[0], f"{path}[{place}]")
    elif type(value) is not shape:
        yield f"{path} is {value!r}"


@pytest.mark.parametrize("path", STARTED, ids=name_of)
def test_file_says_what_it_starts_what_it_costs_and_how_to_reach_it(path: Path) -> None:
    """Whoever starts a cluster of unknown price finds it out by the bill."""
    head = text_of(path).split("\n\n", maxsplit=1)[0]
    comments = [line for line in head.splitlines() if line.startswith("#")]
    assert len(comments) > 5
    assert any("Costs:" in line for line in comments)
    assert any("eaching it" in line for line in comments)


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_script_is_bash(path: Path) -> None:
    """A missing quote is found out on a machine that costs money."""
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.stat().st_mode & 0o111


@pytest.mark.needs_ray
@pytest.mark.parametrize("path", CLOUDS, ids=name_of)
def test_cloud_file_is_accepted_by_rays_autoscaler(path: Path) -> None:
    """`ray up` refuses it before it starts anything; a field that its schema leaves open would be ignored."""
    from ray.autoscaler._private import util

    config = util.prepare_config(content_of(path))
    util.validate_config(config)
    with pytest.raises(Exception, match="maximum_workers"):
        util.validate_config({**config, "maximum_workers": 3})
    assert config["available_node_types"][config["head_node_type"]]["max_workers"] == 0


def test_machines_on_aws_have_an_image() -> None:
    """Ray's own choice is an Ubuntu whose C library today's torch does not run on, which is seen when the first machine runs already."""
    kinds = content_of(CLUSTER / "aws.yaml")["available_node_types"].values()
    assert [one["node_config"]["ImageId"] for one in kinds] == ["IMAGE"] * 2
    assert "in place of IMAGE" in text_of(CLUSTER / "aws.yaml").replace("\n# ", " ")


@pytest.mark.parametrize("path", CLOUDS, ids=name_of)
def test_cloud_file_sends_files_that_exist(path: Path) -> None:
    """A source that was renamed is missed when the first machine runs already."""
    sent = [local for local in content_of(path)["file_mounts"].values() if not local.startswith("~")]
    assert [local for local in sent if not (ROOT / local).exists()] == []


@pytest.mark.parametrize("path", KUBERAY, ids=name_of)
def test_kubernetes_file_has_only_fields_of_kuberays_types(path: Path) -> None:
    """Kubernetes drops a misspelt field without a word: a cluster without authentication, or without a GPU."""
    content = content_of(path)
    assert content["apiVersion"] == "ray.io/v1"
    assert content.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert list(misfits(content["spec"], KINDS[content["kind"]])) == []
    assert list(misfits({"authoptions": {}}, RAY_CLUSTER)) == [".authoptions is no field"]


@pytest.mark.parametrize("path", KUBERAY, ids=name_of)
def test_kubernetes_cluster_asks_for_a_token_even_where_kuberay_does_not_know_of_it(path: Path) -> None:
    """An older operator drops `authOptions`: then nothing may start, rather than everything open to everybody."""
    content = content_of(path)
    spec = content["spec"].get("rayClusterSpec", content["spec"])
    assert spec["authOptions"] == {"mode": "token"}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        for container in group["template"]["spec"]["containers"]:
            assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]


@pytest.mark.parametrize("path", [*CLOUDS, *KUBERAY], ids=name_of)
def test_campaign_asks_for_as_many_workers_as_there_may_be(path: Path) -> None:
    """Without a number of trials a campaign keeps to the machines that are there, so that a cluster that could grow never does."""
    content = content_of(path)
    if path in CLOUDS:
        most = content["available_node_types"]["worker"]["max_workers"]
    else:
        [workers] = content["spec"].get("rayClusterSpec", content["spec"])["workerGroupSpecs"]
        most = workers["maxReplicas"]
    commands = [
        line for line in text_of(path).splitlines() if re.search(r"raydistill (--verbose )?(submit|run) ", line)
    ]
    assert commands
    for command in commands:
        [override] = re.findall(r"--set (\S+)", command)
        assert capacity(config_of(SMALLEST, "smallest", [override]).resources, cpus=0, gpus=0) == most
    assert capacity(config_of(SMALLEST, "smallest").resources, cpus=0, gpus=0) == 0


def test_kubernetes_files_start_the_same_cluster() -> None:
    """Two copies that drift apart."""
    cluster, job = (content_of(path)["spec"] for path in KUBERAY)
    assert job["rayClusterSpec"] == cluster


def test_files_name_the_ray_the_tests_run_with() -> None:
    """KubeRay chooses commands by this version, and drivers refuse a cluster of another one."""
    pinned = re.search(r"^ray==(.+)$", text_of(ROOT / "constraints.txt"), flags=re.MULTILINE)
    assert pinned is not None
    assert content_of(KUBERAY[0])["spec"]["rayVersion"] == pinned[1]


def ray_start_options() -> set[str]:
    """Every option that `ray start` of the installed Ray takes."""
    from ray.scripts import scripts

    return {option for parameter in scripts.start.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.needs_ray
@pytest.mark.parametrize("path", [*CLOUDS, *SCRIPTS], ids=name_of)
def test_options_of_ray_start_exist(path: Path) -> None:
    """Ray renames them between versions; a head that refuses an option leaves machines that cost and do nothing."""
    known = ray_start_options()
    code = "\n".join(line for line in text_of(path).splitlines() if not line.lstrip().startswith("#"))
    pieces = re.findall(r"ray start(?: |$)(.*?)(?:;|&\n|\n  - |\n\w|\Z)", code, flags=re.DOTALL)
    pieces += re.findall(r"(?:common|head|each)=\((.*?)\)\n", code, flags=re.DOTALL) + re.findall(
        r"launch .*?(?:\n(?=    \w)|\n\})|common_options\(\).*?\n\}", code, flags=re.DOTALL
    )
    used = {option for piece in pieces for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", piece)}
    assert {"--head", "--address", "--dashboard-host"} <= used
    assert used - known - {"--overlap", "--nodes", "--ntasks", "--nodelist", "--exclude"} == set()


@pytest.mark.needs_ray
@pytest.mark.parametrize("path", KUBERAY, ids=name_of)
def test_parameters_of_kuberays_ray_start_exist(path: Path) -> None:
    """KubeRay passes them on as they are."""
    content = content_of(path)
    spec = content["spec"].get("rayClusterSpec", content["spec"])
    given = spec["headGroupSpec"]["rayStartParams"]
    assert {f"--{name}" for name in given} <= ray_start_options()
    assert all(isinstance(value, str) for value in given.values())


@pytest.mark.parametrize("path", [*CLOUDS, CLUSTER / "slurm.sh"], ids=name_of)
def test_dashboard_listens_on_the_loopback_interface(path: Path) -> None:
    """Who reaches a dashboard and has, or guesses, the token runs code on the cluster."""
    assert "0.0.0.0" not in text_of(path)
    assert re.search(r"--dashboard-host[= ]127\.0\.0\.1", text_of(path))


@pytest.mark.parametrize("path", [*CLOUDS, *KUBERAY, CLUSTER / "slurm.sh"], ids=name_of)
def test_processes_look_for_their_head_for_longer_than_the_driver_waits_for_it(path: Path) -> None:
    """A network that is broken for ten seconds would end every process of a campaign that has patience for thirty; or the driver, without a word on how to go on."""
    losses = text_of(ROOT / "raydistill/orchestration/losses.py")
    patience = sum(
        float(re.findall(rf"^{name} = (.+)$", losses, re.M)[0]) for name in ("LOST_SECONDS", "LEAVE_SECONDS")
    )
    told = re.findall(r'RAY_gcs_rpc_server_reconnect_timeout_s(?:=|, value: ")(\d+)', text_of(path))
    assert told
    assert {int(seconds) for seconds in told} == {60}
    assert patience < 60


@pytest.mark.parametrize("path", CLOUDS, ids=name_of)
def test_every_start_on_a_cloud_asks_for_the_token(path: Path) -> None:
    """`ray start` without the mode takes requests of everybody, and says so in a log that nobody reads."""
    content = content_of(path)
    starts = [
        one for which in ("head", "worker") for one in content[f"{which}_start_ray_commands"] if "ray start" in one
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ray start" in one for one in starts)
    assert "chmod 600 ~/.ray/auth_token" in content["setup_commands"]


def test_slurm_options_exist_and_come_before_the_first_command() -> None:
    """sbatch reads no option after the first command, and runs without it."""
    lines = text_of(CLUSTER / "slurm.sh").splitlines()
    options = [place for place, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert {lines[place].split()[1].removeprefix("--").split("=")[0] for place in options} <= SBATCH
    assert all(line.startswith("#") for line in lines[: options[-1] + 1])


def test_slurm_script_refuses_to_run_outside_of_slurm(tmp_path: Path) -> None:
    """Started with bash on a login machine, it would start a cluster there."""
    command = ["bash", str(CLUSTER / "slurm.sh"), "config.yaml", "run"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 2
    assert "start it with sbatch" in done.stderr
    assert list(tmp_path.iterdir()) == []


def instructions() -> list[tuple[str, str]]:
    code = "\n".join(line for line in text_of(CLUSTER / "Dockerfile").splitlines() if not line.startswith("#"))
    joined = [line.strip() for line in code.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined]


def test_dockerfile_copies_what_exists_and_ends_as_an_ordinary_user() -> None:
    """A source that was renamed; or a container whose jobs run as root."""
    found = instructions()
    assert {name for name, _ in found} <= INSTRUCTIONS
    assert found[0][0] == "FROM"
    sources = [source for name, rest in found if name == "COPY" for source in shlex.split(rest)[:-1]]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [rest for name, rest in found if name == "USER"][-1] == "ray"
    assert any(name == "ENV" and "RAY_AUTH_MODE=token" in rest for name, rest in found)


def test_image_gets_all_that_its_build_copies_and_nothing_big() -> None:
    """What the list of ignored files hides cannot be copied; what it lets through is sent to the builder."""
    lines = text_of(CLUSTER / "Dockerfile.dockerignore").splitlines()
    let_through = {line[1:] for line in lines if line.startswith("!")}
    sources = {source for name, rest in instructions() if name == "COPY" for source in shlex.split(rest)[:-1]}
    assert "*" in lines
    assert let_through == sources


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "usage: "),
        (("begin",), "usage: "),
        (("start", "--workers", "two"), "give a whole number"),
        (("start", "--cpus", "0"), "give at least 1"),
        (("start", "--worker", "2"), "--worker is no option of start"),
        (("start", "--workers"), "--workers without a value"),
        (("add",), "no cluster is running"),
        (("--dir",), "--dir without a folder"),
    ],
)
def test_local_script_refuses_what_it_does_not_know(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """A misspelt option that is ignored starts another cluster than the one meant."""
    command = [str(CLUSTER / "local.sh"), *arguments]
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["stop", "status"])
def test_local_script_without_a_cluster_says_so(command: str, tmp_path: Path) -> None:
    """`stop` in a script that starts over must not fail; `status` must tell by its exit code."""
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(tmp_path)}
    script = [str(CLUSTER / "local.sh"), command]
    done = subprocess.run(script, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == {"stop": 0, "status": 3}[command]
    assert done.stdout == ""
