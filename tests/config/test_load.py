"""Reading a campaign: what is refused, how it is said, and that what is accepted survives a round trip."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raydistill.config.load import anchored, dump_config, fingerprint, load_config, one_grade, parse_config, parse_yaml
from raydistill.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
SMALLEST = "data: {path: somewhere}\nencoder: {name: an-encoder}\ngrades: [{layers: 3}]\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "campaign.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_smallest_file_gets_every_default(tmp_path: Path) -> None:
    """A default that moved out of the schema would make old files mean something else."""
    config = load_config(written(tmp_path, SMALLEST))
    assert config.method.name == "pmd"
    assert config.training.learning_rate == 5e-5
    assert config.grades[0].layer_map == "skip"


def test_round_trip_keeps_every_value(tmp_path: Path) -> None:
    """RUN/config.yaml must resume the same campaign: a value lost on the way would change the fingerprint."""
    text = SMALLEST.replace(
        "{layers: 3}", "{layers: 3, mask_ratio: {uniform: [0.0, 0.2]}, layer_map: {choice: [skip, [0, 1, 2]]}}"
    )
    config = load_config(written(tmp_path, text))
    again = load_config(written(tmp_path, dump_config(config)))
    assert again == config
    assert fingerprint(again) == fingerprint(config)


def test_fingerprint_sees_a_changed_value_but_no_spelling(tmp_path: Path) -> None:
    """A fingerprint that ignored a value would resume another campaign; one that saw key order would refuse its own."""
    config = load_config(written(tmp_path, SMALLEST))
    shuffled = load_config(written(tmp_path, "\n".join(reversed(SMALLEST.splitlines())) + "\nseed: 0\n"))
    other = load_config(written(tmp_path, SMALLEST + "seed: 1\n"))
    assert fingerprint(shuffled) == fingerprint(config) != fingerprint(other)


def test_exponent_without_a_point_is_a_number(tmp_path: Path) -> None:
    """YAML 1.1 reads 2e-5 as text; refusing it, or keeping it as text, would surprise everybody who writes learning rates."""
    text = SMALLEST.replace("{layers: 3}", "{layers: 3, mask_ratio: 1e-1}") + "training: {learning_rate: 2e-5}\n"
    config = load_config(written(tmp_path, text))
    assert config.training.learning_rate == 2e-5
    assert config.grades[0].mask_ratio == 0.1


def test_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    """Editors on Windows write a BOM; it would make the first key unknown."""
    path = tmp_path / "campaign.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALLEST.encode())
    assert load_config(path).data.path == "somewhere"


def test_missing_file_names_the_file_and_examples(tmp_path: Path) -> None:
    """A traceback for a mistyped path."""
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such file") as caught:
        load_config(tmp_path / "absent.yaml")
    assert "jobs/configs" in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds nothing"),
        (b"- a\n- b\n", "holds a list"),
        (b"data: \xff\xfe", "codec can't decode"),
        (b"data: [1", r"line 1: not valid YAML"),
        (b"data: {path: a}\n\ndata: {path: b}\n", r"line 3: not valid YAML: the key 'data' is given twice"),
        (b"data: {path: a, path: b}\n", r"line 1: not valid YAML: the key 'path' is given twice"),
        (b"data: !!python/object/apply:os.system [ls]\n", r"line 1: not valid YAML: could not determine a constructor"),
        (b"data: !secret x\n", r"line 1: not valid YAML: could not determine a constructor"),
        (b"[" * 5000, "not valid YAML: it is nested too deeply"),
        (b"? [a]\n: b\n", "not valid YAML: found unhashable key"),
    ],
)
def test_what_is_no_plain_mapping_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """The safe loader silently keeps the last of two equal keys, and other loaders run code."""
    path = tmp_path / "campaign.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_merge_keys_may_repeat_what_they_merge() -> None:
    """The check for repeated keys must not refuse YAML's own way of overriding a merged key."""
    assert parse_yaml("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}", "here")["d"] == {"b": 3, "c": 2}


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    """A `--set` that is applied to a copy, or to the wrong place, changes nothing and says nothing."""
    path = written(tmp_path, SMALLEST)
    config = load_config(
        path, ["training.epochs=7", "grades.0.mask_ratio={uniform: [0, 0.3]}", "method.name=logits", "seed=3"]
    )
    assert config.training.epochs == 7
    assert config.grades[0].model_dump()["mask_ratio"] == {"uniform": (0.0, 0.3)}
    assert config.method.name == "logits"
    assert config.seed == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", r"--set training\.epochs"),
        ("=3", "--set =3"),
        ("training..epochs=3", r"--set training\.\.epochs"),
        ("grades.1.layers=2", "'1' is no position in a list of 1"),
        ("grades.first.layers=2", "'first' is no position"),
        ("data.path.more=2", "path is the plain value 'somewhere'"),
        ("grades.0.layers.x=2", "layers is the plain value 3"),
        ("seed=[1", "--set seed=.*not valid YAML"),
        ("seed=!!python/name:os.system", "not valid YAML"),
        ("training.epochs=yes", r"training\.epochs: received true"),
        ("grades.0.mask_ratio={choice: [0.0, on]}", r"grades\.0\.mask_ratio\.choice\.1: received true"),
        ("storage.keep_trials=0", r"storage\.keep_trials: received 0"),
        ("storage.keep_trials=best", r"storage\.keep_trials: received \"best\"; expected all or"),
        ("training.epcohs=2", r"training\.epcohs: unknown key 'epcohs'; did you mean 'epochs'\?"),
    ],
)
def test_bad_override_is_refused(tmp_path: Path, override: str, message: str) -> None:
    """An override that misses its target would leave the file's value in force."""
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, SMALLEST), [override])


