"""What can go wrong with an emulated machine. A deadline that passes is the built-in TimeoutError."""


class EmulatorError(Exception):
    """The emulated machine, or what it is built from, did not do what was asked."""


class EmulatorUnavailable(EmulatorError):
    """This host cannot run an emulated machine; the message is the one-line reason."""


class MachineEnded(EmulatorError):
    """The machine went down before it said what was waited for; the message carries its last words."""
