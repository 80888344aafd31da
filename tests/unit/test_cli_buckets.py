"""``torchserve-neuron buckets``: the table, its JSON, and what it refuses."""

import io
import json

import pytest

from cli.main import main


@pytest.fixture
def sample(tmp_path):
    """Ten items: eight short ones, one of 100 and one of 300."""
    path = tmp_path / "lengths.txt"
    path.write_text("\n".join(map(str, [5, 6, 7, 8, 5, 6, 7, 8, 100, 300])))
    return path


def test_it_prints_buckets_items_waste_and_the_line_for_the_recipe(sample, capsys):
    """Three buckets: 12 of 452 values are padding, 2.7 %."""
    assert main(["buckets", "--lengths", str(sample), "-k", "3"]) == 0
    out = capsys.readouterr().out
    assert "10 items of length 5 to 300; compute of an item: linear" in out
    assert "         8             8    80.0%" in out
    assert "  planned                  2.7%  with 3: 8, 100, 300" in out
    assert 'buckets=[{"sequence": 8}, {"sequence": 100}, {"sequence": 300}],' in out
    assert "compiled modules: 3 x the recipe's batch sizes, so 12" in out


def test_json_has_the_same_figures_and_those_of_powers_of_two(sample, capsys):
    """Powers of two hold 16, 128 and 512: 316 values of padding on 452."""
    assert main(["buckets", "--lengths", str(sample), "-k", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["buckets"] == [{"sequence": 8}, {"sequence": 100}, {"sequence": 300}]
    assert (found["plan"]["work"], found["plan"]["padding"]) == (452, 12)
    assert found["powers_of_two"]["sizes"] == [16, 32, 64, 128, 256, 512]
    assert (found["best_powers_of_two"]["sizes"], found["best_powers_of_two"]["padding"]) == ([16, 128, 512], 316)


def test_sizes_are_rounded_up_and_hold_what_must_fit(sample, capsys):
    """A longest length that the sample does not have gets its place."""
    assert main(["buckets", "--lengths", str(sample), "-k", "3", "--multiple-of", "32", "--largest", "500"]) == 0
    assert 'buckets=[{"sequence": 32}, {"sequence": 320}, {"sequence": 512}],' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ([], "1 items are longer than 128, left out: they would be refused"),
        (["--truncate"], "1 items are longer than 128, counted as cut to 128"),
    ],
)
def test_longer_items_are_told_of(sample, capsys, more, line):
    """With what becomes of them."""
    assert main(["buckets", "--lengths", str(sample), "--largest", "128", *more]) == 0
    assert line in capsys.readouterr().out


def test_the_cost_of_attention_moves_the_buckets(tmp_path, capsys):
    """Long items cost more than in proportion, so that a bucket goes to them instead of to the short ones."""
    path = tmp_path / "lengths.txt"
    path.write_text("\n".join(["10"] * 60 + ["40"] * 60 + ["1900"] * 1 + ["2000"] * 1))
    sizes = {}
    for cost in (["linear"], ["attention", "--hidden", "8"]):
        assert main(["buckets", "--lengths", str(path), "-k", "3", "--json", "--cost", *cost]) == 0
        sizes[cost[0]] = json.loads(capsys.readouterr().out)["plan"]["sizes"]
    assert sizes == {"linear": [10, 40, 2000], "attention": [40, 1900, 2000]}


def test_lengths_come_from_stdin_and_from_a_column(monkeypatch, capsys):
    """The column's name becomes the dimension's."""
    monkeypatch.setattr("sys.stdin", io.StringIO("id,tokens\na,3\nb,9\n"))
    assert main(["buckets", "--lengths", "-", "--column", "tokens", "-k", "2"]) == 0
    assert 'buckets=[{"tokens": 3}, {"tokens": 9}],' in capsys.readouterr().out


def test_a_spreadsheets_byte_order_mark_is_no_part_of_a_name(tmp_path, capsys):
    """Excel writes one before the first column."""
    path = tmp_path / "lengths.csv"
    path.write_bytes(b"\xef\xbb\xbftokens\r\n12\r\n")
    assert main(["buckets", "--lengths", str(path), "--column", "tokens", "--dimension", "sequence"]) == 0
    assert 'buckets=[{"sequence": 12}],' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "more", "fault"),
    [
        (b"3\nx\n", [], "line 2: found 'x', expected a whole number over 0"),
        (b"640,480\n", [], "planned one by one"),
        (b"\xff\xfe\x33", [], "is no text in UTF-8"),
        (b"3\n", ["--truncate"], "--truncate needs --largest"),
        (b"3\n", ["--hidden", "64"], "--hidden is of --cost attention"),
        (b"3\n", ["--largest", "2"], "all lengths are over 2, the shortest is 3"),
        (None, [], "cannot be read (No such file or directory)"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_the_reason(tmp_path, capsys, content, more, fault):
    """One line on standard error, exit status 1."""
    path = tmp_path / "lengths"
    if content is not None:
        path.write_bytes(content)
    assert main(["buckets", "--lengths", str(path), *more]) == 1
    assert fault in capsys.readouterr().err


@pytest.mark.parametrize("more", [["-k", "0"], ["-k", "two"], ["--multiple-of", "-8"], ["--cost", "cubic"]])
def test_wrong_usage_ends_with_status_2(sample, more, capsys):
    """As argparse has it."""
    with pytest.raises(SystemExit) as caught:
        main(["buckets", "--lengths", str(sample), *more])
    assert caught.value.code == 2
    assert more[0] in capsys.readouterr().err
