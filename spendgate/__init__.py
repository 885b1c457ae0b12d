"""The processes: command line, settings, and how the parts are put together into roles."""

__version__ = "0.1.0"
