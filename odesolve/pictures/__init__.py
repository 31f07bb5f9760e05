"""Pictures: figures that need no display, and sheets of samples."""
