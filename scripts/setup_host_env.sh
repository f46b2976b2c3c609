#!/bin/sh
# Make .venv-host: an environment that can start a real ComfyUI on the CPU and run tests/host.
# Usage: scripts/setup_host_env.sh [PATH_OF_COMFYUI]
# The host is found through the argument, COMFYUI_PATH, or ~/comfy/ComfyUI, in this order.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
host=${1:-${COMFYUI_PATH:-$HOME/comfy/ComfyUI}}
python=${PYTHON:-python3}

if [ ! -f "$host/main.py" ]; then
    echo "No ComfyUI at $host (expected main.py there). Clone it there, set COMFYUI_PATH," \
        "or give its folder as the argument." >&2
    exit 2
fi

[ -x "$root/.venv-host/bin/python" ] || "$python" -m venv "$root/.venv-host"
pip() { "$root/.venv-host/bin/python" -m pip "$@" --disable-pip-version-check; }

# One family, installed together: ComfyUI imports torchvision and torchaudio even on the CPU.
pip install --quiet torch==2.11.0 torchvision==0.26.0 torchaudio==2.11.0
pip install --quiet -r "$host/requirements.txt"
pip install --quiet pytest "diffusers>=0.35" peft lpips websocket-client
# The front end's tests drive the system's Chromium; the package brings no browser of its own.
if command -v npm >/dev/null; then
    npm install --silent --no-fund --no-audit --prefix "$root/.venv-host/browser" playwright-core
fi
echo "ready: $root/.venv-host runs $host"
