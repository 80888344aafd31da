"""The record: what is written is read back, and every way to be wrong has a message with its place."""

import dataclasses
import json
import sys

import pytest

from handlers import artifact
from handlers.artifact import dump_record, parse_record, read_record
from handlers.errors import BrokenArchive
from handlers.integrity import is_sealed
from tests.forging import make_record


def content_of(record: artifact.Record) -> dict:
    return json.loads(dump_record(record))


def test_a_record_is_read_back_as_it_was_written():
    """Every field survives, tuples as tuples, all but the hash that sealing fills in."""
    files = dict.fromkeys(("a.py", "golden/0-a.png", "modules/a.pt", "modules/b.pt"), "0" * 64)
    record = make_record(files=files, sources={"code/recipe.py": "1" * 64})
    found = parse_record(dump_record(record))
    assert dataclasses.replace(found, record_sha256="0" * 64) == record


def test_equal_records_give_equal_sealed_bytes():
    """The order in which settings were written does not show in the bytes."""
    one, other = make_record(built_with={"a": "1", "b": "2"}), make_record(built_with={"b": "2", "a": "1"})
    assert dump_record(one) == dump_record(other)
    assert is_sealed(dump_record(one))


def test_texts_are_written_readably():
    """People read the record, so that an umlaut is an umlaut."""
    assert "grüne Bäume" in dump_record(make_record()).decode("utf-8")


def test_numbers_that_json_lacks_are_refused():
    """A NaN in the record would be no JSON to anybody else."""
    with pytest.raises(ValueError, match="JSON"):
        dump_record(make_record(built_with={"tolerance": float("nan")}))


def test_unknown_keys_are_left_to_later_formats():
    """A later kit of the same format may say more."""
    content = {**content_of(make_record()), "a_later_field": [1, 2]}
    assert parse_record(json.dumps(content).encode()).name == "tiny"


def test_a_whole_number_stands_for_a_float():
    """JSON writers drop the point of 1.0."""
    content = content_of(make_record())
    content["variants"][0]["golden_tolerance"] = 1
    assert parse_record(json.dumps(content).encode()).variants[0].golden_tolerance == 1.0


@pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(artifact.Record)])
def test_a_field_that_is_missing_is_named_or_has_a_default(name):
    """Only the fields that have a default may be left out."""
    content = content_of(make_record())
    del content[name]
    raw = json.dumps(content).encode()
    if name in ("sources", "built_with", "files", "random_weights", "requirements", "record_sha256"):
        assert parse_record(raw).name == "tiny"
        return
    with pytest.raises(BrokenArchive, match="has format None" if name == "format" else f"{name} is missing"):
        parse_record(raw)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["name"], 3, "artifact.json: name: expected str, found int"),
        (["variants"], {}, "variants: expected a list, found dict"),
        (["variants"], [], "has no variants"),
        (["variants", 0], "cpu", r"variants\[0\]: expected an object, found str"),
        (["variants", 0, "emulated"], 1, "emulated: expected bool, found int"),
        (["variants", 0, "cores_per_worker"], True, "cores_per_worker: expected int, found bool"),
        (["variants", 0, "modules", 1, "batch"], "4", r"modules\[1\]: batch: expected int, found str"),
        (["variants", 0, "modules", 0, "inputs", 0, "shape", 2], 8.0, r"shape\[2\]: expected int, found float"),
        (["variants", 0, "versions"], [], "versions: expected dict, found list"),
        (["handler"], None, "handler: expected an object, found NoneType"),
        (["variants", 0, "golden_tolerance"], "small", "golden_tolerance: expected float, found str"),
        (["format"], 2, "has format 2, this kit reads format 1"),
        (["format"], "1", "has format '1'"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(path, value, message):
    """The message says where in the record, what was expected and what was found."""
    content = content_of(make_record())
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(BrokenArchive, match=message):
        parse_record(json.dumps(content).encode())


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[]", b"null", b'"x"', b"[" * 100_000])
def test_what_is_no_record_is_refused(raw):
    """Bytes of any kind are a record or a broken archive."""
    with pytest.raises(BrokenArchive):
        parse_record(raw)


def test_a_missing_record_is_named(tmp_path):
    """The message gives the path that was tried."""
    with pytest.raises(BrokenArchive, match=r"artifact\.json cannot be read \(No such file"):
        read_record(tmp_path)


@pytest.mark.parametrize(("entry", "file"), [("mine:Mine", "mine.py"), ("handlers.images:X", "handlers/images.py")])
def test_a_handler_path_names_its_file(entry, file):
    """Where the module of a handler lies in the archive."""
    assert artifact.module_path(entry) == file


def test_the_python_version_has_two_parts():
    """Patch releases do not matter to an archive."""
    assert artifact.python_version() == ".".join(map(str, sys.version_info[:2]))


def test_a_module_without_a_hash_is_refused() -> None:
    """A record that names files must name every module and golden request among them."""
    record = make_record(files={"modules/a.pt": "0" * 64, "golden/0-a.png": "0" * 64})
    with pytest.raises(BrokenArchive, match=r"no hash of modules/b\.pt"):
        parse_record(dump_record(record))
