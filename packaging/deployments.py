#!/usr/bin/env python3
"""What there is for containers, Kubernetes, Helm and Terraform, checked without any of them: by their own linters,
schemas and, for the chart, Helm's own library. `settings` gives the environment of the nodes of each of them to
deployed_meshes.py, which starts nodes with it."""

import json
import pathlib
import re
import subprocess
import sys

import compose_spec
import hcl2
import helm_python
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCKER = ROOT / "packaging/docker"
KUBERNETES = ROOT / "mesh-configs/kubernetes"
# The oldest release that the manifests are for, and the newest that the schemas know.
RELEASES = ["1.25", None]
NAMESPACE = "events"
# What a list of Kubernetes is merged by.
MERGE_KEYS = ["name", "containerPort", "mountPath", "port"]
# Terraform refuses variables of these names: they mean something in the block of a module.
RESERVED = {"source", "version", "providers", "provider", "count", "for_each", "lifecycle", "depends_on", "locals"}
CHART_VALUES = {
    "standard": {},
    "tls": {"tls": {"enabled": True}},
    "everything": {
        "replicas": 5, "tls": {"enabled": True}, "metrics": {"enabled": True, "serviceMonitor": True},
        "mesh": {"links": ["other.example.org:7400"]}, "environment": {"APUS_LOG_LEVEL": "debug"},
        "imagePullSecrets": [{"name": "registry"}], "nodeSelector": {"a": "b"}, "storage": {"class": "fast"},
        "tolerations": [{"key": "a", "operator": "Exists"}], "service": {"annotations": {"a": "b"}},
        "access": [{"deny": "publish", "topics": ["a", "b"], "users": ["c"]}]},
    "one": {"replicas": 1, "networkPolicy": {"enabled": False}},
}
WRONG_VALUES = [
    {"replicas": "three"}, {"replica": 3}, {"access": [{"topics": ["#"]}]}, {"environment": {"PATH": "/"}},
    {"mesh": {"links": ["nowhere"]}}, {"drainSeconds": -1}, {"service": {"type": "Door"}},
]


class Failure(Exception):
    """A check that did not hold."""


