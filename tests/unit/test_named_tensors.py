"""The handler of plain tensors: every form of a request, every wrong value named, answers by the outputs' names."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch

from handlers.artifact import TensorSpec
from handlers.errors import BadRequest, ModelError, NotAcceptable, TooLarge, UnsupportedType
from handlers.named_tensors import NamedTensors
from handlers.payloads import INSTANCES, LIST, PLAIN, TENSORS

IDS, WEIGHT = TensorSpec("ids", "int64", (1, 3)), TensorSpec("w", "float32", (1, 2, 2))
ITEM = {"ids": [1, 2, 3], "w": [[1, 2.5], [3, 4]]}


def make(*specs, outputs=("score",), buckets=None, **settings) -> NamedTensors:
    return NamedTensors({"outputs": list(outputs), **settings}, buckets or [specs or (IDS, WEIGHT)])


def spec(dtype: str = "float32", *sizes: int) -> TensorSpec:
    return TensorSpec("x", dtype, (1, *sizes))


def read(handler, body, content_type=""):
    """Return a request's payload and its items' arrays."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    payload = handler.read({"body": raw}, {"body": content_type})
    return payload, [handler.preprocess(item) for item in payload.items]


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def v2(datatype, shape, data, name="x") -> dict:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}


@pytest.mark.parametrize(
    ("body", "form", "count"),
    [
        (ITEM, PLAIN, 1),
        ([ITEM, ITEM], LIST, 2),
        ({"instances": [ITEM, ITEM, ITEM]}, INSTANCES, 3),
        ({"w": ITEM["w"], "ids": ITEM["ids"], "parameters": {"form": "raw"}}, PLAIN, 1),
    ],
)
def test_items_come_alone_in_a_list_or_as_instances(body, form, count):
    """By the inputs' names in any order; the arrays come in the model's order and dtypes."""
    payload, samples = read(make(), body)
    assert (payload.form, len(samples)) == (form, count)
    for ids, weight in samples:
        assert (ids.dtype, ids.tolist()) == (np.int64, [1, 2, 3])
        assert (weight.dtype, weight.tolist()) == (np.float32, [[1, 2.5], [3, 4]])


def test_a_models_only_input_needs_no_name():
    """As TensorFlow Serving's clients send their instances."""
    _, samples = read(make(spec("float32", 2)), {"instances": [[1, 2], [3, 4]]})
    assert [array.tolist() for (array,) in samples] == [[1, 2], [3, 4]]


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]], ids=["flat", "nested"])
def test_v2_tensors_are_taken_apart_by_items(data):
    """The first dimension are the items; the client's id comes back."""
    weights = {"name": "w", "datatype": "FP64", "shape": [2, 2, 2], "data": [0, 1, 2, 3, 4, 5, 6, 7.5]}
    ids = {"name": "ids", "datatype": "INT32", "shape": [2, 3], "data": data}
    payload, samples = read(make(), {"id": "q1", "inputs": [weights, ids]})
    assert (payload.form, payload.request_id) == (TENSORS, "q1")
    assert [ids.tolist() for ids, _ in samples] == [[1, 2, 3], [4, 5, 6]]
    assert samples[1][1].tolist() == [[4, 5], [6, 7.5]]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float64).reshape(3, 2),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2)),
        np.arange(6, dtype=">i4").reshape(3, 2),
        np.arange(6, dtype=np.float16).reshape(3, 2),
    ],
    ids=["float64", "fortran", "big-endian", "float16"],
)
def test_npy_holds_the_items_of_a_models_only_input(array):
    """In any order of bytes and dimensions that numpy writes."""
    payload, samples = read(make(spec("float32", 2)), npy(array))
    assert payload.form == LIST
    assert [each.tolist() for (each,) in samples] == [[0, 1], [2, 3], [4, 5]]
    assert samples[0][0].dtype == np.float32


