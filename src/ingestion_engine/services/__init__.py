"""Jobs, dispatch, reconciliation, search. What does not belong: HTTP, vendor SDKs of the data plane."""
