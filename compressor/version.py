"""The version of this package, for those below the package itself."""

__version__ = "0.3.0.dev0"