def test_npz_holds_the_items_of_several_inputs():
    """By the names of its members."""
    _, samples = read(make(), npz(w=np.ones((2, 2, 2)), ids=np.array([[1, 2, 3], [4, 5, 6]])))
    assert [ids.tolist() for ids, _ in samples] == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("dtype", "sizes", "value", "fault"),
    [
        ("float32", (2,), [1], "input 'x' is a list of 1, expected 2: the shape is [2]"),
        ("float32", (2, 2), [[1, 2], [3]], "input 'x'[1] is a list of 1, expected 2"),
        ("float32", (2, 2), [[1, 2], 3], "input 'x'[1] is int 3, expected a list"),
        ("float32", (2,), [1, [2]], "input 'x'[1] is a list of 1, expected a number"),
        ("float32", (2,), [1, "2"], "input 'x'[1] is str '2', expected a number"),
        ("float32", (2,), [None, 2], "input 'x'[0] is nothing, expected a number"),
        ("float32", (2,), [True, 2], "input 'x'[0] is bool True, expected a number"),
        ("float32", (2,), [1, float("nan")], "input 'x'[1] is nan, expected a number that float32 holds"),
        ("float32", (2,), [float("-inf"), 1], "input 'x'[0] is -inf, expected a number that float32 holds"),
        ("float32", (2,), [1, 1e39], "input 'x'[1] is 1e+39, expected a number that float32 holds: -3.403e+38"),
        ("float16", (2,), [1, 70000], "input 'x'[1] is 70000, expected a number that float16 holds: -6.55e+04"),
        ("float32", (2,), [1, 10**400], "input 'x'[1] is 1000"),
        ("int32", (2,), [1, 2**31], "is 2147483648, expected a whole number that int32 holds: -2147483648 to"),
        ("int64", (2, 2), [[1, 2], [3, 2**63]], "input 'x'[1][1] is 9223372036854775808"),
        ("uint8", (2,), [-1, 2], "input 'x'[0] is -1, expected a whole number that uint8 holds: 0 to 255"),
        ("int64", (2,), [1, 2.5], "input 'x'[1] is float 2.5, expected a whole number"),
        ("bool", (2,), [True, 1], "input 'x'[1] is int 1, expected true or false"),
        ("float32", (), [1], "input 'x' is a list of 1, expected a number"),
    ],
)
def test_a_wrong_value_is_named_by_input_and_place(dtype, sizes, value, fault):
    """The client reads where the value is and what it should be."""
    with pytest.raises(BadRequest) as caught:
        read(make(spec(dtype, *sizes)), {"x": value})
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "array", "fault"),
    [
        ("float32", np.zeros((1, 3)), "input 'x' has shape [3], expected [2]"),
        ("float32", np.array([[1, np.nan]]), "input 'x'[1] is nan, expected a number that float32 holds"),
        ("float32", np.array([[1e39, 1]]), "input 'x'[0] is 1e+39"),
        ("float32", np.array([[1, 2]], np.longdouble) * np.longdouble("1e400"), "input 'x'[0] is 1e+400"),
        ("int32", np.array([[1, 2**31]]), "input 'x'[1] is 2147483648, expected a whole number that int32 holds"),
        ("uint8", np.array([[-1, 0]], np.int8), "input 'x'[0] is -1"),
        ("int64", np.array([[1, 2**63]], np.uint64), "input 'x'[1] is 9223372036854775808"),
        ("int64", np.zeros((1, 2)), "has dtype float64, expected a whole number at each place, for int64"),
        ("bool", np.zeros((1, 2)), "has dtype float64, expected true or false at each place"),
        ("float32", np.zeros((1, 2), bool), "has dtype bool, expected a number at each place"),
        ("float32", np.float32(3), "the first dimension of each input are the items"),
        ("float32", np.zeros((0, 2)), "the request is empty"),
        ("float32", np.array([["a", "b"]]), "has dtype <U1, expected numbers or booleans"),
        ("float32", np.array([[{}, {}]]), "has dtype object, expected numbers or booleans"),
    ],
)
def test_a_wrong_array_is_named_in_the_same_way(dtype, array, fault):
    """Nothing is unpickled, wrapped around or rounded to another kind."""
    with pytest.raises(BadRequest) as caught:
        read(make(spec(dtype, 2)), npy(array))
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"ids": [1, 2, 3]}, "input 'w' is missing; the model takes ids (int64 [3]), w (float32 [2, 2])"),
        ({**ITEM, "extra": 1}, "there is no input 'extra'; the model takes ids"),
        ({"instances": [[1, 2, 3]]}, "an item is a list of 3, expected an object with the inputs ids"),
        ({"instances": []}, "'instances' is a list of 0, expected a list with at least one item"),
        ([], "the list is empty"),
        ({"inputs": []}, "is missing"),
        ({"inputs": [3]}, "'inputs' has int 3 at 0, expected a tensor with a name"),
        (b"[1, 2", "the body is not valid JSON"),
        (b"", "the request has an empty body"),
        (npy(np.zeros((1, 3))), "npy holds one array, the model takes ids"),
        (npz(ids=np.zeros((1, 3), int)), "input 'w' is missing"),
        (npz(ids=np.zeros((1, 3), int), w=np.zeros((2, 2, 2))), "expected as many in each; found ids [1, 3], w [2"),
        (b"PK\x03\x04 and no more", "the body is no npz file that can be read"),
    ],
)
def test_a_request_of_another_form_is_told_what_the_model_takes(body, fault):
    """Missing and unknown inputs by name, with what is expected."""
    with pytest.raises(BadRequest) as caught:
        read(make(), body)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        (v2("FP99", [1, 2], [1, 2]), "input 'x' has datatype 'FP99', expected one of BOOL, FP16"),
        (v2("FP32", [1, -2], [1, 2]), "input 'x' has shape [1, -2], expected whole numbers over 0"),
        (v2("FP32", [], [1, 2]), "input 'x' has shape []"),
        (v2("FP32", [1, 2], [1, 2, 3]), "input 'x' is a list of 3, expected 2"),
        (v2("FP32", [1, 2], [[1], [2]]), "input 'x' is a list of 2, expected 1"),
        (v2("FP32", [10**30, 2], [1, 2]), "input 'x' is a list of 2, expected 2000"),
        (v2("INT8", [1, 2], [1, 200]), "input 'x'[1] is 200, expected a whole number that int8 holds"),
        (v2("FP32", [1, 2], "AAAA"), "input 'x' has data str 'AAAA', expected a list"),
        ({"inputs": v2("FP32", [1, 2], [1, 2])["inputs"] * 2}, "'inputs' names 'x' twice"),
        (v2("FP32", [1, 2], [1, 2], name="y"), "input 'x' is missing; there is no input 'y'"),
        (v2("FP32", [1, 3], [1, 2, 3]), "input 'x' has shape [3], expected [2]"),
    ],
)
def test_a_wrong_v2_tensor_is_named(tensors, fault):
    """With the datatype, the shape or the place that is wrong."""
    with pytest.raises(BadRequest) as caught:
        read(make(spec("float32", 2)), tensors)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"\x93NUMPY",
        npy(np.zeros((1, 2)))[:-1],
        npy(np.zeros((1, 2))) + b"x",
        npy(np.zeros((1, 2))).replace(b"(1, 2)", b"(9**9)"),
        npy(np.zeros((10, 10))).replace(b"(10, 10), ", b"(10**12,),"),
        npy(np.zeros((10, 10))).replace(b"(10, 10), ", b"(-10,-10),"),
    ],
    ids=["cut", "short", "long", "no shape", "huge", "negative"],
)
def test_a_broken_npy_file_is_a_bad_request(body):
    """Its shape is held against its bytes before any memory is taken for it."""
    with pytest.raises(BadRequest, match="the npy file"):
        read(make(spec("float32", 2)), body)


