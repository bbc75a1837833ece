"""The command line: exit codes, one sentence for every mistake, formats, settings, and what it must not import."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from children import hears_ctrl_c
from symbreak import cli, config
from symbreak.cli import check, terminal
from symbreak.cli.options import Request
from symbreak.errors import ConfigError
from symbreak.schemes import CATALOGUE

MODELS = """
import time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
        for layer in (self.body[0], self.body[2]):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    def forward(self, x):
        return self.body(x)

class Inner(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such wind")

class Raises(Net):
    def __init__(self):
        super().__init__()
        self.sail = Inner()
    def forward(self, x):
        return self.sail(self.body(x))

def batch(): return torch.randn(32, 6)
def good(): return Net(), batch()
def zero():
    net = Net()
    for p in net.parameters(): nn.init.zeros_(p)
    return net, batch()
def loud():
    print("this is not JSON")
    return good()
def raises(): raise ValueError("width must be positive")
def forward_raises(): return Raises(), batch()
def mismatch(): return Net(), torch.randn(32, 7)
def empty(): return Net(), torch.randn(0, 6)
def lone():
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), torch.randn(1, 6)
def no_parameters(): return nn.Tanh(), batch()
def all_frozen(): return Net().requires_grad_(False), batch()
def nan_data(): return Net(), torch.full((4, 6), float("nan"))
def nan_weights():
    net = Net()
    nn.init.constant_(net.body[0].weight, float("nan"))
    return net, batch()
def complex_weights():
    return nn.Linear(6, 2, dtype=torch.complex64), torch.randn(4, 6, dtype=torch.complex64)
def free_loss(): return Net(), batch(), lambda model, batch: torch.tensor(1.0)
def absent():
    import surely_not_installed
def interrupted(): raise KeyboardInterrupt
def slow():
    print("ready", flush=True)
    time.sleep(60)
def ours(output, target): raise LookupError("no loss today")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text(MODELS)
    yield tmp_path
    sys.modules.pop("models", None)


def run(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def shell(*arguments, **environment):
    """A real process, as a user starts it."""
    code = "from symbreak.cli import main; main()"
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), **environment}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, encoding="utf-8", errors="replace", env=env
    )


# Verdicts and exit codes -----------------------------------------------------------------------------------------


def test_zeros_are_findings(folder):
    done = run("check", "mlp:8:tanh", "--data", "xor", "--init", "zeros")
    assert done.exit_code == 1, done.output
    assert "stuck" in done.stdout.splitlines()[0].lower()
    assert done.stderr.splitlines() == [
        "mlp:8:tanh, init zeros, on xor",
        "xor: 4 samples, 2 features, 2 classes; features standardised column by column",
    ]


def test_a_good_start_is_clean(folder):
    done = run("check", "models.py:good")
    assert done.exit_code == 0, done.output
    assert "healthy" in done.stdout.splitlines()[0].lower()


def test_a_factory_of_zeros_is_found(folder):
    assert run("check", "models.py:zero").exit_code == 1


def test_select_and_ignore(folder):
    assert run("check", "models.py:zero", "--select", "SB5").exit_code == 2  # no rule is called so
    assert run("check", "models.py:zero", "--select", "SB404").exit_code == 0
    chosen = json.loads(run("check", "models.py:zero", "--select", "SB1, SB404", "--format", "json").stdout)
    assert {found["code"][:3] for found in chosen["findings"]} == {"SB1"}
    rest = json.loads(run("check", "models.py:zero", "--ignore", "SB1", "--format", "json").stdout)
    assert not [found for found in rest["findings"] if found["code"].startswith("SB1")]


def test_json_is_json_whatever_the_factory_prints(folder):
    done = run("check", "models.py:loud", "--format", "json")
    assert json.loads(done.stdout)["verdict"] == "healthy"
    assert "this is not JSON" in done.stderr


def test_the_report_goes_to_a_file(folder):
    done = run("check", "models.py:zero", "--format", "json", "-o", "report.json")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert json.loads((folder / "report.json").read_text())["verdict"] == "stuck"
    done = run("check", "models.py:good", "-o", "no/such/folder.txt")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == "symbreak: no/such/folder.txt cannot be written: No such file or directory."