def test_parse_config_leaves_its_input_alone() -> None:
    """A reader that mutates what it reads makes the second campaign of a process differ from the first."""
    content = yaml.safe_load(SMALLEST)
    parse_config(content)
    assert content == yaml.safe_load(SMALLEST)


def test_anchored_paths_hold_in_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial works in a directory of its own, where a relative dataset or encoder is not to be found."""
    (tmp_path / "mine").mkdir()
    config = parse_config({**yaml.safe_load(SMALLEST), "data": {"path": "graph"}, "encoder": {"name": "mine"}})
    monkeypatch.chdir(tmp_path)
    assert anchored(config).data.path == str(tmp_path / "graph")
    assert anchored(config).encoder.name == str(tmp_path / "mine")
    assert config.data.path == "graph"
    hub = config.model_copy(update={"encoder": config.encoder.model_copy(update={"name": "org/model"})})
    assert anchored(hub).encoder.name == "org/model"


def test_one_grade_keeps_that_grade_and_names_the_teacher(tmp_path: Path) -> None:
    """A search that runs the wrong rung of the ladder, or trains a teacher first."""
    text = SMALLEST.replace("[{layers: 3}]", "[{layers: 4}, {layers: 3, mask_ratio: {choice: [0.0, 0.1]}}]")
    config = one_grade(load_config(written(tmp_path, text)), 2, "some: where")
    assert [grade.layers for grade in config.grades] == [3]
    assert config.grades[0].model_dump()["mask_ratio"] == {"choice": (0.0, 0.1)}
    assert config.teacher.checkpoint == "some: where"


def test_one_short_grade_of_a_ladder_with_early_stopping_can_be_searched(tmp_path: Path) -> None:
    """The grade alone has no epoch to stop at; refused for it, the search of that grade could not be run at all."""
    text = (
        SMALLEST.replace("[{layers: 3}]", "[{layers: 4, epochs: 1}, {layers: 3}]") + "search: {early_stopping: asha}\n"
    )
    config = load_config(written(tmp_path, text))
    assert one_grade(config, 1, "x").search.early_stopping == "none"
    assert one_grade(config, 2, "x").search.early_stopping == "asha"


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_example_survives_saving_and_one_grade(tmp_path: Path, file: Path) -> None:
    """A saved file spells out every default: refused beside `compare`, the run could neither be resumed nor searched."""
    config = load_config(file)
    assert load_config(written(tmp_path, dump_config(config))) == config
    for grade in range(1, len(config.grades) + 1):
        assert len(one_grade(config, grade, "x").grades) == 1


@pytest.mark.parametrize("grade", [0, 2, -1])
def test_one_grade_that_is_not_there_is_refused(tmp_path: Path, grade: int) -> None:
    """Grade 0 would take the last one of the list."""
    with pytest.raises(ConfigError, match=f"grade {grade}"):
        one_grade(load_config(written(tmp_path, SMALLEST)), grade, "x")


def test_home_folder_may_be_written_as_in_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "no such folder", of one that everybody sees."""
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["data.path=~/graph", "encoder.name=~/bert", "teacher.checkpoint=~/teacher", "storage.path=s3://bucket/~/x"]
    config = load_config("jobs/configs/demo.yaml", given)
    found = (config.data.path, config.encoder.name, config.teacher.checkpoint, config.storage.path)
    assert found == (f"{tmp_path}/graph", f"{tmp_path}/bert", f"{tmp_path}/teacher", "s3://bucket/~/x")
