"""What a client accepts, and answers as npy."""

import io

import numpy as np
import pytest

from handlers.errors import BadRequest, NotAcceptable
from handlers.responses import JSON, NPY, PNG, choose_type, encode_npy

OFFERED = (JSON, NPY)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/x-npy", NPY),
        ("APPLICATION/X-NPY", NPY),
        ("application/x-npy, */*", NPY),
        ("*/*, application/x-npy", NPY),
        ("application/x-npy;q=0.5, application/json", JSON),
        ("application/json;q=0.5, application/x-npy;q=0.9", NPY),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
        ("application/x-npy;q=0, */*;q=0.1", JSON),
        ("application/x-npy;q=nonsense", NPY),
        (";;,,application/x-npy", NPY),
    ],
)
def test_the_type_that_the_client_prefers_is_chosen(accept, expected):
    """By weight, then what is named rather than let through, then by the offer's order."""
    assert choose_type(accept, OFFERED)[0] == expected


def test_parameters_stand_beside_the_type():
    """They are how a client that sends a bare file says what it wants."""
    accept = 'application/json; form=raw; Top_K="3"; q=0.9, image/png; form=answer'
    assert choose_type(accept, OFFERED) == (JSON, {"form": "raw", "top_k": "3"})


@pytest.mark.parametrize("accept", ["image/png", "text/*", "application/json;q=0"])
def test_what_is_not_offered_is_refused(accept):
    """The message says what is."""
    with pytest.raises(NotAcceptable, match="this model offers application/json, application/x-npy"):
        choose_type(accept, OFFERED)


def test_a_picture_is_only_sent_to_who_asks_for_one():
    """A browser's wildcard gets JSON."""
    assert choose_type("*/*", (JSON, PNG))[0] == JSON
    assert choose_type("image/*", (JSON, PNG))[0] == PNG


def test_npy_holds_the_items_first():
    """As numpy.load gives them, without pickles."""
    encoded = encode_npy([np.zeros(3, np.float32), np.ones(3, np.float32)])
    array = np.load(io.BytesIO(encoded.body), allow_pickle=False)
    assert (encoded.content_type, array.shape, array.dtype) == (NPY, (2, 3), np.float32)
    assert array[1].tolist() == [1, 1, 1]


def test_arrays_of_several_shapes_are_refused():
    """One npy array cannot hold them."""
    with pytest.raises(BadRequest, match=r"shapes \(2,\), \(3,\), which one npy array cannot hold"):
        encode_npy([np.zeros(3), np.zeros(2)])
