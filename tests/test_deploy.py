"""What is in ``deploy/``: that schemas accept it, that what refers to something finds it, and that it fits.

Nothing is built or started here. Pages that need it say so.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from colocache.config import SERVER_SETTINGS, SETTINGS, Setting, server_options
from colocache.core.host.layout import geometry
from colocache.runtime.board_file import marks_for, size_for
from tests import ROOT

msgspec = pytest.importorskip("msgspec")  # which lightkube brings
yaml = pytest.importorskip("yaml")
pytest.importorskip("lightkube")
pytest.importorskip("check_jsonschema")

from lightkube.models import apps_v1, core_v1, policy_v1  # noqa: E402

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "colocache.service"

VARIABLES: dict[str, Setting] = {
    setting.variable: setting for table in (SETTINGS, SERVER_SETTINGS) for setting in table.values()
}

UID = 65532

Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document]


MANIFESTS = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}")
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in documents(path)
]
WORKLOADS = [each for each in MANIFESTS if "template" in each.values[0]["spec"]]  # type: ignore[index, call-overload]

MODELS = {"v1": core_v1, "apps/v1": apps_v1, "policy/v1": policy_v1}


def unknown(value: Any, kind: Any, path: str = "") -> Iterator[str]:
    """Yield the fields that the type of the Kubernetes API does not have."""
    arguments = [each for each in typing.get_args(kind) if each is not type(None)]
    if isinstance(value, list):
        (inner,) = typing.get_args(arguments[0]) if typing.get_origin(kind) is typing.Union else arguments
        for number, each in enumerate(value):
            yield from unknown(each, inner, f"{path}[{number}]")
    elif isinstance(value, dict):
        model = arguments[0] if typing.get_origin(kind) is typing.Union else kind
        if dict not in (model, typing.get_origin(model)):
            known = typing.get_type_hints(model, vars(sys.modules[model.__module__]))
            for name, each in value.items():
                if name in known:
                    yield from unknown(each, known[name], f"{path}.{name}")
                else:
                    yield f"{path}.{name}"


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_is_what_the_api_of_kubernetes_accepts(manifest: Document) -> None:
    model = getattr(MODELS[manifest["apiVersion"]], manifest["kind"])
    msgspec.convert(manifest, model)  # the types, and what may not be missing
    assert list(unknown(manifest, model)) == []


def test_a_field_that_the_api_does_not_know_is_found() -> None:
    bad = {"spec": {"template": {"spec": {"containers": [{"name": "x", "livenessProbes": {}}], "nodeSelector": {}}}}}
    assert [*unknown(bad, apps_v1.StatefulSet)] == [".spec.template.spec.containers[0].livenessProbes"]


def containers(workload: Document) -> list[Document]:
    pod = workload["spec"]["template"]["spec"]
    return [*pod.get("initContainers", ()), *pod["containers"]]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_what_a_pod_refers_to_is_there(workload: Document) -> None:
    template = workload["spec"]["template"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    assert volumes == {mount["name"] for container in containers(workload) for mount in container["volumeMounts"]}
    for container in containers(workload):
        ports = {port["name"] for port in container.get("ports", ())}
        probes = [container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in container]
        assert {probe["httpGet"]["port"] for probe in probes} <= ports
        assert {probe["httpGet"]["path"] for probe in probes} <= {"/livez", "/readyz"}


def test_the_dedicated_nodes_are_behind_a_headless_service_and_a_budget() -> None:
    service, budget, nodes = documents(DEPLOY / "kubernetes" / "dedicated.yaml")
    labels = nodes["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert nodes["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == budget["spec"]["selector"]["matchLabels"] == labels
    (container,) = containers(nodes)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    environment = variables(container)
    (port,) = service["spec"]["ports"]
    assert ports[port["targetPort"]] == port["port"]
    assert environment["COLOCACHE_LISTEN"] == f"0.0.0.0:{port['port']}"
    assert environment["COLOCACHE_PEERS"] == f"{service['metadata']['name']}:{port['port']}"
    (secret,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "secret")
    assert environment["COLOCACHE_SECRET_FILE"] == f"{secret}/secret"


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_pod_is_given_time_to_end(workload: Document) -> None:
    pod = workload["spec"]["template"]["spec"]
    pauses = [
        each.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0) for each in containers(workload)
    ]
    assert pod["terminationGracePeriodSeconds"] >= sum(pauses) + 10


@pytest.mark.parametrize("workload", WORKLOADS)
def test_all_containers_of_a_pod_run_as_one_user_who_may_do_little(workload: Document) -> None:
    pod = workload["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False, "a service of the name colocache would set COLOCACHE_PORT and others"
    for container in containers(workload):
        context = {**pod["securityContext"], **container["securityContext"]}
        if container["name"] != "directory":
            assert (context["runAsUser"], context["runAsGroup"], context["runAsNonRoot"]) == (UID, UID, True)
            assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False


def test_the_directory_of_a_node_is_made_for_its_user_where_the_pods_look_for_it() -> None:
    nodes, shop = documents(DEPLOY / "kubernetes" / "per-node.yaml")
    directory, cache = containers(nodes)
    assert directory["command"][-5:] == ["-o", str(UID), "-g", str(UID), variables(cache)["COLOCACHE_DIR"]]
    paths = {
        volume["hostPath"]["path"]
        for each in (nodes, shop)
        for volume in each["spec"]["template"]["spec"]["volumes"]
    }  # fmt: skip
    assert len(paths) == 1


def variables(container: Document) -> dict[str, Any]:
    """Return the variables of a container; None is a value that is known only in the pod."""
    return {each["name"]: each.get("value") for each in container.get("env", ())}


def check_variables(environment: dict[str, Any]) -> None:
    ours = {name: value for name, value in environment.items() if name.startswith("COLOCACHE_")}
    assert set(ours) <= set(VARIABLES)
    for name, value in ours.items():
        if value is not None:
            VARIABLES[name].read(value, name)


def check_options(arguments: list[str]) -> None:
    known = dict(server_options().values())
    for argument in arguments:
        option, _, value = argument.partition("=")
        known[option].read(value, option)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_variables_and_options_of_a_pod_are_those_of_the_package(workload: Document) -> None:
    for container in containers(workload):
        check_variables(variables(container))
        if container["name"] == "cache":
            check_options(container["args"])


def test_containers_that_share_a_cache_agree() -> None:
    all_need = {"COLOCACHE_GROUP", "COLOCACHE_SHELF", "COLOCACHE_DIR"}
    for name, needed in (("sidecar", all_need), ("per-node", all_need | {"COLOCACHE_HOST"})):
        shared = [
            {name: value for name, value in variables(container).items() if name in VARIABLES}
            for workload in documents(DEPLOY / "kubernetes" / f"{name}.yaml")
            for container in containers(workload)
            if container["name"] != "directory"
        ]
        assert len(shared) == 2
        assert shared[0] == shared[1]
        assert set(shared[0]) == needed


def needed(shelf: str) -> int:
    """Return the bytes of the files of a region."""
    capacity = typing.cast(int, SETTINGS["shelf"].read(shelf, "shelf"))
    return geometry(capacity).total_size + size_for(marks_for(capacity))


def size(text: str) -> int:
    units = {"Mi": 1 << 20, "Gi": 1 << 30, "m": 1 << 20}
    match = re.fullmatch(r"(\d+)(\w+)", text)
    assert match
    return int(match[1]) * units[match[2]]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_memory_fits_where_it_is_to_be(workload: Document) -> None:
    for container in containers(workload):
        if container["name"] != "cache":
            continue
        files = needed(variables(container)["COLOCACHE_SHELF"])
        assert size(container["resources"]["limits"]["memory"]) >= files + (64 << 20)
        for volume in workload["spec"]["template"]["spec"]["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["medium"] == "Memory"
                assert (
                    files <= size(volume["emptyDir"]["sizeLimit"]) <= size(container["resources"]["limits"]["memory"])
                )


# --- Docker


COMPOSE = DEPLOY / "compose.yaml"


def test_the_compose_file_is_what_the_schema_of_compose_accepts(tmp_path: Path) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, str(COMPOSE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (bad := tmp_path / "bad.yaml").write_text(COMPOSE.read_text("utf-8").replace("read_only:", "readonly:"))
    assert subprocess.run([*check, str(bad)], capture_output=True).returncode == 1


def test_what_the_compose_file_refers_to_is_there_and_fits() -> None:
    (compose,) = documents(COMPOSE)
    services, volumes = compose["services"], compose["volumes"]
    assert {each.partition(":")[0] for service in services.values() for each in service["volumes"]} == set(volumes)
    for service in services.values():
        assert (COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]).samefile(
            DEPLOY / "Dockerfile"
        )
        assert service["build"]["target"] in STAGES
        assert service["user"] == f"{UID}:{UID}"
        check_variables(service["environment"])
        assert f"memory:{service['environment']['COLOCACHE_DIR']}" in service["volumes"]
    assert services["cache"]["environment"]["COLOCACHE_GROUP"] in (ROOT / "examples" / "with_wsgi.py").read_text(
        "utf-8"
    )
    assert services["web"]["depends_on"].keys() <= services.keys()
    for volume in volumes.values():
        options = dict(each.split("=") for each in volume["driver_opts"]["o"].split(","))
        assert (options["uid"], options["gid"], options["mode"]) == (str(UID), str(UID), "0700")
    room = re.search(r"size=(\w+)", volumes["memory"]["driver_opts"]["o"])
    assert room
    assert needed(services["cache"]["environment"]["COLOCACHE_SHELF"]) <= size(room[1])
    first, last = re.search(r":(\d+)-(\d+):8000$", services["web"]["ports"][0]).groups()  # type: ignore[union-attr]
    assert int(last) - int(first) + 1 == services["web"]["deploy"]["replicas"] == 3


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, and what follows each."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", "")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


STAGES = [rest.split(" AS ")[1] for name, rest in instructions() if name == "FROM"]


def test_the_instructions_of_the_dockerfile_refer_to_what_is_there() -> None:
    known = {"FROM", "COPY", "RUN", "ENV", "WORKDIR", "USER", "CMD", "HEALTHCHECK", "ENTRYPOINT"}
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert all((ROOT / path).exists() for path in kept)
    for number, (name, rest) in enumerate(instructions()):
        assert name in known
        if name == "FROM":
            base = rest.split(" AS ")[0]
            before = [
                each for each, _ in zip(STAGES, [i for i in instructions()[:number] if i[0] == "FROM"], strict=False)
            ]
            assert base in before or base == "python:3.13-slim"
        elif name == "COPY" and rest.startswith("--from="):
            assert rest.split()[0].removeprefix("--from=") in STAGES
        elif name == "COPY":
            for source in rest.split()[:-1]:
                assert source == "." or any(fnmatch(source, f"{path}*") for path in kept), "it is ignored"
                assert (ROOT / source).exists()
        elif name == "USER":
            assert rest == f"{UID}:{UID}"
        elif name == "ENV":
            check_variables(dict(part.split("=", 1) for part in shlex.split(rest)))
    assert STAGES[-1] == "server", "what is built if nobody names a stage"


def test_the_image_serves_and_asks_itself_how_it_is() -> None:
    last = dict(instructions())  # of each instruction the last one, which is the server's
    assert json.loads(last["ENTRYPOINT"]) == ["colocache", "serve"]
    assert json.loads(last["HEALTHCHECK"].partition("CMD ")[2]) == ["colocache", "ping"]
    assert "COLOCACHE_HEALTH=127.0.0.1:7401" in last["ENV"]


def test_the_image_is_made_of_all_that_the_package_is_built_of() -> None:
    """The build of the package reads what pyproject.toml names."""
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").split()
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    for name in ("README.md", "LICENSE", "pytest_colocache"):
        assert name in pyproject
    assert {"!pyproject.toml", "!setup.cfg", "!colocache", "!README.md", "!LICENSE", "!pytest_colocache.py"} <= {*kept}


# --- systemd


def settings_of_the_unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def test_the_unit_starts_the_server_with_options_that_it_has() -> None:
    unit = settings_of_the_unit()
    command, name, *arguments = shlex.split(unit["ExecStart"][0])
    assert (Path(command).name, name, unit["Type"]) == ("colocache", "serve", ["notify"])
    check_options([f"{option}={value}" for option, value in zip(arguments[::2], arguments[1::2], strict=True)])
    check_variables(dict(each.split("=", 1) for each in unit["Environment"]))
    assert f"COLOCACHE_DIR=/run/{unit['RuntimeDirectory'][0]}" in unit["Environment"]
    assert (unit["RuntimeDirectoryMode"], unit["RuntimeDirectoryPreserve"]) == (["0700"], ["yes"])
    assert (unit["NoNewPrivileges"], unit["LimitNOFILE"]) == (["yes"], ["65536"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """But for the program and the user, which are not on this machine."""
    text = (
        UNIT.read_text("utf-8")
        .replace("/opt/shop/venv/bin/colocache", sys.executable)
        .replace("User=shop", "User=root")
    )
    (unit := tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    unit.write_text(text.replace("WatchdogSec=30s", "WatchdogSecs=30s"))
    assert (
        "WatchdogSecs"
        in subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True).stderr
    )
