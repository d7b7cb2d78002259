"""What a person sees, and Ctrl-C where Python would drop it."""

import gc
import os
import signal
import weakref

import pytest

from gigacli.console import ConsoleProgress


class Cycle:
    """Goes when the garbage collector finds it, and calls back."""

    def __init__(self):
        self.me = self


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


def test_an_interrupt_elsewhere_is_raised_at_once():
    with pytest.raises(KeyboardInterrupt), ConsoleProgress(quiet=True):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("name", "shown"), [("a\x1b[2Jb", "a\\x1b[2Jb"), ("tab\tand µ", "tab"), ("[red]", "[red]")])
def test_control_characters_are_shown_and_not_obeyed(name, shown, capsys):
    from gigacli.console import say, show_table

    say(name, to_out=True)
    show_table("", ("slide",), [(name,)])
    text = capsys.readouterr().out
    assert text.count(shown) == 2
    assert "\x1b" not in text
