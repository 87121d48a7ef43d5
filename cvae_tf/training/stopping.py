"""When a training run is to stop before its end: after a time, on Ctrl-C, or on SIGTERM."""

import os
import signal
import threading
import time
from contextlib import contextmanager


class Stopped(Exception):
    """The training has stopped between two steps, as asked, with everything saved."""


class StopRequest:
    """Whether to stop after the step in progress.

    Args:
        minutes: after which to stop; 0: never.

    Attributes:
        signal: the signal that asked to stop, or None.
    """

    def __init__(self, minutes=0.0):
        self.end = time.monotonic() + 60 * minutes if minutes else float("inf")
        self.signal = None

    def time_is_up(self):
        """Whether the minutes have passed."""
        return time.monotonic() >= self.end

    def due(self):
        """Whether to stop, for whatever reason."""
        return self.signal is not None or self.time_is_up()

    @contextmanager
    def listening(self):
        """Let SIGINT and SIGTERM ask to stop. A second one ends the process at once: what is written is whole."""
        if threading.current_thread() is not threading.main_thread():  # Python handles signals there alone
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
                  if signal.getsignal(number) != signal.SIG_IGN}  # whoever ignores it, as nohup, goes on
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number, _):
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        try:  # without `print`, which may be at work where the signal interrupts
            os.write(2, b"\nstopping after this step, or the validation in progress; once more to stop at once\n")
        except OSError:  # nobody reads it
            pass
