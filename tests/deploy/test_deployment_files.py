"""Dockerfile, docker-compose.yml and k8s/ -> one record per way to run the server, whose numbers must agree.

The four ways are the two Compose services and the two Kubernetes overlays. An overlay is its patch merged
into the base, by the few rules of a strategic merge that the files use; where kubectl is installed, its
rendering is compared with that merge.
"""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from farfield_service.settings import Settings

ROOT = Path(__file__).parents[2]
PORT = 8642
PROGRAMS_BYTES = 2**30  # of server, worker and compilers, as a round number above all that was seen
LAST_WORDS_S = 5  # for the last answers, and the worker's end

SERVICES = ("farfield", "farfield-gpu")
OVERLAYS = ("cpu", "gpu")


@dataclass(frozen=True)
class Deployed:
    """One way to run the server; a file's own words in units that compare."""

    env: dict[str, Any]
    user: str
    is_read_only: bool
    dropped: list[str]
    may_gain_privileges: bool
    writable: dict[str, str]  # mount path -> "memory" or "disk"
    keys_mounts: list[str]  # read-only
    tmp_bytes: int
    memory_bytes: int
    kill_s: int  # between SIGTERM and SIGKILL
    shm_bytes: int | None
    gpus: str | None

    @property
    def settings(self) -> Settings:
        """What the server makes of its environment; defaults where nothing is set."""
        prefix = Settings.model_config["env_prefix"]
        names = {name: f"{prefix}{name.upper()}" for name in Settings.model_fields}
        return Settings(**{name: self.env[variable] for name, variable in names.items() if variable in self.env})


# The readers --------------------------------------------------------------------------------------


def _read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def _bytes(quantity: str) -> int:
    """`4Gi` of Kubernetes and `4g` of Compose are both 4 * 2**30."""
    match = re.fullmatch(r"(\d+)(Mi|Gi|m|g)", quantity)
    assert match, f"a size in Mi, Gi, m or g is expected, not {quantity!r}"
    return int(match[1]) * {"m": 2**20, "g": 2**30}[match[2][0].lower()]


def _instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (keyword, arguments), continued lines joined, comments dropped."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(keyword, rest) for keyword, _, rest in (line.partition(" ") for line in lines if line)]


def _instruction(keyword: str) -> str:
    (rest,) = [rest for found, rest in _instructions() if found == keyword]
    return rest


def _image_env() -> dict[str, str]:
    pairs = [pair.partition("=") for pair in shlex.split(_instruction("ENV"))]
    return {name: value for name, _, value in pairs}