def test_concise_and_verbose(folder):
    concise = run("check", "models.py:zero", "--format", "concise")
    assert concise.exit_code == 1
    assert concise.stderr == ""
    assert len(concise.stdout) < len(run("check", "models.py:zero").stdout)
    assert len(run("check", "models.py:good", "--verbose").stdout) > len(run("check", "models.py:good").stdout)


def test_fail_on_warning(folder):
    far = "import torch\nfrom models import Net\ndef far(): return Net(), 10 * torch.randn(32, 6)\n"
    (folder / "far.py").write_text(far)
    found = json.loads(run("check", "far.py:far", "--format", "json").stdout)["findings"]
    assert {f["severity"] for f in found} & {"warning"}
    assert not {f["severity"] for f in found} & {"error"}
    assert run("check", "far.py:far").exit_code == 0
    assert run("check", "far.py:far", "--fail-on", "warning").exit_code == 1
    sys.modules.pop("far", None)


def test_data_and_loss_reach_the_check(folder):
    np_rows = "\n".join(",".join(str((r * c) % 7) for c in range(1, 7)) + f",{r % 2}" for r in range(40))
    (folder / "t.csv").write_text("a,b,c,d,e,f,y\n" + np_rows + "\n")
    done = run("check", "models.py:Net", "--data", "t.csv", "--seed", "3", "--optimizer", "adam")
    assert done.exit_code in (0, 1), done.output
    assert done.stderr.startswith("models.py:Net, on t.csv\nt.csv: 40 samples, 6 features, 2 classes")


@pytest.mark.parametrize("factory", ["batch_xy", "dataset", "loader"])
def test_data_from_a_factory_reaches_the_check(folder, factory):
    (folder / "mydata.py").write_text(
        "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "X, y = torch.randn(90, 6), torch.arange(90) % 2\n"
        "def batch_xy(): return X, y\n"
        "def dataset(): return TensorDataset(X, y)\n"
        "def loader(): return DataLoader(TensorDataset(X, y), batch_size=30, shuffle=True)\n"
    )
    done = run("check", "models.py:Net", "--data", f"mydata.py:{factory}")
    sys.modules.pop("mydata", None)
    assert done.exit_code == 0, done.output
    assert done.stderr == f"models.py:Net, on mydata.py:{factory}\n"


