#!/usr/bin/env bash
# Test the oldest and the newest releases that pyproject.toml allows, each in a fresh environment,
# and print a table of what was installed and whether the tests passed.
#
#   scripts/test_versions.sh [oldest] [newest]     both if none is named
#
# TORCH       torch's version, instead of the oldest or newest: where only one build fits a machine
# PYTHON      the interpreter (default python3)
# KEEP        a folder to keep the environments and logs in (default: a temporary one, deleted)
# TESTS       what to run (default tests)
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

python="${PYTHON:-python3}"
jobs="${JOBS:-2}"
tests="${TESTS:-tests}"
folder="${KEEP:-$(mktemp -d)}"
mkdir -p "$folder"
[ -n "${KEEP:-}" ] || trap 'rm -rf "$folder"' EXIT
table="$folder/table.md"
shown="torch transformers lm_eval datasets accelerate safetensors tokenizers huggingface_hub numpy"

# The lowest version of every dependency, from its ">=", one "name==version" a line.
lowest() {
  "$1" - <<'EOF'
import re
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["plots"]]:
        name, version = re.match(r"([\w-]+)>=([\w.]+)", line).groups()
        print(f"{name}=={version}")
EOF
}

# One row of the table: versions as installed, then the verdict.
row() {
  "$1" - "$2" "$3" $shown <<'EOF'
import platform
import sys
from importlib.metadata import version

label, verdict, *names = sys.argv[1:]
print("|", " | ".join([label, platform.python_version(), *map(version, names), verdict]), "|")
EOF
}

{
  echo "| set | Python | ${shown// / | } | tests |"
  echo "|$(printf -- '---|%.0s' set python $shown tests)"
} | sed 's/_/-/g' > "$table"

failed=0
for set in "${@:-oldest newest}"; do
  for label in $set; do
    environment="$folder/$label"
    pins="$folder/$label.txt"
    rm -rf "$environment"
    "$python" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --upgrade pip
    case "$label" in
      oldest) lowest "$environment/bin/python" > "$pins" ;;
      newest) : > "$pins" ;;
      *) echo "unknown set '$label': oldest or newest" >&2; exit 2 ;;
    esac
    if [ -n "${TORCH:-}" ]; then
      sed -i '/^torch==/d' "$pins"
      echo "torch==$TORCH" >> "$pins"
    fi
    if ! "$environment/bin/python" -m pip install --upgrade --constraint "$pins" '.[dev]' \
      > "$folder/$label.pip.log" 2>&1; then
      grep -v '^WARNING' "$folder/$label.pip.log" | tail -n 30 >&2
      echo "$label: these versions cannot be installed together" >&2
      exit 1
    fi
    # The tests find the package in the working directory; its hook comes from the install.
    verdict=pass
    "$environment/bin/python" -m pytest -n "$jobs" "$tests" > "$folder/$label.log" 2>&1 || verdict=FAIL
    tail -n 15 "$folder/$label.log"
    row "$environment/bin/python" "$label" "$verdict" >> "$table"
    [ "$verdict" = pass ] || failed=1
  done
done

cat "$table"
exit "$failed"