def _merge(base: Any, patch: Any) -> Any:
    """A strategic merge: maps by key, lists of named items by name, everything else replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: _merge(base.get(key), value) for key, value in patch.items()}
    if isinstance(base, list) and all("name" in item for item in [*base, *patch]):
        named = {item["name"]: item for item in base}
        named |= {item["name"]: _merge(named.get(item["name"]), item) for item in patch}
        return list(named.values())
    return patch


def _deployment(overlay: str) -> Any:
    folder = f"k8s/overlays/{overlay}"
    kustomization = _read(f"{folder}/kustomization.yaml")
    assert kustomization["resources"] == ["../../base"]
    (patch,) = kustomization["patches"]
    assert patch["target"] == {"kind": "Deployment", "name": "farfield"}
    return _merge(_read("k8s/base/deployment.yaml"), _read(f"{folder}/{patch['path']}"))


def _pod(overlay: str) -> Any:
    return _deployment(overlay)["spec"]["template"]["spec"]


def _container(overlay: str) -> Any:
    (container,) = _pod(overlay)["containers"]
    return container


def _compose(name: str) -> Deployed:
    service = _read("docker-compose.yml")["services"][name]
    resources = service["deploy"]["resources"]
    (tmpfs,) = service["tmpfs"]
    path, _, options = tmpfs.partition(":")
    size = dict(option.split("=") for option in options.split(","))["size"]
    volumes = [volume for volume in service["volumes"] if isinstance(volume, str)]
    binds = [volume for volume in service["volumes"] if not isinstance(volume, str)]
    devices = resources.get("reservations", {}).get("devices", [])
    return Deployed(
        env=service["environment"],
        user=service["user"],
        is_read_only=service["read_only"],
        dropped=service["cap_drop"],
        may_gain_privileges="no-new-privileges:true" not in service["security_opt"],
        writable={path: "memory"} | {volume.split(":")[1]: "disk" for volume in volumes},
        keys_mounts=[bind["target"] for bind in binds if bind["read_only"]],
        tmp_bytes=_bytes(size),
        memory_bytes=_bytes(resources["limits"]["memory"]),
        kill_s=int(service["stop_grace_period"].removesuffix("s")),
        shm_bytes=service.get("shm_size"),
        gpus=str(devices[0]["count"]) if devices else None,
    )


def _kubernetes(overlay: str) -> Deployed:
    pod, container = _pod(overlay), _container(overlay)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    every = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    mounts = {path: volume["emptyDir"] for path, volume in every.items() if "emptyDir" in volume}
    read_only = [mount["mountPath"] for mount in container["volumeMounts"] if mount.get("readOnly")]
    assert len(mounts) + len(read_only) == len(every)
    assert "lifecycle" not in container, "a preStop would take its time from the server's"
    security, limits = container["securityContext"], container["resources"]["limits"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    return Deployed(
        env={entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]},
        user="{runAsUser}:{runAsGroup}".format(**pod["securityContext"]),
        is_read_only=security["readOnlyRootFilesystem"],
        dropped=security["capabilities"]["drop"],
        may_gain_privileges=security["allowPrivilegeEscalation"],
        writable={path: "memory" if v.get("medium") == "Memory" else "disk" for path, v in mounts.items()},
        keys_mounts=read_only,
        tmp_bytes=_bytes(mounts["/tmp"]["sizeLimit"]),
        memory_bytes=_bytes(limits["memory"]),
        kill_s=pod["terminationGracePeriodSeconds"],
        shm_bytes=_bytes(mounts["/dev/shm"]["sizeLimit"]) if "/dev/shm" in mounts else None,
        gpus=limits.get("nvidia.com/gpu"),
    )


WAYS: dict[str, tuple[Callable[[str], Deployed], str]] = {
    **{f"compose {name}": (_compose, name) for name in SERVICES},
    **{f"kubernetes {name}": (_kubernetes, name) for name in OVERLAYS},
}


@pytest.fixture(params=WAYS)
def deployed(request: pytest.FixtureRequest) -> Deployed:
    """Each of the four ways to run the server."""
    read, name = WAYS[request.param]
    return read(name)


# All four ways ------------------------------------------------------------------------------------


def test_a_server_is_killed_only_after_its_drain(deployed: Deployed) -> None:
    """Between SIGTERM and SIGKILL fit the grace, the drain, and the last words."""
    settings = deployed.settings
    assert deployed.kill_s >= settings.grace_s + settings.drain_s + LAST_WORDS_S


def test_what_a_file_sets_is_a_setting(deployed: Deployed) -> None:
    """Each variable is read by the server, and its text is in bounds."""
    known = {f"FARFIELD_{name.upper()}" for name in deployed.settings.model_fields_set}
    assert deployed.env.keys() == known
    assert {"FARFIELD_GRACE_S", "FARFIELD_DRAIN_S", "FARFIELD_ARENA_BYTES"} <= known


def test_memory_limit_holds_all_that_a_full_server_has(deployed: Deployed) -> None:
    """A full arena and /tmp, a largest result that is copied as uvicorn's own protocol does, and the programs."""
    settings = deployed.settings
    memory = settings.arena_bytes + deployed.tmp_bytes + settings.max_body_bytes + settings.max_result_bytes
    assert deployed.memory_bytes > memory + PROGRAMS_BYTES