def check(condition, what):
    if not condition:
        raise Failure(what)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    check(done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


# Containers.

def dockerfile():
    file = DOCKER / "Dockerfile"
    run(pathlib.Path(sys.executable).parent / "hadolint", file)
    last = file.read_text().rsplit("\nFROM ", 1)[1]
    for instruction in ("USER 10001:10001", "STOPSIGNAL SIGTERM", "HEALTHCHECK ", 'ENTRYPOINT ["apus"]'):
        check(f"\n{instruction}" in last, f"the last stage of the Dockerfile lacks {instruction}")
    check(not re.search(r"SECRET|PASSWORD", file.read_text()), "a secret has no place in a Dockerfile")


def compose():
    text = (DOCKER / "compose.yaml").read_text()
    found = yaml.safe_load(text)
    compose_spec.ComposeSpecification.model_validate(found)
    # The library lets keys pass that it does not know.
    known = {field.alias or name for name, field in compose_spec.models.Service.model_fields.items()}
    check(set(found) - {"services", "volumes"} == {"x-node", "x-environment"}, f"compose.yaml has {set(found)}")
    for name, service in found["services"].items():
        check(service["stop_grace_period"] == "30s" and service["read_only"], f"{name} in compose.yaml")
        check(set(service) <= known, f"{name} in compose.yaml: {set(service) - known}")
        check(service["hostname"] == name, f"{name}: others know it by this name")
    return {name: dict(service["environment"]) for name, service in found["services"].items()}


# Kubernetes.

def merged(base, patch):
    """A strategic merge, as kustomize does it: maps by key, lists of maps by what names their entries."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {key: merged(base[key], patch[key]) if key in base and key in patch else base.get(key, patch.get(key))
                for key in {**base, **patch}}
    if isinstance(base, list) and isinstance(patch, list) and all(isinstance(item, dict) for item in base + patch):
        keys = [key for key in MERGE_KEYS if all(key in item for item in base + patch)]
        if keys and not (keys == ["port"] and "protocol" in base[0]):
            key = "containerPort" if "containerPort" in keys else keys[0]
            result = {item[key]: item for item in base}
            for item in patch:
                if item.get("$patch") == "delete":
                    check(item[key] in result, f"the patch removes {item}, which is not there")
                    del result[item[key]]
                else:
                    result[item[key]] = merged(result.get(item[key], {}), item)
            return list(result.values())
    return patch


def manifests():
    """The base and the one with TLS, as documents by kind and name."""
    base = {}
    for name in yaml.safe_load((KUBERNETES / "base/kustomization.yaml").read_text())["resources"]:
        for document in documents((KUBERNETES / "base" / name).read_text()):
            base[document["kind"], document["metadata"]["name"]] = document
    secure = dict(base)
    for entry in yaml.safe_load((KUBERNETES / "tls/kustomization.yaml").read_text())["patches"]:
        for patch in documents((KUBERNETES / "tls" / entry["path"]).read_text()):
            key = patch["kind"], patch["metadata"]["name"]
            check(key in base, f"{entry['path']} patches {key}, which the base does not have")
            secure[key] = merged(base[key], patch)
    return {"base": list(base.values()), "tls": list(secure.values())}


def conforms(document, where):
    if document["kind"] == "ServiceMonitor":
        return  # Of the Prometheus operator; Kubernetes has no schema of it.
    for release in RELEASES:
        try:
            kubernetes_validate.validate(document, release or kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Failure(f"{where}: {document['kind']}: {error.message} at {list(error.path)}") from None


def fits_together(found, where):
    """What schemas do not see: names that must be the same, and what keeps the nodes safe."""
    kinds = {}
    for document in found:
        kinds.setdefault(document["kind"], []).append(document)
    nodes = kinds["StatefulSet"][0]["spec"]
    pod = nodes["template"]["spec"]
    container = pod["containers"][0]
    labels = nodes["template"]["metadata"]["labels"]
    check(nodes["selector"]["matchLabels"].items() <= labels.items(), f"{where}: the selector finds no pod")
    ports = {port["name"] for port in container["ports"]}
    services = {service["metadata"]["name"]: service["spec"] for service in kinds["Service"]}
    check(services[nodes["serviceName"]]["clusterIP"] == "None", f"{where}: the nodes' service is headless")
    check(services[nodes["serviceName"]]["publishNotReadyAddresses"], f"{where}: no node would find another one")
    for name, service in services.items():
        check(service["selector"].items() <= labels.items(), f"{where}: {name} finds no pod")
        check({port["targetPort"] for port in service["ports"]} <= ports, f"{where}: {name} has ports of nobody")
    for policy in kinds.get("NetworkPolicy", []):
        reached = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        check(reached == ports, f"{where}: the network policy is about {reached}, the pod about {ports}")
    volumes = {volume["name"] for volume in pod["volumes"]} | {
        claim["metadata"]["name"] for claim in nodes["volumeClaimTemplates"]}
    check({mount["name"] for mount in container["volumeMounts"]} == volumes, f"{where}: volumes and mounts")
    check(pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
          and not container["securityContext"]["allowPrivilegeEscalation"]
          and container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
          and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, f"{where}: too many rights")
    # Variables of services would begin with APUS_, too, and a node does not start with those.
    check(pod["enableServiceLinks"] is False, f"{where}: enableServiceLinks")
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    drain = int(environment["APUS_NODE_DRAIN_SECONDS"])
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    check(pod["terminationGracePeriodSeconds"] >= drain + pause + 10, f"{where}: nodes are killed while they drain")
    alive = container["livenessProbe"]
    check(alive["failureThreshold"] * alive["periodSeconds"] > drain + pause, f"{where}: killed for being slow to stop")
    return container


def environment_of(container, pod, secret):
    """The variables of one pod, with what Kubernetes would put into them."""
    result = {}
    for entry in container["env"]:
        if "value" in entry:
            text = str(entry["value"])
            for name in re.findall(r"\$\((\w+)\)", text):
                check(name in result, f"{entry['name']} refers to {name}, which is not set before it")
                text = text.replace(f"$({name})", result[name])
            result[entry["name"]] = text
        elif "fieldRef" in entry["valueFrom"]:
            known = {"metadata.name": pod, "metadata.namespace": NAMESPACE}
            result[entry["name"]] = known[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            result[entry["name"]] = secret
    return result


def chart():
    """The chart, rendered by Helm's own library with several values; those of them that are wrong are refused."""
    said = helm_python.lint(str(KUBERNETES / "helm"), strict=False)
    bad = [message for message in said["messages"] if message["severity"] > 1]
    check(not bad and not said["errors"], f"helm lint: {said}")
    found = {}
    with helm_python.Chart.load(str(KUBERNETES / "helm")) as loaded:
        for name, values in CHART_VALUES.items():
            rendered = loaded.render(values, name="apus", namespace=NAMESPACE)
            found[name] = [document for path, text in rendered.items() if path.endswith(".yaml")
                           for document in documents(text)]
        for values in WRONG_VALUES:
            try:
                loaded.render(values, name="apus", namespace=NAMESPACE)
            except helm_python.HelmError:
                continue
            raise Failure(f"the chart takes {values}")
    return found


# Terraform.

def terraform():
    """Parsed; every reference leads somewhere, and the calls of modules fit what the modules take."""
    folder = KUBERNETES / "terraform"
    modules = {}
    for place in (folder, folder / "kubernetes", folder / "docker"):
        blocks = {"variable": {}, "module": {}, "resource": set(), "local": set(), "output": set()}
        for file in sorted(place.glob("*.tf")):
            parsed = hcl2.loads(file.read_text())
            for kind in ("variable", "module", "output"):
                for entry in parsed.get(kind, []):
                    for name, body in entry.items():
                        name = name.strip('"')
                        check(name not in blocks[kind], f"{file}: {kind} {name} is there twice")
                        if kind == "output":
                            blocks[kind].add(name)
                        else:
                            blocks[kind][name] = body
            for entry in parsed.get("locals", []):
                blocks["local"] |= {name for name in entry if not name.startswith("__")}
            for entry in parsed.get("resource", []):
                blocks["resource"] |= {
                    f"{kind}.{name}".replace('"', "") for kind, names in entry.items() for name in names}
        text = "".join(re.sub(r"#.*", "", file.read_text()) for file in place.glob("*.tf"))
        used = set(re.findall(r"\bvar\.(\w+)", text))
        check(used == set(blocks["variable"]), f"{place.name}: variables {used ^ set(blocks['variable'])}")
        check(not RESERVED & set(blocks["variable"]), f"{place.name}: Terraform refuses a variable of that name")
        check(set(re.findall(r"\blocal\.(\w+)", text)) == blocks["local"], f"{place.name}: locals")
        for kind, name in re.findall(r"\b((?:docker|kubernetes|helm)_\w+)\.(\w+)\b", text):
            check(f"{kind}.{name}" in blocks["resource"], f"{place.name}: there is no {kind}.{name}")
        modules[place.name] = blocks
    for name, body in modules["terraform"]["module"].items():
        given = {key for key in body if not key.startswith("__")} - {"source", "count"}
        check(given == set(modules[name]["variable"]), f"module {name} is given {given}")
        check(modules[name]["output"] == {"mqtt"}, f"module {name} says where clients go")
    return terraform_settings((folder / "docker/main.tf").read_text())


def terraform_settings(text):
    """The variables of the three containers, as Terraform would make them."""
    def filled(value, index):
        return (value.replace("${var.name}", "apus").replace("${count.index}", str(index))
                .replace("${var.mesh_secret}", "SECRET"))

    lists = re.search(r"env = concat\(\[(.*?)\], \[for index in range\(min\(var\.nodes, 3\)\) : \"(.*?)\"\]\)", text,
                      re.DOTALL)
    check(lists, "docker/main.tf has another list of variables")
    lines = re.findall(r'"(APUS_.*?)",\n', lists.group(1))
    links = [lists.group(2).replace("${index}", str(other)).replace("${var.name}", "apus") for other in range(3)]
    return {f"apus-{index}": dict(filled(line, index).split("=", 1) for line in lines + links) for index in range(3)}


# All of it.

def settings(secret):
    """For each way to deploy: the variables of its three nodes, and the command that probes one."""
    result = {}
    for name, found in [*manifests().items(), *((f"chart, {name}", chart()[name]) for name in ("standard", "tls"))]:
        container = fits_together(found, name)
        result[f"Kubernetes, {name}"] = (
            {pod: environment_of(container, pod, secret) for pod in ("apus-0", "apus-1", "apus-2")},
            container["readinessProbe"]["exec"]["command"])
    probe = ["apus", "status"]
    composed = {name: environment | {"APUS_MESH_SECRET": secret} for name, environment in compose().items()}
    result["compose"] = (composed, probe)
    result["Terraform, docker"] = (
        {name: {key: value.replace("SECRET", secret) if key == "APUS_MESH_SECRET" else value
                for key, value in environment.items()} for name, environment in terraform().items()}, probe)
    return result


def same_settings(base, rendered):
    """The chart's standard values say what the manifests say; the order of its listeners is another one."""
    def plain(container):
        entries = {entry["name"]: json.dumps(entry.get("value", entry.get("valueFrom"))) for entry in container["env"]}
        listeners = {(entries[f"APUS_LISTENERS_{i}_PROTOCOL"], entries[f"APUS_LISTENERS_{i}_LISTEN"]) for i in range(3)}
        return {key: value for key, value in entries.items() if "LISTENERS" not in key}, listeners
    check(plain(base) == plain(rendered), f"the chart and the manifests differ: {plain(base)} {plain(rendered)}")


def bill():
    """The bill of materials, if one has been made, by the schema."""
    file = ROOT / ".build/apus.cdx.json"
    if not file.exists():
        return "no bill of materials (make sbom)"
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read_text())
    check(error is None, f"{file.name}: {error}")
    return f"{len(json.loads(file.read_text())['components'])} parts in the bill of materials"


def main():
    run(sys.executable, "-m", "yamllint", "--strict", "-d",
        "{extends: default, rules: {line-length: {max: 120}, document-start: disable,"
        " comments: {min-spaces-from-content: 1}, octal-values: disable, braces: {max-spaces-inside: 1}, brackets: {max-spaces-inside: 1}}}",
        *sorted(KUBERNETES.glob("*/*.yaml")), DOCKER / "compose.yaml")
    dockerfile()
    compose()
    found = manifests()
    rendered = chart()
    count = 0
    for name, group in [*found.items(), *((f"chart, {name}", group) for name, group in rendered.items())]:
        for document in group:
            conforms(document, name)
            count += 1
        fits_together(group, name)
    same_settings(fits_together(found["base"], "base"), fits_together(rendered["standard"], "chart"))
    terraform()
    print(f"Dockerfile, compose file, {count} manifests, {len(WRONG_VALUES)} wrong values of the chart, Terraform, "
          f"{bill()}: as they should be")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"FAILED: {failure}")
