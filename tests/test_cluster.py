"""The image and the Kubernetes files: what they name exists, and they agree with each other, the Makefile and the lock.

Neither an image nor a cluster is made here. Where `kubernetes-validate` is installed, the files are held against
Kubernetes' own schema too.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "pipelines" / "kubernetes"
IMAGE = re.sub(r"\\\n\s*", "", (ROOT / "pipelines" / "Containerfile").read_text())
README = (ROOT / "pipelines" / "README.md").read_text()
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((KUBERNETES / "service.yaml").read_text()))
INSTANCE = yaml.safe_load((KUBERNETES / "dagster.yaml").read_text())
LAUNCHER = INSTANCE["run_launcher"]["config"]
PODS = {one["metadata"]["name"]: one["spec"]["template"] for one in OBJECTS if one["kind"] == "Deployment"}


def lines(instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} (.*)$", IMAGE, re.MULTILINE)


def made(kind: str) -> set[str]:
    """Names of what a kind of object is called here or in what `pipelines/README.md` says to create beforehand."""
    created = re.findall(rf"create {kind.lower()}(?: generic)? (\S+)", README)
    return {*created, *(one["metadata"]["name"] for one in OBJECTS if one["kind"].lower() == kind.lower())}


def test_the_image_copies_what_is_there() -> None:
    for line in lines("COPY"):
        *sources, _ = line.split()
        for source in sources:
            assert list(ROOT.glob(source)), f"COPY names {source}"


def test_the_image_installs_what_the_makefile_installs_for_the_service() -> None:
    (line,) = (line for line in lines("RUN") if "pip install" in line)
    assert "-r ${REQUIREMENTS} -e '.[dagster]'" in line and "-c requirements.lock" in line and "pip check" in line
    assert (
        "pip install --quiet -r $(REQUIREMENTS) -e '.[dagster]' -c requirements.lock" in (ROOT / "Makefile").read_text()
    )
    assert (ROOT / dict(arg.split("=", 1) for arg in lines("ARG"))["REQUIREMENTS"]).exists()
    (minor, patch) = re.search(r"^dagster==1\.(\d+)\.(\d+)$", (ROOT / "requirements.lock").read_text(), re.M).groups()
    libraries = re.findall(r"(dagster-k8s|dagster-postgres)==(\S+)", line)
    assert libraries == [(name, f"0.{int(minor) + 16}.{patch}") for name in ("dagster-k8s", "dagster-postgres")]


def test_the_image_has_a_python_that_the_package_allows() -> None:
    (base,) = lines("FROM")
    assert re.search(r"python:3\.11-", base)
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11,<3.13"


def test_the_image_serves_the_definitions_that_make_service_loads() -> None:
    (command,) = map(json.loads, lines("CMD"))
    options = dict(zip(command[3::2], command[4::2], strict=True))
    assert command[:3] == ["dagster", "api", "grpc"]
    assert (ROOT / options["-f"]).exists() and f"-f {options['-f']} -a {options['-a']}" in (
        ROOT / "Makefile"
    ).read_text()
    (location,) = (
        entry["grpc_server"] for entry in yaml.safe_load((KUBERNETES / "workspace.yaml").read_text())["load_from"]
    )
    (service,) = (one for one in OBJECTS if one["kind"] == "Service")
    ports = {int(options["-p"]), location["port"], service["spec"]["ports"][0]["port"], *map(int, lines("EXPOSE"))}
    assert ports == {4000} and location["host"] == service["metadata"]["name"]
    assert PODS[location["host"]]["spec"]["containers"][0]["ports"] == [{"containerPort": 4000}]


def test_commands_of_the_pods_are_dagsters_and_read_files_that_are_mounted() -> None:
    for name, pod in PODS.items():
        (container,) = pod["spec"]["containers"]
        command = container.get("command", ["dagster"])
        assert command[0] in ("dagster", "dagster-webserver", "dagster-daemon"), name
        places = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert places[LAUNCHER["dagster_home"]] == "instance"
        for word in command:
            if word.startswith("/"):
                assert Path(word).parent.as_posix() in places and (KUBERNETES / Path(word).name).exists()


def test_pods_name_only_what_is_made() -> None:
    for name, pod in PODS.items():
        spec = pod["spec"]
        assert spec["serviceAccountName"] in made("ServiceAccount"), name
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} == volumes.keys()
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in made("configmap")
            else:
                assert volume["persistentVolumeClaim"]["claimName"] in made("PersistentVolumeClaim")
        for source in spec["containers"][0]["envFrom"]:
            assert {one["name"] for one in source.values()} <= made("configmap") | made("secret")


def test_nights_are_started_with_what_is_made() -> None:
    assert LAUNCHER["instance_config_map"] in made("configmap")
    assert set(LAUNCHER["env_config_maps"]) <= made("configmap") and set(LAUNCHER["env_secrets"]) <= made("secret")
    assert LAUNCHER["service_account_name"] in made("ServiceAccount")
    assert LAUNCHER["volumes"][0]["persistentVolumeClaim"]["claimName"] in made("PersistentVolumeClaim")
    assert LAUNCHER["dagster_home"] in IMAGE
    (password,) = (value["env"] for value in [INSTANCE["storage"]["postgres"]["postgres_db"]["password"]])
    assert f"--from-literal={password}=" in README


def test_everything_is_in_one_namespace_and_selectors_find_their_pods() -> None:
    assert {one["metadata"]["namespace"] for one in OBJECTS} == {LAUNCHER["job_namespace"]} == {"recdistill"}
    labels = [pod["metadata"]["labels"] for pod in PODS.values()]
    for one in OBJECTS:
        if one["kind"] in ("Deployment", "Service"):
            selector = one["spec"]["selector"]
            assert labels.count(selector.get("matchLabels", selector)) == 1


def test_one_image_whose_name_the_readme_replaces_everywhere() -> None:
    text = (KUBERNETES / "service.yaml").read_text()
    images = {pod["spec"]["containers"][0]["image"] for pod in PODS.values()}
    assert (
        images == {"recdistill:nightly"} and f"-t {images.pop()}" in (ROOT / "pipelines" / "Containerfile").read_text()
    )
    (script,) = re.findall(r"sed -i '([^']+)'", README)
    for old, new in re.findall(r"s#([^#]+)#([^#]+)#", script):
        text = text.replace(old, new)
    assert text.count("REGISTRY/recdistill:nightly") == text.count("recdistill:nightly") == 4


def test_variables_of_the_image_and_the_readme_are_those_that_the_service_reads() -> None:
    service = (ROOT / "pipelines" / "service.py").read_text()
    for name in ("RECDISTILL_SERVICE", "RECDISTILL_JOB"):
        assert f"--from-literal={name}=" in README and name in service
    (job,) = re.findall(r"RECDISTILL_JOB=/opt/recdistill/(\S+)", README)
    assert (ROOT / job).exists() and "WORKDIR /opt/recdistill" in IMAGE


def test_the_commands_of_the_readme_name_files_that_exist() -> None:
    commands = re.findall(r"^    ((?:podman|kubectl|sed) .*)", re.sub(r"\\\n\s*", "", README), re.MULTILINE)
    assert len(commands) > 6
    for command in commands:
        for word in shlex.split(command):
            if found := re.search(r"(?:^|=)(pipelines/\S+)", word):
                assert (ROOT / found[1]).exists(), word


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_objects_keep_to_the_schema_of_kubernetes(one: dict[str, Any]) -> None:
    schema = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    schema.validate(one, "1.31", strict=True)


def test_the_launchers_section_keeps_to_the_schema_of_its_library() -> None:
    library = pytest.importorskip("dagster_k8s", reason="dagster-k8s is installed in the image only")
    from dagster._config import process_config

    result = process_config(library.K8sRunLauncher.config_type(), LAUNCHER)
    assert result.success, [error.message for error in result.errors]