def test_the_arena_holds_a_largest_body_and_its_result(deployed: Deployed) -> None:
    """Nothing that the limits allow is refused for want of shared memory."""
    settings = deployed.settings
    assert settings.arena_bytes > settings.max_body_bytes + settings.max_result_bytes


def test_no_way_asks_for_dev_shm(deployed: Deployed) -> None:
    """The arena is a memfd: it counts as memory, and needs no /dev/shm of its size."""
    assert deployed.shm_bytes is None


def test_server_is_not_root_and_cannot_become_it(deployed: Deployed) -> None:
    """The user is the one that the image creates, without capabilities and with no way to gain any."""
    assert deployed.user == _instruction("USER") == "10001:10001"
    assert deployed.dropped == ["ALL"]
    assert deployed.may_gain_privileges is False


def test_root_file_system_is_read_only_but_for_tmp_and_the_cache(deployed: Deployed) -> None:
    """The server writes to /tmp, in memory, and to the volume of the kernel cache, on disk, alone."""
    cache = PurePosixPath(_image_env()["FARFIELD_CACHE_DIR"])
    assert deployed.is_read_only is True
    assert deployed.writable == {"/tmp": "memory", str(cache.parent): "disk"}
    assert _image_env()["HOME"] == str(cache.parent)


def test_device_is_cuda_exactly_where_a_gpu_is_reserved(deployed: Deployed) -> None:
    """No server waits for a GPU that it was not given, and none leaves the one it was given idle."""
    assert deployed.env["FARFIELD_DEVICE"] == ("cuda" if deployed.gpus else "cpu")


def test_the_gpu_ways_reserve_gpus() -> None:
    """Compose and Kubernetes take one GPU, which is what a server uses; the CPU ways take none."""
    gpus = {way: read(name).gpus for way, (read, name) in WAYS.items()}
    assert gpus == {
        "compose farfield": None,
        "compose farfield-gpu": "1",
        "kubernetes cpu": None,
        "kubernetes gpu": "1",
    }


def test_no_way_overrides_host_port_or_cache(deployed: Deployed) -> None:
    """What the image sets for itself is not set a second time where it could differ."""
    assert _image_env().keys().isdisjoint(deployed.env)


# Port and probes ----------------------------------------------------------------------------------


def test_image_listens_on_the_port_it_exposes() -> None:
    """The image listens on all addresses, at the one port that every other file names."""
    env = _image_env()
    assert env["FARFIELD_HOST"] == "0.0.0.0"
    assert int(env["FARFIELD_PORT"]) == int(_instruction("EXPOSE")) == PORT


def test_image_is_checked_at_healthz_and_stopped_by_sigterm() -> None:
    """The health check asks /healthz at the port in use, and SIGTERM, which drains, is the signal to stop."""
    _, _, command = _instruction("HEALTHCHECK").partition(" CMD ")
    assert "'http://127.0.0.1:' + os.environ['FARFIELD_PORT'] + '/healthz'" in json.loads(command)[-1]
    assert _instruction("STOPSIGNAL") == "SIGTERM"
    assert json.loads(_instruction("ENTRYPOINT")) == ["tini", "--", "farfield", "serve"]


@pytest.mark.parametrize("name", SERVICES)
def test_compose_publishes_the_port_on_loopback_only(name: str) -> None:
    """Nobody but this machine reaches the server until FARFIELD_PUBLISH says so."""
    ports = _read("docker-compose.yml")["services"][name]["ports"]
    assert ports == [f"${{FARFIELD_PUBLISH:-127.0.0.1}}:{PORT}:{PORT}"]


