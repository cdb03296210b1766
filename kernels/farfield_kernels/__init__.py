"""The compiler of Farfield and its run time: formula text -> CUDA or C++ -> result.

    parse -> differentiate -> rewrite -> lower -> schedule -> emit -> build -> launch

`engine.run` is the whole line; `operation.read` is its front half, which needs neither a compiler nor a device.
"""

__version__ = "0.1.0"
