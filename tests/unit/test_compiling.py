"""Compiled files: the same bytes whenever the model is the same, and no silent loss of a branch."""

import io
import zipfile

import pytest
import torch

from handlers import targets
from tracing import Input, Recipe
from tracing.compiling import compile_modules, generate_inputs
from tracing.errors import CompileError

IMAGE = [Input(name="image", shape=("batch", 3, 8, 8))]


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten()
        )
        self.head = torch.nn.Linear(144, 3)
        self.eval().requires_grad_(False)

    def forward(self, image):
        return self.head(self.layers(image))


class Branches(Network):
    def forward(self, image):
        if image.sum() > 0:
            return super().forward(image)
        return -super().forward(image)


class Unrolled(Network):
    def forward(self, image):
        steps = [image[index] for index in range(int(torch.tensor(image.shape[0])))]
        return super().forward(torch.stack(steps))


class Untraceable(Network):
    def forward(self, image):
        return {"scores": super().forward(image), "note": "text"}


def compile_into(folder, model, *, batch_sizes=(1, 4), notes=None, options=None):
    return compile_modules(
        model,
        target="cpu",
        recipe=Recipe(
            name="mine",
            build_model=lambda _: model,
            inputs=IMAGE,
            handler="image_classifier",
            golden=["a.png"],
            batch_sizes=batch_sizes,
        ),
        options=options or {},
        folder=folder,
        progress=(notes if notes is not None else []).append,
    )


def test_a_module_is_written_for_each_batch_size(tmp_path):
    """Smallest first, with its shapes, and progress says so."""
    notes = []
    modules = compile_into(tmp_path, Network(), batch_sizes=[4, 1], notes=notes)
    assert [module.batch for module in modules] == [1, 4]
    assert [module.inputs[0].shape for module in modules] == [(1, 3, 8, 8), (4, 3, 8, 8)]
    assert all((tmp_path / module.file).is_file() for module in modules)
    assert len(notes) == 2
    assert notes[0].startswith("compiled batch 1 for cpu: modules/")


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}])
def test_a_compiled_file_gives_the_models_numbers(tmp_path, options):
    """Loaded again, at its batch size; in bf16 as far as that is exact, and in float32 for the handler."""
    model = Network()
    for module in compile_into(tmp_path, model, options=options):
        inputs = generate_inputs(IMAGE, module.batch, seed=3)
        (found,) = targets.get_target("cpu").load(tmp_path / module.file, module.inputs, {})(*inputs)
        assert found.dtype == torch.float32
        assert torch.allclose(found, model(*inputs), atol=0.05 if options else 1e-5)


def test_compiling_leaves_the_model_as_it_was(tmp_path):
    """The caller compares with the original afterwards, so bf16 and memory format work on a copy."""
    model = Network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compile_into(tmp_path, model, options={"precision": "bf16"})
    assert all(value.dtype == before[name].dtype for name, value in model.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_equal_models_give_equal_bytes_however_often_the_process_has_traced(tmp_path):
    """torch counts its traces in the names of classes; the count does not reach the file."""
    files = [compile_into(tmp_path / str(n), Network())[0].file for n in range(3)]
    assert len(set(files)) == 1


def test_batch_sizes_whose_code_is_equal_share_a_file(tmp_path):
    """Weights lie in the archive once."""
    modules = compile_into(tmp_path, Network(), batch_sizes=[1, 2, 4, 8])
    assert len({module.file for module in modules}) == 1
    assert len(list((tmp_path / "modules").iterdir())) == 1


def test_another_weight_gives_another_file(tmp_path):
    """A file is named by its bytes."""
    other = Network()
    other.head.weight.data[0, 0] += 1
    assert compile_into(tmp_path, Network())[0].file != compile_into(tmp_path, other)[0].file


def test_a_file_says_nothing_of_where_it_was_made(tmp_path):
    """No path of a source, no clock."""
    (module, _) = compile_into(tmp_path, Network())
    with zipfile.ZipFile(io.BytesIO((tmp_path / module.file).read_bytes())) as opened:
        assert {member.date_time for member in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        for member in opened.infolist():
            assert b"/test_compiling" not in opened.read(member)
            assert not member.filename.endswith((".debug_pkl", "serialization_id"))


def test_a_branch_on_data_is_refused_with_its_line(tmp_path):
    """A traced model would always take one side."""
    with pytest.raises(CompileError) as caught:
        compile_into(tmp_path, Branches())
    line = Branches.forward.__code__.co_firstlineno + 1
    assert str(caught.value).startswith(f"test_compiling.py:{line} decides by the values of a tensor")
    assert "torch.where" in str(caught.value)


def test_another_doubt_of_the_tracer_is_a_note(tmp_path):
    """A number read from a shape may be right: the author is told, and the verification decides."""
    notes = []
    compile_into(tmp_path, Unrolled(), notes=notes)
    assert any(note.startswith("note: test_compiling.py:") for note in notes)


def test_a_model_that_cannot_be_traced_is_named_with_the_target(tmp_path):
    """The compiler's own error is in the message."""
    with pytest.raises(CompileError, match="cpu: the model cannot be compiled: "):
        compile_into(tmp_path, Untraceable())


def test_generated_inputs_are_seeded_and_of_their_dtype():
    """Normal for floats, below ``high`` for integers, the same each time."""
    inputs = [
        Input(name="x", shape=("batch", 100)),
        Input(name="tokens", shape=("batch", 100), dtype="int64", high=5),
        Input(name="mask", shape=("batch", 100), dtype="bool"),
    ]
    one, other = generate_inputs(inputs, 3, seed=1), generate_inputs(inputs, 3, seed=1)
    assert [tensor.dtype for tensor in one] == [torch.float32, torch.int64, torch.bool]
    assert all(tensor.shape == (3, 100) for tensor in one)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert set(one[1].unique().tolist()) == {0, 1, 2, 3, 4}
    assert not torch.equal(one[0], generate_inputs(inputs, 3, seed=2)[0])
