"""The jars of Apache Kafka, brought once by Maven into a folder that git ignores."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
JAVA = 17  # the oldest that Kafka 4's broker runs on


def missing() -> str | None:
    """Why Apache Kafka cannot run here; None when Java is there and its jars are, or Maven brought them."""
    java = shutil.which("java")
    if java is None:
        return f"Apache Kafka needs Java {JAVA}: no java on the PATH"
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < JAVA:
        return f"Apache Kafka needs Java {JAVA} or newer; `java -version` says {said.splitlines()[:1]}"
    if shutil.which("mvn") is None and not _ready(_folder()):
        return "Apache Kafka is fetched with Maven: no mvn on the PATH"
    try:
        class_path()
    except RuntimeError as error:
        return str(error)
    return None


def class_path() -> str:
    """All jars of the pom; the first call fetches them (about 44 MB), a changed pom does again.

    Raises:
        RuntimeError: Maven failed; what it said.
    """
    folder = _folder()
    folder.parent.mkdir(exist_ok=True)
    # pytest -n starts several at once: two copies into one folder would leave torn jars.
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _ready(folder):
            _fetch(folder)
    return f"{folder}/*"


def _folder() -> Path:
    pom = hashlib.sha256((HERE / "pom.xml").read_bytes()).hexdigest()
    return HERE / "lib" / pom[:12]


def _ready(folder: Path) -> bool:
    return folder.is_dir()


def _fetch(folder: Path) -> None:
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    done = subprocess.run(
        [
            "mvn",
            "-B",
            "-q",
            "-ntp",
            "dependency:copy-dependencies",
            f"-DoutputDirectory={fresh}",
            "-DincludeScope=runtime",
        ],
        cwd=HERE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not list(fresh.glob("kafka_2.13-*.jar")):
        raise RuntimeError(
            f"Maven could not bring the jars of {HERE / 'pom.xml'}: {(done.stdout + done.stderr)[-2000:]}"
        )
    fresh.rename(folder)
