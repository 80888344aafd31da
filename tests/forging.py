"""Unpacked archives changed as a skilled forger would, with the hashes made right again; and records made by hand."""

import dataclasses
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from handlers import artifact, integrity


def reseal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
    """Change the record in ``folder``, note the files that are there now, and make every hash right."""
    path = folder / integrity.RECORD_NAME
    record = json.loads(path.read_text(encoding="utf-8"))
    names = [each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file() and each != path]
    record["files"] = {name: integrity.hash_file(folder / name) for name in sorted(names)}
    change(record)
    text = json.dumps({**record, "record_sha256": "0" * 64}, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_bytes(integrity.seal(text.encode() + b"\n"))


def zip_folder(folder: Path, archive: Path) -> Path:
    """Write the files of ``folder`` as a ``.mar``."""
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            opened.write(path, path.relative_to(folder).as_posix())
    return archive


def make_record(**changes: Any) -> artifact.Record:
    """Return a small whole record, with fields exchanged."""
    spec = artifact.TensorSpec("image", "float32", (1, 3, 8, 8))
    four = dataclasses.replace(spec, shape=(4, 3, 8, 8))
    variant = artifact.Variant(
        target="cpu",
        emulated=False,
        modules=(artifact.Module(1, "modules/a.pt", (spec,)), artifact.Module(4, "modules/b.pt", (four,))),
        outputs=("output",),
        cores_per_worker=1,
        options={},
        versions={"torch": "2.0"},
        parameters=9,
        verification={"max_abs_error": 0.0},
        golden_tolerance=0.01,
    )
    record = artifact.Record(
        format=artifact.FORMAT,
        name="tiny",
        version="1.0",
        description="grüne Bäume",
        handler=artifact.HandlerSpec("handlers.image_classifier:ImageClassifier", {"labels": ["red", "green", "blue"]}),
        variants=(variant,),
        golden=(artifact.Golden("a.png", "golden/0-a.png", "image/png", {"red": 1.0}),),
    )
    return dataclasses.replace(record, **changes)


def save_module(model: torch.nn.Module, path: Path) -> None:
    """Write a model of 8x8 pictures as TorchScript that keeps its branches."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(model.eval()), path)