@pytest.mark.parametrize("name", SERVICES)
def test_compose_health_is_readiness(name: str) -> None:
    """Compose calls the server healthy when /readyz, at the right port, says it can compute."""
    check = _read("docker-compose.yml")["services"][name]["healthcheck"]["test"]
    assert f"'http://127.0.0.1:{PORT}/readyz'" in check[-1]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(
    ("probe", "path"),
    [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")],
)
def test_probe_asks_the_right_question(overlay: str, probe: str, path: str) -> None:
    """A pod without a worker is taken out of the Service by /readyz but never restarted for it."""
    assert _container(overlay)[probe]["httpGet"] == {"path": path, "port": "http"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_readiness_is_asked_for_within_the_grace(overlay: str) -> None:
    """A pod that leaves is seen to be not ready while it still computes; one failure is enough."""
    probe, grace_s = _container(overlay)["readinessProbe"], _kubernetes(overlay).settings.grace_s
    assert probe["periodSeconds"] < grace_s
    assert probe["timeoutSeconds"] <= probe["periodSeconds"]
    assert probe["failureThreshold"] == 1


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_that_drains_is_alive(overlay: str) -> None:
    """Liveness fails no sooner than a server that begins to drain would have ended."""
    probe, settings = _container(overlay)["livenessProbe"], _kubernetes(overlay).settings
    assert probe["periodSeconds"] * probe["failureThreshold"] > settings.grace_s + settings.drain_s


@pytest.mark.parametrize("name", SERVICES)
def test_compose_has_no_grace(name: str) -> None:
    """Nothing in front of the one server would notice that it is not ready."""
    assert _compose(name).settings.grace_s == 0


def test_kubernetes_uses_one_port_from_pod_to_policy() -> None:
    """Container, Service and NetworkPolicy name the same port, and the policy opens no other."""
    service, policy = _read("k8s/base/service.yaml")["spec"], _read("k8s/base/networkpolicy.yaml")["spec"]
    assert _container("cpu")["ports"] == [{"name": "http", "containerPort": PORT}]
    assert service["ports"] == [{"name": "http", "port": PORT, "targetPort": "http"}]
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": PORT}]}]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy


def test_every_selector_finds_the_pod() -> None:
    """Deployment, Service and NetworkPolicy all select by the label that the pod carries."""
    spec = _deployment("cpu")["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    assert _read("k8s/base/service.yaml")["spec"]["selector"] == labels
    assert _read("k8s/base/networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"] == labels


# Kubernetes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pod_gets_no_variables_from_services(overlay: str) -> None:
    """Kubernetes must not set FARFIELD_PORT to tcp://... on behalf of the Service named farfield."""
    assert _pod(overlay)["enableServiceLinks"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pod_holds_no_key_to_the_cluster(overlay: str) -> None:
    """Neither the pod nor its account mounts a token of the Kubernetes API."""
    account = _read("k8s/base/serviceaccount.yaml")
    assert _pod(overlay)["serviceAccountName"] == account["metadata"]["name"]
    assert _pod(overlay)["automountServiceAccountToken"] is False
    assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pod_runs_under_the_default_seccomp_profile(overlay: str) -> None:
    """The system calls are those that the runtime allows by default."""
    assert _pod(overlay)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_memory_is_requested_in_full(overlay: str) -> None:
    """The node has the memory of the arena when the pod starts, since the arena is filled then."""
    resources = _container(overlay)["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_gpu_pod_is_replaced_only_after_it_released_its_gpu() -> None:
    """With one GPU a second pod could never start beside the first."""
    assert _deployment("gpu")["spec"]["strategy"] == {"type": "Recreate"}
    assert _deployment("cpu")["spec"]["strategy"] == {"type": "RollingUpdate"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_names_namespace_and_a_tag_of_this_version(overlay: str) -> None:
    """An overlay sets the namespace farfield and replaces the base's image by one tagged with the version."""
    kustomization = _read(f"k8s/overlays/{overlay}/kustomization.yaml")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (image,) = kustomization["images"]
    assert kustomization["namespace"] == "farfield"
    assert image["name"] == _container(overlay)["image"]
    assert image["newTag"] == version + {"cpu": "-cpu", "gpu": "-cuda13"}[overlay]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl; the merge stands unconfirmed")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_renders_what_the_tests_read(overlay: str) -> None:
    """kubectl renders the merged Deployment, with namespace and image set and variables in any order."""
    command = ["kubectl", "kustomize", str(ROOT / "k8s/overlays" / overlay)]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (found,) = [document for document in yaml.safe_load_all(rendered) if document["kind"] == "Deployment"]
    (image,) = _read(f"k8s/overlays/{overlay}/kustomization.yaml")["images"]
    expected = _deployment(overlay)
    expected["metadata"]["namespace"] = "farfield"
    expected["spec"]["template"]["spec"]["containers"][0]["image"] = f"{image['newName']}:{image['newTag']}"
    for deployment in (found, expected):
        deployment["spec"]["template"]["spec"]["containers"][0]["env"].sort(key=lambda entry: entry["name"])
    assert found == expected


# Keys ---------------------------------------------------------------------------------------------


def test_the_folder_of_the_key_file_is_mounted_read_only(deployed: Deployed) -> None:
    """The image says where the key file is; the folder, and no file in it, is mounted, so that changes arrive."""
    path = PurePosixPath(_image_env()["FARFIELD_KEYS_FILE"])
    assert deployed.keys_mounts == [str(path.parent)]
    assert path.name == "keys.json"


@pytest.mark.parametrize("name", SERVICES)
def test_compose_starts_nothing_without_a_folder_of_keys(name: str) -> None:
    """Docker would make a missing folder, for root and empty."""
    (bind,) = [v for v in _read("docker-compose.yml")["services"][name]["volumes"] if not isinstance(v, str)]
    assert (bind["type"], bind["source"], bind["bind"]) == ("bind", "./keys", {"create_host_path": False})
    assert "/keys/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_keys_from_the_secret_of_the_readme(overlay: str) -> None:
    """The pod mounts the Secret that the command in k8s/README.md creates, for its group and nobody else."""
    pod = _pod(overlay)
    (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert secret == {"secretName": "farfield-keys", "defaultMode": 0o440}
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    assert not any("subPath" in mount for mount in _container(overlay)["volumeMounts"])
    command = f"create secret generic {secret['secretName']} --from-file=keys.json"
    assert command in (ROOT / "k8s/README.md").read_text()


def test_no_secret_is_in_the_repository() -> None:
    """No manifest is or generates a Secret, nor holds the image a key."""
    paths = sorted((ROOT / "k8s").rglob("*.yaml"))
    assert len(paths) >= 9
    for path in paths:
        for document in yaml.safe_load_all(path.read_text()):
            assert document["kind"] != "Secret", path
            assert "secretGenerator" not in document, path
    for path in ("Dockerfile", "docker-compose.yml"):
        assert "ff_" not in (ROOT / path).read_text()


# The image ----------------------------------------------------------------------------------------


def test_image_is_built_from_all_that_the_wheel_needs() -> None:
    """.dockerignore denies all but the paths that pyproject.toml builds from and the constraints."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    paths = [
        "pyproject.toml",
        "constraints.txt",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *wheel["packages"],
        *wheel["force-include"],
    ]
    assert rules[0] == "*"
    assert {PurePosixPath(path).parts[0] for path in paths} == {rule[1:] for rule in rules if rule[0] == "!"}


def test_compose_builds_with_extras_that_exist() -> None:
    """Each service asks the image for extras of pyproject.toml, and only the GPU one for CUDA."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    services = _read("docker-compose.yml")["services"]
    asked = {name: services[name]["build"]["args"]["EXTRAS"].split(",") for name in SERVICES}
    assert asked == {"farfield": ["server"], "farfield-gpu": ["server", "cuda13"]}
    assert {extra for names in asked.values() for extra in names} <= extras.keys()
    assert ("ARG", "EXTRAS=server") in _instructions()


def test_image_keeps_the_compiler() -> None:
    """The final stage installs g++, without which the CPU engine cannot build a kernel."""
    final = [rest for keyword, rest in _instructions() if keyword in ("FROM", "RUN")][-3:]
    assert final[0] == "${PYTHON_IMAGE}"
    assert "g++" in shlex.split(final[1])
