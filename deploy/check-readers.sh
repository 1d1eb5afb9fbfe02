#!/usr/bin/env bash
# The archive is read as docs/reading.md says, by DuckDB, Polars and pandas as they are in the package index today.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check . duckdb polars pandas
"$work/venv/bin/python" deploy/check_readers.py
