#!/usr/bin/env bash
# Checks docker-compose.yml and every rendered overlay of k8s/ against their schemas.
# Needs no Docker daemon, no cluster and no network.
#
# check-jsonschema and kubernetes-validate are taken from PATH (both are in the extra "dev").
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "check_deployment: $*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null || fail "$1 is not on PATH; install it with: pip install -c constraints.txt '.[dev]'"
}

need check-jsonschema
need kubernetes-validate
if command -v kubectl >/dev/null; then
    render=(kubectl kustomize)
elif command -v kustomize >/dev/null; then
    render=(kustomize build)
else
    fail "neither kubectl nor kustomize is on PATH; install the Debian package kubernetes-client (Debian 13 or newer)"
fi

check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

# Against the oldest Kubernetes that the manifests promise to fit, then the newest one that the validator knows.
validate() {
    local report
    for version in --kubernetes-version=1.27 ""; do
        report=$(kubernetes-validate --strict ${version:+"$version"} - <<<"$2") || fail "$1 is not valid:"$'\n'"$report"
        # A kind without a schema is only a warning to kubernetes-validate, and would go unchecked.
        [[ $report != *WARN* ]] || fail "$1 holds a kind that could not be checked:"$'\n'"$report"
        echo "${report//INFO -/ok}"
    done
}

for overlay in k8s/overlays/*/; do
    overlay=${overlay%/}
    echo "$overlay"
    manifests=$("${render[@]}" "$overlay") ||
        fail "$overlay does not render, which takes kubectl 1.21 or newer, or kustomize 4 or newer"
    [[ -n $manifests ]] || fail "$overlay renders to nothing"
    validate "$overlay" "$manifests"
done
