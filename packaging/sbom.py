#!/usr/bin/env python3
"""Writes the bill of materials (CycloneDX 1.6, JSON) of a program that has been built: the Swift packages in it, the
runtime of Swift, which is linked into it, and the libraries of the system that it is linked to or loads.

    packaging/sbom.py [PROGRAM] > apus.cdx.json
"""

import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / ".build/release/apus")
# Loaded when something needs it, so no linker knows of it; Sources/C/CCurl.
LOADED = ["libcurl.so.4"]
# What the copyright files of Debian call licences, as SPDX does.
SPDX = {
    "apache-2.0": "Apache-2.0", "expat": "MIT", "mit": "MIT", "curl": "curl", "epl-2.0": "EPL-2.0", "edl-1.0":
    "BSD-3-Clause", "bsd-3-clause": "BSD-3-Clause", "lgpl-2.1+": "LGPL-2.1-or-later", "lgpl-2.1": "LGPL-2.1-only",
    "gpl-3+": "GPL-3.0-or-later", "gpl-2+": "GPL-2.0-or-later", "zlib": "Zlib", "isc": "ISC",
}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def swift_packages():
    """Resolved versions, each with the licence that lies in its checkout."""
    pins = json.loads((ROOT / "Package.resolved").read_text())["pins"]
    for pin in sorted(pins, key=lambda pin: pin["identity"]):
        location = pin["location"].removesuffix(".git").removeprefix("https://")
        checkout = ROOT / ".build/checkouts" / location.rsplit("/", 1)[1]
        text = "".join(file.read_text() for file in checkout.glob("LICENSE*"))
        licence = ("Apache-2.0" if "Apache License" in text else "MIT" if "MIT License" in text else None)
        if licence is None:
            sys.exit(f"sbom.py: what is the licence of {location}? There is none to be found in {checkout}")
        version = pin["state"]["version"]
        yield {
            "type": "library", "bom-ref": f"pkg:swift/{location}@{version}", "name": pin["identity"],
            "version": version, "purl": f"pkg:swift/{location}@{version}",
            "licenses": [{"license": {"id": licence}}],
            "externalReferences": [{"type": "vcs", "url": pin["location"]}],
        }


def swift_runtime():
    version = re.search(r"Swift version ([\d.]+)", run("swift", "--version")).group(1)
    return {
        "type": "library", "bom-ref": f"swift-runtime@{version}", "name": "swift-runtime", "version": version,
        "description": "The standard library of Swift, FoundationEssentials and Dispatch, linked into the program.",
        # With an exception for what is linked, which CycloneDX has as an expression.
        "licenses": [{"expression": "Apache-2.0 WITH Swift-exception"}],
        "externalReferences": [{"type": "website", "url": "https://www.swift.org"}],
    }


def libraries():
    """Names and paths of what the program is linked to directly, and of what it loads."""
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", PROGRAM))
    paths = dict(re.findall(r"(\S+) => (/\S+)", run("ldd", PROGRAM)))
    paths |= dict(reversed(pair) for pair in re.findall(r"(/\S+/(\S+)) \(", run("ldd", PROGRAM)))
    known = dict(re.findall(r"^\s*(\S+) \(.*\) => (\S+)$", run("/sbin/ldconfig", "-p"), re.MULTILINE))
    for name in sorted(set(needed)):
        yield name, paths[name], "required"
    for name in LOADED:
        if name in known:
            yield name, known[name], "optional"


def debian_packages():
    """The packages of the system that the libraries come from."""
    found = {}
    for library, path, scope in libraries():
        real = os.path.realpath(path)
        # The database may know the library by the path before /lib was merged into /usr/lib.
        for candidate in (real, path, real.removeprefix("/usr"), path.removeprefix("/usr")):
            owner = subprocess.run(["dpkg", "-S", candidate], capture_output=True, text=True, check=False).stdout
            if owner:
                break
        else:
            sys.exit(f"sbom.py: no package owns {path}")
        package = owner.split(":")[0]
        entry = found.setdefault(package, {"libraries": [], "scope": scope})
        entry["libraries"].append(library)
    distribution = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', pathlib.Path("/etc/os-release").read_text(), re.MULTILINE))
    for package, entry in sorted(found.items()):
        form = "${Version}\t${source:Package}\t${Architecture}"
        version, source, architecture = run("dpkg-query", "-W", "-f", form, package).split("\n")[0].split("\t")
        purl = f"pkg:deb/{distribution['ID']}/{package}@{version.replace('+', '%2B').replace(':', '%3A')}" \
               f"?arch={architecture}&distro={distribution['ID']}-{distribution.get('VERSION_ID', 'sid')}"
        component = {
            "type": "library", "bom-ref": purl, "name": package, "version": version, "purl": purl,
            "scope": entry["scope"],
            "properties": [{"name": "apus:library", "value": name} for name in entry["libraries"]]
            + [{"name": "apus:source-package", "value": source}],
        }
        licences = licences_of(package)
        if licences:
            component["licenses"] = licences
        yield component


def licences_of(package):
    """What the package's copyright file declares, when a program can read it."""
    file = pathlib.Path(f"/usr/share/doc/{package}/copyright")
    text = file.read_text(errors="replace") if file.exists() else ""
    if not text.lower().startswith("format:"):
        # Written for people: where it is, to be read.
        return [{"license": {"name": f"see {file}"}}] if text else []
    names = {name.strip() for line in re.findall(r"^License:\s*(\S.*)$", text, re.MULTILINE)
             for name in re.split(r"\s+(?:or|and)\s+", line.split(",")[0])}
    return [{"license": {"id": SPDX[name.lower()]} if name.lower() in SPDX else {"name": name}}
            for name in sorted(names)]


def main():
    version = run(PROGRAM, "version").split()[1]
    program = pathlib.Path(PROGRAM).read_bytes()
    digest = hashlib.sha256(program).hexdigest()
    components = [*swift_packages(), swift_runtime(), *debian_packages()]
    moment = datetime.datetime.fromtimestamp(
        int(os.environ.get("SOURCE_DATE_EPOCH", "0")) or datetime.datetime.now().timestamp(), datetime.timezone.utc)
    print(json.dumps({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        # The same program and libraries give the same number.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest + json.dumps(components))}",
        "metadata": {
            "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application", "bom-ref": f"apus@{version}", "name": "apus", "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "hashes": [{"alg": "SHA-256", "content": digest}],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": f"apus@{version}", "dependsOn": [component["bom-ref"] for component in components]}],
    }, indent=2))


if __name__ == "__main__":
    main()
