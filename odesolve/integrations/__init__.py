"""Drop-in adapters: the calls of other libraries, answered by this one. Import each by its own
name."""
