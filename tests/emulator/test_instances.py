"""The table of instances."""

import json
from pathlib import Path

import pytest
from neuron_emulator import instances
from neuron_emulator.instances import current_instance, get_instance, list_instances

TABLE = Path(instances.__file__).with_name("instances.json")


@pytest.mark.parametrize(
    ("name", "family", "chips", "cores", "vcpus", "host_gib", "per_core"),
    [
        ("inf1.xlarge", "inf1", 1, 4, 4, 8, 2),
        ("inf1.2xlarge", "inf1", 1, 4, 8, 16, 2),
        ("inf1.6xlarge", "inf1", 4, 16, 24, 48, 2),
        ("inf1.24xlarge", "inf1", 16, 64, 96, 192, 2),
        ("inf2.xlarge", "inf2", 1, 2, 4, 16, 16),
        ("inf2.8xlarge", "inf2", 1, 2, 32, 128, 16),
        ("inf2.24xlarge", "inf2", 6, 12, 96, 384, 16),
        ("inf2.48xlarge", "inf2", 12, 24, 192, 768, 16),
        ("trn1.2xlarge", "trn1", 1, 2, 8, 32, 16),
        ("trn1.32xlarge", "trn1", 16, 32, 128, 512, 16),
        ("trn1n.32xlarge", "trn1n", 16, 32, 128, 512, 16),
        ("trn2.48xlarge", "trn2", 16, 64, 192, 2048, 24),
        ("trn2u.48xlarge", "trn2", 16, 64, 192, 2048, 24),
    ],
)
def test_the_figures_are_those_of_the_documents(name, family, chips, cores, vcpus, host_gib, per_core):
    """Contract 1.1, 1.2, 1.3: chips, NeuronCores, vCPU, memory of host and device."""
    found = get_instance(name)
    assert (found.family, found.chips, found.cores, found.vcpus) == (family, chips, cores, vcpus)
    assert (found.host_gib, found.device_gib_per_core) == (host_gib, per_core)


@pytest.mark.parametrize(
    ("name", "total"), [("inf1.6xlarge", 32), ("inf2.48xlarge", 384), ("trn1.32xlarge", 512), ("trn2.48xlarge", 1536)]
)
def test_the_memory_of_all_chips_is_the_documented_total(name, total):
    """Contract 1.1-1.3: device GiB (total)."""
    found = get_instance(name)
    assert found.device_bytes_per_chip * found.chips == total << 30


def test_every_row_has_a_source_and_every_price_its_kind_and_date():
    """Contract 1.5: prices age, so that each has a date and says what kind it is."""
    for row in json.loads(TABLE.read_text())["instances"]:
        assert ".rst" in row["source"]
        for price in row["prices"]:
            assert price["usd_per_hour"] > 0
            assert price["kind"] and price["date"] and price["source"]


@pytest.mark.parametrize(("name", "price"), [("inf1.xlarge", 0.110), ("inf2.48xlarge", 5.608), ("trn1.2xlarge", 0.512)])
def test_the_benchmark_prices_are_those_of_aws(name, price):
    """Contract 1.5: the rates behind AWS's benchmark pages."""
    rows = {row["name"]: row for row in json.loads(TABLE.read_text())["instances"]}
    found = {each["kind"]: each["usd_per_hour"] for each in rows[name]["prices"]}
    assert found["reserved-effective"] == price


def test_an_unknown_name_is_answered_with_the_known_ones():
    """A slip in the name is seen at once."""
    with pytest.raises(ValueError, match=r"unknown instance 'inf1.huge': expected one of inf1.xlarge, .*trn2u"):
        get_instance("inf1.huge")


def test_names_are_there_once():
    """The table has each instance once."""
    names = [each.name for each in list_instances()]
    assert len(set(names)) == len(names) == 13


def test_no_variable_is_a_host_without_devices():
    """Without NEURON_EMULATOR_INSTANCE there is nothing to emulate."""
    assert current_instance({}) is None
    assert current_instance({"NEURON_EMULATOR_INSTANCE": ""}) is None


@pytest.mark.parametrize(("config", "cores", "per_core"), [("2", 64, 24), ("1", 128, 12)])
def test_trn2_shows_logical_or_physical_cores(config, cores, per_core):
    """Contract 1.3: NEURON_LOGICAL_NC_CONFIG 2 pairs physical cores, 1 exposes all."""
    environ = {"NEURON_EMULATOR_INSTANCE": "trn2.48xlarge", "NEURON_LOGICAL_NC_CONFIG": config}
    found = current_instance(environ)
    assert (found.cores, found.device_gib_per_core) == (cores, per_core)


def test_only_one_and_two_are_logical_configurations():
    """Contract 1.3: only 1 and 2 exist."""
    with pytest.raises(ValueError, match="NEURON_LOGICAL_NC_CONFIG='3': expected 1 or 2"):
        current_instance({"NEURON_EMULATOR_INSTANCE": "trn2.48xlarge", "NEURON_LOGICAL_NC_CONFIG": "3"})


def test_other_families_have_no_logical_cores():
    """Contract 1.3: inf1, inf2 and trn1 have no LNC."""
    found = current_instance({"NEURON_EMULATOR_INSTANCE": "inf2.xlarge", "NEURON_LOGICAL_NC_CONFIG": "1"})
    assert found == get_instance("inf2.xlarge")


def test_the_distribution_has_every_package_and_data_file():
    """What an installed emulator imports and reads is named in its setup.py."""
    folder = Path(instances.__file__).resolve().parents[1]
    setup = (folder / "setup.py").read_text()
    packages = {path.parent.relative_to(folder).as_posix().replace("/", ".") for path in folder.rglob("__init__.py")}
    data = {path.name for path in folder.rglob("*.json")}
    assert all(f'"{name}"' in setup for name in packages | data)