# Bad input: exit 2, one sentence, no traceback -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["modles.py:good"], ["there is no file 'modles.py'", "Nearest: models.py"]),
        (["models.py:god"], ["models.py has no 'god'", "good"]),
        (["mlp:8:thanh"], ["Nearest: tanh"]),
        (["linear", "--init", "zeroes"], ["Nearest: zeros"]),
        (["linear", "--data", "nothing.csv"], ["there is no file 'nothing.csv'"]),
        (["linear", "--loss", "mes"], ["no loss is called 'mes'"]),
        (["models.py:raises"], ["ValueError: width must be positive", "models.py:37"]),
        (["models.py:absent"], ["surely_not_installed", "which this Python"]),
        (["models.py:forward_raises"], ["sail", "RuntimeError", "no such wind", "(models.py:19)"]),
        (["models.py:mismatch"], ["body.0", "32x7"]),
        (["models.py:empty"], ["empty"]),
        (["models.py:nan_data"], ["nan"]),
        (["models.py:no_parameters"], ["no param"]),
        (["models.py:all_frozen"], ["frozen", "requires_grad"]),
        (["models.py:free_loss"], ["does not depend"]),
        (
            ["models.py:good", "--data", "models.py:batch", "--loss", "models.py:ours"],
            ["LookupError", "no loss today", "(models.py:59)"],
        ),
        (["models.py:good", "--select", "SB999"], ["SB999", "Nearest"]),
        (["models.py:good", "--optimizer", "sdg"], ["sdg", "sgd"]),
    ],
)
def test_mistakes_are_one_sentence(folder, arguments, said):
    done = run("check", *arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("symbreak: ")
    assert not [word for word in said if word.lower() not in done.stderr.lower()], done.stderr


@pytest.mark.parametrize("factory", ["lone", "nan_weights", "complex_weights"])
def test_odd_models_end_without_a_traceback(folder, factory):
    done = run("check", f"models.py:{factory}")
    assert done.exit_code in (0, 1, 2), done.output
    assert "Traceback" not in done.output
    assert "failed itself" not in done.output


@pytest.mark.parametrize(
    "arguments",
    [["check"], ["chek"], ["check", "linear", "--seed", "-1"], ["check", "linear", "--format", "xml"], ["check", "-x"]],
)
def test_usage_errors_exit_2(arguments):
    done = run(*arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_debug_shows_the_traceback(folder):
    done = run("check", "models.py:raises", "--debug")
    assert done.exit_code == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("symbreak: models.py:raises raised ValueError")


def test_a_defect_of_ours_is_one_sentence_too(folder, monkeypatch):
    monkeypatch.setattr(config, "read", lambda folder: 1 / 0)
    done = run("check", "models.py:good")
    assert done.exit_code == 2
    assert "it failed itself: ZeroDivisionError: division by zero" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_exits_130(folder):
    done = run("check", "models.py:interrupted")
    assert done.exit_code == 130
    assert done.stderr == "symbreak: interrupted; nothing was changed.\n"


def test_ctrl_c_in_a_real_process(folder):
    code = "from symbreak.cli import main; main()"
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    command = [sys.executable, "-c", code, "check", "models.py:slow"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, preexec_fn=hears_ctrl_c, **pipes) as process:
        assert process.stderr.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=30) == 130, rest
    assert rest == "symbreak: interrupted; nothing was changed.\n"


# Settings --------------------------------------------------------------------------------------------------------


def test_settings_come_from_the_nearest_pyproject(folder):
    (folder / "pyproject.toml").write_text('[tool.symbreak]\nformat = "json"\nignore = ["SB1"]\nseed = 7\n')
    (folder / "deep").mkdir()
    assert config.read(folder / "deep") == config.Config(ignore=("SB1",), format="json", seed=7)
    report = json.loads(run("check", "models.py:zero").stdout)
    assert report["probe"]["seed"] == 7
    assert not [found for found in report["findings"] if found["code"].startswith("SB1")]
    assert json.loads(run("check", "models.py:good", "--seed", "8").stdout)["probe"]["seed"] == 8
    (folder / "deep" / "pyproject.toml").write_text("[project]\n")
    assert config.read(folder / "deep") == config.Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.symbreak]\nfail_on = 'error'\n", "has no key 'fail_on'. Nearest: fail-on"),
        ("[tool.symbreak]\nfail-on = 'info'\n", 'fail-on = \'info\'; expected "error" or "warning"'),
        ("[tool.symbreak]\nselect = 'SB1'\n", "select = 'SB1'; expected a list of rule codes"),
        ("[tool.symbreak]\nseed = true\n", "expected a whole number from 0"),
        ("[tool.symbreak]\nformat = 'xml'\n", 'expected "full" or "concise" or "json"'),
        ("[tool.symbreak\n", "pyproject.toml cannot be read"),
    ],
)
def test_wrong_settings_say_what_was_expected(folder, text, message):
    (folder / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.read(folder)
    assert message in str(caught.value)
    done = run("check", "models.py:good")
    assert done.exit_code == 2
    assert message in done.stderr


# What is shown where ---------------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """A report that remembers how it was asked to look."""

    asked: dict = field(default_factory=dict)

    def to_text(self, **how):
        self.asked = how
        return "text"


class Terminal(io.TextIOWrapper):
    def __init__(self, encoding="utf-8", tty=True):
        super().__init__(io.BytesIO(), encoding=encoding)
        self.tty = tty

    def isatty(self):
        return self.tty


@pytest.mark.parametrize(
    ("stream", "environment", "color", "ascii_only"),
    [
        (Terminal(), {}, True, False),
        (Terminal(), {"NO_COLOR": "1"}, False, False),
        (Terminal(), {"TERM": "dumb"}, False, False),
        (Terminal("ascii"), {}, True, True),
        (Terminal("latin-1", tty=False), {}, False, True),
        (Terminal(tty=False), {}, False, False),
    ],
)
def test_colour_and_letters_follow_the_terminal(monkeypatch, stream, environment, color, ascii_only):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, given in environment.items():
        monkeypatch.setenv(name, given)
    monkeypatch.setattr(sys, "stdout", stream)
    report = Recorder()
    check.shown(report, "full", False, None)
    assert (report.asked["color"], report.asked["ascii_only"]) == (color, ascii_only)


def test_a_terminal_that_cannot_show_a_letter_does_not_crash(monkeypatch):
    stream = Terminal("ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.say("±1")
    stream.flush()
    assert stream.buffer.getvalue() == b"?1\n"


def test_progress_is_for_terminals_and_for_long_work(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def shown(tty):
        stream = Terminal(tty=tty)
        now[0] = 0.0
        with terminal.progress_line(stream) as progress:
            progress(1, 10, "early")
            now[0] = 3.0
            progress(5, 10, "late")
        stream.flush()
        return stream.buffer.getvalue().decode()

    assert shown(tty=False) == ""
    assert "early" not in shown(tty=True)
    assert "5/10 late" in shown(tty=True)
    assert shown(tty=True).endswith("\r\x1b[K")


def test_a_real_run_in_ascii_through_a_pipe(folder):
    done = shell("check", "models.py:zero", "--verbose", PYTHONIOENCODING="ascii")
    assert done.returncode == 1, done.stderr
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert "..." not in done.stdout
    assert "stuck" in done.stdout.splitlines()[0].lower()


# rule, schemes, help ---------------------------------------------------------------------------------------------


def test_rules_are_listed_and_shown():
    from symbreak.rules import RULES

    listed = run("rule")
    assert listed.exit_code == 0
    assert not [row.code for row in RULES if row.code not in listed.stdout or row.slug not in listed.stdout]
    for row in RULES:
        page = run("rule", row.code)
        assert page.exit_code == 0
        assert row.slug in page.stdout
    assert run("rule", RULES[0].slug).stdout == run("rule", RULES[0].code).stdout


def test_an_unknown_rule_names_the_nearest():
    done = run("rule", "SB110")
    assert done.exit_code == 2
    assert "Nearest: SB10" in done.stderr


def test_schemes_are_listed_and_shown():
    listed = run("schemes")
    assert listed.exit_code == 0
    assert not [name for name in CATALOGUE if name not in listed.stdout]
    page = run("schemes", "kaiming")
    assert page.stdout.startswith("kaiming_normal(gain=1.4142, mode='fan_in')\n")
    assert "Source: He et al. 2015" in page.stdout
    wrong = run("schemes", "kaimng")
    assert wrong.exit_code == 2
    assert "Nearest: kaiming" in wrong.stderr


def test_help_is_not_cut():
    commands = run("--help").stdout.partition("Commands:")[2]
    assert len(commands.splitlines()) == 8
    assert "..." not in commands


def test_check_and_fix_ask_alike():
    def asked(command):
        shared = [slot.name for slot in fields(Request)]
        slots = [slot.to_info_dict() for slot in cli.main.commands[command].params if slot.name in shared]
        return [{**slot, "help": None if slot["name"] == "data" else slot.get("help")} for slot in slots]

    assert [slot["name"] for slot in asked("check")] == [slot.name for slot in fields(Request)]
    assert asked("check") == asked("fix")


def test_help_names_the_grammar():
    said = run("check", "--help").stdout
    for word in ("file.py:factory", "mlp:64-64:tanh", "file.csv[:target]", "breast_cancer", "--fail-on", "Exit code"):
        assert word in said


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["rule"], ["schemes", "torch"], ["--version"]])
def test_what_needs_no_torch_imports_none(arguments):
    code = (
        "import sys\nfrom symbreak.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print({'torch', 'numpy', 'pandas', 'sklearn'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "set()"


def test_the_check_leaves_the_random_state(folder):
    before = torch.random.get_rng_state()
    run("check", "mlp:4:tanh", "--data", "xor")
    assert torch.equal(before, torch.random.get_rng_state())
