"""Time as a test has it."""


class Clock:
    """Gives the time in seconds, which passes while somebody sleeps, whenever it is read, and by what a test says.

    Attributes:
      now: the time.
      tick: by which it goes on before it is read.
      slept: how long somebody slept, each time.
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
