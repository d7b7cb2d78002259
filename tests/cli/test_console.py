"""What a person sees: a bar on a terminal, plain lines elsewhere; and Ctrl-C where Python would drop it."""

import gc
import io
import json
import os
import signal
import weakref
from dataclasses import make_dataclass

import pytest
from rich.console import Console

from gigacli.cli import console
from gigacli.cli.console import ConsoleProgress, speaking_of
from gigacli.errors import InvalidInput
from gigacli.shown import Shown


@pytest.fixture
def screen(monkeypatch):
    """``screen(terminal)``: what is written to standard error, and a clock that is moved by hand."""

    def make(*, terminal):
        written, clock = io.StringIO(), [0.0]
        made = Console(file=written, force_terminal=terminal, width=120, soft_wrap=True)
        monkeypatch.setattr(console, "err", made)
        monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
        return written, clock

    return make


def test_plain_lines_hold_the_note_and_the_time_left(screen):
    written, clock = screen(terminal=False)
    with ConsoleProgress() as progress:
        progress.start("training", 1000, done=400)
        for _ in range(100):  # a tenth of a second each: 500 more take 50 seconds
            clock[0] += 0.1
            progress.advance(note="loss 1.5 (chance 3.0), rank 40")
        clock[0] += 0.5
        progress.advance(note="loss 1.4 (chance 3.0), rank 41")
    lines = written.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0] == "training: 501/1000 loss 1.4 (chance 3.0), rank 41, 0:00:52 left"


def test_a_line_before_anything_is_done_promises_nothing(screen):
    written, clock = screen(terminal=False)
    with ConsoleProgress() as progress:
        progress.start("reading", 3)
        clock[0] += 11
        progress.advance(0)
    assert written.getvalue() == "reading: 0/3\n"


def test_the_bar_shows_note_and_time_left(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=written, force_terminal=True, width=140))
    with ConsoleProgress() as progress:
        progress.start("training", 10)
        progress.advance(4, note="loss 1.4 (chance 3.0), rank 41")
        progress._bar.refresh()
    shown = written.getvalue()
    assert "loss 1.4 (chance 3.0), rank 41" in shown
    assert "4/10" in shown
    assert "0:00:00" in shown  # what is left


class Cycle:
    """Goes when the garbage collector finds it, and calls back."""

    def __init__(self):
        self.me = self


@pytest.mark.usefixtures("interruptible")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_is_raised_at_the_next_step():
    before = signal.getsignal(signal.SIGINT)
    with ConsoleProgress(quiet=True) as progress:
        progress.start("work", 2)
        cycle = Cycle()
        watch = weakref.ref(cycle, lambda _: os.kill(os.getpid(), signal.SIGINT))
        del cycle
        gc.collect()  # the interrupt is raised in the callback: printed, and dropped
        assert watch() is None
        with pytest.raises(KeyboardInterrupt):
            progress.advance()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_elsewhere_is_raised_at_once():
    with pytest.raises(KeyboardInterrupt), ConsoleProgress(quiet=True):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("name", "shown"), [("a\x1b[2Jb", "a\\x1b[2Jb"), ("tab\tand µ", "tab"), ("[red]", "[red]")])
def test_control_characters_are_shown_and_not_obeyed(name, shown, capsys):
    from gigacli.cli.console import say, show_table

    say(name, to_out=True)
    show_table("", ("slide",), [(name,)])
    text = capsys.readouterr().out
    assert text.count(shown) == 2
    assert "\x1b" not in text


def test_while_a_command_runs_its_flags_are_named(screen):
    written, clock = screen(terminal=False)
    with speaking_of({"batch_size": "--batch-size"}), ConsoleProgress() as progress:
        progress.start("`batch_size` at work", 2)
        clock[0] += 11
        progress.advance(note="`batch_size` 3")
        progress.say("a larger `batch_size` than `mpp`")
        console.show_error(InvalidInput("`batch_size` is 1", "raise `batch_size`"))
    console.say("`batch_size`")
    lines = written.getvalue().splitlines()
    assert lines == [
        "--batch-size at work: 1/2 --batch-size 3, 0:00:11 left",
        "a larger --batch-size than `mpp`",
        "error: --batch-size is 1",
        "raise --batch-size",
        "`batch_size`",
    ]


def test_a_command_that_is_run_by_a_quiet_one_is_quiet(screen):
    written, _ = screen(terminal=False)
    with speaking_of({}, quiet=True):
        with speaking_of({}), ConsoleProgress() as progress:
            progress.say("a message")
        console.say("a result")
    with ConsoleProgress() as progress:
        progress.say("no longer")
    assert written.getvalue().splitlines() == ["a result", "no longer"]


def test_json_escapes_what_is_not_printable(capsys):
    name = 'a"\u009b\u202e\U000e0001\n\ud800ö'
    console.show_json({"slide": name})
    said = capsys.readouterr().out
    assert said.rstrip("\n").isprintable()
    assert said.isprintable() is False  # the line's end
    assert "ö" in said
    assert json.loads(said) == {"slide": name}


def test_figures_say_what_they_are_counted_in(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=written, width=120))
    figures = {"waited": 4.84e-07, "rate": 1234.5, "median": 49.0, "bytes": 78750, "mpp": float("nan"), "warning": ""}
    figures = {"slides": 1200, "loss": 0.05, **figures}
    console.show_result("bank", make_dataclass("Result", figures, bases=(Shown,))(**figures))
    lines = [" ".join(line.split()) for line in written.getvalue().splitlines()]
    assert lines == [
        *("bank", "slides 1,200", "loss 0.05", "waited 0% of the time", "rate 1,234 encodings/s", "median 49 tiles"),
        "bytes 76.9 KiB",
    ]


def test_results_stand_beside_output_that_is_taken(capfd):
    with console.beside_output(taken=True):
        console.show_json({"slides": 1})
        console.say("a note", to_out=True)
    console.show_json({"slides": 2})
    shown = capfd.readouterr()
    assert shown.out == '{"slides": 2}\n'
    assert shown.err.splitlines() == ['{"slides": 1}', "a note"]
