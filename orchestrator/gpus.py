"""What the driver says of this machine's GPUs, without loading torch."""

import subprocess

MEBIBYTE = 2**20


def asked_of_driver(field: str) -> list[str]:
    """A field of `nvidia-smi --query-gpu`, one line a GPU; none where there is no such program, driver or answer."""
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in listed.stdout.splitlines()] if listed.returncode == 0 else []


def driver_memories() -> list[int]:
    """Bytes of each GPU that has memory of its own."""
    return [int(line) * MEBIBYTE for line in asked_of_driver("memory.total") if line.isdigit()]
