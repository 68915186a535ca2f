"""The manifests of docker/kubernetes: held against the API's schemas, the images, the settings and each other."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError

from calibox_server.options import ENV_PREFIX, Options
from calibox_server.settings import load_settings
from tests.support.deployment import arguments, stages
from tests.support.kubernetes import FOLDER, Manifest, check, put_together, written

BASE = sorted(path.name for path in (FOLDER / "base").glob("*.yaml") if path.name != "kustomization.yaml")
OVERLAYS = ("cpu", "gpu")
COMPONENTS = sorted(path.name for path in (FOLDER / "components").iterdir())
(DEPLOYMENT,) = written("base/deployment.yaml")
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
SECONDS_TO_END = 5  # the process needs a moment after the drain
OF_OTHERS = {"ServiceMonitor"}  # kinds whose schemas are not Kubernetes's own


def settings_map() -> dict[str, str]:
    (kustomization,) = written("base/kustomization.yaml")
    (generated,) = kustomization["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generated["literals"])


@pytest.mark.parametrize("path", [*(f"base/{name}" for name in BASE), "fill-models.yaml"])
def test_a_manifest_is_what_the_api_takes(path: str) -> None:
    documents = written(path)
    assert documents
    check(documents)


def test_a_field_that_the_api_does_not_know_is_found() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(DEPLOYMENT))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(ValidationError, match="livenessProb"):
        check([wrong])


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("components", [[], COMPONENTS], ids=["alone", "with-components"])
def test_what_kustomize_puts_together_is_what_the_api_takes(
    overlay: str, components: list[str], tmp_path: Path
) -> None:
    found = put_together(overlay, *components, place=tmp_path)
    check(manifest for kind, manifest in found.items() if kind not in OF_OTHERS)
    kinds = {written(f"base/{name}")[0]["kind"] for name in BASE} | {"ConfigMap"}
    added = {"ServiceMonitor"} if components else set()
    left_out = {"PersistentVolumeClaim"} if components else set()
    assert found.keys() == (kinds | added) - left_out
    names = {name: one["metadata"]["namespace"] for name, one in found.items() if name != "Namespace"}
    assert set(names.values()) == {found["Namespace"]["metadata"]["name"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_runs_an_image_that_the_dockerfile_has(overlay: str, tmp_path: Path) -> None:
    pod = put_together(overlay, place=tmp_path)["Deployment"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"calibox:{arguments()['VERSION']}-{overlay}"
    stage = stages()[overlay]
    security = pod["securityContext"]
    assert stage.last("USER") == f"{security['runAsUser']}:{security['runAsGroup']}"
    (port,) = pod["containers"][0]["ports"]
    assert stage.last("EXPOSE") == str(port["containerPort"])


def test_a_gpu_is_asked_for_by_its_own_overlay_alone(tmp_path: Path) -> None:
    deployments = {name: put_together(name, place=tmp_path)["Deployment"] for name in OVERLAYS}
    containers = {name: one["spec"]["template"]["spec"]["containers"][0] for name, one in deployments.items()}
    limits = {name: one["resources"]["limits"].get("nvidia.com/gpu") for name, one in containers.items()}
    assert limits == {"cpu": None, "gpu": "1"}
    names = {name: {variable["name"] for variable in one["env"]} for name, one in containers.items()}
    assert names["cpu"] - names["gpu"] == {"CALIBOX_INSTANCES"}
    assert "CALIBOX_DECODE_THREADS" in names["gpu"]


def test_the_component_of_keys_sets_a_file_that_it_mounts(tmp_path: Path) -> None:
    pod = put_together("cpu", "keys", place=tmp_path)["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    file = next(one["value"] for one in container["env"] if one["name"] == "CALIBOX_API_KEYS_FILE")
    mounted = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    secret = next(one["secret"] for one in pod["volumes"] if one["name"] == "keys")
    assert file == f"{mounted['keys']}/api-keys"
    assert secret == {"secretName": "calibox-keys", "defaultMode": 0o440}


def test_models_from_an_image_are_copied_to_where_they_are_served_from(tmp_path: Path) -> None:
    pod = put_together("cpu", "models-from-image", place=tmp_path)["Deployment"]["spec"]["template"]["spec"]
    (first,) = pod["initContainers"]
    assert first["image"] == "calibox-models:1"
    assert first["command"][-1].rstrip("/") == first["volumeMounts"][0]["mountPath"]
    assert first["volumeMounts"][0]["name"] == "models"
    assert {one["name"]: set(one) - {"name"} for one in pod["volumes"]}["models"] == {"emptyDir"}


def test_the_pod_that_fills_the_claim_may_do_so_in_the_namespace() -> None:
    (filling,) = written("fill-models.yaml")
    assert filling["metadata"]["namespace"] == written("base/namespace.yaml")[0]["metadata"]["name"]
    pod = filling["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {
        "claimName": written("base/models.yaml")[0]["metadata"]["name"]
    }
    # What the server's pods read must belong to their group; and the namespace takes no other pods.
    assert pod["securityContext"].items() <= POD["securityContext"].items()
    security = pod["containers"][0]["securityContext"]
    assert security.items() <= CONTAINER["securityContext"].items()


def test_settings_are_settings_with_values_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {variable["name"] for variable in CONTAINER["env"]} | settings_map().keys()
    assert {name.removeprefix(ENV_PREFIX).lower() for name in named} <= Options.model_fields.keys()
    for name, value in settings_map().items():
        monkeypatch.setenv(name, value)
    settings = load_settings({})
    assert all(settings.source(name.removeprefix(ENV_PREFIX).lower()) == "environment" for name in settings_map())


def test_a_pod_has_the_time_to_answer_what_it_took() -> None:
    drain = int(settings_map()["CALIBOX_DRAIN_S"])
    before = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before >= 3  # until no node sends to it any more
    assert POD["terminationGracePeriodSeconds"] >= before + drain + SECONDS_TO_END


def test_variables_that_kubernetes_adds_for_a_service_stay_away() -> None:
    (service,) = written("base/service.yaml")
    added = f"{service['metadata']['name']}_port".upper()  # CALIBOX_PORT=tcp://10.0.0.1:8000
    assert added.removeprefix(ENV_PREFIX).lower() in Options.model_fields
    assert POD["enableServiceLinks"] is False


def test_pods_are_confined() -> None:
    (namespace,) = written("base/namespace.yaml")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    (copying,) = written("components/models-from-image/deployment.yaml")
    for container in (CONTAINER, *copying["spec"]["template"]["spec"]["initContainers"]):
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"].keys() == {"requests", "limits"}
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    writable = {one["mountPath"] for one in CONTAINER["volumeMounts"] if not one.get("readOnly")}
    assert writable == {"/tmp", "/var/cache/calibox"}


def test_probes_ask_what_the_server_answers() -> None:
    probes = {kind: CONTAINER[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}
    paths = {kind: probe["httpGet"]["path"] for kind, probe in probes.items()}
    # Liveness never asks for readiness: a server that drains would be killed.
    assert paths == {"startup": "/readyz", "liveness": "/livez", "readiness": "/readyz"}
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"http"}
    assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 120


def test_whatever_is_named_exists() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    (service,), (budget,), (policy,) = (
        written(f"base/{name}.yaml") for name in ("service", "disruption-budget", "network-policy")
    )
    selectors = [
        service["spec"]["selector"],
        *(one["spec"][key]["matchLabels"] for one, key in ((budget, "selector"), (policy, "podSelector"))),
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        *(one["labelSelector"]["matchLabels"] for one in POD["topologySpreadConstraints"]),
    ]
    assert all(selector == labels for selector in selectors)
    assert POD["serviceAccountName"] == written("base/service-account.yaml")[0]["metadata"]["name"]
    claims = [one["persistentVolumeClaim"]["claimName"] for one in POD["volumes"] if "persistentVolumeClaim" in one]
    assert claims == [written("base/models.yaml")[0]["metadata"]["name"]]
    assert {one["name"] for one in CONTAINER["volumeMounts"]} == {one["name"] for one in POD["volumes"]}
    (autoscaler,) = written("base/autoscaler.yaml")
    target = autoscaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (DEPLOYMENT["kind"], DEPLOYMENT["metadata"]["name"])
    assert "replicas" not in DEPLOYMENT["spec"]  # it would undo the autoscaler's at every apply


@pytest.mark.parametrize("path", ["base/autoscaler.yaml", "overlays/gpu/autoscaler.yaml"])
def test_the_autoscaler_asks_for_the_metric_that_the_adapter_makes(path: str) -> None:
    (adapter,) = written("prometheus-adapter/values.yaml")
    (rule,) = adapter["rules"]["custom"]
    (autoscaler,) = written(path)
    (metric,) = autoscaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    series = rule["seriesQuery"].partition("{")[0]
    assert re.fullmatch(rule["name"]["matches"], series)


def test_keys_and_monitors_are_left_to_who_wants_them() -> None:
    commented: dict[str, Any] = {}
    for overlay in OVERLAYS:
        text = (FOLDER / f"overlays/{overlay}/kustomization.yaml").read_text()
        commented[overlay] = set(re.findall(r"\.\./\.\./components/([\w-]+)", text))
        manifest: Manifest = yaml.safe_load(text)
        assert "components" not in manifest
    assert commented == {overlay: set(COMPONENTS) for overlay in OVERLAYS}
