"""Generate the Python stubs of protos/vecserve beside the .proto files.

With --check, generate into a temporary folder and fail if the committed stubs differ.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent
STUBS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def main() -> int:
    """Generate, or check what is committed; return the exit code."""
    if "--check" not in sys.argv[1:]:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = drift(Path(folder), ROOT)
    for name in stale:
        print(f"{name} does not match its .proto; run `make protos`", file=sys.stderr)
    return 1 if stale else 0


def generate(target: Path) -> None:
    """Write all stubs below `target`."""
    protos = sorted(str(path) for path in (ROOT / "vecserve").glob("*/*.proto"))
    scripts = Path(sys.executable).parent
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        f"-I{ROOT}",
        f"-I{files('grpc_tools') / '_proto'}",
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet,generate_concrete_servicer_stubs:{target}",
    ]
    subprocess.run([*command, *protos], check=True)  # noqa: S603
    for module in (target / "vecserve" / "inference").glob("*_pb2.py"):
        move_to_own_pool(module)
    # A module without services needs no gRPC.
    for stub in (target / "vecserve" / "inference").glob("model_config_pb2_grpc.py*"):
        stub.unlink()


def move_to_own_pool(module: Path) -> None:
    """Register a module's messages beside the default pool.

    tritonclient registers the same names there, in any version, before or after ours.
    """
    code = module.read_text()
    for ours, generated in (
        (
            "from vecserve.inference.pool import POOL as _POOL",
            "from google.protobuf import descriptor_pool as _descriptor_pool",
        ),
        ("_POOL.AddSerializedFile(", "_descriptor_pool.Default().AddSerializedFile("),
    ):
        if code.count(generated) != 1:
            raise ValueError(f"{module.name}: {generated!r} is not there once")
        code = code.replace(generated, ours)
    module.write_text(code)


def drift(fresh: Path, committed: Path) -> list[str]:
    """Name the stubs that differ between two trees, or exist in one of them only."""
    names = {
        str(path.relative_to(root))
        for root in (fresh, committed)
        for pattern in STUBS
        for path in root.rglob(pattern)
    }
    return sorted(name for name in names if _read(fresh / name) != _read(committed / name))


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
