"""This process: its rank among those that were started together, and its progress bar."""
