"""Methods for differential equations: tableaus, embedded pairs and schemes, which check themselves
on construction."""
