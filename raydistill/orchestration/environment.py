"""Where a campaign ran: versions, commit, hardware, seed and fingerprints, written beside its results."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from raydistill.config.schema import CampaignConfig
from raydistill.orchestration.rundir import ground_facts
from raydistill.planning.ground import Ground

PACKAGES = ("raydistill", "torch", "transformers", "tokenizers", "ray", "optuna", "pyarrow", "pydantic", "numpy")


def environment(config: CampaignConfig, ground: Ground, fingerprint: str) -> dict[str, Any]:
    """Everything one needs to know to repeat a campaign elsewhere."""
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := version_of(name)) is not None},
        "commit": _output("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "gpus": _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"),
        "arguments": sys.argv,
        "seed": config.seed,
        **ground_facts(ground),
        "campaign_fingerprint": fingerprint,
    }


def version_of(package: str) -> str | None:
    """The installed version of a package, which is not imported for it; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _output(*command: str) -> str | None:
    """What a command prints, or None where it is not there or has nothing to say."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
