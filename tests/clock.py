"""A clock that tests move."""


class Clock:
    """Returns the time in seconds, which advances with each sleep, with each reading, and when a test sets it.

    Attributes:
      now: the current time.
      tick: how much the time advances before each reading.
      slept: the length of each sleep so far.
      on_sleep: called after each sleep.
    """

    def __init__(self, tick: float = 0.0):
        self.now, self.tick = 1000.0, tick
        self.slept = []
        self.on_sleep = lambda: None

    def __call__(self) -> float:
        self.now += self.tick
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.on_sleep()
