"""whisperd: media in, text out, on your own machine, over the APIs that clients already use."""

__version__ = "0.1.0"