def test_a_zip_bomb_is_refused_before_it_is_unpacked():
    """A few KB that unpack to 8 MB are over the limit of 1 MB."""
    bomb = npz(x=np.zeros((1, 2_000_000), np.float32))
    assert len(bomb) < 100_000
    with pytest.raises(TooLarge, match="unpacks to more than 1000000 bytes"):
        read(make(spec("float32", 2), most_bytes=1_000_000), bomb)


def test_other_compressions_than_numpys_are_refused():
    """LZMA's headers may ask for gigabytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy(np.zeros((1, 2))))
    with pytest.raises(BadRequest, match="compressed by another method than numpy's"):
        read(make(spec("float32", 2)), stream.getvalue())


def test_too_many_bytes_and_too_many_items_are_413():
    """Before the body is parsed, and before any item is prepared."""
    with pytest.raises(TooLarge, match="the request has 100 bytes, at most 99 are taken"):
        read(make(most_bytes=99), b" " * 100)
    with pytest.raises(TooLarge, match="at most 128 are taken in one request"):
        read(make(spec("float32", 2)), npy(np.zeros((129, 2))))


def test_a_body_of_another_type_is_415():
    """A picture, say."""
    with pytest.raises(UnsupportedType, match=r"neither JSON nor npy nor npz \(content type image/png\)"):
        read(make(), b"\x89PNG\r\n", "image/png")


@pytest.mark.parametrize("length", [1, 3, 9])
def test_dimensions_that_differ_between_buckets_may_have_any_size(length):
    """The worker pads them, or says that none is large enough; other dimensions have to be met."""
    handler = make(buckets=[[spec("float32", 2, 4)], [spec("float32", 2, 8)]])
    _, ((array,),) = read(handler, {"x": [[0.5] * length] * 2})
    assert array.shape == (2, length)
    with pytest.raises(BadRequest, match=r"is a list of 3, expected 2: the shape is \[2, any\]"):
        read(handler, {"x": [[0.5] * length] * 3})


@pytest.mark.parametrize("value", [[[], []], [[1], [1, 2]]], ids=["empty", "ragged"])
def test_a_dimension_of_any_size_is_neither_empty_nor_ragged(value):
    """Every list of it is as long as the first."""
    handler = make(buckets=[[spec("float32", 2, 4)], [spec("float32", 2, 8)]])
    with pytest.raises(BadRequest, match="expected 1"):
        read(handler, {"x": value})


def test_collated_batches_have_the_models_dtypes():
    """Also bfloat16, which numpy lacks."""
    handler = make(spec("bfloat16", 2))
    _, samples = read(handler, {"instances": [[1, 2], [3, 4]]})
    (batch,) = handler.collate(samples)
    assert (batch.dtype, batch.tolist()) == (torch.bfloat16, [[1, 2], [3, 4]])


def test_answers_are_nested_lists_by_the_outputs_names():
    """A number for each scalar."""
    handler = make(outputs=["score", "ids"])
    assert handler.check_outputs((torch.zeros(1), torch.zeros(1))) == []
    answer = handler.postprocess((torch.tensor(0.5), torch.tensor([[1, 2]])))
    assert answer == {"score": 0.5, "ids": [[1, 2]]}


def test_an_answer_that_is_not_finite_is_an_error_of_the_model():
    """JSON has no NaN, and a client would take it for a number."""
    with pytest.raises(ModelError, match="a value of score that is not a finite number"):
        make().postprocess((torch.tensor([1.0, float("nan")]),))


def test_v2_answers_have_shapes_and_datatypes():
    """The items first; FP32, INT64 or BOOL."""
    answers = [{"a": [0.5, 1.5], "b": 1, "c": [True]}, {"a": [2.5, 3.5], "b": 2, "c": [False]}]
    assert make(outputs="abc").as_tensors(answers) == [
        {"name": "a", "datatype": "FP32", "shape": [2, 2], "data": [0.5, 1.5, 2.5, 3.5]},
        {"name": "b", "datatype": "INT64", "shape": [2], "data": [1, 2]},
        {"name": "c", "datatype": "BOOL", "shape": [2, 1], "data": [True, False]},
    ]


def test_v2_answers_of_different_shapes_are_refused():
    """One tensor cannot hold them; the client is told how to ask."""
    with pytest.raises(BadRequest, match="outputs a have different shapes"):
        make(outputs="a").as_tensors([{"a": [1.0, 2.0]}, {"a": [1.0]}])


def test_npy_answers_hold_a_models_only_output():
    """Of several, none is chosen silently."""
    assert make().as_array((torch.ones(2),), None).tolist() == [1, 1]
    with pytest.raises(NotAcceptable, match="the model has the outputs a, b, npy holds one array"):
        make(outputs="ab").as_array((torch.ones(2), torch.ones(2)), None)


@pytest.mark.parametrize(
    ("settings", "name", "fault"),
    [
        ({}, "x", "expected outputs: the names of the model's outputs"),
        ({"outputs": "ab"}, "x", "expected outputs: the names of the model's outputs"),
        ({"outputs": ["a", "a"]}, "x", "expected outputs: no name twice"),
        ({"outputs": ["a"], "most_bytes": 0}, "x", "expected most_bytes: a whole number over 0, found 0"),
        ({"outputs": ["a"], "labels": []}, "x", "unknown 'labels'; expected outputs, most_bytes"),
        ({"outputs": ["a"]}, "instances", "'instances' has a meaning of its own in requests"),
    ],
)
def test_each_wrong_setting_is_named(settings, name, fault):
    """A recipe's author reads which one and what it should be."""
    (found,) = NamedTensors.check_settings(settings, [TensorSpec(name, "float32", (1, -1))])
    assert fault in found


def test_a_number_of_outputs_other_than_the_settings_is_named():
    """When the archive is built."""
    (fault,) = make(outputs="ab").check_outputs((torch.zeros(1),))
    assert fault == "the model returns 1 output(s), settings name 2: a, b"
