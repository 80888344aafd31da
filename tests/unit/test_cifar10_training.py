"""The CIFAR-10 recipe's scripts: every form of the data set is read alike, and training resumes where it stopped."""

import io
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

FOLDER = Path(__file__).resolve().parents[2] / "tracing" / "recipes" / "cifar10"
COUNT = 256  # pictures of each split: two training steps


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose class shows in their brightness, and their classes."""
    random = np.random.default_rng(0)
    labels = np.arange(COUNT) % 10
    noise = random.integers(0, 20, (COUNT, 32, 32, 3))
    return (labels[:, None, None, None] * 23 + noise).astype(np.uint8), labels


@pytest.fixture(scope="module")
def npz(pictures: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set as a file of JPEGs."""
    files = []
    for image in pictures[0]:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=100)
        files.append(stream.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    blob = np.frombuffer(b"".join(files), dtype=np.uint8)
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    content = {"classes": np.array(classes)}
    for split in ("train", "test"):
        content.update({f"{split}_jpeg": blob, f"{split}_offset": offsets, f"{split}_label": pictures[1]})
    path = tmp_path_factory.mktemp("data") / "cifar10.npz"
    np.savez(path, **content)
    return path


def _run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, FOLDER / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def _read(code: str, path: Path) -> str:
    program = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import dataset; from pathlib import Path\n{code}"
    return subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True).stdout


def test_the_official_archive_is_read(pictures: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """Pictures and classes come back from cifar-10-python.tar.gz as they went in."""
    images, labels = pictures
    batch = {b"data": images.transpose(0, 3, 1, 2).reshape(COUNT, -1), b"labels": labels.tolist()}
    # numpy.core was renamed; the official file names the old module.
    content = pickle.dumps(batch, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    code = "s = dataset.load_split(Path(sys.argv[1]), 'test'); print(int(s.images.sum()), s.labels.tolist())"
    assert _read(code, path).strip() == f"{int(images.sum())} {labels.tolist()}"


def test_a_batch_that_would_run_code_is_refused(tmp_path: Path) -> None:
    """A pickle in place of the official batch can only hold arrays."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(pickle.dumps(print))
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _read("dataset.load_split(Path(sys.argv[1]), 'test')", folder)
    assert "only NumPy arrays are expected" in caught.value.stderr


@pytest.mark.long
def test_a_run_that_was_stopped_resumes_to_the_same_weights(npz: Path, tmp_path: Path) -> None:
    """Two epochs in one go, and two with the checkpoint of the first carried over, end alike."""
    for name in ("whole", "halves"):
        arguments = ["--data", npz, "--work", tmp_path / name, "--output", tmp_path / f"{name}.safetensors"]
        if name == "halves":
            # Stopped in the second epoch: the checkpoint of the first is what is left.
            whole = tmp_path / "whole" / "checkpoint-1.pt"
            (tmp_path / name).mkdir()
            (tmp_path / name / "checkpoint.pt").write_bytes(whole.read_bytes())
        done = _run("train.py", *arguments, "--epochs", "1", "--again", "1", "--keep")
        assert done.returncode == 0, done.stderr
    whole, halves = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    assert all(bool((whole[name] == halves[name]).all()) for name in whole)
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert 0 <= report["test_accuracy"] <= 1


@pytest.mark.long
def test_another_runs_checkpoint_is_refused(npz: Path, tmp_path: Path) -> None:
    """A checkpoint made with other settings is not continued by mistake."""
    arguments = ["--data", npz, "--work", tmp_path, "--output", tmp_path / "w.safetensors", "--limit", "128"]
    assert _run("train.py", *arguments, "--epochs", "1", "--again", "0").returncode == 0
    done = _run("train.py", *arguments, "--epochs", "2", "--again", "0")
    assert done.returncode != 0
    assert "belongs to another run" in done.stderr
