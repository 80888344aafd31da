"""What the variables of the runtime mean."""

import os

import pytest
from neuron_emulator.environment import parse_cores, read_settings, registry_folder
from neuron_emulator.messages import StartFault


@pytest.mark.parametrize(
    ("text", "cores"),
    [("3", (3,)), ("1-3", (1, 2, 3)), ("0,1,2-4", (0, 1, 2, 3, 4)), ("0-1,2-3", (0, 1, 2, 3)), ("2-2", (2,))],
)
def test_cores_are_a_number_a_range_or_a_list(text, cores):
    """Contract 4.1: ``3``, ``1-3``, list ``m,n,p-q``."""
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["3,5,6", "0,2", "2,1", "1,1", "0-1,3-4"])
def test_cores_must_rise_one_by_one(text):
    """Contract 4.1, 4.6: must be increasing and contiguous, ``3,5,6`` is rejected with its own line."""
    with pytest.raises(StartFault, match="NRT:nrt_allocate_neuron_cores Neuron cores are not contiguous"):
        parse_cores(text)


@pytest.mark.parametrize("text", ["a", "-1", "1-", "1,,2", "3-1", "0-99999999", "1.5"])
def test_what_is_no_list_of_cores_is_quoted(text):
    """The line says which variable has what in it."""
    with pytest.raises(StartFault, match="NEURON_RT_VISIBLE_CORES="):
        parse_cores(text)


@pytest.mark.parametrize(
    ("environ", "visible", "count"),
    [
        ({}, None, 0),
        ({"NEURON_RT_NUM_CORES": "2"}, None, 2),
        ({"NEURON_RT_NUM_CORES": "0"}, None, 0),
        ({"NEURON_RT_VISIBLE_CORES": "1"}, (1,), 0),
        ({"NEURON_RT_VISIBLE_CORES": "1", "NEURON_RT_NUM_CORES": "3"}, (1,), 0),
        ({"NEURON_RT_VISIBLE_CORES": "", "NEURON_RT_NUM_CORES": "3"}, None, 3),
        ({"NEURONCORE_GROUP_SIZES": "1,1"}, None, 0),
    ],
)
def test_the_list_wins_over_the_number(environ, visible, count):
    """Contract 4.1: if both core variables are set, VISIBLE_CORES wins; the legacy variable is not read."""
    settings = read_settings(environ)
    assert (settings.visible, settings.count) == (visible, count)


@pytest.mark.parametrize("text", ["-1", "two", "1.5"])
def test_a_number_of_cores_that_is_none_is_quoted(text):
    """A slip does not silently become "all cores"."""
    with pytest.raises(StartFault, match=r"NEURON_RT_NUM_CORES=.*: expected a whole number"):
        read_settings({"NEURON_RT_NUM_CORES": text})


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "much"])
def test_memory_that_is_none_is_quoted(text):
    """A slip does not silently become the instance's memory."""
    with pytest.raises(StartFault, match="NEURON_EMULATOR_MEMORY_GIB_PER_CORE"):
        read_settings({"NEURON_EMULATOR_MEMORY_GIB_PER_CORE": text})


def test_defaults_are_those_of_the_documents():
    """Contract 4.1: 30 s for one execution, no legacy artefacts, the process number as tag."""
    settings = read_settings({})
    assert (settings.timeout_seconds, settings.allow_legacy, settings.tag) == (30, False, str(os.getpid()))


def test_the_process_can_be_given_a_name():
    """Contract 4.1, 7.1: NEURON_PROCESS_TAG replaces the PID, up to 255 characters."""
    assert read_settings({"NEURON_PROCESS_TAG": "w1"}).tag == "w1"
    assert len(read_settings({"NEURON_PROCESS_TAG": "x" * 300}).tag) == 255


def test_the_folder_is_made_where_it_is_named(tmp_path):
    """NEURON_EMULATOR_FOLDER is the host: two folders are two hosts."""
    folder = registry_folder({"NEURON_EMULATOR_FOLDER": str(tmp_path / "a" / "b")})
    assert folder == tmp_path / "a" / "b"
    assert folder.is_dir()
